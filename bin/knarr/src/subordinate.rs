//! The ids an ordinary user was given besides his own: subuid(5), subgid(5).

use std::io;
use std::path::Path;

use model::{IdMapping, IdMaps};

/// What maps them: only these programs may.
const HELPERS: [&str; 2] = ["newuidmap", "newgidmap"];

/// Maps in which the user is root and has what he was given from 1 on, where he was given any and the host
/// has the programs that map them. Otherwise there is only the user himself.
///
/// # Errors
/// A file that is there cannot be read.
pub(crate) fn maps(uid: u32, gid: u32) -> io::Result<Option<IdMaps>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &&str| std::env::split_paths(&path).any(|dir| dir.join(name).exists());
    if !HELPERS.iter().all(is_there) {
        return Ok(None);
    }
    let user = user_name(&text("/etc/passwd")?, uid);
    let of = |file: &str| Ok::<_, io::Error>(ranges(&text(file)?, uid, user.as_deref()));
    let (uids, gids) = (of("/etc/subuid")?, of("/etc/subgid")?);
    if uids.is_empty() || gids.is_empty() {
        return Ok(None);
    }
    Ok(Some(IdMaps { uids: after(uid, uids), gids: after(gid, gids) }))
}

fn text(path: &str) -> io::Result<String> {
    match std::fs::read_to_string(Path::new(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let named = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    };
    passwd.lines().find_map(named)
}

/// First ids and how many, of a user by number or by name.
fn ranges(table: &str, uid: u32, user: Option<&str>) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, length) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let is_his = owner == number || Some(owner) == user;
        (is_his && length > 0 && u32::checked_add(first, length).is_some())
            .then_some((first, length))
    };
    table.lines().filter_map(range).collect()
}

/// The user is root, and the ranges follow one after the other.
fn after(own: u32, ranges: Vec<(u32, u32)>) -> Vec<IdMapping> {
    let mut maps = vec![IdMapping { container_id: 0, host_id: own, length: 1 }];
    let mut next = 1_u32;
    for (host_id, length) in ranges {
        let Some(end) = next.checked_add(length) else { break };
        maps.push(IdMapping { container_id: next, host_id, length });
        next = end;
    }
    maps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_ranges_by_number_and_by_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        let name = user_name(passwd, 1000);
        assert_eq!(name.as_deref(), Some("ann"));
        let table =
            "ann:100000:65536\nbob:165536:65536\n1000:300000:10\nann:x:1\nann:4294967295:2\n";
        let found = ranges(table, 1000, name.as_deref());
        assert_eq!(found, [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(ranges(table, 1000, None), [(300_000, 10)]);
        assert!(ranges("", 1000, None).is_empty());
    }

    #[test]
    fn the_user_is_root_and_has_the_rest_in_a_row() {
        let maps = after(1000, vec![(100_000, 5), (300_000, 10)]);
        let lines: Vec<_> = maps.iter().map(|m| (m.container_id, m.host_id, m.length)).collect();
        assert_eq!(lines, [(0, 1000, 1), (1, 100_000, 5), (6, 300_000, 10)]);
    }
}
