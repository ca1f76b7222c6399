//! Which cores are worth a thread, from what Linux says in `/proc` and `/sys`.
//!
//! Products are cut into equal parts, one a thread, so that the slowest decides. A second thread on a core (SMT) finds
//! its units and its share of the memory's bandwidth in use, and a small core among big ones keeps them waiting.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// CPUs by the system's numbers.
type Cpus = BTreeSet<usize>;

/// No system has more CPUs; a list that says so is not one.
const MAX_CPUS: usize = 1 << 16;

/// How many cores this process may run on, the big ones alone where they differ, under the file system's `root`;
/// `None` where the system does not say.
pub(super) fn usable_cores(root: &Path) -> Option<usize> {
    let allowed = allowed_cpus(&fs::read_to_string(root.join("proc/self/status")).ok()?)?;
    let cpus = big_cpus(root, &allowed);
    // A core counts once, by the first of its CPUs.
    let is_first = |cpu: &usize| siblings(root, *cpu).intersection(&cpus).next().is_none_or(|first| first == cpu);
    Some(cpus.iter().filter(|cpu| is_first(cpu)).count())
}

fn allowed_cpus(status: &str) -> Option<Cpus> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    parse_cpus(list).filter(|cpus| !cpus.is_empty())
}

/// Those of `allowed` that are big; all of them where they are alike, or where only small ones are allowed.
fn big_cpus(root: &Path, allowed: &Cpus) -> Cpus {
    let big = performance_cpus(root).map(|big| &big & allowed).filter(|big| !big.is_empty());
    big.or_else(|| capable_cpus(root, allowed)).unwrap_or_else(|| allowed.clone())
}

/// Intel's performance cores; `None` but on mixed CPUs.
fn performance_cpus(root: &Path) -> Option<Cpus> {
    root.join("sys/devices/cpu_atom/cpus").exists().then_some(())?;
    read_cpus(&root.join("sys/devices/cpu_core/cpus"))
}

/// ARM's big cores. The fastest may be one alone, with others close to it; small ones have about half its capacity.
fn capable_cpus(root: &Path, allowed: &Cpus) -> Option<Cpus> {
    let capacity = |cpu: usize| -> Option<u64> {
        fs::read_to_string(cpu_folder(root, cpu).join("cpu_capacity")).ok()?.trim().parse().ok()
    };
    let all: Vec<(usize, u64)> = allowed.iter().map(|&cpu| Some((cpu, capacity(cpu)?))).collect::<Option<_>>()?;
    let most = all.iter().map(|&(_, capacity)| capacity).max()?;
    Some(all.into_iter().filter(|&(_, capacity)| capacity >= most / 4 * 3).map(|(cpu, _)| cpu).collect())
}

/// The CPUs of the same core, itself among them.
fn siblings(root: &Path, cpu: usize) -> Cpus {
    let topology = cpu_folder(root, cpu).join("topology");
    // The second is the first's name before Linux 5.4.
    let found = ["core_cpus_list", "thread_siblings_list"].iter().find_map(|name| read_cpus(&topology.join(name)));
    found.unwrap_or_else(|| Cpus::from([cpu]))
}

fn cpu_folder(root: &Path, cpu: usize) -> PathBuf {
    root.join(format!("sys/devices/system/cpu/cpu{cpu}"))
}

fn read_cpus(path: &Path) -> Option<Cpus> {
    parse_cpus(&fs::read_to_string(path).ok()?)
}

/// Lists as Linux writes them: `0-3,8`.
fn parse_cpus(list: &str) -> Option<Cpus> {
    let mut cpus = Cpus::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        cpus.extend((last < MAX_CPUS).then_some(first..=last)?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system that says `allowed`, and the given files.
    fn cores(allowed: &str, files: &[(String, &str)]) -> Option<usize> {
        let root = tempfile::tempdir().unwrap();
        let status = format!("Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\nMems_allowed_list:\t0\n");
        for (path, text) in files.iter().map(|(p, t)| (p.as_str(), *t)).chain([("proc/self/status", status.as_str())]) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
        usable_cores(root.path())
    }

    fn of_cpu(cpu: usize, name: &str) -> String {
        format!("sys/devices/system/cpu/cpu{cpu}/{name}")
    }

    fn capacities(all: &[&'static str]) -> Vec<(String, &'static str)> {
        all.iter().enumerate().map(|(cpu, capacity)| (of_cpu(cpu, "cpu_capacity"), *capacity)).collect()
    }

    #[test]
    fn lists() {
        let parsed = |list| parse_cpus(list).map(Vec::from_iter);
        assert_eq!(parsed("0-2,5,7-8\n"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(parsed("\n"), Some(vec![]));
        assert_eq!(parsed("3-1"), Some(vec![]));
        for bad in ["x", "1-", "-1", "0-99999999999", "0-70000", "1 2"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_core_counts_once() {
        // Two threads a core, numbered as Intel does (0 and 4 are one core) and as AMD does (0 and 1 are).
        let far: Vec<_> =
            (0..8).map(|c| (of_cpu(c, "topology/core_cpus_list"), ["0,4", "1,5", "2,6", "3,7"][c % 4])).collect();
        let near: Vec<_> =
            (0..8).map(|c| (of_cpu(c, "topology/thread_siblings_list"), ["0-1", "2-3", "4-5", "6-7"][c / 2])).collect();
        assert_eq!(cores("0-7", &far), Some(4));
        assert_eq!(cores("0-7", &near), Some(4));
        // Of a core of which the second thread alone is allowed, that one counts.
        assert_eq!(cores("4-6", &far), Some(3));
        assert_eq!(cores("1-4", &near), Some(3));
    }

    #[test]
    fn big_cores_of_arm() {
        let rk3588 = capacities(&["530", "530", "530", "530", "1024", "1024", "1010", "1010"]);
        assert_eq!(cores("0-7", &rk3588), Some(4));
        assert_eq!(cores("0-3", &rk3588), Some(4), "small ones alone");
        assert_eq!(cores("0-4", &rk3588), Some(1));
        let phone = capacities(&["300", "300", "300", "300", "870", "870", "870", "1024"]);
        assert_eq!(cores("0-7", &phone), Some(4));
        let pi = capacities(&["1024"; 4]);
        assert_eq!(cores("0-3", &pi), Some(4));
        assert_eq!(cores("0-4", &pi), Some(5), "one says nothing");
    }

    #[test]
    fn big_cores_of_intel() {
        // Two performance cores of two threads each, four efficient ones.
        let mut files =
            vec![("sys/devices/cpu_core/cpus".to_owned(), "0-3"), ("sys/devices/cpu_atom/cpus".to_owned(), "4-7")];
        files.extend((0..4).map(|c| (of_cpu(c, "topology/core_cpus_list"), ["0-1", "2-3"][c / 2])));
        assert_eq!(cores("0-7", &files), Some(2));
        assert_eq!(cores("3-7", &files), Some(1));
        assert_eq!(cores("4-7", &files), Some(4), "efficient ones alone");
        files.remove(1);
        assert_eq!(cores("0-7", &files), Some(6), "not a mixed CPU");
    }

    #[test]
    fn without_a_word_from_the_system() {
        assert_eq!(usable_cores(Path::new("/nowhere")), None);
        assert_eq!(cores("", &[]), None);
        assert_eq!(cores("0-2", &[]), Some(3));
    }
}
