//! The last stage: takes limits, gives up what privileges are left, and becomes the program.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use serde::{Deserialize, Serialize};

use super::namespaces::{map_user, refused};
use super::{Limits, calls};
use crate::failure::Failure;

/// Any user but root: becoming a program then ends all privileges in the namespaces.
const USER: u32 = 1000;

/// What the supervisor tells.
#[derive(Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) isolated: bool,
    pub(super) limits: Limits,
    /// Processor time, seconds.
    pub(super) seconds: u64,
}

/// Returns only if it fails.
pub(super) fn become_program(settings: &Settings, argv: &[String]) -> Result<(), Failure> {
    prepare(settings).map_err(Failure::Runtime)?;
    let [name, arguments @ ..] = argv else {
        return Err(Failure::Usage("no program".into()));
    };
    let error = Command::new(name).args(arguments).exec();
    Err(Failure::Runtime(format!("{name}: cannot start: {error}")))
}

fn prepare(settings: &Settings) -> Result<(), String> {
    nix::unistd::setsid().map_err(refused("a session"))?;
    nix::sys::prctl::set_no_new_privs().map_err(refused("no new privileges"))?;
    if settings.isolated {
        // The namespaces' owner is root in its own; the program gets one more in which it is nobody.
        unshare(CloneFlags::CLONE_NEWUSER).map_err(refused("a user namespace in another"))?;
        map_user(USER, 0, 0)?;
        // Namespaces of the program's own would not free it, but it needs none. Old systems do not know this limit.
        let _ = fs::write("/proc/sys/user/max_user_namespaces", "0");
    }
    set_limits(settings)?;
    calls::refuse()
}

#[allow(clippy::useless_conversion)] // Limits are narrower on 32-bit systems.
fn set_limits(settings: &Settings) -> Result<(), String> {
    let limits = &settings.limits;
    // A signal at first, which tells that its time was up, and a second later the end.
    let limit = |most: u64| most.try_into().unwrap_or(RLIM_INFINITY);
    setrlimit(Resource::RLIMIT_CPU, limit(settings.seconds), limit(settings.seconds + 1))
        .map_err(refused("a limit of time"))?;
    let all = [
        (Resource::RLIMIT_DATA, limits.memory),
        (Resource::RLIMIT_FSIZE, limits.files),
        (Resource::RLIMIT_NPROC, limits.processes),
        (Resource::RLIMIT_NOFILE, 512),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MEMLOCK, 64 << 10),
        (Resource::RLIMIT_MSGQUEUE, 0),
    ];
    all.into_iter().try_for_each(|(what, most)| {
        let most = limit(most);
        let most = nix::sys::resource::getrlimit(what).map_or(most, |(_, hard)| hard.min(most));
        setrlimit(what, most, most).map_err(|e| format!("{what:?} {most}: {}", e.desc()))
    })
}
