//! Random pods and containers: well-formed, with every field a caller may use freely.

use cri_api::v1;
use proptest::collection::vec;
use proptest::prelude::*;
use test_support::node::Node;
use test_support::pods::{ContainerBuilder, PodBuilder};

/// Few names, so that they meet again.
const NAMES: &[&str] = &["ant", "bee", "cow"];

#[derive(Debug, Clone)]
pub(super) struct PodShape {
    name: usize,
    attempt: u32,
    host: [bool; 2],
    mapped: bool,
    pid: i32,
    privileged: bool,
    text: Text,
    dns: Option<Vec<String>>,
    sysctl: bool,
    logs: bool,
}

#[derive(Debug, Clone)]
pub(super) struct ContainerShape {
    name: usize,
    program: Program,
    text: Text,
    env: Vec<(String, Vec<u8>)>,
    user: Option<(i64, Option<i64>)>,
    groups: Vec<i64>,
    capabilities: [Vec<String>; 2],
    flags: [bool; 5],
    limits: Limits,
    workdir: Option<&'static str>,
    signal: i32,
    masked: Vec<&'static str>,
    seccomp: Option<i32>,
}

/// Labels, annotations: any text that survives a round trip.
#[derive(Debug, Clone)]
struct Text(Vec<(String, String)>);

#[derive(Debug, Clone, Copy)]
enum Program {
    Sleeper,
    Deaf,
    End(u8),
    Missing,
    Chatter,
}

#[derive(Debug, Clone)]
pub(super) struct Limits(v1::LinuxContainerResources);

impl Limits {
    pub(super) fn resources(&self) -> v1::LinuxContainerResources {
        self.0.clone()
    }
}

fn text() -> impl Strategy<Value = Text> {
    vec(("[a-z][a-z./-]{0,20}", "\\PC{0,40}"), 0..4).prop_map(Text)
}

pub(super) fn limits() -> impl Strategy<Value = Limits> {
    let quota = prop_oneof![Just(0), Just(-1), 1000..200_000i64];
    let memory = prop_oneof![Just(0), (16..256i64).prop_map(|mib| mib << 20)];
    let cpus = prop_oneof![Just(""), Just("0"), Just("0-1")];
    (quota, 0..2000i64, memory, 0..1000i64, cpus).prop_map(|(quota, shares, memory, oom, cpus)| {
        Limits(v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: quota,
            cpu_shares: shares,
            memory_limit_in_bytes: memory,
            oom_score_adj: oom,
            cpuset_cpus: cpus.to_owned(),
            ..Default::default()
        })
    })
}

pub(super) fn pod() -> impl Strategy<Value = PodShape> {
    let pid = prop_oneof![Just(0), Just(1), Just(2)];
    let dns = proptest::option::of(vec("10\\.[0-9]\\.[0-9]\\.[1-9]", 0..3));
    let rare = || proptest::bool::weighted(0.15);
    (
        0..NAMES.len(),
        0..2u32,
        [rare(), rare(), rare()],
        pid,
        rare(),
        text(),
        dns,
        rare(),
        any::<bool>(),
    )
        .prop_map(
            |(name, attempt, [network, ipc, mapped], pid, privileged, text, dns, sysctl, logs)| {
                PodShape {
                    name,
                    attempt,
                    host: [network, ipc],
                    mapped,
                    pid,
                    privileged,
                    text,
                    dns,
                    sysctl,
                    logs,
                }
            },
        )
}

/// One in which most containers can run.
pub(super) fn ordinary_pod() -> impl Strategy<Value = PodShape> {
    pod().prop_map(|pod| PodShape { host: [false, false], privileged: true, ..pod })
}

pub(super) fn container() -> impl Strategy<Value = ContainerShape> {
    let program = prop_oneof![
        5 => Just(Program::Sleeper),
        1 => Just(Program::Deaf),
        2 => any::<u8>().prop_map(Program::End),
        1 => Just(Program::Missing),
        1 => Just(Program::Chatter),
    ];
    let env = vec(("[A-Z][A-Z0-9_]{0,8}", vec(1..=255u8, 0..20)), 0..4);
    let user = proptest::option::of((0..70_000i64, proptest::option::of(0..70_000i64)));
    let names = || {
        let name = prop_oneof![Just("ALL"), Just("NET_ADMIN"), Just("cap_chown"), Just("SYS_TIME")];
        vec(name.prop_map(str::to_owned), 0..3)
    };
    let rare = || proptest::bool::weighted(0.2);
    let workdir = proptest::option::of(prop_oneof![Just("/"), Just("/tmp"), Just("/new/dir")]);
    let masked = vec(prop_oneof![Just("/proc/acpi"), Just("/etc/passwd"), Just("/absent")], 0..3);
    let identity = (user, vec(0..70_000i64, 0..3), [names(), names()]);
    let rest = (workdir, 0..40i32, masked, proptest::option::of(0..2i32));
    let flags = [rare(), rare(), rare(), rare(), rare()];
    (0..NAMES.len(), program, text(), env, identity, flags, limits(), rest).prop_map(
        |(name, program, text, env, identity, flags, limits, rest)| {
            let (user, groups, capabilities) = identity;
            let (workdir, signal, masked, seccomp) = rest;
            ContainerShape {
                name,
                program,
                text,
                env,
                user,
                groups,
                capabilities,
                flags,
                limits,
                workdir,
                signal,
                masked,
                seccomp,
            }
        },
    )
}

impl PodShape {
    pub(super) fn build(&self, node: &Node) -> PodBuilder {
        let [host_network, host_ipc] = self.host;
        let mode = |host: bool| if host { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
        let pod = node.pod(NAMES[self.name]);
        let pod = if self.mapped { pod.users(200_000, 100_000) } else { pod };
        pod.with(|config| {
            config.metadata.get_or_insert_default().attempt = self.attempt;
            config.labels.extend(self.text.0.iter().cloned());
            config.annotations.extend(self.text.0.iter().cloned());
            config.dns_config =
                self.dns.clone().map(|servers| v1::DnsConfig { servers, ..Default::default() });
            if host_network {
                config.hostname.clear();
            }
            if !self.logs {
                config.log_directory.clear();
            }
            if self.sysctl && !host_ipc {
                let sysctls = &mut config.linux.get_or_insert_default().sysctls;
                sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
            }
        })
        .security(|security| security.privileged = self.privileged)
        .namespaces(|namespaces| {
            namespaces.set_network(mode(host_network));
            namespaces.set_ipc(mode(host_ipc));
            namespaces.pid = self.pid;
        })
    }
}

impl ContainerShape {
    /// A container of `pod`, whose own configuration the daemon knows better than the caller.
    pub(super) fn build(&self, pod: &PodBuilder, image: &str) -> ContainerBuilder {
        let container = pod.container(NAMES[self.name], image);
        let container = match self.program {
            Program::Sleeper => container.sleeper(),
            Program::Deaf => container.script("trap '' TERM; while :; do sleep 1000; done"),
            Program::End(code) => container.script(&format!("exit {code}")),
            Program::Missing => container.command(&["/no/such/program"]),
            Program::Chatter => container.script("head -c 300000 /dev/zero; echo; sleep 1000"),
        };
        let [readonly, privileged, no_new_privileges, stdin, tty] = self.flags;
        let [add, drop] = self.capabilities.clone();
        container
            .with(|config| {
                config.labels.extend(self.text.0.iter().cloned());
                config.annotations.extend(self.text.0.iter().cloned());
                let env = self.env.iter().cloned();
                config.envs = env.map(|(key, value)| v1::KeyValue { key, value }).collect();
                config.working_dir = self.workdir.unwrap_or_default().to_owned();
                config.stop_signal = self.signal;
                config.stdin = stdin;
                config.tty = tty;
                config.linux.get_or_insert_default().resources = Some(self.limits.resources());
            })
            .security(|security| {
                let value = |value| Some(v1::Int64Value { value });
                security.run_as_user = self.user.and_then(|(user, _)| value(user));
                security.run_as_group = self.user.and_then(|(_, group)| group).and_then(value);
                security.supplemental_groups.clone_from(&self.groups);
                security.capabilities = Some(v1::Capability {
                    add_capabilities: add,
                    drop_capabilities: drop,
                    ..Default::default()
                });
                security.readonly_rootfs = readonly;
                security.privileged = privileged;
                security.no_new_privs = no_new_privileges;
                security.masked_paths = self.masked.iter().map(|&path| path.to_owned()).collect();
                security.seccomp = self
                    .seccomp
                    .map(|profile_type| v1::SecurityProfile { profile_type, ..Default::default() });
            })
    }
}
