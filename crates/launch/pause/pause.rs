//! PID 1 of a pod's shared PID namespace: reaps orphans, ends on SIGTERM or SIGINT.
//!
//! No standard library, no C library, no memory: it lives as long as the pod, once per pod.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;
const SIG_BLOCK: usize = 0;
const PR_SET_NAME: usize = 15;
const WNOHANG: usize = 1;
/// Bytes of the kernel's signal set.
const SIGSET_SIZE: usize = 8;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const PRCTL: usize = 157;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const WAIT4: usize = 260;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const PRCTL: usize = 167;
    pub const EXIT_GROUP: usize = 94;
}

// The kernel starts a program with an aligned stack and no return address.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "call {main}", "ud2", main = sym main);

#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, xzr", "bl {main}", "udf #0", main = sym main);

/// # Safety
/// The arguments are what system call `number` expects; pointers among them are valid.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let returned: isize;
    // SAFETY: the x86_64 system call convention: rcx and r11 are overwritten, the stack is not
    // touched; the caller vouches for the arguments.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => returned,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    returned
}

/// # Safety
/// The arguments are what system call `number` expects; pointers among them are valid.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let returned: isize;
    // SAFETY: the aarch64 system call convention: only x0 is changed; the caller vouches for the
    // arguments.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => returned,
            in("x1") b,
            in("x2") c,
            in("x3") d,
            options(nostack),
        );
    }
    returned
}

extern "C" fn main() -> ! {
    // Run from memory, it would be listed under the name of a descriptor.
    // SAFETY: the name ends with a NUL.
    unsafe { call(number::PRCTL, PR_SET_NAME, c"pause".as_ptr() as usize, 0, 0) };
    let signals: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let set = &raw const signals as usize;
    // Blocked signals reach even a PID 1 that has no handlers, and wait for it.
    // SAFETY: `set` points to a signal set of the size given.
    unsafe { call(number::RT_SIGPROCMASK, SIG_BLOCK, set, 0, SIGSET_SIZE) };
    loop {
        reap();
        // SAFETY: `set` points to a signal set of the size given; no information and no time limit
        // are asked for.
        let signal = unsafe { call(number::RT_SIGTIMEDWAIT, set, 0, 0, SIGSET_SIZE) };
        if signal == SIGINT as isize || signal == SIGTERM as isize {
            end();
        }
    }
}

/// Reaps every child that has ended.
fn reap() {
    // SAFETY: neither status nor usage is asked for, so no pointer is passed.
    while unsafe { call(number::WAIT4, usize::MAX, 0, WNOHANG, 0) } > 0 {}
}

fn end() -> ! {
    loop {
        // SAFETY: numbers only; does not return.
        unsafe { call(number::EXIT_GROUP, 0, 0, 0, 0) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    end()
}
