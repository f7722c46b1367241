//! The two `bpf(2)` commands a device filter needs.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_ATTACH: c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
/// Size of one `struct bpf_insn`.
const INSTRUCTION: usize = 8;

/// First fields of the `BPF_PROG_LOAD` member of `union bpf_attr`.
#[repr(C)]
#[derive(Debug, Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// First fields of the `BPF_PROG_ATTACH` member of `union bpf_attr`.
#[repr(C)]
#[derive(Debug, Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

fn bpf<T>(command: c_int, attr: &mut T) -> io::Result<c_int> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` of the size given, and the memory it points
    // to, if any, outlives the call.
    let returned =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    c_int::try_from(returned).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Loads a device filter: `struct bpf_insn` entries in native byte order.
///
/// # Errors
/// `InvalidInput` for bytes that are not whole instructions, otherwise what `bpf(2)` refuses with.
pub fn load_device_program(program: &[u8]) -> io::Result<OwnedFd> {
    let count = u32::try_from(program.len() / INSTRUCTION).ok();
    let count = count
        .filter(|count| *count > 0 && program.len().is_multiple_of(INSTRUCTION))
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // The kernel wants 8-byte entries but does not ask for their alignment: it copies them.
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: count,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: a successful load returns a new descriptor, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device filter to a cgroup of the unified hierarchy, beside those its ancestors have.
/// It lives as long as the cgroup.
///
/// # Errors
/// What `bpf(2)` refuses with.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attach {
        target_fd: cgroup.as_raw_fd().unsigned_abs(),
        attach_bpf_fd: program.as_raw_fd().unsigned_abs(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &mut attr).map(drop)
}
