use super::*;

fn names(profile: &LinuxSeccomp, action: Action) -> Vec<String> {
    let rules = profile.syscalls().iter().flatten();
    rules
        .filter(|rule| rule.action() == action && rule.args().is_none())
        .flat_map(|rule| rule.names().clone())
        .collect()
}

fn profile(capabilities: &[u32]) -> LinuxSeccomp {
    default_profile(capabilities.iter().fold(0, |mask, bit| mask | 1 << bit), (6, 1)).unwrap()
}

#[test]
fn capabilities_bring_their_calls() {
    let allowed = |caps: &[u32], name: &str| {
        names(&profile(caps), Action::ScmpActAllow).iter().any(|known| known == name)
    };
    for (capability, name) in [
        (2, "open_by_handle_at"),
        (16, "init_module"),
        (17, "iopl"),
        (18, "chroot"),
        (19, "kcmp"),
        (20, "acct"),
        (21, "mount"),
        (22, "reboot"),
        (23, "mbind"),
        (25, "settimeofday"),
        (26, "vhangup"),
        (34, "syslog"),
        (38, "perf_event_open"),
        (39, "bpf"),
    ] {
        assert!(!allowed(&[], name), "{name}");
        assert!(allowed(&[capability], name), "{name}");
    }
    for name in ["io_uring_setup", "keyctl", "add_key", "userfaultfd", "kexec_load", "pivot_root"] {
        assert!(!allowed(&(0..41).collect::<Vec<_>>(), name), "{name}");
    }
}

#[test]
fn clone3_looks_missing_unless_namespaces_may_be_made() {
    assert_eq!(names(&profile(&[]), Action::ScmpActErrno), ["clone3"]);
    assert!(names(&profile(&[21]), Action::ScmpActErrno).is_empty());
}

#[test]
fn no_call_is_listed_twice() {
    let mut all = names(&profile(&[]), Action::ScmpActAllow);
    all.sort();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(all.len() > 300, "{}", all.len());
}

#[test]
fn old_kernels_do_not_get_ptrace() {
    let old = default_profile(0, (4, 7)).unwrap();
    assert!(!names(&old, Action::ScmpActAllow).contains(&"ptrace".to_owned()));
}

#[test]
fn localhost_profiles_are_read_and_dockers_format_is_refused() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "comment": "unknown keys are fine",
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null}]}"#;
    assert_eq!(parse("p", text).unwrap().default_action(), Action::ScmpActErrno);
    assert!(matches!(parse("p", "{"), Err(SpecError::SeccompProfile { .. })));
    assert!(matches!(parse("p", "{}"), Err(SpecError::SeccompProfile { .. })));
    let conditional = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}}]}"#;
    assert!(matches!(
        parse("p", conditional),
        Err(SpecError::SeccompFormat { key: "includes", .. })
    ));
}
