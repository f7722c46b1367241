//! SELinux labels: what a container's processes and its files are called.
//!
//! The policy names a base label for each; a pod's own level (a pair of categories nobody else has)
//! keeps pods apart from each other, and a request may replace each part. CRI: containers that
//! ask for nothing have their pod's label.

use model::SelinuxOptions;

use crate::{HostFacts, SpecError};

/// Categories there are.
const CATEGORIES: u16 = 1024;

/// Type of privileged containers, which the policy lets do everything.
const PRIVILEGED: &str = "spc_t";

/// The labels of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelinuxLabels {
    /// Its processes.
    pub process: String,
    /// Its files, and file systems made for it.
    pub mount: String,
}

/// A label in its four parts.
#[derive(Debug, Clone, Copy)]
struct Context<'a> {
    user: &'a str,
    role: &'a str,
    kind: &'a str,
    level: &'a str,
}

impl<'a> Context<'a> {
    /// `user:role:type[:level]`; the level itself may hold colons.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(4, ':');
        let (user, role, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let level = parts.next().unwrap_or("");
        let filled = ![user, role, kind].contains(&"");
        filled.then_some(Self { user, role, kind, level })
    }

    fn text(self) -> String {
        let Self { user, role, kind, level } = self;
        if level.is_empty() {
            format!("{user}:{role}:{kind}")
        } else {
            format!("{user}:{role}:{kind}:{level}")
        }
    }
}

/// The labels of a container (or of a pod's own process and files, with its own options as
/// `asked`) in a pod whose level is `level`; `None` on a host without SELinux.
///
/// # Errors
/// [`SpecError::Invalid`] for a part that can be no part of a label, also on hosts without
/// SELinux; [`SpecError::SelinuxPolicy`] when the host's policy names no usable label.
pub fn selinux_labels(
    asked: Option<&SelinuxOptions>,
    level: Option<&str>,
    privileged: bool,
    host: &HostFacts,
) -> Result<Option<SelinuxLabels>, SpecError> {
    if let Some(asked) = asked {
        check(asked)?;
    }
    let Some(facts) = &host.selinux else { return Ok(None) };
    let base = |text| Context::parse(text).ok_or_else(|| SpecError::selinux_policy(text));
    let (process, file) = (base(&facts.process)?, base(&facts.file)?);
    let part = |of: fn(&SelinuxOptions) -> &String, or| match asked.map(of) {
        Some(text) if !text.is_empty() => text.as_str(),
        Some(_) | None => or,
    };
    let level = part(|asked| &asked.level, level.unwrap_or(process.level));
    let user = part(|asked| &asked.user, process.user);
    let role = part(|asked| &asked.role, process.role);
    let process = if privileged {
        // No categories: it is to see every pod's files.
        let level = process.level.split(':').next().unwrap_or(process.level);
        Context { kind: PRIVILEGED, level, ..process }
    } else {
        Context { user, role, kind: part(|asked| &asked.r#type, process.kind), level }
    };
    // Roles are for processes: files have the policy's.
    let file = Context { user, level, ..file };
    Ok(Some(SelinuxLabels { process: process.text(), mount: file.text() }))
}

/// Options with the parts left empty taken from `or`: a container's from its pod's.
#[must_use]
pub fn selinux_merged(
    asked: Option<&SelinuxOptions>,
    or: Option<&SelinuxOptions>,
) -> Option<SelinuxOptions> {
    let (Some(asked), Some(or)) = (asked, or) else { return asked.or(or).cloned() };
    let pick = |first: &String, second: &String| {
        if first.is_empty() { second.clone() } else { first.clone() }
    };
    Some(SelinuxOptions {
        user: pick(&asked.user, &or.user),
        role: pick(&asked.role, &or.role),
        r#type: pick(&asked.r#type, &or.r#type),
        level: pick(&asked.level, &or.level),
    })
}

/// A level of two categories.
#[must_use]
pub fn selinux_level(sensitivity: &str, first: u16, second: u16) -> String {
    let (low, high) = (first.min(second), first.max(second));
    format!("{sensitivity}:c{low},c{high}")
}

/// Refuses what can be no part of a label.
pub(crate) fn check(asked: &SelinuxOptions) -> Result<(), SpecError> {
    let word = |text: &str| !text.contains([':', '\0', ' ', '\n', '/']);
    for (field, value) in [
        ("selinux_options.user", &asked.user),
        ("selinux_options.role", &asked.role),
        ("selinux_options.type", &asked.r#type),
    ] {
        if !word(value) {
            let want = "a name without colons, slashes and spaces";
            return Err(SpecError::invalid(field, value.escape_debug(), want));
        }
    }
    if asked.level.is_empty() || is_range(&asked.level) {
        Ok(())
    } else {
        let want = "a level like s0:c1,c2 or a range of two";
        Err(SpecError::invalid("selinux_options.level", asked.level.escape_debug(), want))
    }
}

/// `level` or `level-level`.
fn is_range(text: &str) -> bool {
    match text.split_once('-') {
        Some((low, high)) => is_level(low) && is_level(high),
        None => is_level(text),
    }
}

/// `s0`, `s0:c1`, `s0:c1,c3.c5`: categories and ranges of them.
fn is_level(text: &str) -> bool {
    let (sensitivity, categories) = match text.split_once(':') {
        Some((sensitivity, categories)) => (sensitivity, Some(categories)),
        None => (text, None),
    };
    number(sensitivity, 's').is_some()
        && categories.is_none_or(|list| {
            list.split(',').all(|item| match item.split_once('.') {
                Some((first, last)) => {
                    let ends = (category(first), category(last));
                    matches!(ends, (Some(first), Some(last)) if first < last)
                }
                None => category(item).is_some(),
            })
        })
}

fn category(text: &str) -> Option<u16> {
    number(text, 'c').filter(|number| *number < CATEGORIES)
}

fn number(text: &str, letter: char) -> Option<u16> {
    let digits = text.strip_prefix(letter)?;
    let plain = (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_told_from_what_only_looks_like_one() {
        for level in [
            "s0",
            "s15",
            "s0:c1",
            "s0:c1,c2",
            "s0:c0.c1023",
            "s0:c1,c3.c5",
            "s0-s0:c0.c1023",
            "s0:c1-s1:c1.c2",
        ] {
            assert!(is_range(level), "{level}");
        }
        for level in [
            "s0,c4,c5",
            "s",
            "0",
            "s0:",
            "s0:c",
            "s0:c1,",
            "s0:1",
            "s0:c2.c1",
            "s0:c1024",
            "s0:c1:c2",
            "s0-",
            "-s0",
            "s0 ",
            "s0:c1,c2\n",
            "s0:c+1",
            "s0:c00001",
        ] {
            assert!(!is_range(level), "{level:?}");
        }
    }

    fn host() -> HostFacts {
        let mut host = crate::pod::tests::host();
        host.selinux = Some(crate::SelinuxFacts {
            process: "system_u:system_r:container_t:s0".into(),
            file: "system_u:object_r:container_file_t:s0".into(),
        });
        host
    }

    fn labels(asked: Option<&SelinuxOptions>, privileged: bool) -> SelinuxLabels {
        selinux_labels(asked, Some("s0:c1,c2"), privileged, &host()).unwrap().unwrap()
    }

    #[test]
    fn a_container_has_the_policys_type_and_its_pods_level() {
        let labels = labels(None, false);
        assert_eq!(labels.process, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(labels.mount, "system_u:object_r:container_file_t:s0:c1,c2");
    }

    #[test]
    fn each_part_can_be_asked_for() {
        let level = SelinuxOptions { level: "s0:c4,c5".into(), ..Default::default() };
        assert_eq!(labels(Some(&level), false).process, "system_u:system_r:container_t:s0:c4,c5");
        let all = SelinuxOptions {
            user: "u".into(),
            role: "r".into(),
            r#type: "t".into(),
            level: "s1".into(),
        };
        let labels = labels(Some(&all), false);
        assert_eq!(labels.process, "u:r:t:s1");
        assert_eq!(labels.mount, "u:object_r:container_file_t:s1");
    }

    #[test]
    fn a_privileged_container_is_of_the_type_that_may_everything() {
        let labels = labels(None, true);
        assert_eq!(labels.process, "system_u:system_r:spc_t:s0");
        assert_eq!(labels.mount, "system_u:object_r:container_file_t:s0:c1,c2");
    }

    #[test]
    fn a_malformed_part_is_refused_on_every_host() {
        let with = |change: fn(&mut SelinuxOptions)| {
            let mut options = SelinuxOptions::default();
            change(&mut options);
            let without = crate::pod::tests::host();
            selinux_labels(Some(&options), None, false, &without)
        };
        assert!(matches!(with(|o| o.level = "s0,c4,c5".into()), Err(SpecError::Invalid { .. })));
        assert!(matches!(with(|o| o.r#type = "a:b".into()), Err(SpecError::Invalid { .. })));
        assert_eq!(with(|o| o.level = "s0:c4,c5".into()).unwrap(), None);
    }

    #[test]
    fn what_a_container_leaves_open_its_pod_decides() {
        let pod =
            SelinuxOptions { level: "s0:c1".into(), r#type: "p".into(), ..Default::default() };
        let own = SelinuxOptions { r#type: "c".into(), ..Default::default() };
        let merged = selinux_merged(Some(&own), Some(&pod)).unwrap();
        assert_eq!((merged.level.as_str(), merged.r#type.as_str()), ("s0:c1", "c"));
        assert_eq!(selinux_merged(None, Some(&pod)), Some(pod));
        assert_eq!(selinux_merged(None, None), None);
    }

    #[test]
    fn a_pair_of_categories_is_written_in_order() {
        assert_eq!(selinux_level("s0", 700, 3), "s0:c3,c700");
    }
}
