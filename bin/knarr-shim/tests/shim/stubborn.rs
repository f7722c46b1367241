//! A runtime whose containers have no process on the host, and what its `kill` and `ps` may do to whoever ends a
//! command: nothing is waited for without a bound. A script plays the runtime.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use model::ContainerId;
use shim_protocol::{Body, Places, Response, RuntimeKind, RuntimeProgram, StartExternal};

use crate::client::Client;
use crate::fixture::{Shim, can_run, exec};

/// Called as `--root R --log L --log-format json VERB WORDS…`. A command is process 7 inside and has a child, 8,
/// whatever is sent to that.
const RUNTIME: &str = r#"#!/bin/sh
own=$(dirname "$0")
shift 6
verb=$1
echo "$*" >> "$own/calls"
shift
while [ $# -gt 0 ]; do
  case $1 in
  --pid-file) pid=$2; shift ;;
  --internal-pid-file) inside=$2; shift ;;
  --pid) whom=$2; shift ;;
  esac
  last=$1
  shift
done
case $verb in
create | exec)
  sleep 100 &
  echo $! | tee -a "$own/all" > "$pid"
  [ $verb = create ] || { echo $! > "$own/command"; echo 7 > "$inside"; }
  ;;
wait) echo $$ >> "$own/all"; exec sleep 100 ;;
ps) printf 'UID PID PPID\n0 7 1\n0 8 7\n' ;;
kill)
  case "$whom $last" in
  '7 9') [ -e "$own/deaf" ] || kill -9 $(cat "$own/command") ;;
  ' 9') kill -9 $(cat "$own/all") 2> /dev/null ;;
  esac
  ;;
esac
exit 0
"#;

/// A container of that runtime, and where the runtime is.
fn started(shim: &mut Shim, client: &mut Client) -> (ContainerId, PathBuf) {
    let own = shim.path("runtime");
    std::fs::create_dir(&own).unwrap();
    let path = own.join("runtime");
    std::fs::write(&path, RUNTIME).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let (start, id, _) = shim.container("");
    let scratch = shim.path("bundle");
    let places = Places {
        dir: text(shim.path("")),
        rootfs: text(scratch.join("rootfs")),
        scratch: text(scratch),
        ..Places::default()
    };
    let request = StartExternal {
        start,
        runtime: RuntimeProgram {
            path: text(path),
            kind: RuntimeKind::Sandbox,
            options: Vec::new(),
            root: text(own.join("root")),
        },
        bundle: places.scratch.clone(),
        places,
    };
    match client.ask(Body::StartExternal(Box::new(request))) {
        Response::Started(_) => (id, own),
        other => panic!("not started but {other:?}; {}", shim.log()),
    }
}

/// Runs a command inside.
fn run(shim: &mut Shim, client: &mut Client, number: u64, id: &ContainerId) {
    let (_, _, plan) = shim.container("");
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut request = exec(number, id, &plan, "");
    request.process = Some(b"{}".to_vec());
    let files = [null.as_fd(), null.as_fd(), null.as_fd()];
    let asked = client.send(Body::Exec(Box::new(request)), &files);
    let answer = client.answer_to(asked);
    assert!(matches!(answer, Response::Started(_)), "{answer:?}");
}

#[test]
fn a_family_that_does_not_end_is_killed_a_few_times_and_left_at_that() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, own) = started(&mut shim, &mut client);
    run(&mut shim, &mut client, 1, &id);
    client.done(Body::KillExec { exec: 1 });
    assert_eq!(client.exec_exit(1).signal, Some(9));
    let calls = std::fs::read_to_string(own.join("calls")).unwrap();
    let of = |what: &str| {
        let id = id.as_str();
        calls.lines().filter(|call| **call == what.replace("ID", id)).count()
    };
    // Stopped, so that it makes no more of them; then they, and it at last.
    assert_eq!(of("kill --pid 7 ID 19"), 1, "{calls}");
    assert_eq!((of("ps ID"), of("kill --pid 8 ID 9")), (5, 5), "{calls}");
    assert!(calls.trim_end().ends_with(&format!("kill --pid 7 {id} 9")), "{calls}");
    shim.shut_down(&mut client);
}

#[test]
fn a_command_that_its_runtime_does_not_end_is_told_and_ended_on_the_host() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, own) = started(&mut shim, &mut client);
    std::fs::write(own.join("deaf"), "").unwrap();
    run(&mut shim, &mut client, 1, &id);
    let failure = client.fails(Body::KillExec { exec: 1 });
    assert!(failure.message.contains("exec 1 does not end"), "{failure:?}");
    assert_eq!(client.exec_exit(1).signal, Some(9));
    assert_eq!(client.state().execs, Some(Vec::new()));
    shim.shut_down(&mut client);
}
