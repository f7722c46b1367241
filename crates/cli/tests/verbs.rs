//! Verbs against a container runtime in memory: what they ask of it and what they say.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "what fails in a test should fail it")]

mod support;

use std::sync::Arc;

use support::{Runtime, Said};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 7
  volumes: [{name: cache, emptyDir: {}}]
  initContainers: [{name: setup, image: 'a:1', command: [exit, '0']}]
  containers:
  - {name: main, image: 'a:1', volumeMounts: [{name: cache, mountPath: /cache}]}
  - {name: side, image: 'bb:1'}
";

fn run_pod(runtime: &Runtime, manifest: &str, options: &[&str]) -> Said {
    let file = runtime.write("pod.yaml", manifest);
    let (logs, volumes) = (runtime.path("logs"), runtime.path("volumes"));
    let (logs, volumes) = (logs.display().to_string(), volumes.display().to_string());
    let mut line = vec!["run", &file, "--log-dir", &logs, "--volumes-dir", &volumes];
    line.extend(options);
    runtime.knarr(&line)
}

#[test]
fn a_pod_runs_and_goes_with_its_volumes() {
    let runtime = Runtime::start();
    runtime.image("a:1");
    let said = run_pod(&runtime, POD, &[]).good();
    assert!(said.contains("10.88.0.7"), "{said}");
    assert!(said.contains(" main\n") && said.contains(" side\n"), "{said}");
    let expected = [
        "pull bb:1",
        "run web",
        "create setup",
        "start setup",
        "create main",
        "start main",
        "create side",
        "start side",
    ];
    assert_eq!(runtime.world().asked, expected);
    assert_eq!(runtime.volume_dirs(), 1);

    let again = run_pod(&runtime, POD, &[]);
    assert!(again.error().contains("default/web runs already"), "{again:?}");
    let refused = runtime.knarr(&["rm", "web"]);
    assert!(refused.error().contains("pod default/web is running"), "{refused:?}");

    runtime.world().asked.clear();
    runtime.knarr(&["rm", "-f", "web"]).good();
    let expected = ["stop container 7", "stop container 7", "stop pod", "remove pod"];
    assert_eq!(runtime.world().asked, expected);
    assert_eq!(runtime.volume_dirs(), 0);
}

#[test]
fn a_pod_whose_init_container_fails_is_taken_down_and_its_log_shown() {
    let runtime = Runtime::start();
    let failing = POD.replace("exit, '0'", "exit, '3'");
    let said = run_pod(&runtime, &failing, &[]);
    assert!(said.error().contains("init container setup ended with exit code 3"), "{said:?}");
    assert!(said.err.contains("hello from setup\n"), "{said:?}");
    assert!(said.err.contains("half line\n"), "{said:?}");
    assert!(runtime.world().pods.is_empty());
    assert!(!runtime.world().asked.contains(&"create main".to_owned()));
    assert_eq!(runtime.volume_dirs(), 0);

    let kept = run_pod(&runtime, &failing, &["--keep"]);
    assert!(kept.result.is_err());
    assert!(kept.err.contains("is kept"), "{kept:?}");
    assert_eq!((runtime.world().pods.len(), runtime.volume_dirs()), (1, 1));
}

#[test]
fn a_refused_sandbox_leaves_nothing() {
    let runtime = Runtime::start();
    let said = run_pod(&runtime, &POD.replace("name: web", "name: refused"), &[]);
    assert_eq!(said.error(), "cannot run pod refused: no network today");
    assert_eq!(runtime.volume_dirs(), 0);
}

#[test]
fn a_manifest_that_cannot_be_run_asks_nothing_of_the_runtime() {
    let runtime = Runtime::start();
    let said = run_pod(&runtime, &POD.replace("emptyDir", "secret"), &[]);
    assert!(said.error().contains("spec.volumes[0].secret"), "{said:?}");
    let never = POD.replace("name: side", "imagePullPolicy: Never, name: side");
    let said = run_pod(&runtime, &never, &[]);
    assert!(said.error().contains("image bb:1 is not there"), "{said:?}");
    assert!(!runtime.world().asked.iter().any(|asked| asked.starts_with("run")));
}

#[test]
fn a_dry_run_shows_requests_and_makes_none() {
    let runtime = Runtime::start();
    let text = POD.replace("name: side,", "name: side, env: [{name: A, value: b}],");
    let said = run_pod(&runtime, &text, &["--dry-run", "-o", "json"]).good();
    let shown: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(shown["containers"][1]["envs"][0]["value"], "b");
    assert_eq!(shown["sandbox"]["hostname"], "web");
    assert!(runtime.world().asked.is_empty());
    assert_eq!(runtime.volume_dirs(), 0);
}

#[test]
fn listings_show_ids_names_and_forms() {
    let runtime = Runtime::start();
    run_pod(&runtime, POD, &[]).good();
    let pods = runtime.knarr(&["pods"]).good();
    assert!(pods.contains("default") && pods.contains("Ready"), "{pods}");
    let running = runtime.knarr(&["ps", "-q"]).good();
    assert_eq!(running.lines().count(), 2, "{running}");
    let all = runtime.knarr(&["ps", "-a", "-o", "json"]).good();
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all["containers"].as_array().unwrap().len(), 3);
    let table = runtime.knarr(&["ps", "--all", "--pod", "default/web"]).good();
    assert!(table.contains("Exited") && table.contains("default/web"), "{table}");
    for line in runtime.knarr_at(Some(60), &["ps"]).good().lines() {
        assert!(line.chars().count() <= 60, "{line}");
    }
    let images = runtime.knarr(&["images", "-o", "yaml"]).good();
    assert!(images.contains("bb:1"), "{images}");
    let stats = runtime.knarr(&["stats"]).good();
    assert!(stats.contains("25.00") && stats.contains("3.0MiB"), "{stats}");
    let empty = runtime.knarr(&["ps", "--pod", "none"]);
    assert_eq!(empty.error(), "no pod has the id or name `none`");
}

#[test]
fn logs_are_joined_cut_and_put_on_their_streams() {
    let runtime = Runtime::start();
    run_pod(&runtime, POD, &[]).good();
    let said = runtime.knarr(&["logs", "main"]);
    assert_eq!(said.out, "hello from main\nhalf line\n");
    assert_eq!(said.err, "to stderr\n");
    let said = runtime.knarr(&["logs", "--tail", "1", "--timestamps", "web/main"]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("2026-01-02T03:04:05.6Z half line\n", ""));
    assert_eq!(runtime.knarr(&["logs", "--since", "2026-02-01T00:00:00Z", "main"]).good(), "");
    // The container has exited, so following it ends.
    let said = runtime.knarr(&["logs", "--follow", "setup"]);
    assert!(said.good().contains("hello from setup"));
}

#[test]
fn the_exit_code_of_a_command_is_passed_on() {
    let runtime = Runtime::start();
    run_pod(&runtime, POD, &[]).good();
    let said = runtime.knarr(&["exec", "main", "--", "ls", "-a"]);
    assert!(matches!(said.result, Ok(42)), "{said:?}");
    assert_eq!((said.out.as_str(), said.err.as_str()), ("ls -a", "complaint"));
}

#[test]
fn a_silent_runtime_is_named_with_its_limit() {
    let runtime = Runtime::start();
    run_pod(&runtime, POD, &[]).good();
    let said = runtime.knarr(&["--timeout", "100ms", "exec", "main", "hang"]);
    let error = said.error();
    assert!(error.contains("cannot run `hang`") && error.contains("within 100ms"), "{error}");
}

#[test]
fn a_pod_that_comes_up_after_the_time_limit_goes_with_its_volumes() {
    let runtime = Runtime::start();
    let gate = Arc::clone(&runtime.world().gate);
    let slow = POD.replace("name: web", "name: slow");
    let said = runtime.run_pod(&["--timeout", "1s"], &slow, || gate.open.notify_one());
    assert!(said.error().contains("cannot run pod slow: no answer"), "{said:?}");
    assert!(said.err.contains("waiting for pod default/slow"), "{said:?}");
    assert!(runtime.world().asked.ends_with(&["stop pod".to_owned(), "remove pod".to_owned()]));
    assert!(runtime.world().pods.is_empty());
    assert_eq!(runtime.volume_dirs(), 0);
}

#[test]
fn inspect_finds_what_is_meant() {
    let runtime = Runtime::start();
    run_pod(&runtime, POD, &[]).good();
    let read = |query: &str| -> serde_json::Value {
        serde_json::from_str(&runtime.knarr(&["inspect", query]).good()).unwrap()
    };
    assert_eq!(read("web")["status"]["metadata"]["name"], "web");
    assert_eq!(read("main")["info"]["info"]["pid"], 7);
    assert_eq!(read("bb:1")["image"]["repoTags"][0], "bb:1");
    let said = runtime.knarr(&["inspect", "nothing"]);
    assert_eq!(said.error(), "no container, pod or image has the id or name `nothing`");
    let said = runtime.knarr(&["inspect", "ccc"]);
    assert!(said.error().contains("`ccc` is ambiguous"), "{said:?}");
}

#[test]
fn images_are_pulled_with_credentials_and_removed() {
    let runtime = Runtime::start();
    let id = runtime.knarr(&["pull", "x/y:1", "--creds", "me:secret"]).good();
    assert!(id.starts_with("sha256:"), "{id}");
    let said = runtime.knarr(&["pull", "missing:1"]);
    assert_eq!(said.error(), "cannot pull missing:1: failed to pull: no such image");
    runtime.knarr(&["rmi", "x/y:1"]).good();
    let said = runtime.knarr(&["rmi", "x/y:1"]);
    assert_eq!(said.error(), "1 of 1 could not be removed");
    assert!(said.err.contains("no image is called `x/y:1`"), "{said:?}");
    let expected = ["pull x/y:1 me", "pull missing:1", "remove image x/y:1"];
    assert_eq!(runtime.world().asked, expected);
}

#[test]
fn stop_goes_on_after_a_failure_and_honours_the_given_grace() {
    let runtime = Runtime::start();
    run_pod(&runtime, POD, &[]).good();
    runtime.world().asked.clear();
    let said = runtime.knarr(&["stop", "--timeout", "3s", "nothing", "main"]);
    assert_eq!(said.error(), "1 of 2 could not be stopped");
    assert_eq!(runtime.world().asked, ["stop container 3"]);
    runtime.knarr(&["rm", "main"]).good();
    assert_eq!(runtime.world().containers.len(), 2);
}

#[test]
fn the_runtime_introduces_itself() {
    let runtime = Runtime::start();
    let version = runtime.knarr(&["version"]).good();
    assert!(version.contains("fake") && version.contains("9.8.7"), "{version}");
    let info = runtime.knarr(&["info"]).good();
    assert!(info.contains("RuntimeReady"), "{info}");
    let info = runtime.knarr(&["info", "-o", "json"]).good();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["info"]["config"]["stateDir"], "/x");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        connection: cli::Connection,
        #[command(subcommand)]
        verb: cli::Verb,
    }
    let runtime = Runtime::start();
    let socket = runtime.path("cri.sock").display().to_string();
    let line: Line = clap::Parser::try_parse_from(["knarr", "-a", &socket, "ps"]).unwrap();
    let mut err = Vec::new();
    let mut io = cli::Io { out: &mut Gone, err: &mut err, width: None, progress: false };
    assert!(matches!(cli::run(&line.connection, line.verb, &mut io), Ok(0)));
}
