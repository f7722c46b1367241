//! What processes may do, as the kernel sees it: capability sets and ids read back from
//! `/proc/<pid>/status`, system calls tried from inside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::node::{Node, on_a_node};
use test_support::proc::status_field;

fn int(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

fn capabilities(add: &[&str], drop: &[&str], ambient: &[&str]) -> Option<v1::Capability> {
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
    Some(v1::Capability {
        add_capabilities: words(add),
        drop_capabilities: words(drop),
        add_ambient_capabilities: words(ambient),
    })
}

/// Names with their numbers; capabilities(7).
const CAPABILITIES: &[(&str, u32)] = &[
    ("NET_BIND_SERVICE", 10),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("SYS_RAWIO", 17),
    ("SYS_CHROOT", 18),
    ("SYS_PTRACE", 19),
    ("SYS_ADMIN", 21),
    ("SYS_NICE", 23),
    ("SYS_TIME", 25),
    ("PERFMON", 38),
    ("BPF", 39),
];

fn bit(name: &str) -> u64 {
    CAPABILITIES.iter().find(|(known, _)| *known == name).map_or(0, |(_, number)| 1 << number)
}

/// What containers get that ask for nothing: the 14 that containerd and CRI-O users know.
const DEFAULT: u64 = 0xa804_25fb;

/// What the daemon can give: it has what this process has.
fn offered() -> Result<u64> {
    let own = std::fs::read_to_string("/proc/self/status")?;
    mask(&own, "CapBnd")
}

fn mask(status: &str, field: &str) -> Result<u64> {
    let text = status_field(status, field).with_context(|| format!("no {field}"))?;
    u64::from_str_radix(text, 16).with_context(|| format!("{field} is {text}"))
}

/// The first process's status and that of an exec'd one.
async fn statuses(node: &Node, id: &str) -> Result<[String; 2]> {
    let first = node.cri.shell(id, "cat /proc/1/status").await?;
    Ok([first, node.cri.shell(id, "cat /proc/self/status").await?])
}

type Change = fn(&mut v1::LinuxContainerSecurityContext);

/// Bounding set; permitted and effective set; inheritable and ambient set.
type Sets = fn(u64) -> (u64, u64, u64);

#[rustfmt::skip]
const SETS: &[(&str, Change, Sets)] = &[
    ("default", |_| {}, |_| (DEFAULT, DEFAULT, 0)),
    ("all-but", |s| s.capabilities = capabilities(&["ALL"], &["NET_ADMIN"], &[]),
        |all| (all & !bit("NET_ADMIN"), all & !bit("NET_ADMIN"), 0)),
    ("none-but", |s| s.capabilities = capabilities(&["NET_RAW"], &["ALL"], &[]),
        |_| (bit("NET_RAW"), bit("NET_RAW"), 0)),
    ("added-and-dropped", |s| s.capabilities = capabilities(&["SYS_TIME"], &["SYS_TIME"], &[]),
        |_| (DEFAULT, DEFAULT, 0)),
    ("everything", |s| s.capabilities = capabilities(&["all"], &[], &[]), |all| (all, all, 0)),
    ("nothing", |s| s.capabilities = capabilities(&[], &["all"], &[]), |_| (0, 0, 0)),
    ("user", |s| s.run_as_user = int(1000), |_| (DEFAULT, 0, 0)),
    ("user-with-more", |s| {
        s.run_as_user = int(1000);
        s.capabilities = capabilities(&["CAP_NET_ADMIN"], &[], &[]);
    }, |_| (DEFAULT | bit("NET_ADMIN"), 0, 0)),
    ("user-ambient", |s| {
        s.run_as_user = int(1000);
        s.capabilities = capabilities(&[], &["ALL"], &["NET_BIND_SERVICE"]);
    }, |_| (bit("NET_BIND_SERVICE"), bit("NET_BIND_SERVICE"), bit("NET_BIND_SERVICE"))),
    ("root-ambient", |s| s.capabilities = capabilities(&[], &[], &["SYS_TIME"]),
        |_| (DEFAULT | bit("SYS_TIME"), DEFAULT | bit("SYS_TIME"), bit("SYS_TIME"))),
    ("privileged", |s| s.privileged = true, |all| (all, all, 0)),
    ("privileged-user", |s| { s.privileged = true; s.run_as_user = int(1000); }, |all| (all, 0, 0)),
];

#[test]
fn capability_sets_are_those_of_the_request() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let offered = offered()?;
        let pod = node.pod("sets").security(|s| s.privileged = true);
        let pod_id = node.cri.run_pod(&pod).await?;
        for (name, change, sets) in SETS {
            let container = pod.container(name, &image).sleeper().security(change);
            let id = node.cri.create(&pod_id, &pod, &container).await?;
            node.cri.start(&id).await?;
            let (bounding, permitted, ambient) = sets(offered);
            for status in statuses(node, &id).await? {
                for (field, want) in [
                    ("CapBnd", bounding),
                    ("CapPrm", permitted),
                    ("CapEff", permitted),
                    ("CapInh", ambient),
                    ("CapAmb", ambient),
                ] {
                    let (got, want) = (mask(&status, field)?, want & offered);
                    ensure!(got == want, "{name}: {field} {got:x}, want {want:x}");
                }
            }
        }
        Ok(())
    })
}

#[test]
fn the_first_process_and_commands_run_as_the_same_user_with_the_same_groups() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let cases: [(&str, Change, [&str; 3]); 3] = [
            ("root", |_| {}, ["0", "0", "0 10"]),
            (
                "merged",
                |s| {
                    s.run_as_user = int(1000);
                    s.run_as_group = int(1234);
                    s.supplemental_groups = vec![5678];
                },
                ["1000", "1234", "1234 5678 50000"],
            ),
            (
                "strict",
                |s| {
                    s.run_as_username = "web".into();
                    s.supplemental_groups = vec![5678];
                    s.set_supplemental_groups_policy(v1::SupplementalGroupsPolicy::Strict);
                },
                ["1000", "1000", "1000 5678"],
            ),
        ];
        for (name, change, want) in cases {
            let pod = node.pod(name);
            let container = pod.container("main", &image).sleeper().security(change);
            let (_, id) = node.run(&pod, &container).await?;
            for status in statuses(node, &id).await? {
                for (field, want) in ["Uid", "Gid"].into_iter().zip(want) {
                    let ids = status_field(&status, field).context("ids")?;
                    ensure!(ids.split_whitespace().all(|id| id == want), "{name}: {field} {ids}");
                }
                let groups = status_field(&status, "Groups").context("groups")?;
                let mut groups: Vec<u32> =
                    groups.split_whitespace().filter_map(|gid| gid.parse().ok()).collect();
                groups.sort_unstable();
                groups.dedup();
                let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
                ensure!(groups.join(" ") == want[2], "{name}: groups {groups:?}");
            }
        }
        Ok(())
    })
}

/// To whom the built-in profile leaves a system call.
#[derive(Debug, Clone, Copy)]
enum For {
    Everybody,
    Nobody,
    /// Those who have one of these capabilities.
    Holders(&'static [&'static str]),
}

use For::{Everybody, Holders, Nobody};

const ADMIN: For = Holders(&["SYS_ADMIN"]);

const CALLS: &[(&str, For)] = &[
    ("mount", ADMIN),
    ("umount2", ADMIN),
    ("unshare", ADMIN),
    ("setns", ADMIN),
    ("open_tree", ADMIN),
    ("mount_setattr", ADMIN),
    ("clone_namespace", ADMIN),
    ("clone3", ADMIN),
    ("bpf", Holders(&["BPF", "SYS_ADMIN"])),
    ("perf_event_open", Holders(&["PERFMON", "SYS_ADMIN"])),
    ("chroot", Holders(&["SYS_CHROOT"])),
    ("kcmp", Holders(&["SYS_PTRACE"])),
    ("pidfd_getfd", Holders(&["SYS_PTRACE"])),
    ("process_madvise", Holders(&["SYS_PTRACE"])),
    ("set_mempolicy", Holders(&["SYS_NICE"])),
    ("settimeofday", Holders(&["SYS_TIME"])),
    ("clock_settime", Holders(&["SYS_TIME"])),
    ("iopl", Holders(&["SYS_RAWIO"])),
    ("keyctl", Nobody),
    ("add_key", Nobody),
    ("request_key", Nobody),
    ("userfaultfd", Nobody),
    ("io_uring_setup", Nobody),
    ("move_pages", Nobody),
    ("ptrace", Everybody),
    ("process_vm_readv", Everybody),
    ("personality_query", Everybody),
    ("personality_uname26", Everybody),
    ("personality_linux32", Everybody),
    ("personality_linux", Everybody),
    ("personality_fixed_addresses", Nobody),
    ("personality_executable_data", Nobody),
    ("socket_inet", Everybody),
    ("socket_netlink", Everybody),
    ("socket_alg", Nobody),
    ("socket_vsock", Nobody),
    ("socket_alg_in_disguise", Nobody),
];

/// The program that tries them; `None` where nothing can compile it.
fn compiled(dir: &Path) -> Result<Option<PathBuf>> {
    let (source, program) = (dir.join("syscalls.c"), dir.join("syscalls"));
    std::fs::write(&source, include_str!("privileges/syscalls.c"))?;
    let mut compiler = Command::new("gcc");
    compiler.args(["-static", "-O1", "-Wall", "-Werror", "-o"]).arg(&program).arg(&source);
    match compiler.status() {
        Ok(status) if status.success() => Ok(Some(program)),
        Ok(status) => anyhow::bail!("gcc: {status}"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("start gcc"),
    }
}

/// Error numbers by system call, from inside a container of its own pod.
async fn tried(
    node: &Node,
    name: &str,
    program: &Path,
    change: impl FnOnce(&mut v1::LinuxContainerSecurityContext),
) -> Result<BTreeMap<String, i32>> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod(name);
    let container =
        pod.container("main", &image).sleeper().mount(program, "/syscalls", true).security(change);
    let (_, id) = node.run(&pod, &container).await?;
    let text = node.cri.shell(&id, "/syscalls").await?;
    let line = |line: &str| {
        let (name, errno) = line.split_once(' ')?;
        Some((name.to_owned(), errno.parse().ok()?))
    };
    Ok(text.lines().filter_map(line).collect())
}

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

#[test]
fn the_default_profile_leaves_each_its_system_calls() -> Result<()> {
    on_a_node(async |node| {
        let Some(program) = compiled(node.scratch.dir())? else {
            test_support::skip("gcc is not installed");
            return Ok(());
        };
        let unconfined = tried(node, "unconfined", &program, |s| {
            s.seccomp = Some(v1::SecurityProfile {
                profile_type: v1::ProfileType::Unconfined.into(),
                localhost_ref: String::new(),
            });
        })
        .await?;
        let offered = offered()?;
        let holders: Vec<&str> = CAPABILITIES
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| offered & bit(name) != 0)
            .collect();
        let mut wrong = Vec::new();
        for held in holders.into_iter().map(Some).chain([None]) {
            let name = held.unwrap_or("none").to_lowercase().replace('_', "-");
            let add: Vec<&str> = held.into_iter().collect();
            let found = tried(node, &name, &program, |s| {
                s.capabilities = capabilities(&add, &["ALL"], &[]);
            })
            .await?;
            for (call, whose) in CALLS {
                let Some(kernel) = unconfined.get(*call).copied() else { continue };
                ensure!(kernel != EPERM, "{call}: the row shows nothing");
                let open = match whose {
                    Everybody => true,
                    Nobody => false,
                    Holders(names) => held.is_some_and(|held| names.contains(&held)),
                };
                let want = match *call {
                    _ if open => kernel,
                    "clone3" => ENOSYS,
                    _ => EPERM,
                };
                let got = found.get(*call).copied();
                if got != Some(want) {
                    wrong.push(format!("{call} with {name}: {got:?}, want {want}"));
                }
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        ensure!(unconfined.len() + 1 >= CALLS.len(), "{unconfined:?}");
        Ok(())
    })
}
