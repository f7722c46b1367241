//! User namespaces: who is who inside and on the host, what can be mounted, mapped mounts.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use launch::plan::{
    CapabilitySets, CgroupPlan, DeviceKind, DeviceNode, ExecPlan, LaunchPlan, MountIds, MountPlan,
    MountSource, Namespace, PidNamespace, ProcessPlan, Rlimit, RootSource, Sysctl, UserNamespace,
};
use launch::{FailureKind, Io, LaunchError, Step};
use model::{IdMapping, IdMaps};
use sys::namespace::{self, Kind};
use sys::pidfd::Ended;

use crate::Case;
use crate::cgroups::with_cgroups;
use crate::files::screen;
use crate::identity::field;
use crate::world::{DEFAULT_CAPS, NODEV, NOEXEC, NOSUID, RO, World, bind, process};

pub(crate) const CASES: &[Case] = &[
    ("users::root_inside_is_somebody_else_outside", root_inside_is_somebody_else),
    ("users::files_of_the_image_belong_to_root_and_new_ones_to_its_host_id", files),
    ("users::every_layer_is_mapped", every_layer_is_mapped),
    ("users::everything_is_mounted", everything_is_mounted),
    ("users::devices_are_the_hosts", devices_are_the_hosts),
    ("users::a_volume_is_mapped_when_asked", a_volume_is_mapped_when_asked),
    ("users::a_volume_can_have_mappings_of_its_own", a_volume_with_its_own_mappings),
    ("users::a_file_system_that_cannot_be_mapped_is_named", a_file_system_is_named),
    ("users::capabilities_reach_no_further_than_the_namespace", capabilities),
    ("users::a_user_can_open_its_own_stdout", a_user_can_open_its_own_stdout),
    ("users::a_terminal_works", a_terminal_works),
    ("users::a_command_in_it_is_in_it", a_command_in_it_is_in_it),
    ("users::limits_and_oom_adjustment_are_set_as_ever", limits_and_oom_adjustment),
    ("users::cgroups_are_joined_and_shown", cgroups_are_joined_and_shown),
    ("users::a_pod_shares_one_with_its_namespaces", a_pod_shares_one),
    ("users::one_can_be_joined", one_can_be_joined),
    ("users::a_plan_that_cannot_be_is_refused_and_leaves_nothing", refusals),
];

const FIRST: u32 = 100_000;

fn ids(length: u32) -> IdMaps {
    let range = IdMapping { container_id: 0, host_id: FIRST, length };
    IdMaps { uids: vec![range], gids: vec![range] }
}

/// A container in a user namespace of its own, with a network that belongs to it.
fn plan(world: &World, command: &str) -> LaunchPlan {
    let mut plan = world.plan(command);
    plan.namespaces.user = UserNamespace::New;
    plan.namespaces.net = Namespace::New;
    plan.process.user_ids = Some(ids(65_536));
    give_root(world);
    plan
}

/// The writable layer takes ids as the host numbers them.
fn give_root(world: &World) {
    world.host(|| {
        let uid = Some(FIRST);
        std::os::unix::fs::chown(world.scratch.join("upper"), uid, uid).unwrap();
    });
}

fn fresh(world: &World) {
    crate::process::fresh(world);
    give_root(world);
}

fn root_inside_is_somebody_else(world: &mut World) {
    let text = world
        .run(&plan(world, "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map; echo $$"))
        .text();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "0", "100000", "65536", "0", "100000", "65536", "1"]);
    fresh(world);
    let mut plan = plan(world, "sleep 60");
    plan.process.uid = 1000;
    plan.process.gid = 1001;
    plan.process.groups = vec![7];
    let running = world.launch(&plan);
    let status = format!("/proc/{}/status", running.pid.as_raw_nonzero());
    let status = fs::read_to_string(status).unwrap();
    assert_eq!(field(&status, "Uid"), "101000 101000 101000 101000");
    assert_eq!(field(&status, "Gid"), "101001 101001 101001 101001");
    assert_eq!(field(&status, "Groups"), "100007");
    assert_eq!(
        field(&status, "PPid"),
        std::process::id().to_string(),
        "it is the launcher's child"
    );
}

fn owner(world: &World, name: &str) -> (u32, u32) {
    let stat = world.host(|| fs::symlink_metadata(world.upper(name)).unwrap());
    (stat.uid(), stat.gid())
}

fn files(world: &mut World) {
    let mut plan = plan(
        world,
        "stat -c %u:%g / /bin/busybox /etc; touch /new; mkdir -p /made/by; \
             echo x >> /etc/passwd; touch /his; chown 5:6 /his; stat -c %u:%g /his",
    );
    plan.process.cwd = "/work".to_owned();
    assert_eq!(world.run(&plan).text(), "0:0\n0:0\n0:0\n5:6\n");
    for (name, want) in [
        ("new", (FIRST, FIRST)),
        ("made/by", (FIRST, FIRST)),
        ("etc/passwd", (FIRST, FIRST)),
        ("his", (FIRST + 5, FIRST + 6)),
        // Made by the launcher.
        ("work", (FIRST, FIRST)),
    ] {
        assert_eq!(owner(world, name), want, "{name}");
    }
}

fn every_layer_is_mapped(world: &mut World) {
    let mut plan = plan(world, "stat -c %u /one /two /bin/sh; cat /one /two");
    let RootSource::Overlay { lower, .. } = &mut plan.root.source else { panic!() };
    world.host(|| {
        for (name, uid) in [("one", 11), ("two", 22)] {
            let dir = world.scratch.join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(name), format!("{name}\n")).unwrap();
            std::os::unix::fs::chown(dir.join(name), Some(uid), None).unwrap();
        }
    });
    lower.insert(0, world.path("one"));
    lower.push(world.path("two"));
    assert_eq!(world.run(&plan).text(), "11\n22\n0\none\ntwo\n");
}

fn everything_is_mounted(world: &mut World) {
    let mut plan = plan(
        world,
        "cut -d' ' -f5 /proc/self/mountinfo | sort | tr '\\n' ' '; ls /sys/class/net; \
         stat -c %u /proc/1 /dev; touch /proc/sys/x 2>/dev/null; \
         cat /proc/version | wc -c; hostname",
    );
    plan.hostname = Some("inside".to_owned());
    plan.masked_paths = vec!["/proc/version".to_owned(), "/proc/acpi".to_owned()];
    plan.readonly_paths = vec!["/proc/sys".to_owned()];
    plan.sysctls = [("net.ipv4.ip_unprivileged_port_start", "0"), ("kernel.shmmni", "123")]
        .map(|(name, value)| Sysctl { name: name.to_owned(), value: value.to_owned() })
        .to_vec();
    plan.root.readonly = true;
    let text = world.run(&plan).text();
    let (mounts, rest) = text.split_once('\n').map_or((text.as_str(), ""), |(a, b)| (a, b));
    for place in ["/ ", "/proc ", "/dev ", "/dev/pts ", "/dev/mqueue ", "/sys ", "/dev/null "] {
        assert!(mounts.contains(place), "{place} in {mounts}");
    }
    assert!(mounts.contains("/proc/version"), "{mounts}");
    assert!(mounts.ends_with("lo"), "the network's own devices: {mounts}");
    assert_eq!(rest, "0\n0\n0\ninside\n");
    fresh(world);
    plan.process.args[2] =
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni".to_owned();
    assert_eq!(world.run(&plan).text(), "0\n123\n");
}

fn devices_are_the_hosts(world: &mut World) {
    let mut plan = plan(
        world,
        "head -c 3 /dev/zero | wc -c; echo x > /dev/null; head -c 2 /dev/named | wc -c; \
         test -p /dev/pipe && echo pipe; ls -l /dev/stdout | grep -o fd/1; \
         mknod /tmp/null c 1 3 2>&1",
    );
    let node = |path: &str, kind, minor| DeviceNode {
        path: path.to_owned(),
        kind,
        major: 1,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    plan.devices = vec![
        node("/dev/named", DeviceKind::Char, 5),
        node("/dev/null", DeviceKind::Char, 3),
        node("/dev/pipe", DeviceKind::Fifo, 0),
    ];
    let output = world.run(&plan);
    assert_eq!(
        output.stdout, "3\n2\npipe\nfd/1\nmknod: /tmp/null: Operation not permitted\n",
        "{output:?}"
    );
    fresh(world);
    plan.devices = vec![node("/dev/nosuch", DeviceKind::Block, 250)];
    let error = world.refused(&plan);
    assert!(error.sentence().starts_with("make device /dev/nosuch: "), "{error}");
}

fn volume(world: &World, uid: u32) -> String {
    let path = world.path("volume");
    world.host(|| {
        fs::create_dir_all(&path).unwrap();
        fs::write(format!("{path}/file"), "content").unwrap();
        std::os::unix::fs::chown(&path, Some(uid), Some(uid)).unwrap();
        std::os::unix::fs::chown(format!("{path}/file"), Some(uid), Some(uid)).unwrap();
    });
    path
}

fn a_volume_is_mapped_when_asked(world: &mut World) {
    let path = volume(world, 0);
    let mut plan = plan(world, "stat -c %u:%g /data /data/file; touch /data/new; cat /data/file");
    let mut mount = bind(&path, "/data", 0);
    mount.ids = Some(MountIds { maps: None, recursive: false });
    plan.mounts.push(mount);
    assert_eq!(world.run(&plan).text(), "0:0\n0:0\ncontent");
    let new = world.host(|| fs::metadata(format!("{path}/new")).unwrap());
    assert_eq!((new.uid(), new.gid()), (0, 0), "on disk it is the host's");
    fresh(world);
    plan.process.args[2] = "stat -c %u:%g /data/file; touch /data/x".to_owned();
    if let Some(mount) = plan.mounts.last_mut() {
        mount.ids = None;
    }
    let output = world.run(&plan);
    assert_eq!(output.stdout, "65534:65534\n", "unmapped it is nobody's");
    assert!(output.stderr.contains("Permission denied"), "{output:?}");
}

fn a_volume_with_its_own_mappings(world: &mut World) {
    let path = volume(world, 30);
    let range = IdMapping { container_id: 30, host_id: FIRST + 3, length: 1 };
    let own = IdMaps { uids: vec![range], gids: vec![range] };
    let mut mount = bind(&path, "/data", 0);
    mount.ids = Some(MountIds { maps: Some(own.clone()), recursive: false });
    let mut inside = plan(world, "stat -c %u:%g /data/file");
    inside.mounts.push(mount);
    assert_eq!(world.run(&inside).text(), "3:3\n");
    fresh(world);
    // Without any user namespace too.
    let mut outside = world.plan("stat -c %u:%g /data/file");
    outside.mounts = inside.mounts;
    assert_eq!(world.run(&outside).text(), format!("{0}:{0}\n", FIRST + 3));
}

fn a_file_system_is_named(world: &mut World) {
    let mut plan = plan(world, "true");
    let mut mount = bind("/proc/sys", "/data", 0);
    mount.ids = Some(MountIds { maps: None, recursive: false });
    plan.mounts.push(mount);
    let error: LaunchError = world.refused(&plan);
    assert_eq!((error.step, error.kind()), (Step::MapIds, FailureKind::Mount));
    assert_eq!(
        error.to_string(),
        "map the ids of /data (/proc/sys, on file system proc)",
        "{}",
        error.sentence()
    );
}

fn all_capabilities() -> CapabilitySets {
    let all = sys::credentials::known();
    CapabilitySets { bounding: all, effective: all, permitted: all, inheritable: 0, ambient: 0 }
}

fn capabilities(world: &mut World) {
    let status = world.run(&plan(world, "cat /proc/self/status")).text();
    assert_eq!(field(&status, "CapEff"), format!("{DEFAULT_CAPS:016x}"));
    assert_eq!(field(&status, "CapBnd"), format!("{DEFAULT_CAPS:016x}"));
    fresh(world);
    let mut plan = plan(
        world,
        "mount -t tmpfs x /tmp && echo mounted; hostname other && hostname; ip link set lo up && echo up; \
         grep CapEff /proc/self/status | tr -s '\\t' ' '; \
         chroot /proc/1/root true && echo x > /proc/sys/kernel/panic",
    );
    plan.process.capabilities = all_capabilities();
    let running = world.run(&plan);
    let all = format!("{:016x}", sys::credentials::known());
    assert_eq!(running.stdout, format!("mounted\nother\nup\nCapEff: {all}\n"), "{running:?}");
    assert!(running.stderr.contains("denied"), "{running:?}");
}

fn a_user_can_open_its_own_stdout(world: &mut World) {
    for uid in [0, 1000] {
        let mut plan =
            plan(world, "echo out > /dev/stdout; echo err > /dev/stderr; cat < /dev/stdin");
        plan.process.uid = uid;
        let output = world.run(&plan);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"), "{uid}");
        fresh(world);
    }
}

fn a_terminal_works(world: &mut World) {
    let mut plan = plan(
        world,
        "test -t 0 && tty && stat -c %u:%g /dev/pts/0 && stat -c %t:%T /dev/console && echo x > /dev/tty",
    );
    plan.process.uid = 1000;
    let running = world.launcher.launch(&plan, Io::Terminal).unwrap();
    let shown = screen(File::from(running.console.unwrap()));
    let ended = sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
    assert_eq!((shown.as_str(), ended), ("/dev/pts/0\n1000:5\n88:0\nx\n", Ended::Exited(0)));
}

fn within(process: ProcessPlan) -> ExecPlan {
    let process = ProcessPlan { user_ids: Some(ids(65_536)), ..process };
    ExecPlan { process, cgroup: CgroupPlan::default() }
}

fn a_command_in_it_is_in_it(world: &mut World) {
    let running = world.launch(&plan(world, "sleep 60"));
    let command = within(process(
        "id -u; cat /proc/self/uid_map | tr -s ' '; for n in user mnt pid net ipc uts cgroup; do \
         test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo $n differs; done; \
         touch /made; grep CapEff /proc/self/status; echo o > /dev/stdout",
    ));
    let text = world.try_exec(&command, &running).unwrap().text();
    let want = format!("0\n 0 100000 65536\nCapEff:\t{DEFAULT_CAPS:016x}\no\n");
    assert_eq!(text, want);
    assert_eq!(owner(world, "made"), (FIRST, FIRST));
    let mut user = process("id -u; id -g; id -G; pwd; echo x > /dev/stdout; exit 5");
    (user.uid, user.gid, user.groups) = (1000, 1001, vec![1002]);
    user.cwd = "/made/here".to_owned();
    user.cwd = "/home/new".to_owned();
    let output = world.try_exec(&within(user), &running).unwrap();
    assert_eq!(output.stdout, "1000\n1001\n1001 1002\n/home/new\nx\n");
    assert_eq!(output.ended, Ended::Exited(5));
    let terminal = within(process("test -t 0 && readlink /proc/self/fd/1"));
    let exec = world.launcher.exec(&terminal, running.pidfd.as_fd(), Io::Terminal).unwrap();
    let shown = screen(File::from(exec.console.unwrap()));
    sys::pidfd::wait(exec.pidfd.as_fd()).unwrap();
    assert_eq!(shown, "/dev/pts/0\n");
    let mut missing = process("");
    missing.args = vec!["nosuch".to_owned()];
    let error = world.try_exec(&within(missing), &running).unwrap_err();
    assert_eq!(error.kind(), FailureKind::CannotExec);
}

fn limits_and_oom_adjustment(world: &mut World) {
    const NOFILE: u32 = 7;
    let (soft, hard) = sys::process::limit(NOFILE).unwrap();
    let low = soft.min(64);
    sys::process::set_limit(NOFILE, low, hard).unwrap();
    let mut plan = plan(world, "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj");
    plan.process.rlimits = vec![Rlimit { resource: NOFILE, soft: 100, hard: 200 }];
    plan.process.oom_score_adj = Some(321);
    let output = world.run(&plan);
    assert_eq!(output.text(), "100\n200\n321\n");
}

fn cgroups_are_joined_and_shown(world: &mut World) {
    let mut plan = with_cgroups(world, "sleep 60");
    give_root(world);
    plan.namespaces.user = UserNamespace::New;
    plan.process.user_ids = Some(ids(65_536));
    let mut view = bind("", "/sys/fs/cgroup", RO | NOSUID | NODEV | NOEXEC);
    view.source = MountSource::Cgroup;
    // The network is the launcher's, so there is no sysfs of the container's own.
    plan.mounts.retain(|mount: &MountPlan| mount.target != "/sys");
    plan.mounts.push(view);
    let running = world.launch(&plan);
    let pid = running.pid;
    assert_eq!(world.launcher.pids(&plan.cgroup).unwrap(), [pid]);
    let mut command = within(process(
        "find /sys/fs/cgroup -name cgroup.procs | wc -l; cat /proc/1/cgroup | cut -d: -f3 | sort -u",
    ));
    command.cgroup = plan.cgroup.clone();
    let text = world.try_exec(&command, &running).unwrap().text();
    let (files, path) = text.split_once('\n').unwrap();
    assert!(files.parse::<u32>().unwrap() >= 1, "{text}");
    assert_eq!(path, "/\n", "its cgroups are the roots of what it sees");
    sys::pidfd::kill(running.pidfd.as_fd()).unwrap();
    sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
}

fn a_pod_shares_one(world: &mut World) {
    let users = ids(65_536);
    let kinds = [Kind::Net, Kind::Ipc, Kind::Uts];
    for (kind, owned) in world.launcher.make_pod_user_namespace(&users, &kinds).unwrap() {
        namespace::enter(owned.as_fd(), kind).unwrap();
    }
    for (name, value) in [
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("kernel.shm_rmid_forced", "1"),
        ("fs.mqueue.msg_max", "99"),
    ] {
        world.launcher.write_sysctl(name, value).unwrap();
    }
    rustix::system::sethostname(b"pod").unwrap();
    world.launcher.mount_tmpfs("/shm", 1 << 20, Some(&users), None).unwrap();
    let in_pod = |world: &World, command: &str| {
        let mut plan = plan(world, command);
        plan.namespaces.user = UserNamespace::Pod;
        plan.namespaces.pid = PidNamespace::Pod;
        plan.namespaces.net = Namespace::Inherit;
        plan.namespaces.ipc = Namespace::Inherit;
        plan.namespaces.uts = Namespace::Inherit;
        let mut shm = bind("", "/dev/shm", NOSUID | NODEV | NOEXEC);
        shm.source = MountSource::Launcher { path: "/shm".to_owned() };
        plan.mounts.push(shm);
        plan
    };
    let pause = world.launcher.pause(&in_pod(world, "")).unwrap();
    let status = format!("/proc/{}/status", pause.pid.as_raw_nonzero());
    assert_eq!(field(&fs::read_to_string(status).unwrap(), "Uid"), "100000 100000 100000 100000");
    let first = world.launch(&in_pod(
        world,
        "stat -c %u:%a /dev/shm > /dev/shm/told; hostname >> /dev/shm/told; \
         cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max >> /dev/shm/told; sleep 60",
    ));
    fresh(world);
    let second = in_pod(
        world,
        "while ! grep -q 99 /dev/shm/told 2>/dev/null; do sleep 0.01; done; cat /dev/shm/told; \
         while ! grep -x pause /proc/1/comm; do :; done; stat -c %u /proc/1; \
         ls /sys/class/net; ps -o comm | grep -c sleep",
    );
    assert_eq!(world.run(&second).text(), "0:1777\npod\n1\n99\npause\n0\nlo\n1\n");
    for process in [&first, &pause] {
        sys::pidfd::kill(process.pidfd.as_fd()).unwrap();
        sys::pidfd::wait(process.pidfd.as_fd()).unwrap();
    }
}

fn one_can_be_joined(world: &mut World) {
    let first = world.launch(&plan(world, "sleep 60"));
    let path = |name: &str| format!("/proc/{}/ns/{name}", first.pid.as_raw_nonzero());
    fresh(world);
    let mut second = plan(
        world,
        "readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u; ls /sys/class/net",
    );
    second.namespaces.user = UserNamespace::Join(path("user"));
    second.namespaces.net = Namespace::Join(path("net"));
    second.namespaces.ipc = Namespace::Join(path("ipc"));
    let link = |name: &str| fs::read_link(path(name)).unwrap().to_str().unwrap().to_owned();
    let want = format!("{}\n{}\n0\nlo\n", link("user"), link("net"));
    assert_eq!(world.run(&second).text(), want);
}

fn refusals(world: &mut World) {
    let processes = || {
        let children = format!("/proc/self/task/{}/children", std::process::id());
        fs::read_to_string(children).unwrap()
    };
    let before = processes();
    let mut plan = plan(world, "true");
    plan.namespaces.user = UserNamespace::Pod;
    assert_eq!(world.refused(&plan).kind(), FailureKind::BadPlan, "there is no pod");
    plan.namespaces.user = UserNamespace::New;
    plan.process.user_ids = None;
    assert_eq!(world.refused(&plan).kind(), FailureKind::BadPlan, "there are no maps");
    let mut twice = ids(10);
    twice.uids.extend_from_within(..);
    plan.process.user_ids = Some(twice);
    assert_eq!(world.refused(&plan).step, Step::UserNamespace, "a map overlaps itself");
    plan.process.user_ids = Some(ids(5));
    // The terminals' group is not mapped.
    assert_eq!(world.refused(&plan).step, Step::MountNew);
    fresh(world);
    plan.process.user_ids = Some(ids(65_536));
    plan.process.uid = 65_536;
    assert_eq!(world.refused(&plan).kind(), FailureKind::BadPlan, "a user is not mapped");
    plan.process.uid = 0;
    plan.process.args = vec!["nosuch".to_owned()];
    assert_eq!(world.refused(&plan).kind(), FailureKind::CannotExec);
    fresh(world);
    plan.process.args = vec!["true".to_owned()];
    plan.namespaces.pid = PidNamespace::Inherit;
    // Who does not own the PID namespace cannot mount its /proc.
    let error = world.refused(&plan);
    assert_eq!((error.step, error.errno()), (Step::MountNew, Some(libc::EPERM)), "{error}");
    assert_eq!(processes(), before);
}
