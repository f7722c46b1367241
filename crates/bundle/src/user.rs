//! Who a container runs as: the request, the image's `User` and the image's own user database.

use std::collections::BTreeSet;

use model::{GroupsPolicy, ResolvedUser, RunAs};

/// Why no user can be made of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A group needs a user.
    #[error("run_as_group is set without run_as_user or run_as_username")]
    GroupWithoutUser,
    /// The image's passwd does not list the name.
    #[error("the image has no user `{name}`")]
    NoSuchUser {
        /// The name.
        name: String,
    },
    /// The image's group file does not list the name.
    #[error("the image has no group `{name}`")]
    NoSuchGroup {
        /// The name.
        name: String,
    },
    /// Ids are 0 to 2147483647.
    #[error("{what} {id} is out of range: want 0 to 2147483647")]
    OutOfRange {
        /// Where it stands.
        what: &'static str,
        /// The refused id.
        id: i64,
    },
}

/// A line of passwd.
struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The user before groups are looked at.
struct Identity<'a> {
    uid: u32,
    /// The passwd line of `uid`, if it has one.
    line: Option<PasswdLine<'a>>,
}

/// Resolves the user of a container. `passwd` and `group` are the texts of the image's files, empty
/// when it has none; lines that do not read are skipped.
///
/// | given | uid | gid |
/// |---|---|---|
/// | nothing | the image's `User`, else 0 | the image's group, else the passwd line's, else 0 |
/// | `username` | its passwd line's | its passwd line's |
/// | `user` | that | the passwd line's, else 0 |
/// | either + `group` | as above | that |
///
/// The name beats the number. Further groups: those of the request and, unless the policy is
/// `Strict`, those whose members list the user's name. The primary group comes first.
///
/// # Errors
/// [`UserError`].
pub fn resolve_user(
    run_as: &RunAs,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<ResolvedUser, UserError> {
    let (identity, image_group) = identity(run_as, image_user, passwd)?;
    let gid = match (run_as.group, image_group) {
        (Some(gid), _) => id("run_as_group", gid)?,
        (None, Some(named)) => image_gid(named, group)?,
        (None, None) => identity.line.as_ref().map_or(0, |line| line.gid),
    };
    let mut further = BTreeSet::new();
    for gid in &run_as.supplemental_groups {
        further.insert(id("supplemental group", *gid)?);
    }
    match (run_as.groups_policy, &identity.line) {
        (GroupsPolicy::Merge, Some(line)) => further.extend(memberships(line.name, group)),
        (GroupsPolicy::Merge, None) | (GroupsPolicy::Strict, _) => {}
    }
    further.remove(&gid);
    let home = identity.line.map(|line| line.home.to_owned()).filter(|home| !home.is_empty());
    Ok(ResolvedUser {
        uid: identity.uid,
        gid,
        groups: std::iter::once(gid).chain(further).collect(),
        home,
    })
}

/// The user, and the group the image names beside it if the image decides.
fn identity<'a>(
    run_as: &RunAs,
    image_user: &'a str,
    passwd: &'a str,
) -> Result<(Identity<'a>, Option<&'a str>), UserError> {
    if !run_as.username.is_empty() {
        return Ok((by_name(&run_as.username, passwd)?, None));
    }
    if let Some(uid) = run_as.user {
        return Ok((by_id(id("run_as_user", uid)?, passwd), None));
    }
    if run_as.group.is_some() {
        return Err(UserError::GroupWithoutUser);
    }
    let (user, group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let identity = match user.parse::<i64>() {
        Ok(uid) => by_id(id("the image's user", uid)?, passwd),
        Err(_) if user.is_empty() => by_id(0, passwd),
        Err(_) => by_name(user, passwd)?,
    };
    Ok((identity, Some(group).filter(|group| !group.is_empty())))
}

fn by_id(uid: u32, passwd: &str) -> Identity<'_> {
    Identity { uid, line: lines(passwd).find(|line| line.uid == uid) }
}

fn by_name<'a>(name: &str, passwd: &'a str) -> Result<Identity<'a>, UserError> {
    let line = lines(passwd).find(|line| line.name == name);
    let line = line.ok_or_else(|| UserError::NoSuchUser { name: name.to_owned() })?;
    Ok(Identity { uid: line.uid, line: Some(line) })
}

fn image_gid(named: &str, group: &str) -> Result<u32, UserError> {
    if let Ok(gid) = named.parse::<i64>() {
        return id("the image's group", gid);
    }
    groups(group)
        .find(|(name, ..)| *name == named)
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| UserError::NoSuchGroup { name: named.to_owned() })
}

fn memberships<'a>(user: &'a str, group: &'a str) -> impl Iterator<Item = u32> + 'a {
    groups(group)
        .filter(move |(.., members)| members.split(',').any(|member| member.trim() == user))
        .map(|(_, gid, _)| gid)
}

fn id(what: &'static str, id: i64) -> Result<u32, UserError> {
    match u32::try_from(id) {
        Ok(small) if i32::try_from(id).is_ok() => Ok(small),
        Ok(_) | Err(_) => Err(UserError::OutOfRange { what, id }),
    }
}

/// `name:password:uid:gid:comment:home:shell`
fn lines(passwd: &str) -> impl Iterator<Item = PasswdLine<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(PasswdLine { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// `name:password:gid:members`
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        broken line\n\
        www-data:x:33:33:www:/var/www:/bin/false\n\
        # comment:x:7:7:::\n\
        app:x:1000:1000::/home/app:/bin/sh";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root\nwww-data:x:33:\napp:x:1000:\n\
        extra:x:50000:app,other\nbroken\n";

    fn resolve(run_as: &RunAs, image: &str) -> Result<(u32, u32, Vec<u32>), UserError> {
        resolve_user(run_as, image, PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups))
    }

    fn run_as(user: Option<i64>, group: Option<i64>, username: &str) -> RunAs {
        RunAs { user, group, username: username.into(), ..Default::default() }
    }

    #[test]
    fn the_image_decides_when_nothing_is_given() {
        let nothing = RunAs::default();
        for (image, want) in [
            ("", (0, 0, vec![0, 10])),
            ("0", (0, 0, vec![0, 10])),
            ("app", (1000, 1000, vec![1000, 50000])),
            ("1000", (1000, 1000, vec![1000, 50000])),
            ("1234", (1234, 0, vec![0])),
            ("1234:1234", (1234, 1234, vec![1234])),
            ("app:www-data", (1000, 33, vec![33, 50000])),
            ("app:", (1000, 1000, vec![1000, 50000])),
            (":33", (0, 33, vec![33, 10])),
        ] {
            assert_eq!(resolve(&nothing, image), Ok(want), "{image}");
        }
    }

    #[test]
    fn the_request_beats_the_image_and_the_name_beats_the_number() {
        for (given, want) in [
            (run_as(Some(1234), None, ""), (1234, 0, vec![0])),
            (run_as(Some(1234), Some(1234), ""), (1234, 1234, vec![1234])),
            (run_as(Some(33), None, ""), (33, 33, vec![33])),
            (run_as(None, None, "app"), (1000, 1000, vec![1000, 50000])),
            (run_as(Some(33), None, "app"), (1000, 1000, vec![1000, 50000])),
            (run_as(None, Some(5), "app"), (1000, 5, vec![5, 50000])),
        ] {
            assert_eq!(resolve(&given, "www-data:www-data"), Ok(want), "{given:?}");
        }
    }

    #[test]
    fn the_policy_says_whether_the_images_groups_count() {
        let mut given = run_as(Some(1000), Some(1000), "");
        given.supplemental_groups = vec![1234, 1000, 1234];
        assert_eq!(resolve(&given, "").unwrap().2, [1000, 1234, 50000]);
        given.groups_policy = GroupsPolicy::Strict;
        assert_eq!(resolve(&given, "").unwrap().2, [1000, 1234]);
    }

    #[test]
    fn what_cannot_be_resolved_is_refused() {
        let missing = |name: &str| Err(UserError::NoSuchUser { name: name.into() });
        assert_eq!(resolve(&run_as(None, Some(1), ""), ""), Err(UserError::GroupWithoutUser));
        assert_eq!(resolve(&run_as(None, None, "nobody"), ""), missing("nobody"));
        assert_eq!(resolve(&RunAs::default(), "nobody"), missing("nobody"));
        assert_eq!(
            resolve(&RunAs::default(), "app:nogroup"),
            Err(UserError::NoSuchGroup { name: "nogroup".into() })
        );
        for id in [-1, 1 << 31, i64::MAX] {
            assert!(resolve(&run_as(Some(id), None, ""), "").is_err(), "{id}");
            assert!(resolve(&run_as(Some(1), Some(id), ""), "").is_err(), "{id}");
            assert!(resolve(&RunAs::default(), &id.to_string()).is_err(), "{id}");
        }
    }

    #[test]
    fn the_home_directory_is_that_of_the_passwd_line() {
        let home =
            |image: &str| resolve_user(&RunAs::default(), image, PASSWD, GROUP).unwrap().home;
        assert_eq!(home("app").as_deref(), Some("/home/app"));
        assert_eq!(home("4321"), None);
    }

    proptest! {
        #[test]
        fn any_text_in_the_images_files_is_survived(
            passwd in "(\\PC{0,12}[:\n]){0,20}",
            group in "(\\PC{0,12}[:\n]){0,20}",
            image in "\\PC{0,12}",
        ) {
            let run_as = RunAs::default();
            if let Ok(user) = resolve_user(&run_as, &image, &passwd, &group) {
                prop_assert_eq!(user.groups.first(), Some(&user.gid));
            }
        }
    }
}
