//! User, groups, capabilities, seccomp.

use launch::FailureKind;
use launch::plan::{CapabilitySets, SeccompPlan};

use crate::Case;
use crate::process::fresh;
use crate::world::{DEFAULT_CAPS, World};

pub(crate) const CASES: &[Case] = &[
    ("identity::user_and_groups_are_the_plans", user_and_groups),
    ("identity::capabilities_are_the_plans", capabilities_are_the_plans),
    ("identity::a_user_has_no_effective_capabilities", a_user_has_none),
    ("identity::ambient_capabilities_reach_a_user", ambient_capabilities_reach_a_user),
    ("identity::capabilities_nobody_has_are_a_warning", missing_capabilities_are_a_warning),
    ("identity::no_new_privs_is_as_asked", no_new_privs_is_as_asked),
    ("identity::a_filter_denies_what_it_says", a_filter_denies_what_it_says),
    ("identity::a_filter_works_without_no_new_privs", a_filter_without_no_new_privs),
    ("identity::a_broken_filter_refuses_the_container", a_broken_filter_refuses),
    ("identity::a_profile_without_apparmor_refuses_the_container", apparmor_is_an_error),
    ("identity::the_keyring_is_new", the_keyring_is_new),
];

const STATUS: &str = "cat /proc/self/status";

/// A field of `/proc/<pid>/status` with its words one space apart.
pub(crate) fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn user_and_groups(world: &mut World) {
    let mut plan = world.plan(STATUS);
    plan.process.uid = 1234;
    plan.process.gid = 4321;
    plan.process.groups = vec![7, 50_000];
    let status = world.run(&plan).text();
    assert_eq!(field(&status, "Uid"), "1234 1234 1234 1234");
    assert_eq!(field(&status, "Gid"), "4321 4321 4321 4321");
    assert_eq!(field(&status, "Groups"), "7 50000");
}

fn capabilities_are_the_plans(world: &mut World) {
    let status = world.run(&world.plan(STATUS)).text();
    let default = format!("{DEFAULT_CAPS:016x}");
    for (name, expected) in [
        ("CapBnd", default.as_str()),
        ("CapPrm", &default),
        ("CapEff", &default),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        assert_eq!(field(&status, name), expected, "{name}");
    }
    fresh(world);
    let mut plan = world.plan(STATUS);
    plan.process.capabilities = CapabilitySets::default();
    let status = world.run(&plan).text();
    assert_eq!(field(&status, "CapBnd"), "0000000000000000");
    assert_eq!(field(&status, "CapEff"), "0000000000000000");
}

fn a_user_has_none(world: &mut World) {
    let mut plan = world.plan(STATUS);
    plan.process.uid = 1000;
    let status = world.run(&plan).text();
    assert_eq!(field(&status, "CapEff"), "0000000000000000");
    assert_eq!(field(&status, "CapBnd"), format!("{DEFAULT_CAPS:016x}"));
}

fn ambient_capabilities_reach_a_user(world: &mut World) {
    const NET_BIND: u64 = 1 << 10;
    let mut plan = world.plan(STATUS);
    plan.process.uid = 1000;
    plan.process.capabilities = CapabilitySets {
        bounding: NET_BIND,
        effective: NET_BIND,
        permitted: NET_BIND,
        inheritable: NET_BIND,
        ambient: NET_BIND,
    };
    let status = world.run(&plan).text();
    assert_eq!(field(&status, "CapEff"), format!("{NET_BIND:016x}"));
    assert_eq!(field(&status, "CapAmb"), format!("{NET_BIND:016x}"));
}

fn missing_capabilities_are_a_warning(world: &mut World) {
    let held = sys::credentials::permitted().unwrap();
    let all = sys::credentials::known();
    let mut plan = world.plan(STATUS);
    plan.process.capabilities = CapabilitySets {
        bounding: all,
        effective: all,
        permitted: all,
        inheritable: 0,
        ambient: 0,
    };
    let running = world.launch(&plan);
    assert_eq!(running.warnings.len(), usize::from(held != all), "{:?}", running.warnings);
    sys::pidfd::wait(std::os::fd::AsFd::as_fd(&running.pidfd)).unwrap();
    fresh(world);
    let status = world.run(&plan).text();
    assert_eq!(field(&status, "CapEff"), format!("{:016x}", held & all));
}

fn no_new_privs_is_as_asked(world: &mut World) {
    for asked in [true, false] {
        let mut plan = world.plan(STATUS);
        plan.process.no_new_privs = asked;
        let status = world.run(&plan).text();
        assert_eq!(field(&status, "NoNewPrivs"), u8::from(asked).to_string());
        fresh(world);
    }
}

/// Answers one system call with EPERM and allows the rest.
fn deny(number: i64) -> SeccompPlan {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let errno = ERRNO | u32::try_from(libc::EPERM).unwrap();
    let program = [
        (LOAD_NUMBER, 0u8, 0u8, 0u32),
        (JUMP_IF_EQUAL, 0, 1, u32::try_from(number).unwrap()),
        (RETURN, 0, 0, errno),
        (RETURN, 0, 0, ALLOW),
    ];
    let bytes = program.iter().flat_map(|(code, jt, jf, k)| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([*jt, *jf]);
        bytes.extend(k.to_ne_bytes());
        bytes
    });
    SeccompPlan { program: bytes.collect(), flags: 0, listener: None }
}

fn a_filter_denies_what_it_says(world: &mut World) {
    let mut plan = world.plan("cat /proc/self/status; mkdir /tmp/x 2>&1; hostname x 2>&1");
    plan.process.seccomp = Some(deny(libc::SYS_mkdir));
    let output = world.run(&plan);
    assert_eq!(field(&output.stdout, "Seccomp"), "2");
    assert!(output.stdout.contains("can't create directory '/tmp/x': Operation not permitted"));
}

fn a_filter_without_no_new_privs(world: &mut World) {
    let mut plan = world.plan(STATUS);
    plan.process.no_new_privs = false;
    plan.process.uid = 1000;
    plan.process.seccomp = Some(deny(libc::SYS_mkdir));
    let status = world.run(&plan).text();
    assert_eq!(field(&status, "Seccomp"), "2");
    assert_eq!(field(&status, "NoNewPrivs"), "0");
}

fn a_broken_filter_refuses(world: &mut World) {
    let mut plan = world.plan("true");
    plan.process.seccomp = Some(SeccompPlan { program: vec![0xff; 8], flags: 0, listener: None });
    let error = world.refused(&plan);
    assert_eq!(error.kind(), FailureKind::Internal);
    assert!(error.sentence().starts_with("load the seccomp filter: "), "{}", error.sentence());
}

fn apparmor_is_an_error(world: &mut World) {
    if world.host(|| std::path::Path::new("/sys/kernel/security/apparmor").exists()) {
        println!("skipped: AppArmor is active on this host");
        return;
    }
    let mut plan = world.plan("true");
    plan.process.apparmor_profile = Some("knarr-default".to_owned());
    let error = world.refused(&plan);
    assert!(error.sentence().starts_with("enter AppArmor profile knarr-default"), "{error}");
}

fn the_keyring_is_new(world: &mut World) {
    if world.host(|| std::fs::read_to_string("/proc/keys")).is_err() {
        println!("skipped: this kernel has no keys");
        return;
    }
    // The only keyring a fresh session can see besides the user's is its own, named _ses.
    let keys = world.run(&world.plan("cat /proc/keys")).text();
    assert!(keys.lines().any(|line| line.contains("keyring") && line.contains("_ses")), "{keys}");
}
