//! Ctrl-C. A program of its own: the signal reaches every verb of the process.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "what fails in a test should fail it")]

mod support;

use std::sync::{Arc, Mutex};

use rustix::process::{Signal, getpid, kill_process};
use support::{Gate, Runtime, Said};

const SLOW: &str = "
apiVersion: v1
kind: Pod
metadata: {name: slow}
spec:
  volumes: [{name: cache, emptyDir: {}}]
  containers:
  - {name: main, image: 'a:1', volumeMounts: [{name: cache, mountPath: /cache}]}
";

static ALONE: Mutex<()> = Mutex::new(());

fn interrupt() {
    kill_process(getpid(), Signal::INT).unwrap();
}

/// `knarr run`, interrupted while the runtime makes the pod.
fn interrupted_run(runtime: &Runtime, waits: impl FnMut(&Gate)) -> Said {
    let gate = Arc::clone(&runtime.world().gate);
    runtime.image("a:1");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let waiting = tokio::runtime::Builder::new_current_thread().build().unwrap();
            waiting.block_on(gate.begun.notified());
            interrupt();
        });
        let mut waits = waits;
        runtime.run_pod(&[], SLOW, || waits(&gate))
    })
}

#[test]
fn a_pod_that_is_interrupted_on_its_way_up_goes_with_its_volumes() {
    let _alone = ALONE.lock().unwrap();
    let runtime = Runtime::start();
    let said = interrupted_run(&runtime, |gate| gate.open.notify_one());
    assert_eq!(said.error(), "interrupted", "{said:?}");
    assert!(said.err.contains("waiting for pod default/slow"), "{said:?}");
    assert_eq!(runtime.world().asked, ["run slow", "stop pod", "remove pod"]);
    assert!(runtime.world().pods.is_empty());
    assert_eq!(runtime.volume_dirs(), 0);
}

#[test]
fn a_second_interrupt_leaves_the_pod_its_volumes() {
    let _alone = ALONE.lock().unwrap();
    let runtime = Runtime::start();
    let mut pressed = false;
    let said = interrupted_run(&runtime, |_| {
        if !std::mem::replace(&mut pressed, true) {
            interrupt();
        }
    });
    assert_eq!(said.error(), "interrupted", "{said:?}");
    assert!(said.err.contains("`knarr rm --force default/slow`"), "{said:?}");
    assert_eq!(runtime.world().asked, ["run slow"]);
    assert_eq!(runtime.volume_dirs(), 1);
}
