//! Processes inside a running container.

use std::fs::File;
use std::os::fd::AsFd;

use launch::plan::ExecPlan;
use launch::{FailureKind, Io};
use sys::pidfd::Ended;

use crate::Case;
use crate::files::screen;
use crate::process::fresh;
use crate::world::{World, process};

pub(crate) const CASES: &[Case] = &[
    ("exec::it_is_where_the_container_is", it_is_where_the_container_is),
    ("exec::identity_is_the_plans", identity_is_the_plans),
    ("exec::a_missing_program_is_named", a_missing_program_is_named),
    ("exec::no_file_leaks", no_file_leaks),
    ("exec::a_terminal_is_the_containers", a_terminal_is_the_containers),
    ("exec::a_dead_container_refuses", a_dead_container_refuses),
];

fn it_is_where_the_container_is(world: &mut World) {
    // The kernel tells that a program was executed a moment before it has its name.
    let mut plan = world.plan("touch /up; while :; do sleep 60; done");
    plan.namespaces.net = launch::plan::Namespace::New;
    plan.hostname = Some("here".to_owned());
    let running = world.launch(&plan);
    let text = world
        .exec(
            "hostname; for n in mnt pid net ipc uts cgroup; do \
             test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo $n differs; \
             done; until test -e /up; do :; done; cat /proc/1/comm; touch /made; ls /made",
            &running,
        )
        .text();
    assert_eq!(text, "here\nsh\n/made\n");
    world.host(|| assert!(world.upper("made").exists()));
    sys::pidfd::kill(running.pidfd.as_fd()).unwrap();
}

fn identity_is_the_plans(world: &mut World) {
    let running = world.launch(&world.plan("sleep 60"));
    let mut process = process("id -u; id -g; id -G; pwd; exit 5");
    (process.uid, process.gid, process.groups) = (1000, 1001, vec![1002]);
    process.cwd = "/made/here".to_owned();
    let plan = ExecPlan { process, cgroup: launch::plan::CgroupPlan::default() };
    let output = world.try_exec(&plan, &running).unwrap();
    assert_eq!(output.stdout, "1000\n1001\n1001 1002\n/made/here\n");
    assert_eq!(output.ended, Ended::Exited(5));
}

fn a_missing_program_is_named(world: &mut World) {
    let running = world.launch(&world.plan("sleep 60"));
    let mut process = process("");
    process.args = vec!["nosuch".to_owned()];
    let plan = ExecPlan { process, cgroup: launch::plan::CgroupPlan::default() };
    let error = world.try_exec(&plan, &running).unwrap_err();
    assert_eq!(error.kind(), FailureKind::CannotExec);
    assert_eq!(error.sentence(), "exec: \"nosuch\": executable file not found in $PATH");
}

fn no_file_leaks(world: &mut World) {
    let running = world.launch(&world.plan("sleep 60"));
    let text = world.exec("ls /proc/self/fd | sort | tr '\\n' ' '", &running).text();
    assert_eq!(text, "0 1 2 3 ", "3 is the directory being read");
}

fn a_terminal_is_the_containers(world: &mut World) {
    let running = world.launch(&world.plan("sleep 60"));
    let plan = ExecPlan {
        process: process("test -t 0 && readlink /proc/self/fd/1 && ls /dev/pts"),
        cgroup: launch::plan::CgroupPlan::default(),
    };
    let exec = world.launcher.exec(&plan, running.pidfd.as_fd(), Io::Terminal).unwrap();
    let shown = screen(File::from(exec.console.unwrap()));
    let ended = sys::pidfd::wait(exec.pidfd.as_fd()).unwrap();
    assert_eq!((shown.as_str(), ended), ("/dev/pts/0\n0     ptmx\n", Ended::Exited(0)));
}

fn a_dead_container_refuses(world: &mut World) {
    let running = world.launch(&world.plan("true"));
    sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
    let plan = ExecPlan { process: process("true"), cgroup: launch::plan::CgroupPlan::default() };
    assert!(world.try_exec(&plan, &running).is_err());
    fresh(world);
    assert_eq!(
        world.run(&world.plan("exit 3")).ended,
        Ended::Exited(3),
        "the launcher still works"
    );
}
