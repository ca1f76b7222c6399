//! Hostile programs: each must be contained within seconds, and leave nothing.

mod common;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tools::Failure;
use tools::pass::sandbox::{End, Ended, Job, Limits, Sandbox, Step};

/// A sandbox with namespaces. Where the system has none, that must be what is said.
fn isolated() -> Option<Sandbox> {
    match Sandbox::new(Path::new(common::SPM), Vec::new(), true) {
        Ok(sandbox) => Some(sandbox),
        Err(Failure::Runtime(why)) => {
            assert!(why.contains("cannot be isolated here") && why.contains("--unisolated"), "{why}");
            None
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn unisolated() -> Sandbox {
    Sandbox::new(Path::new(common::SPM), Vec::new(), false).unwrap()
}

fn both() -> impl Iterator<Item = Sandbox> {
    isolated().into_iter().chain([unisolated()])
}

/// Runs a shell script of at most three seconds; it must be over soon after.
fn run(sandbox: &Sandbox, script: &str) -> Ended {
    run_with(sandbox, script, 3.0, LIMITS)
}

const LIMITS: Limits = Limits { processes: 40, memory: 200 << 20, files: 128 << 20, output: 16 << 10 };

fn run_with(sandbox: &Sandbox, script: &str, seconds: f64, limits: Limits) -> Ended {
    let argv = vec!["/bin/sh".to_owned(), "script".to_owned()];
    let job =
        Job { files: vec![("script".to_owned(), script.to_owned())], steps: vec![Step { argv, seconds }], limits };
    let started = Instant::now();
    let ended = sandbox.run(&job, &AtomicBool::new(false)).unwrap();
    assert!(started.elapsed() < Duration::from_secs_f64(seconds + 9.0), "{script}: {:?}", started.elapsed());
    ended.into_iter().next().unwrap()
}

/// Processes of this machine whose command line has `mark`.
fn running(mark: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter(|p| fs::read_to_string(p.path().join("cmdline")).is_ok_and(|line| line.contains(mark))).count()
}

#[test]
fn a_harmless_program_runs_and_its_output_is_kept() {
    for sandbox in both() {
        let ended = run(&sandbox, "echo here; echo there >&2; exit 7");
        assert_eq!((ended.end, ended.stdout.as_str(), ended.stderr.as_str()), (End::Exit(7), "here\n", "there\n"));
        let ended = run(&sandbox, "kill -SEGV $$");
        assert_eq!(ended.end, End::Signal(11));
        let ended = run(&sandbox, "cd; pwd > mine && cat mine && cat < /dev/null");
        assert_eq!(ended.end, End::Exit(0), "{}", ended.stderr);
        let ended = run(&sandbox, "env");
        assert!(!ended.stdout.contains("CARGO"), "{}", ended.stdout);
    }
}

#[test]
fn later_steps_see_the_files_of_earlier_ones_and_need_their_success() {
    for sandbox in both() {
        let step = |script: &str| Step { argv: ["/bin/sh", "-c", script].map(str::to_owned).into(), seconds: 3.0 };
        let run = |steps| {
            let job = Job { files: Vec::new(), steps, limits: Limits::default() };
            sandbox.run(&job, &AtomicBool::new(false)).unwrap()
        };
        let ended = run(vec![step("echo made > file"), step("cat file")]);
        assert_eq!(ended[1].stdout, "made\n");
        let ended = run(vec![step("exit 1"), step("echo no")]);
        assert_eq!((ended.len(), ended[0].end), (1, End::Exit(1)));
    }
}

#[test]
fn a_sleeping_program_is_ended() {
    for sandbox in both() {
        // Also what it left behind with its output open.
        let mark = format!("3000.{}", std::process::id() * 2 + u32::from(sandbox.is_isolated()));
        let ended = run(&sandbox, &format!("sleep {mark} & setsid sleep {mark} & sleep {mark}"));
        assert_eq!(ended.end, End::TimedOut);
        let ended = run(&sandbox, &format!("setsid sleep {mark} & exit 0"));
        assert_eq!(ended.end, End::Exit(0));
        assert_eq!(running(&mark), 0);
    }
}

#[test]
fn a_computing_program_is_ended() {
    for sandbox in both() {
        assert_eq!(run(&sandbox, "while :; do :; done").end, End::TimedOut);
    }
}

#[test]
fn infinite_output_is_dropped() {
    for sandbox in both() {
        let ended = run(&sandbox, "yes yyyyyyyy & yes >&2");
        assert_eq!(ended.end, End::TimedOut);
        assert!((1..=16 << 10).contains(&ended.stdout.len()) && ended.stderr.len() <= 16 << 10);
        assert!(ended.stdout_end.len() <= 1024);
    }
}

#[test]
fn a_fork_bomb_is_contained() {
    // Without a namespace the limit does not hold for root, and for others it counts their other processes.
    let Some(sandbox) = isolated() else { return };
    let mark = format!("bomb-{}", std::process::id());
    let ended = run(&sandbox, &format!(": {mark}; f() {{ sh -c \": {mark}; sleep 100\" & f | f & }}; f; wait"));
    assert!(ended.stderr.contains("fork") || ended.end == End::TimedOut, "{ended:?}");
    assert_eq!(running(&mark), 0);
    // The next program is not worse off.
    assert_eq!(run(&sandbox, "true | true").end, End::Exit(0));
}

#[test]
fn processes_are_counted() {
    let Some(sandbox) = isolated() else { return };
    let ended = run(&sandbox, "i=0; while [ $i -lt 60 ]; do sleep 2 & i=$((i+1)); echo $i; done");
    let started: Vec<u32> = ended.stdout.lines().map(|l| l.parse().unwrap()).collect();
    assert!((30..60).contains(&started.len()), "{} of 60, {}", started.len(), ended.stderr);
}

#[test]
fn a_memory_hog_is_ended() {
    for sandbox in both() {
        // One process that wants more than all may have, and many that do together.
        // Time is not what ends them, also on a busy machine.
        let run = |script: &str| run_with(&sandbox, script, 20.0, LIMITS);
        let ended = run("x=0123456789abcdef; while :; do x=$x$x; done");
        assert!(!matches!(ended.end, End::Exit(0) | End::TimedOut), "{ended:?}");
        let hog = "head -c 60000000 /dev/zero | tail -c 60000000 | (sleep 100; cat) &\n";
        assert_eq!(run(&format!("{}sleep 100", hog.repeat(6))).end, End::OutOfMemory);
    }
}

/// Memory that belongs to no process could not be counted as any's.
#[test]
fn memory_of_no_process_is_not_to_be_had() {
    for sandbox in both() {
        if run(&sandbox, "python3 -c 'import ctypes, mmap, os; os.memfd_create'").end != End::Exit(0) {
            return;
        }
        for (call, refused) in [
            ("os.memfd_create('x')", "Function not implemented"),
            ("mmap.mmap(-1, 4096)", "Function not implemented"),
            ("ctypes.CDLL(None).shmget(0, 4096, 0o1600) < 0 and sys.exit('refused')", "refused"),
        ] {
            let ended = run(&sandbox, &format!("python3 -c \"import ctypes, mmap, os, sys; {call}\""));
            assert!(ended.end == End::Exit(1) && ended.stderr.contains(refused), "{call}: {ended:?}");
        }
        let own = "python3 -c \"import mmap; mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\"";
        assert_eq!(run(&sandbox, own).end, End::Exit(0));
    }
}

/// Processes whose first thread has ended have no memory by its account: together these have more than they may.
#[test]
fn memory_of_other_threads_counts() {
    let number = if cfg!(target_arch = "x86_64") { 60 } else { 93 };
    let hog = format!(
        "import ctypes, threading, time\ndef hog():\n    kept = bytearray(90 << 20)\n    time.sleep(60)\n\
         threading.Thread(target=hog).start()\nctypes.CDLL(None).syscall({number}, 0)\n"
    );
    for sandbox in both() {
        if run(&sandbox, "command -v python3").end != End::Exit(0) {
            return;
        }
        let script = format!("cat > hog <<'END'\n{hog}END\nfor i in 1 2 3; do python3 hog & done; sleep 60");
        let ended = run_with(&sandbox, &script, 20.0, LIMITS);
        assert_eq!(ended.end, End::OutOfMemory, "{ended:?}");
    }
}

/// The temporary folder may be known by another name.
#[test]
fn links_to_the_temporary_folder_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let items = folder.path().join("items.jsonl");
    let mounts = "[l.split()[3].split(',')[0] for l in open('/proc/self/mounts') if l.split()[1] == '/usr']";
    let item = serde_json::json!({
        "task_id": "T/0", "prompt": "def f():\n", "canonical_solution": format!("    return {mounts}\n"),
        "entry_point": "f", "test": "def check(f):\n    assert f() == ['ro'], f()\n",
    });
    fs::write(&items, item.to_string()).unwrap();
    if isolated().is_none() {
        return;
    }
    let mut command = std::process::Command::new(common::SPM);
    command.args(["pass", "--canonical", "--items"]).arg(&items).env("TMPDIR", &link);
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 of 1"), "{said}");
}

#[test]
fn a_full_disk_is_its_own() {
    let Some(sandbox) = isolated() else { return };
    let limits = Limits { files: 5 << 20, ..Limits::default() };
    let script = "for i in 1 2 3 4; do head -c 3000000 /dev/zero > f$i || exit 9; done";
    assert_eq!(run_with(&sandbox, script, 3.0, limits).end, End::Exit(9));
    // Nothing of it is there for the next.
    assert_eq!(run_with(&sandbox, "ls", 3.0, limits).stdout, "script\n");
    let unisolated = unisolated();
    let ended = run_with(&unisolated, "head -c 30000000 /dev/zero > f", 3.0, limits);
    assert_ne!(ended.end, End::Exit(0), "one file is limited");
}

#[test]
fn files_outside_cannot_be_touched() {
    let Some(sandbox) = isolated() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("mine");
    fs::File::create(&mine).unwrap().write_all(b"precious").unwrap();
    let mine = mine.to_str().unwrap();
    let script = format!(
        "rm -f {mine}; echo x > {mine}; rm -rf /usr/bin/env /etc/passwd /home /root /var; \
         mount -o remount,rw /usr; mount -o remount,rw /; echo x > /usr/x; echo x > /etc/x; echo x > /x; \
         unshare -Ur mount -o remount,bind,rw /usr; unshare -Ur touch /usr/x; chroot / true; \
         ls /usr/bin/env /etc/passwd; ls /home /root /var /run /sys {mine} | wc -l; ls / | wc -l"
    );
    let ended = run(&sandbox, &script);
    assert!(ended.stdout.starts_with("/etc/passwd\n/usr/bin/env\n0\n"), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(fs::read_to_string(mine).unwrap(), "precious");
    assert!(Path::new("/usr/bin/env").exists() && !Path::new("/usr/x").exists() && !Path::new("/etc/x").exists());
}

#[test]
fn processes_outside_are_neither_seen_nor_signalled() {
    let Some(sandbox) = isolated() else { return };
    let mut bystander = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let ended = run(&sandbox, &format!("kill -9 {} ; kill -9 -1; echo survived", bystander.id()));
    assert!(ended.stderr.contains("kill") || ended.end == End::Signal(9), "{ended:?}");
    assert!(bystander.try_wait().unwrap().is_none());
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(run(&sandbox, "ls -d /proc/[0-9]* | wc -l").stdout.trim().parse::<u32>().unwrap() < 8);
}

#[test]
fn there_is_no_network() {
    let Some(sandbox) = isolated() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!(
        "python3 -c \"import socket; socket.create_connection(('127.0.0.1', {port}), 2); print('connected')\" || exit 5"
    );
    // The same finds the port outside, so that it is not for lack of the program that it does not inside.
    let outside = std::process::Command::new("sh").args(["-c", &connect]).output().unwrap();
    if outside.status.success() {
        let python = "command -v python3 /usr/bin/python3 >/dev/null || exit 6; ";
        let ended = run(&sandbox, &format!("{python}{connect}"));
        assert!(matches!(ended.end, End::Exit(5 | 6)), "{ended:?}");
    }
    let ended = run(&sandbox, "cat /proc/net/dev | grep -v lo: | grep -c :; cat /proc/net/route | wc -l");
    assert!(ended.stdout.starts_with("0\n"), "interfaces: {}", ended.stdout);
}

#[test]
fn a_cancelled_program_ends_at_once() {
    for sandbox in both() {
        let mark = format!("2000.{}", std::process::id() * 2 + u32::from(sandbox.is_isolated()));
        let argv = ["/bin/sh", "-c", &format!("sleep {mark} & sleep {mark}")].map(str::to_owned).into();
        let job = Job { files: Vec::new(), steps: vec![Step { argv, seconds: 60.0 }], limits: Limits::default() };
        let cancelled = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let running = scope.spawn(|| sandbox.run(&job, &cancelled));
            std::thread::sleep(Duration::from_millis(500));
            cancelled.store(true, std::sync::atomic::Ordering::SeqCst);
            assert!(matches!(running.join().unwrap(), Err(Failure::Interrupted)));
        });
        assert_eq!(running(&mark), 0);
    }
}
