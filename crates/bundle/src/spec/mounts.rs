//! `mounts`: the default set, the pod's files, the image's volumes, the requested ones.

use model::{
    CgroupLayout, ContainerConfig, IdMapping, ImageConfig, MountPropagation, MountRequest,
    MountSource, NamespaceMode,
};
use oci_spec::runtime::Mount;

use crate::namespaces::mappings;
use crate::{ContainerInput, PidSource, ResolvedMount, SpecError, path, pid_source};

/// The group that terminals belong to, where it exists.
const TTY: u32 = 5;

/// CRI `mount_options`: what a request may ask for besides.
const OPTIONS: &[&str] = &["noexec", "nodev", "nosuid"];

/// All mounts, parents before what is mounted below them.
pub(super) fn mounts(input: &ContainerInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let mut mounts = defaults(input);
    mounts.extend(pod_files(input));
    for volume in input.volumes {
        let mut mount =
            bind(&volume.container_path, &volume.host_path, &["rbind", "rprivate", "rw"]);
        // What was copied from the image belongs to whom it belongs to there.
        if let Some(users) = input.users() {
            map_ids(&mut mount, &users.uids, &users.gids)?;
        }
        mounts.push(mount);
    }
    mounts.retain(|mount| !is_replaced(&mount.destination().to_string_lossy(), input.config));
    if input.mounts.len() != input.config.mounts.len() {
        return Err(SpecError::Missing { what: "source of every mount" });
    }
    for (request, facts) in input.config.mounts.iter().zip(input.mounts) {
        mounts.push(requested(request, facts, input)?);
    }
    mounts.sort_by_cached_key(|mount| path::depth(&mount.destination().to_string_lossy()));
    Ok(mounts)
}

/// Destinations of the image's volumes that no requested mount takes: the caller makes a
/// directory for each (with what the image holds there) and names it in `volumes`.
pub fn image_volumes(config: &ContainerConfig, image: &ImageConfig) -> Vec<String> {
    let mut volumes: Vec<String> = image.volumes.iter().map(|volume| path::clean(volume)).collect();
    volumes.retain(|volume| volume != "/" && !is_replaced(volume, config));
    volumes.sort();
    volumes.dedup();
    volumes
}

/// Whether a requested mount takes this place: the same destination, or all of `/dev`.
fn is_replaced(destination: &str, config: &ContainerConfig) -> bool {
    config.mounts.iter().map(|request| path::clean(&request.container_path)).any(|requested| {
        requested == destination || requested == "/dev" && destination.starts_with("/dev/")
    })
}

fn mount(destination: &str, fstype: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(fstype.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

fn bind(destination: &str, source: &str, options: &[&str]) -> Mount {
    mount(&path::clean(destination), "bind", source, options)
}

fn map_ids(mount: &mut Mount, uids: &[IdMapping], gids: &[IdMapping]) -> Result<(), SpecError> {
    mount.set_uid_mappings(Some(mappings(uids)?)).set_gid_mappings(Some(mappings(gids)?));
    Ok(())
}

fn defaults(input: &ContainerInput<'_>) -> Vec<Mount> {
    let access = if input.privileged() { "rw" } else { "ro" };
    let terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let tty_exists = input.users().is_none_or(|users| users.host_gid(TTY).is_some());
    let terminals = if tty_exists { &terminals[..] } else { &terminals[..5] };
    let mut mounts = vec![
        own_or_hosts(input, "/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", terminals),
        own_or_hosts(input, "/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        cgroup(input, access),
    ];
    // Nobody needs it for using queues, and hosts need not have it mounted.
    if input.users().is_none() || input.pod.security.namespaces.ipc != NamespaceMode::Node {
        let options = ["nosuid", "noexec", "nodev"];
        mounts.insert(3, mount("/dev/mqueue", "mqueue", "mqueue", &options));
    }
    mounts
}

/// A kernel file system that shows a namespace can only be mounted by who owns that: where a pod
/// with a user namespace of its own shares the host's, the host's mount is bound, and no more can be
/// changed there than anybody on the host can.
fn own_or_hosts(input: &ContainerInput<'_>, place: &str, fstype: &str, options: &[&str]) -> Mount {
    let pod = &input.pod.security.namespaces;
    let hosts = if fstype == "sysfs" {
        pod.network == NamespaceMode::Node
    } else {
        let source = pid_source(pod, &input.config.security.namespaces);
        matches!(source, Ok(PidSource::Host))
    };
    if input.users().is_none() || !hosts {
        return mount(place, fstype, fstype, options);
    }
    // CRI: `/sys` is read-only with all that is mounted below it.
    let access = if fstype == "sysfs" { "rro" } else { "rw" };
    bind(place, place, &["rbind", "rprivate", access, "nosuid", "noexec", "nodev"])
}

/// Without a cgroup namespace a new cgroup2 mount would put its own options (none) onto the one
/// superblock, and the host's `nsdelegate` would be gone: the host's mount is bound instead.
fn cgroup(input: &ContainerInput<'_>, access: &str) -> Mount {
    const PLACE: &str = "/sys/fs/cgroup";
    match &input.host.cgroup {
        CgroupLayout::V2(unified) if input.privileged() => {
            let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "relatime", access];
            bind(PLACE, &unified.mountpoint, &options)
        }
        CgroupLayout::V2(_) | CgroupLayout::V1 { .. } => {
            mount(PLACE, "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access])
        }
    }
}

fn pod_files(input: &ContainerInput<'_>) -> [Mount; 4] {
    let access = if input.config.security.readonly_rootfs { "ro" } else { "rw" };
    let options = ["rbind", "rprivate", access];
    let files = input.files;
    // Said, not inherited: runtimes take a bind mount to have what its options say, and no more. It is no part of the
    // root, which may be read-only: programs share memory there.
    let mut of_memory = vec!["rbind", "rprivate", "rw", "nosuid", "nodev"];
    if input.pod.security.namespaces.ipc != NamespaceMode::Node {
        of_memory.push("noexec");
    }
    [
        bind("/etc/hostname", &files.hostname, &options),
        bind("/etc/hosts", &files.hosts, &options),
        bind("/etc/resolv.conf", &files.resolv_conf, &options),
        bind("/dev/shm", &files.shm, &of_memory),
    ]
}

/// Refuses mounts whose fields cannot go together anywhere.
pub(super) fn check(requests: &[MountRequest]) -> Result<(), SpecError> {
    for request in requests {
        let place = &request.container_path;
        if path::clean(place) == "/" || place.contains('\0') {
            let want = "a path below the root";
            return Err(SpecError::invalid("mounts.container_path", place.escape_debug(), want));
        }
        if let MountSource::Host(path) = &request.source
            && !path::is_absolute(path)
        {
            let field = "mounts.host_path";
            return Err(SpecError::invalid(field, path.escape_debug(), path::ABSOLUTE));
        }
        for option in &request.options {
            if !OPTIONS.contains(&option.as_str()) {
                let want = "noexec, nodev or nosuid";
                let option = option.escape_debug();
                return Err(SpecError::invalid("mounts.mount_options", option, want));
            }
        }
        let (uids, gids) = (&request.uid_mappings, &request.gid_mappings);
        if uids.is_empty() != gids.is_empty() {
            let field = if uids.is_empty() { "mounts.uidMappings" } else { "mounts.gidMappings" };
            return Err(SpecError::invalid(field, "empty", "both mappings, or neither"));
        }
    }
    Ok(())
}

fn requested(
    request: &MountRequest,
    facts: &ResolvedMount,
    input: &ContainerInput<'_>,
) -> Result<Mount, SpecError> {
    let destination = path::clean(&request.container_path);
    if request.propagation == MountPropagation::Bidirectional && input.users().is_some() {
        let what = "a mount that propagates to the host out of a user namespace";
        return Err(SpecError::Unsupported { what });
    }
    let mut options = vec!["rbind", propagation(request, facts, &destination)?];
    match request.source {
        MountSource::Host(_) => {
            options.push(access(request, &destination, input.runtime.recursive_read_only)?);
        }
        // CRI: always read-only. Nothing is mounted below it. An image's set-id files and devices
        // are no business of the container that only looks at it.
        MountSource::Image { .. } => options.extend(["ro", "nosuid", "nodev"]),
    }
    for option in OPTIONS {
        if !options.contains(option) && request.options.iter().any(|asked| asked == option) {
            options.push(option);
        }
    }
    let mut mount = bind(&destination, &facts.host_path, &options);
    if !request.uid_mappings.is_empty() {
        map_ids(&mut mount, &request.uid_mappings, &request.gid_mappings)?;
    }
    Ok(mount)
}

fn propagation(
    request: &MountRequest,
    facts: &ResolvedMount,
    destination: &str,
) -> Result<&'static str, SpecError> {
    let refuse = |want| SpecError::Propagation {
        destination: destination.to_owned(),
        source_path: facts.host_path.clone(),
        want,
    };
    match request.propagation {
        MountPropagation::Private => Ok("rprivate"),
        MountPropagation::HostToContainer if facts.shared || facts.slave => Ok("rslave"),
        MountPropagation::HostToContainer => Err(refuse("shared or slave")),
        MountPropagation::Bidirectional if facts.shared => Ok("rshared"),
        MountPropagation::Bidirectional => Err(refuse("shared")),
    }
}

fn access(
    request: &MountRequest,
    destination: &str,
    supported: bool,
) -> Result<&'static str, SpecError> {
    if !request.recursive_read_only {
        return Ok(if request.readonly { "ro" } else { "rw" });
    }
    let refuse =
        |reason| Err(SpecError::RecursiveReadOnly { destination: destination.to_owned(), reason });
    if !request.readonly {
        refuse("the mount is not read-only")
    } else if request.propagation != MountPropagation::Private {
        refuse("the mount propagates")
    } else if !supported {
        refuse("this kernel, or the runtime of the pod's handler, cannot do it")
    } else {
        Ok("rro")
    }
}

/// As strong as the strongest mount needs; nothing when all are private.
pub(super) fn rootfs_propagation(requests: &[MountRequest]) -> Option<String> {
    let asks = |wanted| requests.iter().any(|request| request.propagation == wanted);
    if asks(MountPropagation::Bidirectional) {
        Some("rshared".into())
    } else if asks(MountPropagation::HostToContainer) {
        Some("rslave".into())
    } else {
        None
    }
}
