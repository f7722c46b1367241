//! User, groups and capabilities of the calling thread.

use std::ffi::{c_int, c_ulong};
use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::process::checked;

fn prctl(option: c_int, args: [c_ulong; 4]) -> io::Result<c_int> {
    let [a, b, c, d] = args;
    // SAFETY: only options whose arguments are plain numbers are passed by this module.
    let returned = unsafe { libc::prctl(option, a, b, c, d) };
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// Keeps permitted capabilities when the user id leaves 0. Cleared by exec.
///
/// # Errors
/// What `prctl(2)` refuses with.
pub fn keep_capabilities() -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]).map(drop)
}

/// Forbids gaining privileges by exec, for good.
///
/// # Errors
/// What `prctl(2)` refuses with.
pub fn no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).map(drop)
}

/// Whether processes without `CAP_SYS_PTRACE` may look into this one. Inherited by clone, set to
/// true by an ordinary exec.
///
/// # Errors
/// What `prctl(2)` refuses with.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, [c_ulong::from(dumpable), 0, 0, 0]).map(drop)
}

/// Whether [`set_dumpable`] is on.
///
/// # Errors
/// What `prctl(2)` refuses with.
pub fn dumpable() -> io::Result<bool> {
    Ok(prctl(libc::PR_GET_DUMPABLE, [0, 0, 0, 0])? == 1)
}

/// The bounding set as a bit mask, and how many capabilities this kernel knows.
fn bounding_bits() -> impl Iterator<Item = (u32, bool)> {
    (0..64u32).map_while(|number| {
        prctl(libc::PR_CAPBSET_READ, [c_ulong::from(number), 0, 0, 0])
            .ok()
            .map(|present| (number, present == 1))
    })
}

/// The bounding set as a bit mask over capability numbers.
pub fn bounding() -> u64 {
    bounding_bits().filter(|(_, present)| *present).fold(0, |mask, (bit, _)| mask | 1 << bit)
}

/// Every capability this kernel knows, as a bit mask.
pub fn known() -> u64 {
    bounding_bits().fold(0, |mask, (bit, _)| mask | 1 << bit)
}

/// Drops every capability not in `keep` from the bounding set. Those already absent stay so.
///
/// # Errors
/// What `prctl(2)` refuses with; the set may be partly reduced.
pub fn limit_bounding(keep: u64) -> io::Result<()> {
    for (number, present) in bounding_bits() {
        if present && keep & (1 << number) == 0 {
            prctl(libc::PR_CAPBSET_DROP, [c_ulong::from(number), 0, 0, 0])?;
        }
    }
    Ok(())
}

/// Sets effective, permitted and inheritable.
///
/// # Errors
/// What `capset(2)` refuses with.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// The caller's permitted set.
///
/// # Errors
/// What `capget(2)` refuses with.
pub fn permitted() -> io::Result<u64> {
    Ok(rustix::thread::capabilities(None)?.permitted.bits())
}

/// Replaces the ambient set.
///
/// # Errors
/// What `prctl(2)` refuses with.
pub fn set_ambient(set: u64) -> io::Result<()> {
    let clear = c_ulong::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs());
    let raise = c_ulong::from(libc::PR_CAP_AMBIENT_RAISE.unsigned_abs());
    prctl(libc::PR_CAP_AMBIENT, [clear, 0, 0, 0])?;
    for number in (0..64u32).filter(|number| set & (1 << number) != 0) {
        prctl(libc::PR_CAP_AMBIENT, [raise, c_ulong::from(number), 0, 0])?;
    }
    Ok(())
}

/// Replaces the supplementary groups of the calling thread.
///
/// # Errors
/// What `setgroups(2)` refuses with.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length describe `groups`, which outlives the call. The raw call changes
    // this thread alone; the C library's wrapper would signal threads that do not exist here.
    checked(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })
}

/// Sets real, effective and saved group id of the calling thread.
///
/// # Errors
/// What `setresgid(2)` refuses with.
pub fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: numbers only; the raw call changes this thread alone.
    checked(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })
}

/// Sets real, effective and saved user id of the calling thread.
///
/// # Errors
/// What `setresuid(2)` refuses with.
pub fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: numbers only; the raw call changes this thread alone.
    checked(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}
