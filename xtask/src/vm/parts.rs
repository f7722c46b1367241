//! What the machines run: the boots, their parts, and the tests of the real daemon in each.

/// What a machine is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A script is the first process.
    Plain,
    /// systemd is the first process.
    Systemd,
    /// SELinux is in place of AppArmor.
    Selinux,
    /// A disk that loses what was not flushed.
    PowerCuts,
}

/// One machine, from its start to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boot {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// In this order.
    pub(super) parts: &'static [&'static str],
    /// How long it may run: several times what it takes where nothing else runs.
    pub(super) minutes: u64,
}

/// A node's life along the command line.
pub(super) const WALK: &str = "walk";
pub(super) const LAUNCH: &str = "launch";
pub(super) const NETWORK: &str = "network";
/// A shell command that was given.
pub(super) const COMMAND: &str = "command";
/// What systemd does to a service with pods is looked at.
pub(super) const SYSTEMD: &str = "systemd";
pub(super) const SYSTEMD_LAUNCH: &str = "systemd-launch";
pub(super) const SYSTEMD_NETWORK: &str = "systemd-network";
pub(super) const SCOPES: &str = "scopes";
pub(super) const SYSTEMD_NODE: &str = "systemd-node";
pub(super) const SYSTEMD_OCI: &str = "systemd-oci";
pub(super) const SYSTEMD_STREAMING: &str = "systemd-streaming";
pub(super) const SYSTEMD_FAILPOINTS: &str = "systemd-failpoints";
pub(super) const POWERCUT: &str = "powercut";

/// All of them. A machine is short enough that somebody waits for it.
pub(super) const BOOTS: &[Boot] = &[
    Boot {
        name: "virtual machine",
        kind: Kind::Plain,
        parts: &[WALK, LAUNCH, NETWORK, "node"],
        minutes: 45,
    },
    Boot { name: "with systemd", kind: Kind::Systemd, parts: &[SYSTEMD, SCOPES], minutes: 45 },
    Boot {
        name: "with systemd: launch, network",
        kind: Kind::Systemd,
        parts: &[SYSTEMD_LAUNCH, SYSTEMD_NETWORK],
        minutes: 30,
    },
    Boot {
        name: "with systemd: the rest",
        kind: Kind::Systemd,
        parts: &[SYSTEMD_NODE],
        minutes: 60,
    },
    Boot {
        name: "with systemd: knarr oci",
        kind: Kind::Systemd,
        parts: &[SYSTEMD_OCI],
        minutes: 60,
    },
    Boot {
        name: "with systemd: streaming",
        kind: Kind::Systemd,
        parts: &[SYSTEMD_STREAMING],
        minutes: 30,
    },
    Boot {
        name: "with systemd: failpoints",
        kind: Kind::Systemd,
        parts: &[SYSTEMD_FAILPOINTS],
        minutes: 120,
    },
    Boot { name: "with SELinux", kind: Kind::Selinux, parts: &["selinux"], minutes: 30 },
    Boot { name: "power cuts", kind: Kind::PowerCuts, parts: &[POWERCUT], minutes: 30 },
];

/// The short run of `cargo xtask test`: systemd, cgroup v2, AppArmor and all capabilities at once.
pub(super) const BRIEF: Boot = Boot {
    name: "a virtual machine, briefly",
    kind: Kind::Systemd,
    parts: &["brief", "brief-cgroupfs"],
    minutes: 10,
};

/// The names of all parts.
pub(crate) fn names() -> Vec<&'static str> {
    BOOTS.iter().flat_map(|boot| boot.parts).copied().collect()
}

/// Tests of the real daemon, in `tests/tests/node`.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeTests {
    /// Who makes control groups there.
    pub(super) driver: &'static str,
    /// Parts of names; whole names in the short run.
    pub(super) names: &'static [&'static str],
    /// Whether the names are whole, and each must be there.
    pub(super) exact: bool,
    /// Parts of names, of tests that another part runs.
    pub(super) elsewhere: &'static [&'static str],
    /// Whole names of tests that cannot run there, and why.
    pub(super) without: &'static [(&'static str, &'static str)],
}

const fn of(driver: &'static str, names: &'static [&'static str]) -> NodeTests {
    NodeTests { driver, names, exact: false, elsewhere: &[], without: &[] }
}

/// What the kernel below lacks, or does otherwise.
const NODE: &[&str] = &[
    "apparmor::",
    "devices::",
    "image_volumes::",
    "inspect::",
    "metrics::",
    "mounts::",
    "oom::",
    "privileges::",
    "resources::",
    "security::",
    "stats::",
    "stopped_shims::",
    "systemd::",
    "users::",
];

/// What another cgroup driver changes.
const SCOPES_TESTS: &[&str] = &[
    "handlers::scopes::",
    "lost_shims::",
    "oom::",
    "resources::",
    "restart::",
    "stats::",
    "stopped_shims::",
    "systemd::",
];

const OCI: &[&str] = &["oci::"];

/// What must hold on this kernel too, but is not about it.
const REST: &[&str] = &[
    "backlog::",
    "bad_input::",
    "broken_fields::",
    "broken_records::",
    "churn::",
    "cli::",
    "clocks::",
    "containerd::",
    "containers::",
    "credentials::",
    "descriptors::",
    "disks::",
    "doctor::",
    "handlers::",
    "hanging::",
    "hanging_logs::",
    "hooks::",
    "images::",
    "leaks::",
    "lifecycle::",
    "logs::",
    "older_clients::",
    "older_shims::",
    "pods::",
    "pressure::",
    "random::",
    "repeated::",
    "survival::",
    "unpack::",
];

/// Names that hold one of [`REST`] and are of other parts.
const OF_REST_ELSEWHERE: &[&str] = &["handlers::scopes::", "oci::", "sessions_cli::"];

/// Busybox's shell runs its own `ip` whatever else there is.
const WITHOUT_IP: &[(&str, &str)] = &[
    (
        "oci::network::a_device_moves_with_its_name_addresses_and_properties",
        "the ip of the machine makes no such devices",
    ),
    (
        "oci::network::devices_that_cannot_move_are_named_and_nothing_is_left",
        "the ip of the machine makes no such devices",
    ),
];

/// What is missing there.
const WITHOUT_REGISTRY: &[(&str, &str)] = &[(
    "images::debians_registry_serves_the_demos_images",
    "docker-registry and the programs of its images are not in the machine",
)];

const STREAMING: &[&str] = &[
    "exec::",
    "sessions::",
    "sessions_cli::",
    "sessions_hostile::",
    "sessions_tls::",
    "streamed::",
];

/// Of each thing that only this kernel shows, one.
const BRIEF_TESTS: &[&str] = &[
    "apparmor::a_process_runs_in_the_profile_that_was_asked_for",
    "oom::a_first_process_that_was_killed_is_oomkilled",
    "resources::cpu_time_and_cpus_are_limited",
    "stats::a_running_container_uses_processor_memory_and_disk",
    "stopped_shims::a_scope_that_systemd_stops_ends_its_pod_in_order",
    "systemd::a_pod_is_a_delegated_scope_in_kubelets_slice",
    "systemd::an_oci_container_is_a_scope_whose_limits_systemd_knows",
];

/// The same for the driver that is not systemd's.
const BRIEF_CGROUPFS_TESTS: &[&str] = &[
    "oom::a_group_that_dies_together_is_oomkilled",
    "resources::raw_files_are_for_cgroup_v2",
    "security::devices_are_denied_unless_asked_for",
];

/// The tests of the real daemon that a part runs.
pub(super) fn node_tests(part: &str) -> Option<NodeTests> {
    Some(match part {
        "node" => of("cgroupfs", NODE),
        SCOPES => of("systemd", SCOPES_TESTS),
        SYSTEMD_NETWORK => {
            let names = &["network::", "network_plugins::"];
            NodeTests { elsewhere: OCI, ..of("systemd", names) }
        }
        SYSTEMD_NODE => NodeTests {
            elsewhere: OF_REST_ELSEWHERE,
            without: WITHOUT_REGISTRY,
            ..of("systemd", REST)
        },
        SYSTEMD_OCI => NodeTests { without: WITHOUT_IP, ..of("systemd", OCI) },
        SYSTEMD_STREAMING => NodeTests { elsewhere: OCI, ..of("systemd", STREAMING) },
        // Only SELinux lets them show something.
        "selinux" => of("cgroupfs", &["selinux::"]),
        "brief" => NodeTests { exact: true, ..of("systemd", BRIEF_TESTS) },
        "brief-cgroupfs" => NodeTests { exact: true, ..of("cgroupfs", BRIEF_CGROUPFS_TESTS) },
        _other => return None,
    })
}

/// How many tests a boot of whole names runs.
pub(super) fn expected(boot: &Boot) -> usize {
    boot.parts.iter().filter_map(|part| node_tests(part)).map(|tests| tests.names.len()).sum()
}

impl NodeTests {
    /// The shell command that runs them; `names` instead of those of the part, if there are any.
    pub(super) fn command(&self, names: &[String]) -> String {
        let chosen: Vec<&str> = match names {
            [] => self.names.to_vec(),
            names => names.iter().map(String::as_str).collect(),
        };
        let skipped = |(name, why): &(&str, &str)| format!("echo 'test {name} ... ignored, {why}'");
        let mut lines: Vec<String> = self.without.iter().map(skipped).collect();
        let mut words = vec!["/vm/node-tests --test-threads 2"];
        words.extend(chosen);
        let without = self.without.iter().map(|(name, _)| *name);
        words.extend(without.chain(self.elsewhere.iter().copied()).flat_map(|it| ["--skip", it]));
        words.extend(self.exact.then_some("--exact"));
        let environment = format!("KNARR_TEST_CGROUP_DRIVER={} KNARR_DIST=/usr/bin", self.driver);
        lines.push(format!("{environment} {}", words.join(" ")));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_of_one_boot() {
        let mut all = names();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(expected(&BRIEF), BRIEF_TESTS.len() + BRIEF_CGROUPFS_TESTS.len());
    }

    /// Modules of tests in which a machine has nothing to run.
    const HELPERS: &[&str] = &["live"];

    #[test]
    fn every_module_of_the_daemons_tests_is_run_in_a_machine() {
        let selected: Vec<&str> = names()
            .into_iter()
            .filter_map(node_tests)
            .flat_map(|tests| tests.names)
            .copied()
            .collect();
        let main = include_str!("../../../tests/tests/node/main.rs");
        let modules: Vec<&str> = main
            .lines()
            .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
            .filter(|module| !HELPERS.contains(module))
            .collect();
        assert!(modules.len() > 50, "{modules:?}");
        for module in modules {
            let whole = format!("{module}::");
            assert!(selected.contains(&whole.as_str()), "{module} is of no part");
        }
    }

    #[test]
    fn tests_left_out_are_named_with_the_reason() {
        let all = names().into_iter().filter_map(node_tests).flat_map(|tests| tests.without);
        for (name, why) in all {
            assert!(!name.contains('\'') && !why.contains('\''), "the shell would not read {why}");
        }
        let tests = NodeTests { without: &[("a::b", "no tape")], ..of("systemd", &["a::"]) };
        let text = tests.command(&[]);
        assert!(text.starts_with("echo 'test a::b ... ignored, no tape'\n"), "{text}");
        assert!(text.ends_with("/vm/node-tests --test-threads 2 a:: --skip a::b"), "{text}");
        let text = tests.command(&["c".to_owned()]);
        assert!(text.contains("--test-threads 2 c "), "{text}");
    }
}
