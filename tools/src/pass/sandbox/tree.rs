//! Processes that descend from this one, and the memory they have.

use std::collections::HashMap;
use std::fs;

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

/// Bytes of memory that only `processes` have, swapped ones too: pages of files can be dropped. Memory that has no process
/// is not to be had, see `calls`.
pub(super) fn memory(processes: &[Pid]) -> u64 {
    processes.iter().map(|pid| memory_of(*pid)).sum()
}

/// The first thread may have ended, and know no memory any more, while others go on.
fn memory_of(pid: Pid) -> u64 {
    let status = |path: &str| fs::read_to_string(path).ok().as_deref().and_then(own);
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_threads = || threads().filter_map(|t| status(t.path().join("status").to_str()?)).max();
    status(&format!("/proc/{pid}/status")).or_else(of_threads).unwrap_or(0)
}

/// Threads of all processes of this user, which the system's limit counts.
pub(super) fn threads_of_user() -> u64 {
    let user = format!("{}", nix::unistd::Uid::current());
    let statuses =
        all_processes().into_iter().filter_map(|(pid, _)| fs::read_to_string(format!("/proc/{pid}/status")).ok());
    let own = statuses.filter(|s| field(s, "Uid:").is_some_and(|u| u == user));
    own.filter_map(|s| field(&s, "Threads:")?.parse::<u64>().ok()).sum()
}

fn own(status: &str) -> Option<u64> {
    let bytes = |key| Some(field(status, key)?.parse::<u64>().ok()? << 10);
    Some(bytes("RssAnon:")? + bytes("RssShmem:")? + bytes("VmSwap:")?)
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
    fn memory_is_what_is_not_a_file_s() {
        let status = "Name:\tx\nVmSwap:\t 1 kB\nRssAnon:\t 20 kB\nRssFile:\t 300 kB\nRssShmem:\t 4000 kB\n";
        assert_eq!(own(status), Some(4021 << 10));
        assert_eq!(own("Name:\tx\nState:\tZ (zombie)\n"), None);
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
