//! Namespaces: new, inherited, joined; the pod's PID namespace and its pause process.

use std::fs;
use std::os::fd::AsFd;

use launch::plan::{Namespace, PidNamespace, Sysctl};
use launch::{FailureKind, Running};
use sys::pidfd::Ended;

use crate::Case;
use crate::identity::field;
use crate::process::fresh;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("namespaces::a_new_pid_namespace_starts_at_one", a_new_pid_namespace_starts_at_one),
    ("namespaces::the_hosts_pid_namespace_can_be_used", the_hosts_pid_namespace),
    ("namespaces::new_ones_are_new_and_others_the_launchers", new_and_inherited),
    ("namespaces::namespaces_can_be_joined", namespaces_can_be_joined),
    ("namespaces::host_name_and_parameters_are_set", host_name_and_parameters),
    ("namespaces::pause_is_what_containers_share", pause_is_what_containers_share),
    ("namespaces::pause_reaps_and_ends_on_sigterm", pause_reaps_and_ends),
    ("namespaces::a_pod_without_pause_is_a_bad_plan", a_pod_without_pause),
    ("namespaces::the_launcher_stays_where_it_was", the_launcher_stays_where_it_was),
];

fn a_new_pid_namespace_starts_at_one(world: &mut World) {
    assert_eq!(
        world.run(&world.plan("echo $$; ls -d /proc/[0-9]* | head -1")).text(),
        "1\n/proc/1\n"
    );
}

fn the_hosts_pid_namespace(world: &mut World) {
    let mut plan = world.plan("echo $$; readlink /proc/self/ns/pid");
    plan.namespaces.pid = PidNamespace::Inherit;
    let text = world.run(&plan).text();
    let (pid, namespace) = text.trim().split_once('\n').unwrap();
    assert_ne!(pid, "1");
    assert_eq!(namespace, link("pid"));
}

fn link(name: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_str().unwrap().to_owned()
}

const LINKS: &str = "for n in net ipc uts cgroup mnt; do readlink /proc/self/ns/$n; done";

fn new_and_inherited(world: &mut World) {
    let text = world.run(&world.plan(LINKS)).text();
    let inside: Vec<&str> = text.lines().collect();
    assert_eq!(inside[0], link("net"), "inherited");
    for (at, name) in [(1, "ipc"), (2, "uts"), (3, "cgroup"), (4, "mnt")] {
        assert_ne!(inside[at], link(name), "{name} is new");
    }
}

fn of_process(running: &Running, name: &str) -> String {
    format!("/proc/{}/ns/{name}", running.pid.as_raw_nonzero())
}

fn namespaces_can_be_joined(world: &mut World) {
    let mut plan = world.plan("sleep 60");
    plan.namespaces.net = Namespace::New;
    let first = world.launch(&plan);
    fresh(world);
    let mut plan = world.plan(&format!("{LINKS}; readlink /proc/self/ns/pid; echo $$"));
    plan.namespaces.net = Namespace::Join(of_process(&first, "net"));
    plan.namespaces.ipc = Namespace::Join(of_process(&first, "ipc"));
    plan.namespaces.uts = Namespace::Join(of_process(&first, "uts"));
    plan.namespaces.cgroup = Namespace::Join(of_process(&first, "cgroup"));
    plan.namespaces.pid = PidNamespace::Join(of_process(&first, "pid"));
    // The path of a namespace is the host's; /proc is the same there and here.
    let text = world.run(&plan).text();
    let inside: Vec<&str> = text.lines().collect();
    let expected = |name: &str| fs::read_link(of_process(&first, name)).unwrap();
    for (at, name) in [(0, "net"), (1, "ipc"), (2, "uts"), (3, "cgroup"), (5, "pid")] {
        assert_eq!(inside[at], expected(name).to_str().unwrap(), "{name}");
    }
    assert_ne!(inside[6], "1");
    end(&first);
}

fn end(running: &Running) {
    sys::pidfd::kill(running.pidfd.as_fd()).unwrap();
    sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
}

fn host_name_and_parameters(world: &mut World) {
    let mut plan = world.plan(
        "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced",
    );
    plan.namespaces.net = Namespace::New;
    plan.hostname = Some("voyager".to_owned());
    let sysctl =
        |name: &str, value: &str| Sysctl { name: name.to_owned(), value: value.to_owned() };
    plan.sysctls = vec![
        sysctl("net.ipv4.ip_unprivileged_port_start", "80"),
        sysctl("kernel.shm_rmid_forced", "1"),
    ];
    plan.readonly_paths = vec!["/proc/sys".to_owned()];
    assert_eq!(world.run(&plan).text(), "voyager\n80\n1\n");
    fresh(world);
    plan.sysctls = vec![sysctl("net.ipv4.nosuch", "80")];
    let error = world.refused(&plan);
    assert!(error.sentence().starts_with("set kernel parameter net.ipv4.nosuch=80: "), "{error}");
}

fn pause_is_what_containers_share(world: &mut World) {
    let plan = world.plan("");
    let pause = world.launcher.pause(&plan).unwrap();
    let status =
        fs::read_to_string(format!("/proc/{}/status", pause.pid.as_raw_nonzero())).unwrap();
    for (name, expected) in [
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Threads", "1"),
    ] {
        assert_eq!(field(&status, name), expected, "{name}");
    }
    let mut plan = world.plan("sleep 60");
    plan.namespaces.pid = PidNamespace::Pod;
    let first = world.launch(&plan);
    fresh(world);
    let mut plan =
        world.plan("while ! grep -x pause /proc/1/comm; do :; done; ps -o comm | grep -c sleep");
    plan.namespaces.pid = PidNamespace::Pod;
    assert_eq!(world.run(&plan).text(), "pause\n1\n");
    end(&first);
    end(&pause);
}

fn pause_reaps_and_ends(world: &mut World) {
    let plan = world.plan("");
    let pause = world.launcher.pause(&plan).unwrap();
    // The grandchild is orphaned to pause; when the shell has seen it gone, pause has reaped it.
    let mut plan = world.plan(
        "(sh -c 'echo $$ > /tmp/pid') & wait; p=$(sh -c 'sleep 0.01 & echo $!'); \
         while test -e /proc/$p; do sleep 0.01; done; echo reaped",
    );
    plan.namespaces.pid = PidNamespace::Pod;
    assert_eq!(world.run(&plan).text(), "reaped\n");
    sys::pidfd::signal(pause.pidfd.as_fd(), libc::SIGTERM).unwrap();
    assert_eq!(sys::pidfd::wait(pause.pidfd.as_fd()).unwrap(), Ended::Exited(0));
}

fn a_pod_without_pause(world: &mut World) {
    let mut plan = world.plan("true");
    plan.namespaces.pid = PidNamespace::Pod;
    assert_eq!(world.refused(&plan).kind(), FailureKind::BadPlan);
}

fn the_launcher_stays_where_it_was(world: &mut World) {
    let names = ["mnt", "pid", "pid_for_children", "net", "ipc", "uts", "cgroup"];
    let now = || names.map(link);
    let before = now();
    let pause = world.launcher.pause(&world.plan("")).unwrap();
    let mut plan = world.plan("sleep 60");
    plan.namespaces.pid = PidNamespace::Pod;
    let running = world.launch(&plan);
    world.exec("true", &running).text();
    assert_eq!(now(), before);
    assert!(sys::credentials::dumpable().unwrap());
    end(&running);
    end(&pause);
}
