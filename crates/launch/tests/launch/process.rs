//! Exit codes, arguments, working directory, limits, files the program sees.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};

use launch::plan::{EnvEntry, Rlimit, TerminalSize};
use launch::{FailureKind, Running};
use sys::pidfd::Ended;

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("process::exit_codes_and_signals_come_back", exit_codes_and_signals_come_back),
    ("process::streams_are_connected", streams_are_connected),
    ("process::arguments_and_environment_are_exact", arguments_and_environment_are_exact),
    ("process::a_missing_program_is_named", a_missing_program_is_named),
    ("process::a_file_without_x_is_refused", a_file_without_x_is_refused),
    ("process::a_file_of_no_known_format_is_refused", a_file_of_no_known_format_is_refused),
    ("process::the_launchers_own_program_cannot_be_run", the_launchers_own_program_cannot_be_run),
    ("process::the_working_directory_is_made", the_working_directory_is_made),
    ("process::a_working_directory_never_leaks_a_file", a_working_directory_never_leaks_a_file),
    ("process::no_file_leaks", no_file_leaks),
    ("process::signals_are_default_and_unblocked", signals_are_default_and_unblocked),
    ("process::limits_are_set_or_clamped_with_a_warning", limits_are_set_or_clamped),
    ("process::the_oom_adjustment_is_set_or_kept_with_a_warning", oom_adjustment),
    ("process::the_umask_is_the_plans", the_umask_is_the_plans),
    ("process::a_user_can_open_its_own_stdout", a_user_can_open_its_own_stdout),
    ("process::a_prepared_process_waits", a_prepared_process_waits),
    ("process::a_dropped_process_leaves_nothing", a_dropped_process_leaves_nothing),
    ("process::a_process_left_waiting_is_started_by_a_call", left_waiting),
    ("process::a_caller_that_goes_away_starts_nothing", a_caller_that_goes_away),
    ("process::who_starts_a_waiting_process_is_told_why_it_failed", told_why_it_failed),
    ("process::files_are_kept_when_asked_for", files_are_kept),
    ("process::a_root_may_cover_the_hosts", a_root_may_cover_the_hosts),
    ("process::the_terminal_has_the_plans_size", the_terminal_has_the_plans_size),
];

fn exit_codes_and_signals_come_back(world: &mut World) {
    assert_eq!(world.run(&world.plan("exit 7")).ended, Ended::Exited(7));
    fresh(world);
    // PID 1 ignores signals it does not handle, so a child of it is killed.
    let output = world.run(&world.plan("sh -c 'kill -9 $$'; echo $?"));
    assert_eq!(output.text(), "137\n");
}

/// A volatile overlay cannot be mounted a second time.
pub(crate) fn fresh(world: &World) {
    world.host(|| {
        for dir in ["upper", "work"] {
            fs::remove_dir_all(world.scratch.join(dir)).unwrap();
            fs::create_dir(world.scratch.join(dir)).unwrap();
        }
    });
}

fn streams_are_connected(world: &mut World) {
    let output = world.run(&world.plan("read x; echo out$x; echo err >&2"));
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
}

fn arguments_and_environment_are_exact(world: &mut World) {
    let mut plan = world.plan("printf '%s|' \"$@\"; printf %s \"$ODD\" | od -An -tx1");
    plan.process.args.extend(["name", "", "a b", "*"].map(str::to_owned));
    plan.process.env.push(EnvEntry(b"ODD=\xff\n\xfe".to_vec()));
    assert_eq!(world.run(&plan).text(), "|a b|*| ff 0a fe\n");
}

fn a_missing_program_is_named(world: &mut World) {
    let mut plan = world.plan("");
    plan.process.args = vec!["nosuch".to_owned()];
    let error = world.refused(&plan);
    assert_eq!(error.kind(), FailureKind::CannotExec);
    assert_eq!(error.sentence(), "exec: \"nosuch\": executable file not found in $PATH");
    fresh(world);
    plan.process.args = vec!["/no/such".to_owned()];
    let error = world.refused(&plan);
    assert_eq!((error.kind(), error.errno()), (FailureKind::CannotExec, Some(libc::ENOENT)));
    assert!(error.sentence().starts_with("exec /no/such: "), "{}", error.sentence());
}

fn a_file_without_x_is_refused(world: &mut World) {
    world.host(|| fs::write(world.upper("data"), "text").unwrap());
    let mut plan = world.plan("");
    plan.process.args = vec!["/data".to_owned()];
    let error = world.refused(&plan);
    assert_eq!((error.kind(), error.errno()), (FailureKind::CannotExec, Some(libc::EACCES)));
    fresh(world);
    plan.process.args = vec!["/bin".to_owned()];
    assert_eq!(world.refused(&plan).errno(), Some(libc::EACCES));
}

fn a_file_of_no_known_format_is_refused(world: &mut World) {
    world.host(|| {
        fs::write(world.upper("data"), "text").unwrap();
        fs::set_permissions(world.upper("data"), fs::Permissions::from_mode(0o755)).unwrap();
    });
    let mut plan = world.plan("");
    plan.process.args = vec!["/data".to_owned()];
    let error = world.refused(&plan);
    assert_eq!((error.kind(), error.errno()), (FailureKind::CannotExec, Some(libc::ENOEXEC)));
}

fn the_launchers_own_program_cannot_be_run(world: &mut World) {
    let mut plan = world.plan("");
    world.host(|| symlink("/proc/self/exe", world.upper("link")).unwrap());
    plan.process.args = vec!["/link".to_owned()];
    let error = world.refused(&plan);
    assert_eq!((error.kind(), error.errno()), (FailureKind::CannotExec, Some(libc::ELOOP)));
}

fn the_working_directory_is_made(world: &mut World) {
    let mut plan = world.plan("pwd; stat -c %a .");
    plan.process.cwd = "/srv/app".to_owned();
    plan.root.readonly = true;
    assert_eq!(world.run(&plan).text(), "/srv/app\n755\n");
}

fn a_working_directory_never_leaks_a_file(world: &mut World) {
    for number in 3..12 {
        let mut plan = world.plan("pwd; ls /");
        plan.process.cwd = format!("/proc/self/fd/{number}");
        let error = world.refused(&plan);
        assert_eq!(error.kind(), FailureKind::CannotExec, "{}", error.sentence());
        fresh(world);
    }
}

fn no_file_leaks(world: &mut World) {
    let text = world.run(&world.plan("ls /proc/self/fd | sort | tr '\\n' ' '")).text();
    assert_eq!(text, "0 1 2 3 ", "3 is the directory being read");
}

fn signals_are_default_and_unblocked(world: &mut World) {
    let plan = world.plan("grep -E 'Sig(Blk|Ign|Cgt)' /proc/1/status");
    let mut plan = plan;
    // Without a shell in between: shells handle signals themselves.
    plan.process.args =
        ["grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"].map(str::to_owned).to_vec();
    for line in world.run(&plan).text().lines() {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
}

fn limits_are_set_or_clamped(world: &mut World) {
    const NOFILE: u32 = 7;
    const CORE: u32 = 4;
    let mut plan = world.plan("ulimit -n; ulimit -Hn; ulimit -c");
    plan.process.rlimits = vec![
        Rlimit { resource: NOFILE, soft: 100, hard: 200 },
        Rlimit { resource: CORE, soft: 0, hard: 0 },
    ];
    assert_eq!(world.run(&plan).text(), "100\n200\n0\n");
    fresh(world);
    // More than the kernel ever allows: clamped whoever we are.
    plan.process.rlimits = vec![Rlimit { resource: NOFILE, soft: u64::MAX, hard: u64::MAX }];
    let running = world.launch(&plan);
    assert_eq!(running.warnings.len(), 1, "{:?}", running.warnings);
    sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
}

fn oom_adjustment(world: &mut World) {
    let mut plan = world.plan("cat /proc/self/oom_score_adj");
    plan.process.oom_score_adj = Some(500);
    assert_eq!(world.run(&plan).text(), "500\n");
    fresh(world);
    plan.process.oom_score_adj = Some(-998);
    let running = world.launch(&plan);
    const SYS_RESOURCE: u64 = 1 << 24;
    let expected = usize::from(sys::credentials::bounding() & SYS_RESOURCE == 0);
    assert_eq!(running.warnings.len(), expected, "{:?}", running.warnings);
    sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
}

fn the_umask_is_the_plans(world: &mut World) {
    let mut plan = world.plan("umask");
    plan.process.umask = Some(0o077);
    assert_eq!(world.run(&plan).text(), "0077\n");
}

fn a_user_can_open_its_own_stdout(world: &mut World) {
    let mut plan = world.plan("echo hello > /dev/stdout");
    plan.process.uid = 1000;
    assert_eq!(world.run(&plan).text(), "hello\n");
}

fn a_prepared_process_waits(world: &mut World) {
    let null = world.null();
    let null = null.as_fd();
    let io = launch::Io::Files { stdin: null, stdout: null, stderr: null };
    let prepared = world.launcher.prepare(&world.plan("exit 3"), io).unwrap();
    let pid = prepared.pid;
    assert!(sys::pidfd::try_wait(prepared.pidfd().unwrap()).unwrap().is_none());
    let running = prepared.start().unwrap();
    assert_eq!(running.pid, pid);
    assert_eq!(sys::pidfd::wait(running.pidfd.as_fd()).unwrap(), Ended::Exited(3));
}

fn a_dropped_process_leaves_nothing(world: &mut World) {
    let before = open_files();
    let null = world.null();
    let io = launch::Io::Files { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() };
    let prepared = world.launcher.prepare(&world.plan("exit 3"), io).unwrap();
    let pid = prepared.pid;
    drop(prepared);
    drop(null);
    assert!(sys::process::start_time(pid).is_err(), "reaped");
    assert_eq!(open_files(), before);
}

/// A container that is left waiting, and the directory of its socket.
fn leave(world: &World, command: &str) -> (OwnedFd, Running) {
    let dir = world.host(|| sys::fs::open_dir(world.scratch.as_path()).unwrap());
    let gate = sys::fdpass::listen_at(dir.as_fd(), "gate").unwrap();
    let null = world.null();
    let null = null.as_fd();
    let io = launch::Io::Files { stdin: null, stdout: null, stderr: null };
    let plan = world.plan(command);
    let prepared = world.launcher.prepare_waiting(&plan, io, gate.as_fd()).unwrap();
    let running = prepared.leave().unwrap();
    assert!(sys::pidfd::try_wait(running.pidfd.as_fd()).unwrap().is_none());
    (dir, running)
}

fn left_waiting(world: &mut World) {
    let (dir, running) = leave(world, "exit 3");
    let caller = sys::fdpass::connect_at(dir.as_fd(), "gate").unwrap();
    launch::start_waiting(&caller, running.pid, None).unwrap();
    assert_eq!(sys::pidfd::wait(running.pidfd.as_fd()).unwrap(), Ended::Exited(3));
    // The socket was the waiting process's alone.
    let error = sys::fdpass::connect_at(dir.as_fd(), "gate").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

fn a_caller_that_goes_away(world: &mut World) {
    let (dir, running) = leave(world, "exit 4");
    for word in [None, Some(b"no")] {
        let caller = sys::fdpass::connect_at(dir.as_fd(), "gate").unwrap();
        if let Some(word) = word {
            sys::fdpass::send(caller.as_fd(), word, None).unwrap();
        }
    }
    // It gets to this one only after those.
    let caller = sys::fdpass::connect_at(dir.as_fd(), "gate").unwrap();
    assert!(sys::pidfd::try_wait(running.pidfd.as_fd()).unwrap().is_none());
    launch::start_waiting(&caller, running.pid, None).unwrap();
    assert_eq!(sys::pidfd::wait(running.pidfd.as_fd()).unwrap(), Ended::Exited(4));
}

fn told_why_it_failed(world: &mut World) {
    // What is found and is a file with an x, and yet is no program, shows when it is executed.
    world.host(|| {
        fs::create_dir_all(world.upper("bin")).unwrap();
        let program = world.upper("bin/odd");
        fs::write(&program, [0; 64]).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    });
    let dir = world.host(|| sys::fs::open_dir(world.scratch.as_path()).unwrap());
    let gate = sys::fdpass::listen_at(dir.as_fd(), "gate").unwrap();
    let null = world.null();
    let null = null.as_fd();
    let io = launch::Io::Files { stdin: null, stdout: null, stderr: null };
    let mut plan = world.plan("");
    plan.process.args = vec!["odd".to_owned()];
    let prepared = world.launcher.prepare_waiting(&plan, io, gate.as_fd()).unwrap();
    let running = prepared.leave().unwrap();
    let caller = sys::fdpass::connect_at(dir.as_fd(), "gate").unwrap();
    let error = launch::start_waiting(&caller, running.pid, None).unwrap_err();
    assert_eq!(error.kind(), FailureKind::CannotExec, "{}", error.sentence());
    assert!(error.sentence().contains("/bin/odd"), "{}", error.sentence());
    assert_eq!(sys::pidfd::wait(running.pidfd.as_fd()).unwrap(), Ended::Exited(1));
}

fn files_are_kept(world: &mut World) {
    use std::io::Write as _;
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut memory = fs::File::from(rustix::fs::memfd_create("kept", flags).unwrap());
    memory.write_all(b"through the wall").unwrap();
    let kept = rustix::io::fcntl_dupfd_cloexec(&memory, 3).unwrap();
    rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::empty()).unwrap();
    let number = kept.as_raw_fd();
    let keep_files = u32::try_from(number).unwrap() - 2;
    world.launcher.set_options(launch::Options { keep_files, ..launch::Options::default() });
    let read = format!("cat /proc/self/fd/{number}; ls /proc/self/fd | wc -l");
    // Standard streams, the kept file, the directory: others close at exec by themselves.
    assert_eq!(world.run(&world.plan(&read)).text(), "through the wall5\n");
}

fn a_root_may_cover_the_hosts(world: &mut World) {
    world.launcher.set_options(launch::Options { no_pivot: true, ..launch::Options::default() });
    let output = world.run(&world.plan("ls -d /bin/busybox; cat /proc/self/mountinfo | wc -l"));
    let text = output.text();
    assert!(text.starts_with("/bin/busybox\n"), "{text}");
}

fn the_terminal_has_the_plans_size(world: &mut World) {
    let mut plan = world.plan("stty size; exec sleep 1000");
    plan.process.terminal = true;
    plan.process.terminal_size = Some(TerminalSize { rows: 17, columns: 71 });
    let running = world.launcher.launch(&plan, launch::Io::Terminal).unwrap();
    let mut said = String::new();
    let mut console = std::io::BufReader::new(fs::File::from(running.console.unwrap()));
    std::io::BufRead::read_line(&mut console, &mut said).unwrap();
    assert_eq!(said.trim_end(), "17 71");
    sys::pidfd::kill(running.pidfd.as_fd()).unwrap();
    sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
}

fn open_files() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}
