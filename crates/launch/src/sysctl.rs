//! Kernel parameters.

use std::os::fd::AsFd;

use sys::fs::Symlinks;

use crate::error::{At, LaunchError, Step};

/// Writes a kernel parameter of the calling thread's network, IPC and UTS namespaces, through the
/// `/proc` it sees.
pub(crate) fn write(name: &str, value: &str) -> Result<(), LaunchError> {
    let subject = || format!("{name}={value}");
    let path = path_of(name).ok_or_else(|| {
        LaunchError::bad_plan(format!("{name} is not the name of a kernel parameter"))
    })?;
    let write = || {
        let root = sys::fs::open_dir(c"/proc/sys")?;
        let flags = rustix::fs::OFlags::WRONLY;
        let file = sys::fs::open_in_root(root.as_fd(), path.as_str(), flags, Symlinks::Refuse)?;
        sys::fs::write_once(file.as_fd(), value.as_bytes())
    };
    write().at(Step::Sysctl, &subject())
}

fn path_of(name: &str) -> Option<String> {
    let slashes_first = match name.find(['.', '/']) {
        Some(at) => name.as_bytes().get(at) == Some(&b'/'),
        None => return None,
    };
    let path = if slashes_first {
        name.to_owned()
    } else {
        let swap = |c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        name.chars().map(swap).collect()
    };
    let sound = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    sound.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths() {
        for (name, path) in [
            ("net.ipv4.ip_forward", Some("net/ipv4/ip_forward")),
            ("net.ipv4.conf.eth0/1.forwarding", Some("net/ipv4/conf/eth0.1/forwarding")),
            ("net/ipv4/conf/eth0.1/forwarding", Some("net/ipv4/conf/eth0.1/forwarding")),
            ("kernel", None),
            ("net//x", None),
            ("net/../../self/mem", None),
            ("", None),
        ] {
            assert_eq!(path_of(name).as_deref(), path, "{name}");
        }
    }
}
