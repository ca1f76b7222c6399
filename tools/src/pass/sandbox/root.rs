//! The root directory that programs see: the system's programs and libraries, read-only, and `/tmp`, in memory.
//!
//! What is not listed here is not there: homes, sockets in `/run`, other file systems.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::pivot_root;

use super::Place;

/// Folders that programs, compilers and their libraries lie in; those that a system does not have are left out.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/nix/store",
    "/gnu/store",
    "/run/current-system/sw",
];

const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];

/// Programs' files are few; each costs memory however small it is.
const MAX_FILES: u32 = 16384;

/// Builds the directory at `place.folder`, in a mount namespace of this process's own.
pub(super) fn build(place: &Place) -> Result<(), String> {
    let root = &place.folder;
    // What is mounted here must not show outside.
    do_mount(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    do_mount(Some(Path::new("tmpfs")), root, Some("tmpfs"), plain, Some("mode=755,size=1m"))?;
    for folder in SYSTEM.iter().map(Path::new).chain(place.visible.iter().map(PathBuf::as_path)) {
        show(root, folder)?;
    }
    for folder in ["tmp", "proc", "dev"] {
        fs::create_dir(root.join(folder)).map_err(|e| format!("/{folder}: {e}"))?;
    }
    add_devices(root)?;
    make_read_only(root)?;
    let size = format!("mode=1777,size={},nr_inodes={MAX_FILES}", place.files);
    do_mount(Some(Path::new("tmpfs")), &root.join("tmp"), Some("tmpfs"), plain, Some(&size))
}

/// Makes the directory the root of this process, the first of its process namespace, and forgets the old one.
pub(super) fn enter(root: &Path) -> Result<(), String> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    do_mount(Some(Path::new("proc")), &root.join("proc"), Some("proc"), plain, None)?;
    // Mounts of another user namespace cannot be moved, a copy of them can.
    do_mount(Some(root), root, None, MsFlags::MS_BIND | MsFlags::MS_REC, None)?;
    std::env::set_current_dir(root).map_err(|e| format!("{}: {e}", root.display()))?;
    pivot_root(".", ".").map_err(|e| format!("a new root directory: {}", e.desc()))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(|e| format!("the old root directory: {}", e.desc()))?;
    std::env::set_current_dir("/tmp").map_err(|e| format!("/tmp: {e}"))
}

fn show(root: &Path, folder: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    let target = root.join(folder.strip_prefix("/").map_err(|_| format!("{}: not absolute", folder.display()))?);
    // Inside of what is shown already, or a name that leads there.
    if target.exists() || fs::symlink_metadata(folder).is_err() {
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let is_system = SYSTEM.iter().any(|s| Path::new(s) == folder);
    match fs::read_link(folder) {
        Ok(to) if is_system => return symlink(to, &target).map_err(failed),
        _ if folder.is_dir() => fs::create_dir(&target).map_err(failed)?,
        _ => fs::write(&target, "").map_err(failed)?,
    }
    do_mount(Some(folder), &target, None, MsFlags::MS_BIND | MsFlags::MS_REC, None)
}

fn add_devices(root: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("/dev: {e}");
    for name in DEVICES {
        let (device, target) = (Path::new("/dev").join(name), root.join("dev").join(name));
        fs::write(&target, "").map_err(failed)?;
        do_mount(Some(&device), &target, None, MsFlags::MS_BIND, None)?;
    }
    for (name, to) in [("fd", "/proc/self/fd"), ("shm", "/tmp")] {
        symlink(to, root.join("dev").join(name)).map_err(failed)?;
    }
    Ok(())
}

/// Everything so far, also what was mounted below a folder that is shown.
fn make_read_only(root: &Path) -> Result<(), String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|e| format!("/proc/self/mountinfo: {e}"))?;
    let inside = || mounts.lines().filter_map(parse_mount).filter(|(target, _)| target.starts_with(root));
    for (target, flags) in inside() {
        let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
        do_mount(None, &target, None, flags, None)?;
    }
    // Where the system calls it by another name, none was found.
    match inside().any(|(target, _)| target == root) {
        true => Ok(()),
        false => Err(format!("{}: not among the mounts, so it cannot be made read-only", root.display())),
    }
}

/// Where a line of `mountinfo` is mounted, and its flags that must be kept.
fn parse_mount(line: &str) -> Option<(PathBuf, MsFlags)> {
    let mut fields = line.split(' ').skip(4);
    let (target, options) = (unescape(fields.next()?), fields.next()?);
    let flag = |option| match option {
        "nosuid" => MsFlags::MS_NOSUID,
        "nodev" => MsFlags::MS_NODEV,
        "noexec" => MsFlags::MS_NOEXEC,
        _ => MsFlags::empty(),
    };
    Some((target, options.split(',').map(flag).collect()))
}

/// Spaces and the like are written as `\040`.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = text.get(i + 1..i + 4).filter(|_| bytes[i] == b'\\').and_then(|c| u8::from_str_radix(c, 8).ok());
        plain.push(code.unwrap_or(bytes[i]));
        i += if code.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(plain).into()
}

fn do_mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), String> {
    let failed = |e: Errno| {
        let what = kind.or(source.and_then(Path::to_str)).unwrap_or("a mount");
        format!("{what} at {}: {}", target.display(), e.desc())
    };
    mount(source, target, kind, flags, options).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let line = r"36 35 98:0 /mnt1 /mnt\040two/a\134b rw,nosuid,noatime,noexec master:1 - ext3 /dev/root rw,nodev";
        let (target, flags) = parse_mount(line).unwrap();
        assert_eq!(target, Path::new(r"/mnt two/a\b"));
        assert_eq!(flags, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC);
        assert_eq!(parse_mount("36 35 98:0 /"), None);
    }
}
