use super::*;

/// Reads tables as the kernel does and walks them.
struct Kernel {
    accept: Vec<u32>,
    quiet: Vec<u32>,
    classes: Vec<u32>,
    base: Vec<u32>,
    next: Vec<u32>,
    check: Vec<u32>,
}

impl Kernel {
    /// The numbered automaton of a stream.
    fn load(stream: &[u8], number: usize) -> Self {
        let magic = [0x1b, 0x5e, 0x78, 0x3d];
        let begins: Vec<usize> =
            (0..stream.len()).filter(|at| stream[*at..].starts_with(&magic)).collect();
        let begin = begins[number];
        assert_eq!(begin % 8, 0, "the kernel looks for it at a multiple of 8");
        let word = |at: usize| u32::from_be_bytes(stream[at..at + 4].try_into().unwrap());
        let half = |at: usize| u16::from_be_bytes(stream[at..at + 2].try_into().unwrap());
        let end = begin + word(begin + 8) as usize;
        let mut at = begin + word(begin + 4) as usize;
        let mut tables: [Vec<u32>; 9] = Default::default();
        while at < end {
            let (id, width, length) = (half(at), half(at + 2) as usize, word(at + 8) as usize);
            at += 12;
            let entry = |n: usize| match width {
                1 => u32::from(stream[at + n]),
                2 => u32::from(half(at + 2 * n)),
                _ => word(at + 4 * n),
            };
            tables[id as usize] = (0..length).map(entry).collect();
            at = (at - begin + width * length).next_multiple_of(8) + begin;
        }
        assert_eq!(at, end);
        let [_, accept, base, check, _, classes, _, quiet, next] = tables;
        Self { accept, quiet, classes, base, next, check }
    }

    fn state(&self, input: &[u8]) -> usize {
        input.iter().fold(1, |state, byte| {
            let at = self.base[state] as usize + self.classes[*byte as usize] as usize;
            if self.check[at] as usize == state { self.next[at] as usize } else { 0 }
        })
    }

    fn allow(&self, input: &[u8]) -> u32 {
        self.accept[self.state(input)]
    }
}

fn signallers() -> Vec<String> {
    vec!["unconfined".to_owned(), "knarr".to_owned()]
}

fn kernel(number: usize) -> Kernel {
    Kernel::load(&policy("knarr-default", &signallers()), number)
}

#[test]
fn the_tables_stay_within_the_kernels_bounds() {
    for number in [0, 1] {
        let kernel = kernel(number);
        let states = u32::try_from(kernel.base.len()).unwrap();
        assert_eq!(kernel.next.len(), kernel.check.len());
        assert_eq!(kernel.accept.len(), kernel.base.len());
        assert_eq!(kernel.classes.len(), 256);
        assert!(kernel.base.iter().all(|base| *base as usize + 255 < kernel.next.len()));
        assert!(kernel.next.iter().chain(&kernel.check).all(|state| *state < states));
        assert_eq!(kernel.state(b"x"), 0, "nothing leads to nowhere");
        assert!(states < 2000, "{states} states");
    }
}

#[test]
fn files_are_open_but_for_what_reaches_the_host() {
    let files = kernel(1);
    let owner = |path: &str| files.allow(path.as_bytes()) & file::ALL;
    for path in [
        "/",
        "/etc/passwd",
        "/proc/1/oom_score_adj",
        "/proc/4711/attr/apparmor/current",
        "/proc/sys/kernel/shmmax",
        "/proc/sys/kernel/shm_rmid_forced",
        "/sys/fs/cgroup/cgroup.procs",
        "/procfs",
        "/system/file",
        "/sysfs/x",
    ] {
        assert_eq!(owner(path), file::ALL, "{path}");
    }
    let read_only = file::ALL & !(file::WRITE | file::APPEND);
    for path in [
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/sh",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/irq/1/smp_affinity",
        "/proc/bus/pci/00/00.0",
        "/proc/timer_list",
    ] {
        assert_eq!(owner(path), read_only, "{path}");
    }
    for path in ["/sys/fs/bpf/x", "/sys/power/state", "/sys/module/a/parameters/b"] {
        assert_eq!(owner(path) & (file::WRITE | file::EXEC | file::LOCK), 0, "{path}");
        assert_ne!(owner(path) & file::READ, 0, "{path}");
    }
    for path in [
        "/proc/kcore",
        "/proc/sysrq-trigger",
        "/sys/firmware/efi/vars",
        "/sys/kernel/security/apparmor/.load",
        "/sys/devices/virtual/powercap/intel-rapl/x",
    ] {
        assert_eq!(owner(path) & (file::READ | file::WRITE), 0, "{path}");
    }
}

#[test]
fn owner_and_others_have_the_same_permissions_and_programs_keep_the_profile() {
    let files = kernel(1);
    for path in ["/bin/sh", "/proc/sys/vm/x", "/proc/kcore"] {
        let allow = files.allow(path.as_bytes());
        assert_eq!(allow & 0x3fff, allow >> file::OTHERS & 0x3fff, "{path}");
        assert_eq!(allow & file::EXEC != 0, allow & file::INHERIT != 0, "{path}");
    }
    let state = files.state(b"/proc/sys/vm/x");
    assert_eq!(files.quiet[state] & 0x3f80, (file::WRITE | file::APPEND) << file::QUIET);
}

#[test]
fn a_link_may_permit_no_more_than_its_target() {
    let files = kernel(1);
    assert_eq!(files.allow(b"/tmp/a\0/etc/b") & file::ALL, file::LINK | file::SUBSET);
    assert_eq!(files.allow(b"/sys/x") & file::LINK, 0);
}

#[test]
fn mounts_are_refused_and_unmounting_is_not() {
    let others = kernel(0);
    assert_eq!(others.allow(b"\x07/mnt") & MAY_UMOUNT, MAY_UMOUNT);
    let mount = b"\x07/mnt\0/dev/sda\0ext4\0\x02\x0d";
    assert_eq!(others.allow(mount), 0);
    assert_eq!(others.quiet[others.state(mount)], MAY_MOUNT << 7);
    assert_eq!(others.allow(b"\x07/mnt\0\0\0\x0d") & MAY_MOUNT, 0);
}

#[test]
fn signals_come_from_the_daemon_and_go_within_the_profile() {
    let others = kernel(0);
    for head in [b"\x0a\x0f".as_slice(), b"\x10\x0a"] {
        let to = |label: &str| others.allow(&[head, label.as_bytes()].concat());
        assert_eq!(to("knarr-default"), MAY_SEND | MAY_RECEIVE);
        assert_eq!(to("unconfined"), MAY_RECEIVE);
        assert_eq!(to("knarr"), MAY_RECEIVE);
        assert_eq!(to("somebody"), 0);
    }
}

#[test]
fn tracing_stays_within_the_profile() {
    let others = kernel(0);
    assert_ne!(others.state(b"\x09"), 0, "tracing is judged");
    assert_eq!(others.allow(b"\x10\x09knarr-default"), MAY_PTRACE);
    assert_eq!(others.allow(b"\x10\x09unconfined"), 0);
}

#[test]
fn every_socket_but_the_kernels_crypto_may_be_made() {
    let others = kernel(0);
    for family in [1, 2, 10, 16, 37, 39, 40, 45] {
        assert_eq!(others.allow(&[14, 0, family, 0, 1]), MAY_NETWORK, "{family}");
    }
    assert_eq!(others.allow(&[14, 0, 38, 0, 5]), 0);
}

#[test]
fn classes_without_rules_are_not_judged() {
    let others = kernel(0);
    for class in [2, 3, 6, 15, 17, 21, 32] {
        assert_eq!(others.state(&[class]), 0, "{class}");
    }
}
