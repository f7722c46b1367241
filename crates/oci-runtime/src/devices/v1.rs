//! The v1 device controller: a base (all or nothing) and exceptions from it.

use launch::plan::CgroupSetting;

use super::{ALL, Class, DevicePolicy, MKNOD, READ, Rule, WRITE};
use crate::PlanError;

/// Replays the rules against the base the way the kernel keeps them, then writes the outcome.
pub(super) fn settings(policy: &DevicePolicy) -> Result<Vec<CgroupSetting>, PlanError> {
    let mut exceptions: Vec<Rule> = Vec::new();
    for rule in &policy.rules {
        if rule.allow == policy.allow_others {
            take_back(&mut exceptions, rule)?;
        } else {
            exceptions.push(*rule);
        }
    }
    let mut settings = vec![setting(policy.allow_others, "a".into())];
    settings.extend(exceptions.iter().map(|rule| setting(rule.allow, line(rule))));
    Ok(settings)
}

/// `rule` restores the base for what it covers.
fn take_back(exceptions: &mut Vec<Rule>, rule: &Rule) -> Result<(), PlanError> {
    for exception in exceptions.iter_mut() {
        let same_class = exception.class == rule.class;
        let common = exception.access & rule.access != 0;
        if !same_class || !common || disjoint(exception, rule) {
            continue;
        }
        if !covers(rule, exception) {
            // Making any node stays allowed when one device is taken away: a node that cannot be
            // opened is only a name, and every such rule would have to be refused otherwise.
            if is_any_mknod(exception) && rule.access != MKNOD {
                continue;
            }
            return Err(PlanError::unsupported(format!(
                "linux.resources.devices: `{}` out of `{}` on cgroup v1",
                line(rule),
                line(exception)
            )));
        }
        exception.access &= !rule.access;
    }
    exceptions.retain(|exception| exception.access != 0);
    Ok(())
}

fn is_any_mknod(rule: &Rule) -> bool {
    rule.access == MKNOD && rule.major.is_none() && rule.minor.is_none()
}

fn disjoint(a: &Rule, b: &Rule) -> bool {
    let differ = |a: Option<u32>, b: Option<u32>| matches!((a, b), (Some(a), Some(b)) if a != b);
    differ(a.major, b.major) || differ(a.minor, b.minor)
}

fn covers(wide: &Rule, narrow: &Rule) -> bool {
    let within = |wide: Option<u32>, narrow| wide.is_none() || wide == narrow;
    within(wide.major, narrow.major) && within(wide.minor, narrow.minor)
}

/// Refusing must work. Allowing may fail, because a group gets no more than its parent has; the
/// container is then more restricted than asked for, which is reported.
fn setting(allow: bool, value: String) -> CgroupSetting {
    let file = if allow { "devices.allow" } else { "devices.deny" };
    CgroupSetting { file: file.into(), value, required: !allow, fallback: None }
}

fn line(rule: &Rule) -> String {
    let class = match rule.class {
        Class::Block => 'b',
        Class::Char => 'c',
    };
    let number =
        |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .iter()
        .filter(|(bit, _)| rule.access & bit & ALL != 0)
        .map(|(_, letter)| letter)
        .collect();
    format!("{class} {}:{} {access}", number(rule.major), number(rule.minor))
}
