use oci_spec::runtime::LinuxDeviceCgroupBuilder;
use proptest::prelude::*;

use super::*;

/// `type major minor access`, `*` for any; a leading `-` denies.
fn rule(text: &str) -> LinuxDeviceCgroup {
    let (allow, text) = text.strip_prefix('-').map_or((true, text), |rest| (false, rest));
    let words: Vec<&str> = text.split(' ').collect();
    let typ = match words[0] {
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => LinuxDeviceType::A,
    };
    let mut rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(typ)
        .access(words[3].to_owned())
        .build()
        .unwrap();
    rule.set_major(words[1].parse().ok()).set_minor(words[2].parse().ok());
    rule
}

fn policy(rules: &[&str]) -> DevicePolicy {
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(rules.iter().map(|text| rule(text)).collect()));
    DevicePolicy::new(Some(&resources)).unwrap()
}

/// Runs a device program as the kernel would.
fn run(program: &[u8], class: Class, major: u32, minor: u32, wanted: u8) -> bool {
    let class = match class {
        Class::Block => 1,
        Class::Char => 2,
    };
    let context = [u32::from(wanted) << 16 | class, major, minor];
    let mut registers = [0u64; 11];
    let mut pc = 0usize;
    loop {
        let insn = &program[pc * 8..pc * 8 + 8];
        let (dst, src) = (usize::from(insn[1] & 15), insn[1] >> 4);
        let offset = i16::from_ne_bytes([insn[2], insn[3]]);
        let imm = i32::from_ne_bytes([insn[4], insn[5], insn[6], insn[7]]);
        pc += 1;
        let jump = |pc: &mut usize| *pc += usize::try_from(offset).unwrap();
        match insn[0] {
            0x61 => {
                assert_eq!(src, 1, "only the context is read");
                registers[dst] = context[usize::try_from(offset).unwrap() / 4].into();
            }
            0x54 => registers[dst] &= u64::from(imm.cast_unsigned()),
            0x74 => registers[dst] = (registers[dst] & 0xffff_ffff) >> imm,
            0xb7 => registers[dst] = i64::from(imm).cast_unsigned(),
            0x05 => jump(&mut pc),
            0x55 if registers[dst] != i64::from(imm).cast_unsigned() => jump(&mut pc),
            0x45 if registers[dst] & i64::from(imm).cast_unsigned() != 0 => jump(&mut pc),
            0x55 | 0x45 => {}
            0x95 => return registers[0] == 1,
            other => panic!("opcode {other:#x}"),
        }
    }
}

/// The meaning of a policy: for each wanted access the last rule that covers it decides.
fn read(policy: &DevicePolicy, class: Class, major: u32, minor: u32, wanted: u8) -> bool {
    [MKNOD, READ, WRITE].iter().filter(|bit| wanted & **bit != 0).all(|bit| {
        let covers = |rule: &&Rule| {
            rule.class == class
                && rule.major.is_none_or(|number| number == major)
                && rule.minor.is_none_or(|number| number == minor)
                && rule.access & bit != 0
        };
        policy.rules.iter().rev().find(covers).map_or(policy.allow_others, |rule| rule.allow)
    })
}

fn allowed(policy: &DevicePolicy, class: Class, major: u32, minor: u32, wanted: u8) -> bool {
    policy.program().is_none_or(|program| run(&program, class, major, minor, wanted))
}

#[test]
fn without_rules_only_the_standard_devices_work() {
    let policy = DevicePolicy::new(None).unwrap();
    assert!(allowed(&policy, Class::Char, 1, 3, READ | WRITE));
    assert!(allowed(&policy, Class::Char, 136, 7, READ | WRITE));
    assert!(allowed(&policy, Class::Block, 8, 0, MKNOD));
    assert!(!allowed(&policy, Class::Block, 8, 0, READ));
    assert!(!allowed(&policy, Class::Block, 8, 0, READ | MKNOD));
}

#[test]
fn allowing_everything_needs_no_filter() {
    assert_eq!(policy(&["-a * * rwm", "a * * rwm"]).program(), None);
    assert!(policy(&["a * * rwm", "-b 8 0 w"]).program().is_some());
}

#[test]
fn a_later_rule_wins_for_the_accesses_it_names() {
    let policy = policy(&["-a * * rwm", "b 8 * rwm", "-b 8 1 w"]);
    assert!(allowed(&policy, Class::Block, 8, 0, READ | WRITE));
    assert!(allowed(&policy, Class::Block, 8, 1, READ));
    assert!(!allowed(&policy, Class::Block, 8, 1, READ | WRITE));
    assert!(!allowed(&policy, Class::Char, 8, 0, READ));
}

#[test]
fn a_rule_can_take_a_standard_device_away() {
    let policy = policy(&["-a * * rwm", "-c 1 3 rwm"]);
    assert!(!allowed(&policy, Class::Char, 1, 3, READ));
    assert!(allowed(&policy, Class::Char, 1, 5, READ));
}

#[test]
fn v1_gets_the_base_first_and_then_the_exceptions() {
    let settings = policy(&["-a * * rwm", "b 8 16 rw"]).settings().unwrap();
    let lines: Vec<String> = settings.iter().map(|s| format!("{} {}", s.file, s.value)).collect();
    assert_eq!(lines[0], "devices.deny a");
    assert!(settings[0].required);
    assert!(lines.contains(&"devices.allow c 1:3 rwm".to_owned()));
    assert!(lines.contains(&"devices.allow c *:* m".to_owned()));
    assert_eq!(lines.last().unwrap(), "devices.allow b 8:16 rw");
}

#[test]
fn v1_refuses_what_its_exceptions_cannot_say() {
    let part = policy(&["-a * * rwm", "b 8 * rwm", "-b 8 1 w"]);
    assert!(matches!(part.settings(), Err(PlanError::Unsupported { .. })));
    let whole = policy(&["-a * * rwm", "b 8 1 rwm", "-b 8 * rwm", "-b * * m"]).settings().unwrap();
    assert!(!whole.iter().any(|setting| setting.value.starts_with("b ")));
    let one = policy(&["-a * * rwm", "b 8 1 rwm", "-b 8 1 rwm"]).settings().unwrap();
    assert!(!one.iter().any(|setting| setting.value.starts_with("b 8:1")));
    let base_allows = policy(&["a * * rwm", "-b 8 1 rw"]).settings().unwrap();
    assert_eq!(base_allows[0].file, "devices.allow");
    assert_eq!(base_allows[1].value, "b 8:1 rw");
}

#[test]
fn a_rule_about_nothing_is_refused() {
    for access in ["", "x", "rwmx"] {
        let mut bad = rule("c 1 3 r");
        bad.set_access(Some(access.to_owned()));
        let mut resources = LinuxResources::default();
        resources.set_devices(Some(vec![bad]));
        assert!(DevicePolicy::new(Some(&resources)).is_err(), "{access}");
    }
}

proptest! {
    #[test]
    fn the_program_decides_as_the_rules_read(
        rules in prop::collection::vec("-?[abc] (\\*|1|8) (\\*|3|5) (r|w|m|rw|rwm)", 0..12),
        class in prop::sample::select(vec![Class::Block, Class::Char]),
        major in prop::sample::select(vec![1u32, 5, 8, 136]),
        minor in prop::sample::select(vec![0u32, 2, 3, 5]),
        wanted in 1u8..8,
    ) {
        let texts: Vec<&str> = rules.iter().map(String::as_str).collect();
        let policy = policy(&texts);
        let want = read(&policy, class, major, minor, wanted);
        prop_assert_eq!(allowed(&policy, class, major, minor, wanted), want);
    }
}
