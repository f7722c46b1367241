//! What a container's processes hold.

use std::path::Path;

use super::Samples;
use super::descriptors::*;
use crate::stats::files::text;
use crate::stats::group::Group;

/// Sockets are told apart one by one: a container with more descriptors is not counted, rather
/// than counted wrongly or for long.
const COUNTED: u64 = 4096;

impl Samples {
    pub(super) fn processes(&mut self, group: Group<'_>, first: i32) {
        self.threads(group);
        let Some(dir) = group.dir("pids").or_else(|| group.dir("memory")) else { return };
        let members: Vec<u32> = text(&dir.join("cgroup.procs"))
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect();
        self.put(&PROCESSES, u64::try_from(members.len()).ok());
        let open = descriptors(&members);
        self.put(&FILE_DESCRIPTORS, open);
        if open.is_some_and(|open| open <= COUNTED) {
            self.put(&SOCKETS, sockets(&members));
        }
        let limits = text(Path::new(&format!("/proc/{first}/limits")));
        self.labelled(&ULIMITS_SOFT, &["max_open_files"], soft_limit(&limits, "Max open files"));
    }
}

/// Open descriptors of all of `members`; those that end meanwhile have none.
fn descriptors(members: &[u32]) -> Option<u64> {
    let mut open = 0;
    for pid in members {
        let dir = format!("/proc/{pid}/fd");
        // The size of this directory is their number since 6.2, and 0 before.
        let size = std::fs::metadata(&dir).map_or(0, |meta| meta.len());
        open += match size {
            0 => u64::try_from(std::fs::read_dir(&dir).map_or(0, Iterator::count)).ok()?,
            size => size,
        };
    }
    Some(open)
}

fn sockets(members: &[u32]) -> Option<u64> {
    let of = |pid: &u32| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    };
    u64::try_from(members.iter().map(of).sum::<usize>()).ok()
}

/// The first of a line's two numbers; `unlimited` is none.
fn soft_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soft_limit_is_read_by_name() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             unlimited            unlimited            processes \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(soft_limit(text, "Max open files"), Some(1024));
        assert_eq!(soft_limit(text, "Max processes"), None);
        assert_eq!(soft_limit(text, "Max locked memory"), None);
    }

    #[test]
    fn descriptors_and_sockets_of_a_process_are_counted() {
        let own = [std::process::id()];
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(descriptors(&own).is_some_and(|open| open >= 5));
        assert!(sockets(&own).is_some_and(|open| open >= 2));
        drop(pair);
    }
}
