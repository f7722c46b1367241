//! User namespaces, made and mapped from outside: the caller never enters one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use model::{IdMapping, IdMaps};
use rustix::process::Pid;

use crate::namespace::{self, Kind};
use crate::process::{Child, NewNamespaces, clone_holder};

/// Whom a process was before it became root of a user namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnIds {
    /// Outside.
    pub uid: u32,
    /// Outside.
    pub gid: u32,
}

/// Moves the calling process, which has one thread, into a new user namespace that has one user and
/// one group: its own, there root. What other users' files lack in permissions it lacks still.
///
/// # Errors
/// What `unshare(2)` refuses with (`EPERM` or `ENOSPC`: the host lets users have none), or the kernel's
/// refusal of a map.
pub fn become_own_root() -> io::Result<OwnIds> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    namespace::unshare(&[Kind::User])?;
    // Until it is given up, an ordinary user may not map groups.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1\n"))?;
    Ok(OwnIds { uid, gid })
}

/// A new user namespace.
#[derive(Debug)]
pub struct Made {
    /// It.
    pub user: OwnedFd,
    /// Namespaces made with it, which belong to it, in the order they were asked for.
    pub owned: Vec<(Kind, OwnedFd)>,
}

/// Makes a user namespace with these maps, and namespaces of the kinds `owned` that belong to it.
/// They live as long as they are held. Uses `/proc`, and a process that is gone at the return.
///
/// # Errors
/// What `clone3(2)` refuses with (`ENOSPC`: `user.max_user_namespaces` is reached), or the kernel's
/// refusal of a map: `EINVAL` for ranges that overlap or are empty.
pub fn make(maps: &IdMaps, owned: &[Kind]) -> io::Result<Made> {
    let flags = owned.iter().fold(NewNamespaces::USER, |flags, kind| flags.with(flag(*kind)));
    let holder = clone_holder(flags)?;
    let made = set_up(holder.pid, maps, owned);
    end(&holder)?;
    made
}

/// Who writes the maps of a namespace that an ordinary user makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapper {
    /// The process itself: one id, its own. Its groups cannot be changed any more.
    Own,
    /// `newuidmap` and `newgidmap`, which know what ids a user was given (`subuid(5)`).
    Helpers,
}

/// Moves the calling process, which has one thread, into a new user namespace with these maps and a
/// copy of its mount namespace that belongs to it, and makes it root there.
///
/// # Errors
/// What the calls refuse with; the process may be in a namespace without maps then, and should end.
pub fn enter_new(maps: &IdMaps, mapper: Mapper) -> io::Result<()> {
    match mapper {
        Mapper::Own => {
            namespace::unshare(&[Kind::User, Kind::Mount])?;
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/uid_map", lines(&maps.uids))?;
            std::fs::write("/proc/self/gid_map", lines(&maps.gids))?;
        }
        Mapper::Helpers => {
            let (here, there) = crate::fdpass::packet_pair()?;
            let own = rustix::process::getpid().as_raw_nonzero().to_string();
            let body = || {
                let go = crate::fdpass::receive(&there, GO.len());
                let mapped = go.and_then(|_| by_helpers(&own, maps));
                mapped.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EPERM), |()| 0)
            };
            // SAFETY: the caller's process has one thread.
            let child =
                unsafe { crate::process::clone_child(NewNamespaces::default(), None, body) }?;
            let entered = namespace::unshare(&[Kind::User, Kind::Mount]);
            if entered.is_ok() {
                crate::fdpass::send(here.as_fd(), GO, None)?;
            } else {
                crate::pidfd::kill(child.pidfd.as_fd())?;
            }
            let ended = crate::pidfd::wait(child.pidfd.as_fd())?;
            entered?;
            if ended != crate::pidfd::Ended::Exited(0) {
                return Err(io::Error::from_raw_os_error(ended.code()));
            }
        }
    }
    crate::credentials::set_gid(0)?;
    crate::credentials::set_uid(0)
}

/// That the namespace is there.
const GO: &[u8] = b"go";

fn by_helpers(process: &str, maps: &IdMaps) -> io::Result<()> {
    for (program, map) in [("newuidmap", &maps.uids), ("newgidmap", &maps.gids)] {
        let numbers = map.iter().flat_map(|m| [m.container_id, m.host_id, m.length]);
        let mut command = std::process::Command::new(program);
        command.arg(process).args(numbers.map(|number| number.to_string()));
        if !command.status()?.success() {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    Ok(())
}

fn flag(kind: Kind) -> NewNamespaces {
    match kind {
        Kind::Mount => NewNamespaces::MOUNT,
        Kind::Pid => NewNamespaces::PID,
        Kind::Net => NewNamespaces::NET,
        Kind::Ipc => NewNamespaces::IPC,
        Kind::Uts => NewNamespaces::UTS,
        Kind::Cgroup => NewNamespaces::CGROUP,
        Kind::Time => NewNamespaces::TIME,
        Kind::User => NewNamespaces::USER,
    }
}

fn set_up(holder: Pid, maps: &IdMaps, owned: &[Kind]) -> io::Result<Made> {
    let file = |name: &str| format!("/proc/{}/{name}", holder.as_raw_nonzero());
    std::fs::write(file("uid_map"), lines(&maps.uids))?;
    std::fs::write(file("gid_map"), lines(&maps.gids))?;
    let open = |kind: &Kind| Ok((*kind, namespace::of_process(holder, *kind)?));
    Ok(Made {
        user: namespace::of_process(holder, Kind::User)?,
        owned: owned.iter().map(open).collect::<io::Result<_>>()?,
    })
}

/// user_namespaces(7): first id inside, first id outside, how many. All lines in one write.
fn lines(map: &[IdMapping]) -> String {
    map.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.length)).collect()
}

fn end(holder: &Child) -> io::Result<()> {
    crate::pidfd::kill(holder.pidfd.as_fd())?;
    crate::pidfd::wait(holder.pidfd.as_fd()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(container_id: u32, host_id: u32, length: u32) -> Vec<IdMapping> {
        vec![IdMapping { host_id, container_id, length }]
    }

    #[test]
    fn namespaces_made_together_outlive_their_maker() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let maps = IdMaps { uids: map(0, 70_000, 10), gids: map(0, 80_000, 10) };
        let made = make(&maps, &[Kind::Net, Kind::Ipc]).unwrap();
        let owned: Vec<Kind> = made.owned.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(owned, [Kind::Net, Kind::Ipc]);
        assert_eq!(inode(&owner_of(&made.owned[0].1)), inode(&made.user));
    }

    #[test]
    fn an_empty_range_is_refused_and_leaves_no_process() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let maps = IdMaps { uids: map(0, 70_000, 0), gids: map(0, 80_000, 10) };
        let error = make(&maps, &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    fn owner_of(namespace: &OwnedFd) -> OwnedFd {
        use std::os::fd::{AsRawFd, FromRawFd};
        const NS_GET_USERNS: libc::c_ulong = 0xb701;
        // SAFETY: the request takes no argument.
        let owner = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
        assert!(owner >= 0, "{}", io::Error::last_os_error());
        // SAFETY: what it returned is a new descriptor, owned by nobody else.
        unsafe { OwnedFd::from_raw_fd(owner) }
    }

    fn inode(file: &OwnedFd) -> u64 {
        rustix::fs::fstat(file).unwrap().st_ino
    }
}
