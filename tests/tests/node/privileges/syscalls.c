/*
 * Tries system calls with arguments that the kernel refuses for another reason than missing
 * privilege, so that a filter's answer can be told from the kernel's. Prints a line for each:
 * its name and the error number, 0 for success.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

static void try(const char *name, long number, long a, long b, long c, long d, long e)
{
    errno = 0;
    long result = syscall(number, a, b, c, d, e);
    printf("%s %d\n", name, result < 0 ? errno : 0);
}

int main(void)
{
    const long nothing = 0, wrong = 0x40000000;
    const char *nowhere = "/nowhere/at/all";
    struct timeval no_time = {0, 2000000};

    try("mount", SYS_mount, (long)"none", (long)nowhere, (long)"tmpfs", 0, 0);
    try("umount2", SYS_umount2, (long)nowhere, 0, 0, 0, 0);
    try("unshare", SYS_unshare, 1, 0, 0, 0, 0);
    try("setns", SYS_setns, -1, 0, 0, 0, 0);
    try("open_tree", SYS_open_tree, -1, (long)nowhere, 0x40000000, 0, 0);
    try("mount_setattr", SYS_mount_setattr, -1, (long)nowhere, 0x40000000, 0, 0);
    try("clone_namespace", SYS_clone, CLONE_NEWNS | CLONE_FS, 0, 0, 0, 0);
    try("clone3", SYS_clone3, nothing, 0, 0, 0, 0);
    try("bpf", SYS_bpf, 9999, nothing, 1 << 20, 0, 0);
    try("perf_event_open", SYS_perf_event_open, nothing, 0, -1, -1, wrong);
    try("chroot", SYS_chroot, (long)nowhere, 0, 0, 0, 0);
    try("kcmp", SYS_kcmp, -1, -1, 0, 0, 0);
    try("pidfd_getfd", SYS_pidfd_getfd, -1, 0, 0, 0, 0);
    try("process_madvise", SYS_process_madvise, -1, nothing, 0, 0, wrong);
    try("set_mempolicy", SYS_set_mempolicy, 9999, nothing, 0, 0, 0);
    try("settimeofday", SYS_settimeofday, (long)&no_time, 0, 0, 0, 0);
    try("clock_settime", SYS_clock_settime, 9999, nothing, 0, 0, 0);
#ifdef SYS_iopl
    try("iopl", SYS_iopl, 4, 0, 0, 0, 0);
#endif
    try("keyctl", SYS_keyctl, 9999, 0, 0, 0, 0);
    try("add_key", SYS_add_key, nothing, nothing, 0, 0, 0);
    try("request_key", SYS_request_key, nothing, nothing, 0, 0, 0);
    try("userfaultfd", SYS_userfaultfd, 1 | wrong, 0, 0, 0, 0);
    try("io_uring_setup", SYS_io_uring_setup, 1, nothing, 0, 0, 0);
    try("move_pages", SYS_move_pages, 0, 0, nothing, nothing, wrong);
    try("ptrace", SYS_ptrace, 9999, -1, 0, 0, 0);
    try("process_vm_readv", SYS_process_vm_readv, -1, nothing, 0, nothing, 0);
    try("personality_query", SYS_personality, 0xffffffff, 0, 0, 0, 0);
    try("personality_uname26", SYS_personality, 0x20000, 0, 0, 0, 0);
    try("personality_linux32", SYS_personality, 0x8, 0, 0, 0, 0);
    try("personality_linux", SYS_personality, 0, 0, 0, 0, 0);
    try("personality_fixed_addresses", SYS_personality, 0x40000, 0, 0, 0, 0);
    try("personality_executable_data", SYS_personality, 0x400000, 0, 0, 0, 0);
    try("socket_inet", SYS_socket, 2, 99, 0, 0, 0);
    try("socket_netlink", SYS_socket, 16, 99, 0, 0, 0);
    try("socket_alg", SYS_socket, 38, 99, 0, 0, 0);
    try("socket_vsock", SYS_socket, 40, 99, 0, 0, 0);
    try("socket_alg_in_disguise", SYS_socket, 38 + (1L << 32), 99, 0, 0, 0);
    return 0;
}
