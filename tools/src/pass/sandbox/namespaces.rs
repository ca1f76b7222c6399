//! The first stage: enters namespaces in which it may mount, and starts the supervisor there.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::{Answer, Place, SUBCOMMAND, answer, root, to_json};
use crate::failure::Failure;

/// Whom programs run as that root starts: the limit on processes does not hold for root.
const NOBODY: u32 = 65534;

pub(super) fn enter(place: &Place) -> Result<(), Failure> {
    match place.isolated.then(|| isolate(place)) {
        Some(Err(why)) => answer(&Answer::Refused(why)),
        _ => supervise(place),
    }
}

fn isolate(place: &Place) -> Result<(), String> {
    let user = Uid::effective();
    if user.is_root() {
        // Folders that only root can reach, such as a toolchain in its home, are mounted while it is root.
        unshare(CloneFlags::CLONE_NEWNS).map_err(refused("a mount namespace"))?;
        root::build(place)?;
        give_up_root()?;
        return unshare_all(NOBODY, NOBODY);
    }
    unshare_all(user.as_raw(), Gid::effective().as_raw())?;
    root::build(place)
}

fn give_up_root() -> Result<(), String> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[]).map_err(refused("dropping root's groups"))?;
    setresgid(group, group, group).map_err(refused("the group nobody"))?;
    setresuid(user, user, user).map_err(refused("the user nobody"))?;
    // Else this process's own files in /proc would be root's, and it could not map its user.
    nix::sys::prctl::set_dumpable(true).map_err(refused("a dumpable process"))
}

fn unshare_all(user: u32, group: u32) -> Result<(), String> {
    let all = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(all).map_err(refused("unprivileged namespaces"))?;
    map_user(0, user, group)
}

/// Makes the one user and group of a new user namespace those outside of it.
pub(super) fn map_user(inside: u32, user: u32, group: u32) -> Result<(), String> {
    let write = |name: &str, text: String| {
        fs::write(Path::new("/proc/self").join(name), text).map_err(|e| format!("/proc/self/{name}: {e}"))
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("{inside} {user} 1"))?;
    write("gid_map", format!("{inside} {group} 1"))
}

/// The supervisor is the first process of the new process namespace; when it ends, the system kills all others.
fn supervise(place: &Place) -> Result<(), Failure> {
    let mut command = Command::new("/proc/self/exe");
    command.args([SUBCOMMAND, "supervisor", &to_json(place)?]);
    match command.status() {
        Ok(_) => Ok(()),
        Err(e) => answer(&Answer::Refused(format!("the supervisor cannot start: {e}"))),
    }
}

pub(super) fn refused(what: &str) -> impl Fn(Errno) -> String + '_ {
    move |error| format!("{what}: {}", error.desc())
}
