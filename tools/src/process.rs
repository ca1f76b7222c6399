//! What the operating system knows of this process and this machine.

mod cores;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;

/// Largest resident size of this process so far, in bytes; `None` where the system does not say.
pub fn peak_memory() -> Option<u64> {
    kilobytes_after(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Memory that can be had without swapping, in bytes; `None` where the system does not say.
pub fn available_memory() -> Option<u64> {
    available_under(Path::new("/"))
}

fn available_under(root: &Path) -> Option<u64> {
    let machine = kilobytes_after(&fs::read_to_string(root.join("proc/meminfo")).ok()?, "MemAvailable:")?;
    Some(group_room(root).map_or(machine, |room| room.min(machine)))
}

/// What the limits of this process's control group (version 2) and of those around it leave, as in a container.
fn group_room(root: &Path) -> Option<u64> {
    let all = root.join("sys/fs/cgroup");
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let own = all.join(groups.lines().find_map(|line| line.strip_prefix("0::/"))?);
    own.ancestors().take_while(|group| group.starts_with(&all)).filter_map(room_in).min()
}

/// Cached files do not count: they make room when it is needed.
fn room_in(group: &Path) -> Option<u64> {
    let limit: u64 = fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()?;
    let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
    let used: u64 = stat.lines().find_map(|line| line.strip_prefix("anon "))?.trim().parse().ok()?;
    Some(limit.saturating_sub(used))
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
    }
}
