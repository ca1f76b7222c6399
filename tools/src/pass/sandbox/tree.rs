//! Processes that descend from this one, and the memory they have.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::unistd::{Pid, getpid};

/// All that are alive, in no order. Those whose parent ended count, since this process takes them over.
pub(super) fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (pid, parent) in all_processes() {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = children.remove(&getpid().as_raw()).unwrap_or_default();
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).unwrap_or_default());
        next += 1;
    }
    found.into_iter().map(Pid::from_raw).collect()
}

/// Bytes of memory that only `processes` have, swapped ones too: pages of files can be dropped. Files in memory count
/// whether or not they are mapped, and so do the segments of System V that nobody is attached to.
pub(super) fn memory(processes: &[Pid]) -> u64 {
    let statuses = processes.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
    let (own, shared) = statuses.map(|s| own(&s)).fold((0, 0), |(a, b), (own, shared)| (a + own, b + shared));
    own + shared.max(files_in_memory(processes)) + detached_segments()
}

/// Bytes of all files that have no place in any folder (`memfd`), each once.
fn files_in_memory(processes: &[Pid]) -> u64 {
    let open = processes.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten());
    let unnamed = open.filter(|e| fs::read_link(e.path()).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:")));
    let files =
        unnamed.filter_map(|entry| fs::metadata(entry.path()).ok()).map(|m| ((m.dev(), m.ino()), m.blocks() * 512));
    files.collect::<HashMap<_, _>>().into_values().sum()
}

/// Of this namespace; those with processes attached are among what these share.
fn detached_segments() -> u64 {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    table.lines().filter_map(detached_bytes).sum()
}

/// `key shmid perms size cpid lpid nattch uid gid cuid cgid atime dtime ctime rss swap`
fn detached_bytes(line: &str) -> Option<u64> {
    let fields: Vec<u64> = line.split_whitespace().skip(3).map(|f| f.parse().ok()).collect::<Option<_>>()?;
    match fields[..] {
        [_, _, _, 0, _, _, _, _, _, _, _, rss, swap] => Some(rss + swap),
        _ => None,
    }
}

/// Threads of all processes of this user, which the system's limit counts.
pub(super) fn threads_of_user() -> u64 {
    let user = format!("{}", nix::unistd::Uid::current());
    let statuses =
        all_processes().into_iter().filter_map(|(pid, _)| fs::read_to_string(format!("/proc/{pid}/status")).ok());
    let own = statuses.filter(|s| field(s, "Uid:").is_some_and(|u| u == user));
    own.filter_map(|s| field(&s, "Threads:")?.parse::<u64>().ok()).sum()
}

/// What a process has for itself, and what it may share.
fn own(status: &str) -> (u64, u64) {
    let bytes = |key| field(status, key).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) << 10;
    (bytes("RssAnon:") + bytes("VmSwap:"), bytes("RssShmem:"))
}

fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()
}

/// Every process that is seen, and its parent.
fn all_processes() -> Vec<(i32, i32)> {
    let folder = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folder.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// The fourth field; the second is a name in parentheses that can hold anything.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_can_be_anything() {
        assert_eq!(parent("7 (a) b) R 1 ) (x) S 3 7 7 0"), Some(3));
        assert_eq!(parent("7 (cat) R 1"), Some(1));
        assert_eq!(parent("7"), None);
    }

    #[test]
    fn segments_nobody_is_attached_to_count() {
        let line = "  0  7  1600  1073741824  9  9  0  0  0  0  0  1 2 3  1073741824  4096";
        assert_eq!(detached_bytes(line), Some((1 << 30) + 4096));
        assert_eq!(detached_bytes(&line.replace("9  9  0 ", "9  9  1 ")), None);
        assert_eq!(detached_bytes("key shmid perms size cpid"), None);
    }

    #[test]
    fn a_child_is_a_descendant_and_has_memory() {
        let mut child = std::process::Command::new("sleep").arg("20").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        // Until it has become `sleep` it may still share the memory of this process.
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(descendants().contains(&pid));
        assert!((1..50 << 20).contains(&memory(&[pid])), "{}", memory(&[pid]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!descendants().contains(&pid));
    }
}
