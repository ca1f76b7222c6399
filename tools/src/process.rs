//! What the operating system knows of this process and this machine.

mod cores;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::failure::Failure;
use crate::notes::Notes;

/// Largest resident size of this process so far, in bytes, with the pages of mapped files that are in memory; `None` where
/// the system does not say.
pub fn peak_memory() -> Option<u64> {
    kilobytes_after(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The largest memory of this process's own, looked at every few milliseconds by a thread: pages of mapped files, which the
/// system can take back at any time, do not count.
pub struct MemoryWatch {
    peak: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl MemoryWatch {
    /// Begins to look.
    pub fn start() -> Self {
        let (peak, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (found, stop) = (Arc::clone(&peak), Arc::clone(&ended));
        let watch = move || {
            while !stop.load(Ordering::Relaxed) {
                found.fetch_max(own_memory().unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        // Where no thread is to be had there is no peak to tell.
        let _ = std::thread::Builder::new().name("memory".into()).spawn(watch);
        MemoryWatch { peak, ended }
    }

    /// The most so far, in bytes; `None` where the system does not say.
    pub fn peak(&self) -> Option<u64> {
        let now = own_memory()?;
        Some(self.peak.fetch_max(now, Ordering::Relaxed).max(now))
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Memory of this process's own at the moment, in bytes: pages of mapped files do not count. `None` where the system does
/// not say.
pub fn own_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(kilobytes_after(&status, "RssAnon:")? + kilobytes_after(&status, "RssShmem:").unwrap_or(0))
}

/// Memory that can be had without swapping, in bytes; `None` where the system does not say.
pub fn available_memory() -> Option<u64> {
    available_under(Path::new("/"))
}

fn available_under(root: &Path) -> Option<u64> {
    let machine = kilobytes_after(&fs::read_to_string(root.join("proc/meminfo")).ok()?, "MemAvailable:")?;
    Some(group_room(root).map_or(machine, |room| room.min(machine)))
}

/// What the limits of this process's control groups, of either version, and of those around them leave, as in a container.
fn group_room(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    HIERARCHIES.iter().filter_map(|hierarchy| hierarchy.room(root, &groups)).min()
}

/// Where a version of control groups says what.
struct Hierarchy {
    folder: &'static str,
    /// The path in a line of `/proc/self/cgroup`, if it is this version's.
    own: fn(&str) -> Option<&str>,
    limit: &'static str,
    /// The beginning of a line of `memory.stat`.
    used: &'static str,
}

const HIERARCHIES: [Hierarchy; 2] = [
    Hierarchy { folder: "sys/fs/cgroup", own: own_group, limit: "memory.max", used: "anon " },
    Hierarchy {
        folder: "sys/fs/cgroup/memory",
        own: own_memory_group,
        limit: "memory.limit_in_bytes",
        used: "total_rss ",
    },
];

/// Of version 2: `0::/path`.
fn own_group(line: &str) -> Option<&str> {
    line.strip_prefix("0::")
}

/// Of version 1: `4:memory:/path`.
fn own_memory_group(line: &str) -> Option<&str> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    controllers.split(',').any(|controller| controller == "memory").then_some(path)
}

impl Hierarchy {
    /// What is left in the tightest of the process's group and those around it.
    fn room(&self, root: &Path, groups: &str) -> Option<u64> {
        let all = root.join(self.folder);
        let own = all.join(groups.lines().find_map(self.own)?.trim_start_matches('/'));
        own.ancestors().take_while(|group| group.starts_with(&all)).filter_map(|group| self.room_in(group)).min()
    }

    /// Cached files do not count: they make room when it is needed.
    fn room_in(&self, group: &Path) -> Option<u64> {
        let limit: u64 = fs::read_to_string(group.join(self.limit)).ok()?.trim().parse().ok()?;
        let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
        let used: u64 = stat.lines().find_map(|line| line.strip_prefix(self.used))?.trim().parse().ok()?;
        Some(limit.saturating_sub(used))
    }
}

/// Whether the system gives huge pages to memory that asks for them.
pub fn has_huge_pages() -> bool {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").is_ok_and(|mode| !mode.contains("[never]"))
}

/// Size of the largest cache that cores share, in bytes; `None` where the system does not say.
pub fn last_level_cache() -> Option<u64> {
    let folder = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    folder.filter_map(|entry| parse_size(&fs::read_to_string(entry.ok()?.path().join("size")).ok()?)).max()
}

/// Refuses before anything is allocated if `needed` bytes for `what` cannot be had.
pub fn check_memory(what: &str, needed: u64, advice: &str) -> Result<(), Failure> {
    match available_memory() {
        Some(available) if needed > available => {
            let (needed, available) = (megabytes(needed), megabytes(available));
            Err(Failure::OutOfMemory(format!("{what} needs {needed}, {available} are available; {advice}")))
        }
        _ => Ok(()),
    }
}

/// Threads to use unless told otherwise: one a core that this process may run on, not counting small cores beside big
/// ones, and no more than a limit on its CPU time allows.
pub fn default_threads() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    cores::usable_cores(Path::new("/")).map_or(cpus, |cores| cores.clamp(1, cpus))
}

/// Bytes for people.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A flag that the first Ctrl-C (or `kill`) sets; the second ends the process at once.
pub fn interrupt_flag() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let handler = move || {
        if seen.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        // Not here: a pipe that nobody empties must not keep the next one waiting.
        let say = || writeln!(Notes, "stopping at the next step; again ends at once");
        let _ = std::thread::Builder::new().spawn(say);
    };
    ctrlc::set_handler(handler).map_err(|e| Failure::Runtime(format!("cannot watch for Ctrl-C: {e}")))?;
    Ok(flag)
}

fn kilobytes_after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Sizes as Linux writes those of caches: `512K`, `32M`.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of its own is seen after it is given back, that of a mapped file is not.
    #[test]
    fn the_most_memory_is_remembered() {
        let watch = MemoryWatch::start();
        let Some(before) = watch.peak() else { return };
        const LEN: usize = 96 << 20;
        let large = vec![1u8; LEN];
        let with = own_memory().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        drop(std::hint::black_box(large));
        let peak = watch.peak().unwrap();
        // Memory of other tests comes and goes meanwhile.
        let slack = LEN as u64 / 8;
        assert!(peak + slack >= with && peak >= before + LEN as u64 / 2, "{before}, {with}, {peak}");
    }

    #[test]
    fn the_tightest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let available = || available_under(root.path());
        assert_eq!(available(), None);
        write("proc/meminfo", "MemTotal:  16 kB\nMemAvailable:  8 kB\n");
        assert_eq!(available(), Some(8192));
        write("proc/self/cgroup", "0::/outer/inner\n");
        write("sys/fs/cgroup/outer/inner/memory.max", "max\n");
        write("sys/fs/cgroup/outer/inner/memory.stat", "anon 10\nfile 4000\n");
        assert_eq!(available(), Some(8192), "no limit");
        write("sys/fs/cgroup/outer/memory.max", "5000\n");
        write("sys/fs/cgroup/outer/memory.stat", "anon 1000\nfile 3000\n");
        assert_eq!(available(), Some(4000));
        write("sys/fs/cgroup/outer/inner/memory.max", "5\n");
        assert_eq!(available(), Some(0));

        write("proc/self/cgroup", "5:cpu:/x\n4:hugetlb,memory:/job\n0::/\n");
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("sys/fs/cgroup/memory/memory.stat", "rss 70\ntotal_rss 7000\n");
        assert_eq!(available(), Some(8192), "version 1 without a limit");
        write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "3000\n");
        write("sys/fs/cgroup/memory/job/memory.stat", "rss 70\ntotal_rss 1000\n");
        assert_eq!(available(), Some(2000));
    }
}
