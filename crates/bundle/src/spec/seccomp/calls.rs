//! The system calls of the built-in profile, by area.
//!
//! Not listed, and so refused: `io_uring_*`, `userfaultfd` (attack surface beyond measure);
//! `keyctl`, `add_key`, `request_key` (keyrings are not namespaced); `kexec_*`, `swapon`,
//! `swapoff`, `pivot_root`, `nfsservctl` (the host's affair); `move_pages`, `migrate_pages`,
//! `_sysctl`, `sysfs`, `ustat`, `uselib`, `vm86` and other leftovers.

/// Allowed to everybody.
pub(super) const ALWAYS: &[&str] = &[
    FILES,
    DESCRIPTORS,
    POLLING,
    ASYNC_IO,
    ATTRIBUTES,
    MEMORY,
    PROCESSES,
    IDENTITY,
    SCHEDULING,
    SIGNALS,
    TIME,
    SOCKETS,
    IPC,
    WATCHING,
    SYSTEM,
];

const FILES: &str = "access chdir chmod chown chown32 creat faccessat faccessat2 fallocate fchdir \
    fchmod fchmodat fchmodat2 fchown fchown32 fchownat fstat fstat64 fstatat64 fstatfs fstatfs64 \
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 lchown lchown32 link linkat \
    listmount lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat \
    openat2 readlink readlinkat rename renameat renameat2 rmdir stat stat64 statfs statfs64 \
    statmount statx symlink symlinkat truncate truncate64 umask unlink unlinkat utime utimensat \
    utimensat_time64 utimes";

const DESCRIPTORS: &str = "_llseek cachestat close close_range copy_file_range dup dup2 dup3 \
    fadvise64 fadvise64_64 fcntl fcntl64 fdatasync flock fsync ioctl lseek pipe pipe2 pread64 \
    preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile sendfile64 splice sync \
    sync_file_range syncfs tee vmsplice write writev";

const POLLING: &str = "_newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait \
    epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 poll ppoll ppoll_time64 pselect6 \
    pselect6_time64 select signalfd signalfd4";

const ASYNC_IO: &str = "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 \
    io_setup io_submit";

const ATTRIBUTES: &str = "fgetxattr file_getattr file_setattr flistxattr fremovexattr fsetxattr \
    getxattr getxattrat lgetxattr listxattr listxattrat llistxattr lremovexattr lsetxattr \
    removexattr removexattrat setxattr setxattrat";

const MEMORY: &str = "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore \
    mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap \
    pkey_alloc pkey_free pkey_mprotect remap_file_pages";

const PROCESSES: &str = "execve execveat exit exit_group fork futex futex_requeue futex_time64 \
    futex_wait futex_waitv futex_wake get_robust_list get_thread_area getpgid getpgrp getpid \
    getppid getrlimit getrusage getsid gettid kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lsm_get_self_attr lsm_list_modules lsm_set_self_attr pidfd_open \
    pidfd_send_signal prctl prlimit64 process_mrelease restart_syscall rseq seccomp \
    set_robust_list set_thread_area set_tid_address setpgid setrlimit setsid tgkill tkill \
    ugetrlimit vfork wait4 waitid waitpid";

const IDENTITY: &str = "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 \
    getgroups getgroups32 getresgid getresgid32 getresuid getresuid32 getuid getuid32 setfsgid \
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 \
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32";

const SCHEDULING: &str = "getcpu getpriority ioprio_get ioprio_set sched_get_priority_max \
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
    sched_setparam sched_setscheduler sched_yield setpriority";

const SIGNALS: &str = "pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo \
    sigaltstack sigprocmask sigreturn";

/// Setting the clock by `adjtimex` and its like needs a capability the kernel asks for.
const TIME: &str = "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres \
    clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 \
    getitimer gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun \
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64 times";

/// Making sockets has rules of its own. 32-bit programs may still do it by `socketcall`, whose
/// family no filter can see: refusing it all broke them, so closing that is for AppArmor
/// (`deny network alg`).
const SOCKETS: &str = "accept accept4 bind connect getpeername getsockname getsockopt listen recv \
    recvfrom recvmmsg recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown \
    socketcall socketpair";

const IPC: &str = "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 \
    mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop \
    semtimedop semtimedop_time64 shmat shmctl shmdt shmget";

const WATCHING: &str = "fanotify_mark inotify_add_watch inotify_init inotify_init1 \
    inotify_rm_watch";

const SYSTEM: &str = "getrandom sysinfo uname";

/// Looking into other processes of the same user.
pub(super) const TRACE: &str = "process_vm_readv process_vm_writev ptrace";

/// Allowed besides to containers whose bounding set has the capability.
pub(super) const WITH_CAPABILITY: &[(&str, &str)] = &[
    ("BPF", "bpf"),
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    ("PERFMON", "perf_event_open"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount \
         mount_setattr move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd \
         setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module finit_module init_module"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("SYS_RAWIO", "ioperm iopl"),
    ("SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYSLOG", "syslog"),
];

/// Allowed to everybody on this processor.
pub(super) const OF_PROCESSOR: Option<&str> = if cfg!(target_arch = "x86_64") {
    Some("arch_prctl modify_ldt uretprobe")
} else if cfg!(target_arch = "aarch64") {
    Some("arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2")
} else {
    None
};
