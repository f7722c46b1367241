//! Rows of `process` and `root`: what runs, as whom, from where.

use model::{Capabilities, EnvVar, SecurityProfile};
use serde_json::json;

use crate::case::{Case, refused, row};

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn image(case: &mut Case, entrypoint: &[&str], cmd: &[&str]) {
    case.image.entrypoint = words(entrypoint);
    case.image.cmd = words(cmd);
}

#[test]
fn command_and_args() {
    let args = |case: &mut Case, command: &[&str], args: &[&str]| {
        image(case, &["entry"], &["cmd"]);
        case.config.command = words(command);
        case.config.args = words(args);
    };
    let both = json!({ "/process/args -": ["sh"], "/process/args +": ["entry", "cmd"] });
    row(|case| args(case, &[], &[]), both);
    let own = json!({ "/process/args -": ["sh"], "/process/args +": ["entry", "a"] });
    row(|case| args(case, &[], &["a"]), own);
    let command = json!({ "/process/args -": ["sh"], "/process/args +": ["c"] });
    row(|case| args(case, &["c"], &[]), command);
    let all = json!({ "/process/args -": ["sh"], "/process/args +": ["c", "a"] });
    row(|case| args(case, &["c"], &["a"]), all);
    row(|case| image(case, &[""], &["sh"]), json!({}));
    refused(|case| image(case, &[], &[]), "no command specified");
    refused(|case| image(case, &[""], &[]), "no command specified");
}

#[test]
fn working_dir() {
    row(|case| case.image.working_dir = "/image".into(), json!({ "/process/cwd": "/image" }));
    let own = |case: &mut Case| {
        case.image.working_dir = "/image".into();
        case.config.working_dir = "/own".into();
    };
    row(own, json!({ "/process/cwd": "/own" }));
    row(|case| case.image.working_dir = "image".into(), json!({ "/process/cwd": "/image" }));
    for dir in ["some/where", ".", "/a\0b"] {
        let words = format!("`working_dir` is `{}`: want an absolute path", dir.escape_debug());
        refused(|case| case.config.working_dir = dir.into(), &words);
    }
}

#[test]
fn envs() {
    let env = |key: &str, value: &str| EnvVar { key: key.into(), value: value.into() };
    row(
        |case| {
            case.image.env = words(&["PATH=/image", "A=image", "B=image"]);
            case.config.envs = vec![env("A", "pod"), env("C", "pod"), env("HOSTNAME", "other")];
        },
        json!({
            "/process/env -": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOSTNAME=host",
            ],
            "/process/env +": ["PATH=/image", "HOSTNAME=other", "A=pod", "B=image", "C=pod"],
        }),
    );
    // JSON has no such bytes; the process gets them all the same.
    row(
        |case| case.config.envs = vec![EnvVar { key: "K".into(), value: vec![0xff, b'x'] }],
        json!({ "/process/env +": ["K=\u{fffd}x"] }),
    );
    refused(
        |case| case.config.envs = vec![EnvVar { key: "K".into(), value: vec![b'x', 0] }],
        "`envs` is `K`: want a value without NUL",
    );
}

#[test]
fn stdin_stdin_once_and_tty() {
    row(|case| case.config.stdin = true, json!({}));
    row(|case| case.config.stdin_once = true, json!({}));
    let terminal = json!({ "/process/terminal": true, "/process/env +": ["TERM=xterm"] });
    row(|case| case.config.tty = true, terminal);
}

#[test]
fn labels_annotations_stop_signal_and_log_path_are_not_in_the_spec() {
    row(
        |case| {
            case.config.labels.insert("l".into(), "v".into());
            case.config.annotations.insert("a".into(), "v".into());
            case.config.stop_signal = Some(model::Signal::KILL);
            case.config.log_path = "c/0.log".into();
        },
        json!({}),
    );
}

#[test]
fn annotations_the_handler_lets_through_and_the_runtimes_own() {
    row(
        |case| {
            case.annotations.insert("let/through".into(), "v".into());
            case.annotations.insert("io.kubernetes.cri.sandbox-id".into(), "forged".into());
        },
        json!({ "/annotations/let/through": "v" }),
    );
    row(
        |case| {
            case.pod.name.name = "other".into();
            case.config.name.name = "side".into();
        },
        json!({
            "/annotations/io.kubernetes.cri.sandbox-name": "other",
            "/annotations/io.kubernetes.cri.container-name": "side",
        }),
    );
}

#[test]
fn run_as_user_and_groups() {
    row(
        |case| {
            case.user.uid = 7;
            case.user.gid = 8;
            case.user.groups = vec![8, 9];
            case.user.home = Some("/home/seven".into());
        },
        json!({
            "/process/user/uid": 7,
            "/process/user/gid": 8,
            "/process/user/additionalGids -": [0],
            "/process/user/additionalGids +": [8, 9],
            "/process/env -": ["HOME=/"],
            "/process/env +": ["HOME=/home/seven"],
        }),
    );
}

#[test]
fn capabilities() {
    let ask = |add: &[&str], drop: &[&str], ambient: &[&str]| {
        let asked =
            Capabilities { add: words(add), drop: words(drop), add_ambient: words(ambient) };
        move |case: &mut Case| case.config.security.capabilities = asked
    };
    row(
        ask(&["net_admin"], &["CAP_NET_RAW"], &[]),
        json!({
            "/process/capabilities/bounding -": ["CAP_NET_RAW"],
            "/process/capabilities/bounding +": ["CAP_NET_ADMIN"],
            "/process/capabilities/permitted -": ["CAP_NET_RAW"],
            "/process/capabilities/permitted +": ["CAP_NET_ADMIN"],
            "/process/capabilities/effective -": ["CAP_NET_RAW"],
            "/process/capabilities/effective +": ["CAP_NET_ADMIN"],
        }),
    );
    row(
        ask(&["SYS_TIME"], &[], &["SYS_TIME"]),
        json!({
            "/process/capabilities/bounding +": ["CAP_SYS_TIME"],
            "/process/capabilities/permitted +": ["CAP_SYS_TIME"],
            "/process/capabilities/effective +": ["CAP_SYS_TIME"],
            "/process/capabilities/inheritable +": ["CAP_SYS_TIME"],
            "/process/capabilities/ambient +": ["CAP_SYS_TIME"],
        }),
    );
    let default = crate::case::Case::new().build().unwrap();
    let default = default.pointer("/process/capabilities/bounding").unwrap();
    row(
        ask(&[], &["ALL"], &[]),
        json!({
            "/process/capabilities/bounding -": default,
            "/process/capabilities/permitted -": default,
            "/process/capabilities/effective -": default,
        }),
    );
    refused(ask(&["NOT_ONE"], &[], &[]), "`NOT_ONE` is not a capability");
}

#[test]
fn no_new_privs() {
    let set = json!({ "/process/noNewPrivileges": true });
    row(|case| case.config.security.no_new_privs = true, set);
}

#[test]
fn oom_score_adj() {
    row(|case| case.config.resources.oom_score_adj = -500, json!({ "/process/oomScoreAdj": -500 }));
    refused(|case| case.config.resources.oom_score_adj = 1001, "`oom_score_adj` is `1001`");
}

#[test]
fn apparmor() {
    row(Case::with_apparmor, json!({ "/process/apparmorProfile": "knarr-default" }));
    let ask = |profile: SecurityProfile| {
        move |case: &mut Case| {
            case.with_apparmor();
            case.config.security.apparmor = Some(profile);
        }
    };
    row(ask(SecurityProfile::Unconfined), json!({}));
    let mine = json!({ "/process/apparmorProfile": "mine" });
    row(ask(SecurityProfile::Localhost("mine".into())), mine);
    refused(ask(SecurityProfile::Localhost("other".into())), "`other` is not loaded");
}

#[test]
fn readonly_rootfs() {
    let ro = |destination: &str, source: &str| {
        json!({
            "destination": destination, "type": "bind", "source": format!("/run/pod/{source}"),
            "options": ["rbind", "rprivate", "ro"],
        })
    };
    let mut case = Case::new();
    let before = case.build().unwrap();
    case.config.security.readonly_rootfs = true;
    let after = case.build().unwrap();
    assert_eq!(before["root"]["readonly"], json!(false));
    assert_eq!(after["root"]["readonly"], json!(true));
    for file in ["hostname", "hosts", "resolv.conf"] {
        let mounts = after["mounts"].as_array().unwrap();
        let mount = mounts.iter().find(|m| m["destination"] == json!(format!("/etc/{file}")));
        assert_eq!(mount, Some(&ro(&format!("/etc/{file}"), file)), "{file}");
    }
}
