//! `/dev`: nodes, links, terminals.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use launch::Io;
use launch::plan::{DeviceKind, DeviceNode};
use rustix::fs::{CWD, FileType, Mode};
use sys::pidfd::Ended;

use crate::Case;
use crate::process::fresh;
use crate::world::{RO, World, bind};

pub(crate) const CASES: &[Case] = &[
    ("files::standard_devices_work", standard_devices_work),
    ("files::standard_links_are_there", standard_links_are_there),
    ("files::extra_devices_are_made", extra_devices_are_made),
    ("files::devices_that_are_mounted_stay_as_they_are", mounted_devices),
    ("files::a_bound_dev_is_left_alone", a_bound_dev_is_left_alone),
    ("files::a_terminal_is_one", a_terminal_is_one),
    ("files::a_terminal_belongs_to_the_user", a_terminal_belongs_to_the_user),
];

fn standard_devices_work(world: &mut World) {
    let command = "stat -c '%n %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom \
        /dev/tty; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo x > /dev/null";
    let expected = "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n\
        /dev/urandom 1:9 666\n/dev/tty 5:0 666\n4\n4\n";
    assert_eq!(world.run(&world.plan(command)).text(), expected);
}

fn standard_links_are_there(world: &mut World) {
    let command = "cd /dev; for l in fd stdin stdout stderr ptmx; do readlink $l; done";
    let expected = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n";
    assert_eq!(world.run(&world.plan(command)).text(), expected);
}

fn loop_device(path: &str) -> DeviceNode {
    let (kind, major, minor) = (DeviceKind::Block, 7, 9);
    DeviceNode { path: path.to_owned(), kind, major, minor, mode: 0o660, uid: 7, gid: 8 }
}

/// A volume of the host's `/dev`, or of a file of it, is not the container's to change, and may be read-only.
fn mounted_devices(world: &mut World) {
    world.host(|| {
        let (dir, mode) = (world.scratch.join("block"), Mode::from_raw_mode(0o600));
        std::fs::create_dir(&dir).unwrap();
        let device = rustix::fs::makedev(7, 9);
        rustix::fs::mknodat(CWD, dir.join("node"), FileType::BlockDevice, mode, device).unwrap();
        std::fs::write(dir.join("file"), "of somebody else").unwrap();
    });
    for (attributes, how) in [(RO, "read-only"), (0, "writable")] {
        let mut plan = world.plan("stat -c '%F %a %u:%g' /dev/one /dev/dir/node; cat /dev/other");
        let at = |name: &str, target: &str| {
            bind(&world.path(&format!("block/{name}")), target, attributes)
        };
        plan.mounts.push(at("node", "/dev/one"));
        plan.mounts.push(at("file", "/dev/other"));
        plan.mounts.push(at("", "/dev/dir"));
        plan.devices = ["/dev/one", "/dev/other", "/dev/dir/node"].map(loop_device).to_vec();
        let expected = "block special file 600 0:0\nblock special file 600 0:0\nof somebody else";
        assert_eq!(world.run(&plan).text(), expected, "{how}");
        fresh(world);
    }
}

fn extra_devices_are_made(world: &mut World) {
    let mut plan = world.plan("stat -c '%F %t:%T %a %u:%g' /dev/net/tun /dev/loop9 /dev/pipe");
    let node = |path: &str, kind, major, minor, mode| DeviceNode {
        path: path.to_owned(),
        kind,
        major,
        minor,
        mode,
        uid: 7,
        gid: 8,
    };
    plan.devices = vec![
        node("/dev/net/tun", DeviceKind::Char, 10, 200, 0o606),
        node("/dev/loop9", DeviceKind::Block, 7, 9, 0o660),
        node("/dev/pipe", DeviceKind::Fifo, 0, 0, 0o622),
    ];
    let expected = "character special file a:c8 606 7:8\nblock special file 7:9 660 7:8\n\
        fifo 0:0 622 7:8\n";
    assert_eq!(world.run(&plan).text(), expected);
}

fn a_bound_dev_is_left_alone(world: &mut World) {
    world.host(|| {
        std::fs::create_dir(world.scratch.join("dev")).unwrap();
        std::fs::write(world.scratch.join("dev/null"), "").unwrap();
    });
    let mut plan = world.plan("ls -A /dev");
    plan.mounts.retain(|mount| !mount.target.starts_with("/dev"));
    plan.mounts.push(bind(&world.path("dev"), "/dev", 0));
    plan.devices = vec![loop_device("/dev/loop9")];
    assert_eq!(world.run(&plan).text(), "null\n");
}

/// Everything a terminal shows until its other end closes.
pub(crate) fn screen(mut master: File) -> String {
    let mut shown = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match master.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => shown.extend_from_slice(&buffer[..read]),
            // How Linux says that the slave has been closed.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => break,
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8_lossy(&shown).replace("\r\n", "\n")
}

fn a_terminal_is_one(world: &mut World) {
    let mut plan = world.plan(
        "stty -echo; tty; test -t 0 -a -t 1 -a -t 2 && echo terminal; echo console > /dev/console; \
         echo tty > /dev/tty; read line; echo got $line",
    );
    plan.process.terminal = true;
    let running = world.launcher.launch(&plan, Io::Terminal).unwrap();
    let mut master = File::from(running.console.unwrap());
    master.write_all(b"hello\n").unwrap();
    let shown = screen(master);
    let shown = shown.strip_prefix("hello\n").unwrap_or(&shown);
    assert_eq!(shown, "/dev/pts/0\nterminal\nconsole\ntty\ngot hello\n");
    assert_eq!(sys::pidfd::wait(running.pidfd.as_fd()).unwrap(), Ended::Exited(0));
}

fn a_terminal_belongs_to_the_user(world: &mut World) {
    let mut plan = world.plan("stat -c '%u:%g %a' $(tty)");
    plan.process.terminal = true;
    plan.process.uid = 1000;
    let running = world.launcher.launch(&plan, Io::Terminal).unwrap();
    assert_eq!(screen(File::from(running.console.unwrap())), "1000:5 620\n");
    sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
}
