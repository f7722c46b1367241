//! The pod: namespaces, `/dev/shm`, the shared PID namespace, its end.

use std::os::fd::AsFd;
use std::path::Path;

use launch::plan::{MountPlan, MountSource, PidNamespace, Propagation};
use shim_protocol::{Body, Event, FailureKind, Sysctl};

use crate::fixture::{Shim, can_run};

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
}

#[test]
fn a_pod_has_namespaces_of_its_own_that_can_be_found() {
    if !can_run() {
        return;
    }
    let mut shim = Shim::start();
    let mut client = shim.client();
    let mut setup = shim.setup();
    setup.sysctls = vec![
        Sysctl { name: "net.ipv4.ip_unprivileged_port_start".to_owned(), value: "81".to_owned() },
        Sysctl { name: "kernel.shmmni".to_owned(), value: "123".to_owned() },
    ];
    shim.set_up(&mut client, setup);
    let netns = client.take_files().pop().expect("the network namespace");
    let own = inode(Path::new("/proc/self/ns/net"));
    assert_eq!(rustix::fs::fstat(netns.as_fd()).unwrap().st_ino, inode(&shim.pin()));
    assert_ne!(inode(&shim.pin()), own);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(host.trim(), "a-pod");
    let records = shim.output(
        &mut client,
        "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni; ip addr | grep -o 'lo: <[A-Z,_]*>'; ip addr | grep -c mtu",
    );
    let want = ["a-pod", "81", "123", "lo: <LOOPBACK,UP,LOWER_UP>", "1"];
    assert_eq!(records, want.map(|line| format!("stdout F {line}")));
}

#[test]
fn a_setup_that_fails_leaves_nothing_and_can_be_repeated() {
    if !can_run() {
        return;
    }
    let mut shim = Shim::start();
    let mut client = shim.client();
    let (start, ..) = shim.container("true");
    assert_eq!(client.fails(Body::Start(Box::new(start))).kind, FailureKind::WrongState);

    let mut host = shim.setup();
    host.sysctls = vec![Sysctl { name: "vm.swappiness".to_owned(), value: "1".to_owned() }];
    assert_eq!(client.fails(Body::SetupPod(Box::new(host))).kind, FailureKind::BadRequest);

    let namespaces = || {
        ["net", "ipc", "uts"]
            .map(|name| inode(Path::new(&format!("/proc/{}/ns/{name}", shim.pid()))))
    };
    let before = namespaces();
    let mut late = shim.setup();
    // The last step fails: a second PID 1 in a cgroup that cannot be made.
    late.shared_pid = true;
    let mut pause = crate::plans::shell(&shim.root(), launch::plan::CgroupPlan::default(), "");
    pause.cgroup.groups.push(launch::plan::CgroupDir {
        hierarchy: launch::plan::Hierarchy::V1(vec!["pids".to_owned()]),
        mountpoint: "/proc".to_owned(),
        path: "/proc/knarr-shim-test".to_owned(),
        settings: Vec::new(),
        join_late: false,
    });
    late.pause_plan = Some(pause.encode());
    assert_eq!(client.fails(Body::SetupPod(Box::new(late))).kind, FailureKind::Cgroup);
    assert!(!shim.pin().exists());
    assert_eq!(namespaces(), before);
    assert!(!client.state().ready);

    shim.set_up(&mut client, shim.setup());
    assert_eq!(shim.output(&mut client, "hostname"), ["stdout F a-pod"]);
}

#[test]
fn containers_share_dev_shm_that_the_host_never_sees() {
    if !can_run() {
        return;
    }
    let mut shim = Shim::start();
    let mut client = shim.client();
    let mut setup = shim.setup();
    setup.shm_bytes = Some(1 << 20);
    setup.shm_path = Some("/shm/pod".to_owned());
    shim.set_up(&mut client, setup);
    let run = |shim: &mut Shim, client: &mut crate::client::Client, script: &str| {
        let (mut start, id, mut plan) = shim.container(script);
        plan.mounts.push(MountPlan {
            target: "/dev/shm".to_owned(),
            source: MountSource::Launcher { path: "/shm/pod".to_owned() },
            attr_set: 0,
            attr_clear: 0,
            attr_recursive: false,
            propagation: Propagation::Private,
            ids: None,
            label: None,
        });
        start.plan = plan.encode();
        shim.started(client, start);
        client.exit_of(id.as_str());
        shim.records(&id)
    };
    run(&mut shim, &mut client, "echo shared >/dev/shm/note");
    let second = run(
        &mut shim,
        &mut client,
        "cat /dev/shm/note; df -k /dev/shm | tail -n 1 | tr -s ' ' | tr ' ' '\\n' | head -n 2 | tail -n 1; stat -c %a /dev/shm",
    );
    assert_eq!(second, ["stdout F shared", "stdout F 1024", "stdout F 1777"]);
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!table.contains("/shm/pod"));
}

#[test]
fn a_shared_pid_namespace_has_pause_as_its_first_process() {
    if !can_run() {
        return;
    }
    let mut shim = Shim::start();
    let mut client = shim.client();
    let mut setup = shim.setup();
    setup.shared_pid = true;
    let (_, _, pause) = shim.container("");
    setup.pause_plan = Some(pause.encode());
    let ready = shim.set_up(&mut client, setup);
    let pause = ready.pause_pid.expect("pause");
    assert_eq!(client.state().pause_pid, Some(pause));
    let script = "cat /proc/1/comm; [ $$ != 1 ] && echo not first; sleep 1000 & exit 0";
    let (mut start, id, mut plan) = shim.container(script);
    plan.namespaces.pid = PidNamespace::Pod;
    start.plan = plan.encode();
    start.kill_rest = true;
    shim.started(&mut client, start);
    assert_eq!(client.exit_of(id.as_str()).code, 0);
    assert_eq!(shim.records(&id), ["stdout F pause", "stdout F not first"]);

    let (mut start, id, mut plan) = shim.container("while :; do sleep 1; done");
    plan.namespaces.pid = PidNamespace::Pod;
    start.plan = plan.encode();
    shim.started(&mut client, start);
    let pid = rustix::process::Pid::from_raw(pause).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let exit = client.event(|event| match event {
        Event::PauseExited(exit) => Some(exit.clone()),
        _ => None,
    });
    assert_eq!(exit.signal, Some(9));
    assert_eq!(client.exit_of(id.as_str()).code, 137);
    assert_eq!(client.state().pause_pid, None);
    shim.shut_down(&mut client);
    assert!(shim.cgroups_left().is_empty());
}

#[test]
fn after_shutdown_nothing_is_left() {
    if !can_run() {
        return;
    }
    let mut shim = Shim::start();
    let mut client = shim.client();
    let mut setup = shim.setup();
    setup.shared_pid = true;
    setup.shm_bytes = Some(1 << 20);
    setup.shm_path = Some("/shm/pod".to_owned());
    let (_, _, pause) = shim.container("");
    setup.pause_plan = Some(pause.encode());
    let ready = shim.set_up(&mut client, setup);
    let mut pids = vec![ready.pause_pid.unwrap()];
    for pidns in [PidNamespace::New, PidNamespace::Pod, PidNamespace::Inherit] {
        let (mut start, _, mut plan) =
            shim.container("trap '' TERM; setsid sleep 1000 & while :; do sleep 1; done");
        plan.namespaces.pid = pidns;
        start.plan = plan.encode();
        pids.push(shim.started(&mut client, start).pid);
    }
    let (id, plan) = shim.run(&mut client, "while :; do sleep 1; done");
    let null = std::fs::File::open("/dev/null").unwrap();
    let null = [null.as_fd(), null.as_fd(), null.as_fd()];
    let exec = crate::fixture::exec(1, &id, &plan, "while :; do sleep 1; done");
    let sent = client.send(Body::Exec(Box::new(exec)), &null);
    assert!(matches!(client.answer_to(sent), shim_protocol::Response::Started(_)));
    shim.shut_down(&mut client);
    assert!(client.is_closed());
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} lives");
    }
    assert!(!shim.pin().exists());
    assert!(shim.cgroups_left().is_empty());
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!table.contains(shim.path("").to_str().unwrap()), "{table}");
}

#[test]
fn a_pod_on_the_hosts_network_hands_over_no_namespace() {
    if !can_run() {
        return;
    }
    let mut shim = Shim::start();
    let mut client = shim.client();
    let mut setup = shim.setup();
    (setup.new_net, setup.new_uts, setup.hostname, setup.netns_path) = (false, false, None, None);
    shim.set_up(&mut client, setup);
    assert!(client.take_files().is_empty());
    let net = |pid: u32| inode(Path::new(&format!("/proc/{pid}/ns/net")));
    assert_eq!(net(shim.pid()), net(std::process::id()));
    shim.shut_down(&mut client);
}
