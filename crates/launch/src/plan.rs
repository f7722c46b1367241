//! The plan's types and their codec (CBOR arrays with fixed indices, see `docs/shim-protocol.md`).
//!
//! Compatibility rule: an index is never reused and a new field is an `Option` or has a default,
//! because a shim executes plans of daemons older and newer than itself.

mod process;
mod user;

use minicbor::{Decode, Encode};

pub use process::{
    Affinity, ListenerPlan, MemoryPolicy, NetDevice, NumberRange, Scheduling, TerminalSize,
};
pub use user::{MountIds, UserNamespace};

/// Everything needed to start one container's first process.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct LaunchPlan {
    /// The process itself.
    #[n(0)]
    pub process: ProcessPlan,
    /// Namespaces.
    #[n(1)]
    pub namespaces: Namespaces,
    /// Root file system.
    #[n(2)]
    pub root: RootPlan,
    /// Mounts below the root, in the order they are made.
    #[n(3)]
    pub mounts: Vec<MountPlan>,
    /// Device nodes to make below the container's `/dev`, besides the six standard ones.
    #[n(4)]
    pub devices: Vec<DeviceNode>,
    /// Paths hidden by `/dev/null` (files) or an empty read-only tmpfs (directories).
    #[n(5)]
    pub masked_paths: Vec<String>,
    /// Paths bound onto themselves read-only.
    #[n(6)]
    pub readonly_paths: Vec<String>,
    /// Kernel parameters written inside the new namespaces: (`net.ipv4.x`, value).
    #[n(7)]
    pub sysctls: Vec<Sysctl>,
    /// Host name; needs a new UTS namespace.
    #[n(8)]
    pub hostname: Option<String>,
    /// Resource control.
    #[n(9)]
    pub cgroup: CgroupPlan,
    /// Programs of the host to run at points of the container's life.
    #[n(10)]
    pub hooks: Option<HooksPlan>,
    /// Network devices of the host that move into the container's network namespace.
    #[n(11)]
    #[cbor(default)]
    pub net_devices: Vec<NetDevice>,
}

/// One process: the container's first, or one exec'd into it.
#[derive(Debug, Clone, PartialEq, Default, Encode, Decode)]
pub struct ProcessPlan {
    /// Program and arguments; the program is looked up in the `PATH` of `env`.
    #[n(0)]
    pub args: Vec<String>,
    /// `KEY=value` entries, in any bytes but NUL.
    #[n(1)]
    pub env: Vec<EnvEntry>,
    /// Working directory, made when missing.
    #[n(2)]
    pub cwd: String,
    /// User id.
    #[n(3)]
    pub uid: u32,
    /// Group id.
    #[n(4)]
    pub gid: u32,
    /// Supplementary groups.
    #[n(5)]
    pub groups: Vec<u32>,
    /// File mode mask; the kernel's default of the parent when absent.
    #[n(6)]
    pub umask: Option<u32>,
    /// Capability sets.
    #[n(7)]
    pub capabilities: CapabilitySets,
    /// Resource limits.
    #[n(8)]
    pub rlimits: Vec<Rlimit>,
    /// Forbid gaining privileges by exec.
    #[n(9)]
    pub no_new_privs: bool,
    /// OOM killer adjustment. Lowering it below the daemon's own needs `CAP_SYS_RESOURCE`;
    /// without it the value is clamped and a warning is returned.
    #[n(10)]
    pub oom_score_adj: Option<i32>,
    /// Give the process a new terminal as stdio and controlling terminal.
    #[n(11)]
    pub terminal: bool,
    /// Seccomp filter, already compiled.
    #[n(12)]
    pub seccomp: Option<SeccompPlan>,
    /// AppArmor profile to enter at exec.
    #[n(13)]
    pub apparmor_profile: Option<String>,
    /// SELinux label to enter at exec.
    #[n(14)]
    pub selinux_label: Option<String>,
    /// The process is in a user namespace with these maps, and its ids are those in there.
    #[n(15)]
    pub user_ids: Option<model::IdMaps>,
    /// Size of the new terminal; the kernel's default (0 by 0) when absent.
    #[n(16)]
    pub terminal_size: Option<TerminalSize>,
    /// Execution domain (`personality(2)`).
    #[n(17)]
    pub personality: Option<u32>,
    /// Scheduling; the launcher's own when absent.
    #[n(18)]
    pub scheduling: Option<Scheduling>,
    /// Class and level of its disk accesses (`ioprio_set(2)`); the launcher's own when absent.
    #[n(19)]
    pub io_priority: Option<u16>,
    /// Its container has a time namespace of its own, to be entered by whoever is exec'd.
    #[n(20)]
    #[cbor(default)]
    pub own_time: bool,
    /// Where its memory comes from; the launcher's own policy when absent.
    #[n(21)]
    pub memory_policy: Option<MemoryPolicy>,
    /// Processors of one exec'd into a container.
    #[n(22)]
    pub affinity: Option<Affinity>,
    /// Without a `HOME` in its environment it gets the one the container's `/etc/passwd` names.
    #[n(23)]
    #[cbor(default)]
    pub find_home: bool,
}

/// One environment entry as bytes (`KEY=value`).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct EnvEntry(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

/// Bit masks over capability numbers: bit 21 is `CAP_SYS_ADMIN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct CapabilitySets {
    /// Upper bound of what exec can give.
    #[n(0)]
    pub bounding: u64,
    /// In force now.
    #[n(1)]
    pub effective: u64,
    /// May be made effective.
    #[n(2)]
    pub permitted: u64,
    /// Kept over exec of files that inherit.
    #[n(3)]
    pub inheritable: u64,
    /// Kept over exec of ordinary files.
    #[n(4)]
    pub ambient: u64,
}

/// One resource limit by the kernel's number (`RLIMIT_NOFILE` is 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Rlimit {
    /// `RLIMIT_*`.
    #[n(0)]
    pub resource: u32,
    /// Soft limit; `u64::MAX` is infinity.
    #[n(1)]
    pub soft: u64,
    /// Hard limit; `u64::MAX` is infinity.
    #[n(2)]
    pub hard: u64,
}

/// A classic BPF program for `seccomp(SECCOMP_SET_MODE_FILTER)`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SeccompPlan {
    /// `struct sock_filter` entries, 8 bytes each, native byte order.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub program: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`.
    #[n(1)]
    pub flags: u32,
    /// Who is asked where the filter says so.
    #[n(2)]
    pub listener: Option<ListenerPlan>,
}

/// Which namespaces the process gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Namespaces {
    /// PID namespace.
    #[n(0)]
    pub pid: PidNamespace,
    /// Network namespace.
    #[n(1)]
    pub net: Namespace,
    /// IPC namespace.
    #[n(2)]
    pub ipc: Namespace,
    /// UTS namespace.
    #[n(3)]
    pub uts: Namespace,
    /// Cgroup namespace.
    #[n(4)]
    pub cgroup: Namespace,
    /// User namespace.
    #[n(5)]
    #[cbor(default)]
    pub user: UserNamespace,
    /// Time namespace.
    #[n(6)]
    #[cbor(default)]
    pub time: Namespace,
    /// How far the clocks of a new time namespace are ahead: a clock's name, seconds, nanoseconds.
    #[n(7)]
    #[cbor(default)]
    pub clocks: Vec<String>,
}

/// Where one namespace comes from. Inside a shim `Inherit` is the pod's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub enum Namespace {
    /// The launcher's own.
    #[default]
    #[n(0)]
    Inherit,
    /// A new one.
    #[n(1)]
    New,
    /// That of a namespace file on the host.
    #[n(2)]
    Join(#[n(0)] String),
}

/// Where the PID namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub enum PidNamespace {
    /// A new one; the process is its PID 1.
    #[default]
    #[n(0)]
    New,
    /// The launcher's own (the host's, for a shim).
    #[n(1)]
    Inherit,
    /// The pod's shared one, whose PID 1 is the pause process.
    #[n(2)]
    Pod,
    /// That of another process's namespace file on the host.
    #[n(3)]
    Join(#[n(0)] String),
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RootPlan {
    /// What it is made of.
    #[n(0)]
    pub source: RootSource,
    /// Remount it read-only after everything is mounted.
    #[n(1)]
    pub readonly: bool,
    /// Propagation of the container's root mount.
    #[n(2)]
    pub propagation: Propagation,
    /// SELinux label of every file in it.
    #[n(3)]
    pub label: Option<String>,
}

/// What a root file system is made of; paths are on the host.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum RootSource {
    /// An overlay, mounted detached and `volatile`: its upper directory does not outlive the
    /// container.
    #[n(0)]
    Overlay {
        /// Lower directories, topmost first.
        #[n(0)]
        lower: Vec<String>,
        /// Writable directory.
        #[n(1)]
        upper: String,
        /// Work directory beside it.
        #[n(2)]
        work: String,
    },
    /// A directory, bound (OCI bundles, ready-made roots).
    #[n(1)]
    Directory(#[n(0)] String),
    /// An empty read-only tmpfs: the pause process.
    #[n(2)]
    Empty,
}

/// Mount propagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Propagation {
    /// Neither way.
    #[default]
    #[n(0)]
    Private,
    /// Host to container.
    #[n(1)]
    Slave,
    /// Both ways.
    #[n(2)]
    Shared,
    /// Private and not bindable.
    #[n(3)]
    Unbindable,
}

/// One mount below the root.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MountPlan {
    /// Absolute path inside the container; made when missing (directory or empty file, as the
    /// source is). Resolved in the root: never escapes it.
    #[n(0)]
    pub target: String,
    /// What is mounted.
    #[n(1)]
    pub source: MountSource,
    /// `MOUNT_ATTR_*` to set (`mount_setattr(2)`).
    #[n(2)]
    pub attr_set: u64,
    /// `MOUNT_ATTR_*` to clear.
    #[n(3)]
    pub attr_clear: u64,
    /// Apply the attributes to submounts too (recursive read-only).
    #[n(4)]
    pub attr_recursive: bool,
    /// Propagation, applied recursively.
    #[n(5)]
    pub propagation: Propagation,
    /// Map the ids of what is bound.
    #[n(6)]
    pub ids: Option<MountIds>,
    /// SELinux label of a new file system's files.
    #[n(7)]
    pub label: Option<String>,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum MountSource {
    /// A host path.
    #[n(0)]
    Bind {
        /// On the host; symlinks are followed there.
        #[n(0)]
        path: String,
        /// With its submounts.
        #[n(1)]
        recursive: bool,
    },
    /// A new file system instance.
    #[n(1)]
    New {
        /// `proc`, `tmpfs`, `sysfs`, `devpts`, `mqueue`, …
        #[n(0)]
        fstype: String,
        /// Shown in mount tables.
        #[n(1)]
        source: String,
        /// `key=value` and flag options for `fsconfig(2)`.
        #[n(2)]
        options: Vec<FsOption>,
        /// tmpfs only: start with a copy of what the directory held.
        #[n(3)]
        copy_up: bool,
    },
    /// The container's view of its own cgroup: `cgroup2` in a cgroup namespace, or on v1 a tmpfs
    /// with one bind per hierarchy.
    #[n(2)]
    Cgroup,
    /// A path in the launcher's own mount namespace: the pod's `/dev/shm`, which exists nowhere
    /// on the host.
    #[n(3)]
    Launcher {
        /// There.
        #[n(0)]
        path: String,
    },
    /// The merged tree of an image or a directory of it, always read-only. Like a root it is put
    /// together for the container alone and is in nobody else's mount table.
    #[n(4)]
    Image {
        /// Layer directories on the host, topmost first; none: an empty directory.
        #[n(0)]
        lower: Vec<String>,
        /// Directory below the image's root, relative; empty: the root. Symlinks that lead out of
        /// the image are errors.
        #[n(1)]
        sub_path: String,
    },
}

/// One file system option.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FsOption {
    /// Name.
    #[n(0)]
    pub key: String,
    /// Value; absent for flags.
    #[n(1)]
    pub value: Option<String>,
}

/// One device node below the container's root. In a user namespace no device can be made: the
/// host's own node is bound there, with the owner and mode it has.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DeviceNode {
    /// Absolute path inside the container.
    #[n(0)]
    pub path: String,
    /// Kind.
    #[n(1)]
    pub kind: DeviceKind,
    /// Major number.
    #[n(2)]
    pub major: u32,
    /// Minor number.
    #[n(3)]
    pub minor: u32,
    /// Permission bits.
    #[n(4)]
    pub mode: u32,
    /// Owner.
    #[n(5)]
    pub uid: u32,
    /// Group.
    #[n(6)]
    pub gid: u32,
}

/// Kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum DeviceKind {
    /// Character device.
    #[n(0)]
    Char,
    /// Block device.
    #[n(1)]
    Block,
    /// Named pipe.
    #[n(2)]
    Fifo,
}

/// One kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Sysctl {
    /// Dotted name.
    #[n(0)]
    pub name: String,
    /// Value.
    #[n(1)]
    pub value: String,
}

/// Resource control by cgroup files.
///
/// All directories are absolute host paths and end with a component that holds the container id.
/// The launcher makes them, writes the settings, and the child joins them itself while it is
/// single-threaded (writing another task's pid costs an RCU grace period: ADR 0004).
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct CgroupPlan {
    /// One per hierarchy to join: one entry for v2, one per controller set on v1, both on hybrid.
    #[n(0)]
    pub groups: Vec<CgroupDir>,
    /// v2 only: device filter as an eBPF program, `struct bpf_insn` entries in native byte order.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub device_program: Option<Vec<u8>>,
    /// Group of the resource director (cache and memory bandwidth) to join.
    #[n(2)]
    pub resctrl: Option<ResctrlPlan>,
}

/// A group of `resctrl`: a class of service.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ResctrlPlan {
    /// Its directory, e.g. `/sys/fs/resctrl/gold`.
    #[n(0)]
    pub path: String,
    /// Lines of `schemata` (`L3:0=ff`). With any the group is made when missing, and one that is
    /// there must already say the same: it may be somebody else's too. Without any it must exist.
    #[n(1)]
    pub schemata: Vec<String>,
    /// It is the container's own and removed with it.
    #[n(2)]
    pub own: bool,
}

/// One cgroup directory.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CgroupDir {
    /// Version and controllers of the hierarchy.
    #[n(0)]
    pub hierarchy: Hierarchy,
    /// Mount point of the hierarchy, e.g. `/sys/fs/cgroup/memory`.
    #[n(1)]
    pub mountpoint: String,
    /// The container's directory, below the mount point.
    #[n(2)]
    pub path: String,
    /// Files to write, in order.
    #[n(3)]
    pub settings: Vec<CgroupSetting>,
    /// Join just before exec instead of first: for `cpu` and `cpuset`, so that set-up does not
    /// run under a starved share.
    #[n(4)]
    pub join_late: bool,
}

/// Which hierarchy a cgroup directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Hierarchy {
    /// The unified hierarchy.
    #[n(0)]
    V2,
    /// A v1 hierarchy with these controllers (or `name=…`).
    #[n(1)]
    V1(#[n(0)] Vec<String>),
}

/// One value for one cgroup file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CgroupSetting {
    /// File name in the directory.
    #[n(0)]
    pub file: String,
    /// What to write.
    #[n(1)]
    pub value: String,
    /// Whether a failure refuses the container. Otherwise it is returned as a warning: a
    /// controller this host lacks narrows what is applied.
    #[n(2)]
    pub required: bool,
    /// What to write where `file` does not exist: some settings live in different files with
    /// different IO schedulers.
    #[n(3)]
    pub fallback: Option<CgroupFile>,
}

/// Another file for a setting, with the value in its terms.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CgroupFile {
    /// File name in the directory.
    #[n(0)]
    pub file: String,
    /// What to write.
    #[n(1)]
    pub value: String,
}

impl CgroupSetting {
    /// File and value to write in a directory of which `exists` tells whether it has a file.
    pub fn choose(&self, exists: impl FnOnce(&str) -> bool) -> (&str, &str) {
        match &self.fallback {
            Some(fallback) if !exists(&self.file) => (&fallback.file, &fallback.value),
            Some(_) | None => (&self.file, &self.value),
        }
    }
}

/// Programs of the host that are run at points of a container's life, each with the container's
/// state as JSON on its standard input. OCI: hooks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct HooksPlan {
    /// In the launcher's namespaces, once the root is put together and before it is entered; those of the older
    /// kind, `prestart`, come first.
    #[n(0)]
    pub create_runtime: Vec<HookPlan>,
    /// Likewise in the container's namespaces. The container's root is then at [`Self::root`], and
    /// around it is what the host has.
    #[n(1)]
    pub create_container: Vec<HookPlan>,
    /// In the launcher's namespaces, once the program runs. Failures are warnings.
    #[n(2)]
    pub poststart: Vec<HookPlan>,
    /// In the launcher's namespaces, once the container is gone. Failures are warnings.
    #[n(3)]
    pub poststop: Vec<HookPlan>,
    /// The state without status and pid, and without its closing brace.
    #[n(4)]
    pub state: String,
    /// Directory of the host where the container's root is shown to `create_container` hooks, and
    /// to nobody else.
    #[n(5)]
    pub root: String,
    /// Programs of the container itself, run there with the process's own rights just before it is
    /// executed.
    #[n(6)]
    #[cbor(default)]
    pub start_container: Vec<HookPlan>,
    /// How many of [`Self::create_runtime`] are called `prestart`, for who reads that one has failed.
    #[n(7)]
    #[cbor(default)]
    pub prestart: u32,
}

/// One program to run.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct HookPlan {
    /// Absolute path.
    #[n(0)]
    pub path: String,
    /// Arguments with the program's name; none: the path alone.
    #[n(1)]
    pub args: Vec<String>,
    /// `KEY=value` entries.
    #[n(2)]
    pub env: Vec<String>,
    /// Seconds after which it is killed and has failed; the launcher's patience ends earlier if need
    /// be.
    #[n(3)]
    pub timeout_s: Option<u32>,
}

/// A process to start inside a running container.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct ExecPlan {
    /// The process.
    #[n(0)]
    pub process: ProcessPlan,
    /// The container's cgroup, joined the same way.
    #[n(1)]
    pub cgroup: CgroupPlan,
}

/// A plan that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the bytes are not a {what}")]
pub struct DecodeError {
    what: &'static str,
    source: minicbor::decode::Error,
}

macro_rules! codec {
    ($type:ty, $what:literal) => {
        impl $type {
            /// The plan as bytes.
            pub fn encode(&self) -> Vec<u8> {
                minicbor::to_vec(self)
                    .unwrap_or_else(|error| unreachable!("encoding to memory failed: {error}"))
            }

            /// Reads what [`Self::encode`] wrote, by this version or another.
            ///
            /// # Errors
            /// [`DecodeError`] when the bytes are not such a plan.
            pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                minicbor::decode(bytes).map_err(|source| DecodeError { what: $what, source })
            }
        }
    };
}

codec!(LaunchPlan, "launch plan");
codec!(ExecPlan, "exec plan");
