//! Kernel settings of the calling thread's network namespace, below `/proc/sys/net`.

use std::io;
use std::path::Path;

use super::BuiltInError;

/// What this host makes of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ipv6 {
    /// It can be used.
    Usable,
    /// The kernel lacks it.
    Absent,
    /// The operator switched it off for all links.
    Disabled,
}

pub(crate) fn ipv6() -> Ipv6 {
    match std::fs::read("/proc/sys/net/ipv6/conf/all/disable_ipv6") {
        Ok(value) if value.starts_with(b"1") => Ipv6::Disabled,
        Ok(_) => Ipv6::Usable,
        Err(_) => Ipv6::Absent,
    }
}

/// Lets the kernel forward IPv4 packets.
pub(crate) fn forward_ipv4() -> Result<(), BuiltInError> {
    set("/proc/sys/net/ipv4/ip_forward", "1").map(drop)
}

/// Lets the kernel forward IPv6 packets. A forwarding host stops listening to router
/// advertisements unless told otherwise, and would lose its own default route: the links that
/// listen now go on listening.
pub(crate) fn forward_ipv6() -> Result<(), BuiltInError> {
    let all = "/proc/sys/net/ipv6/conf/all/forwarding";
    if std::fs::read(all).is_ok_and(|value| value.starts_with(b"1")) {
        return Ok(());
    }
    let links = Path::new("/proc/sys/net/ipv6/conf");
    let failed = |source| BuiltInError::Setting { path: links.to_owned(), source };
    for link in std::fs::read_dir(links).map_err(failed)? {
        let path = link.map_err(failed)?.path().join("accept_ra");
        if std::fs::read(&path).is_ok_and(|value| value.starts_with(b"1")) {
            set(path, "2")?;
        }
    }
    set(all, "1").map(drop)
}

/// Writes a setting unless it has the value already (`/proc/sys` may be read-only with the right
/// value set). False when the kernel does not have it.
pub(crate) fn set(path: impl AsRef<Path>, value: &str) -> Result<bool, BuiltInError> {
    let path = path.as_ref();
    let failed = |source| BuiltInError::Setting { path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Ok(present) if present.trim() == value => return Ok(true),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    }
    std::fs::write(path, value).map_err(failed)?;
    Ok(true)
}
