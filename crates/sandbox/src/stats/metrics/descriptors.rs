//! The metrics kubelet republishes at `/metrics/cadvisor`: cAdvisor's names, units and labels, so
//! that dashboards and alerts stay what they are.

/// Whether a value only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It does, until its container ends.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Name.
    pub name: &'static str,
    /// What it tells, and in which unit.
    pub help: &'static str,
    /// Kind.
    pub kind: MetricKind,
    /// Labels beyond those that say whose it is.
    pub labels: &'static [&'static str],
}

macro_rules! descriptors {
    ($($id:ident = $kind:ident $name:literal $labels:tt $help:literal;)*) => {
        $(pub(super) static $id: Descriptor = Descriptor {
            name: $name,
            help: $help,
            kind: MetricKind::$kind,
            labels: &$labels,
        };)*

        /// Every metric there is.
        pub static DESCRIPTORS: &[&Descriptor] = &[$(&$id),*];
    };
}

descriptors! {
    LAST_SEEN = Gauge "container_last_seen" []
        "When the container was last looked at, in seconds since the epoch.";
    START_TIME = Gauge "container_start_time_seconds" []
        "When the container started, in seconds since the epoch.";

    CPU_USAGE = Counter "container_cpu_usage_seconds_total" ["cpu"]
        "Processor time used, in whole seconds.";
    CPU_USER = Counter "container_cpu_user_seconds_total" []
        "Processor time used in user mode, in whole seconds.";
    CPU_SYSTEM = Counter "container_cpu_system_seconds_total" []
        "Processor time used in the kernel, in whole seconds.";
    CFS_PERIODS = Counter "container_cpu_cfs_periods_total" []
        "Scheduling periods in which the processor limit was in force.";
    CFS_THROTTLED_PERIODS = Counter "container_cpu_cfs_throttled_periods_total" []
        "Scheduling periods in which the processor limit made it wait.";
    CFS_THROTTLED_SECONDS = Counter "container_cpu_cfs_throttled_seconds_total" []
        "Time for which the processor limit made it wait, in whole seconds.";

    MEMORY_USAGE = Gauge "container_memory_usage_bytes" []
        "Memory charged, page cache included, in bytes.";
    MEMORY_WORKING_SET = Gauge "container_memory_working_set_bytes" []
        "Memory charged without inactive file pages, in bytes: what eviction looks at.";
    MEMORY_MAX_USAGE = Gauge "container_memory_max_usage_bytes" []
        "The most memory that was ever charged, in bytes.";
    MEMORY_RSS = Gauge "container_memory_rss" []
        "Anonymous memory, in bytes.";
    MEMORY_CACHE = Gauge "container_memory_cache" []
        "Page cache, in bytes.";
    MEMORY_MAPPED_FILE = Gauge "container_memory_mapped_file" []
        "Files mapped into memory, in bytes.";
    MEMORY_KERNEL = Gauge "container_memory_kernel_usage" []
        "Memory the kernel uses on its behalf, in bytes.";
    MEMORY_SWAP = Gauge "container_memory_swap" []
        "Memory that is swapped out, in bytes.";
    MEMORY_FAILCNT = Counter "container_memory_failcnt" []
        "How often memory use hit the limit.";
    MEMORY_ACTIVE_FILE = Gauge "container_memory_total_active_file_bytes" []
        "File pages in recent use, in bytes.";
    MEMORY_INACTIVE_FILE = Gauge "container_memory_total_inactive_file_bytes" []
        "File pages not in recent use, in bytes.";
    MEMORY_FAILURES = Counter "container_memory_failures_total" ["failure_type", "scope"]
        "Page faults: all (pgfault), and those that waited for a disk (pgmajfault).";
    OOM_EVENTS = Counter "container_oom_events_total" []
        "Processes the kernel killed for want of memory.";

    HUGETLB_USAGE = Gauge "container_hugetlb_usage_bytes" ["pagesize"]
        "Huge pages in use, in bytes.";
    HUGETLB_MAX_USAGE = Gauge "container_hugetlb_max_usage_bytes" ["pagesize"]
        "The most huge pages that were ever in use, in bytes.";

    FS_USAGE = Gauge "container_fs_usage_bytes" ["device"]
        "What the container's own layer takes up, in bytes.";
    FS_LIMIT = Gauge "container_fs_limit_bytes" ["device"]
        "Size of the file system its layer is on, in bytes.";
    FS_INODES = Gauge "container_fs_inodes_total" ["device"]
        "Inodes of the file system its layer is on.";
    FS_INODES_FREE = Gauge "container_fs_inodes_free" ["device"]
        "Free inodes of the file system its layer is on.";
    FS_READS_BYTES = Counter "container_fs_reads_bytes_total" ["device"]
        "Read from a device, in bytes.";
    FS_READS = Counter "container_fs_reads_total" ["device"]
        "Completed reads of a device.";
    FS_WRITES_BYTES = Counter "container_fs_writes_bytes_total" ["device"]
        "Written to a device, in bytes.";
    FS_WRITES = Counter "container_fs_writes_total" ["device"]
        "Completed writes to a device.";
    BLKIO_USAGE = Counter "container_blkio_device_usage_total"
        ["device", "major", "minor", "operation"]
        "Read from and written to a device, in bytes.";

    NETWORK_RECEIVE_BYTES = Counter "container_network_receive_bytes_total" ["interface"]
        "Received, in bytes.";
    NETWORK_RECEIVE_PACKETS = Counter "container_network_receive_packets_total" ["interface"]
        "Packets received.";
    NETWORK_RECEIVE_DROPPED = Counter "container_network_receive_packets_dropped_total"
        ["interface"] "Received packets that were dropped.";
    NETWORK_RECEIVE_ERRORS = Counter "container_network_receive_errors_total" ["interface"]
        "Errors while receiving.";
    NETWORK_TRANSMIT_BYTES = Counter "container_network_transmit_bytes_total" ["interface"]
        "Sent, in bytes.";
    NETWORK_TRANSMIT_PACKETS = Counter "container_network_transmit_packets_total" ["interface"]
        "Packets sent.";
    NETWORK_TRANSMIT_DROPPED = Counter "container_network_transmit_packets_dropped_total"
        ["interface"] "Packets that were dropped instead of sent.";
    NETWORK_TRANSMIT_ERRORS = Counter "container_network_transmit_errors_total" ["interface"]
        "Errors while sending.";

    PROCESSES = Gauge "container_processes" []
        "Processes in the container.";
    THREADS = Gauge "container_threads" []
        "Threads in the container.";
    THREADS_MAX = Gauge "container_threads_max" []
        "The most threads it may have; 0 is no limit.";
    FILE_DESCRIPTORS = Gauge "container_file_descriptors" []
        "Open file descriptors of its processes.";
    SOCKETS = Gauge "container_sockets" []
        "Open sockets of its processes.";
    ULIMITS_SOFT = Gauge "container_ulimits_soft" ["ulimit"]
        "Soft resource limits of its first process; absent is no limit.";

    SPEC_CPU_PERIOD = Gauge "container_spec_cpu_period" []
        "The period its processor limit is counted over, in microseconds.";
    SPEC_CPU_QUOTA = Gauge "container_spec_cpu_quota" []
        "Processor time allowed per period, in microseconds; absent is no limit.";
    SPEC_CPU_SHARES = Gauge "container_spec_cpu_shares" []
        "Its weight when the processor is short.";
    SPEC_MEMORY_LIMIT = Gauge "container_spec_memory_limit_bytes" []
        "Its memory limit, in bytes; 0 is no limit.";
    SPEC_MEMORY_SWAP_LIMIT = Gauge "container_spec_memory_swap_limit_bytes" []
        "Its limit of memory and swap together, in bytes; 0 is no limit.";
    SPEC_MEMORY_RESERVATION = Gauge "container_spec_memory_reservation_limit_bytes" []
        "Memory that is protected from reclaim, in bytes; 0 is none.";

    PRESSURE_CPU_WAITING = Counter "container_pressure_cpu_waiting_seconds_total" []
        "Time in which some of its tasks waited for a processor, in whole seconds.";
    PRESSURE_CPU_STALLED = Counter "container_pressure_cpu_stalled_seconds_total" []
        "Time in which all of its tasks waited for a processor, in whole seconds.";
    PRESSURE_MEMORY_WAITING = Counter "container_pressure_memory_waiting_seconds_total" []
        "Time in which some of its tasks waited for memory, in whole seconds.";
    PRESSURE_MEMORY_STALLED = Counter "container_pressure_memory_stalled_seconds_total" []
        "Time in which all of its tasks waited for memory, in whole seconds.";
    PRESSURE_IO_WAITING = Counter "container_pressure_io_waiting_seconds_total" []
        "Time in which some of its tasks waited for a device, in whole seconds.";
    PRESSURE_IO_STALLED = Counter "container_pressure_io_stalled_seconds_total" []
        "Time in which all of its tasks waited for a device, in whole seconds.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_say_what_prometheus_expects() {
        let names: BTreeSet<&str> = DESCRIPTORS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), DESCRIPTORS.len());
        for metric in DESCRIPTORS {
            assert!(metric.name.starts_with("container_"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            if metric.name.ends_with("_total") && !metric.name.contains("inodes") {
                assert_eq!(metric.kind, MetricKind::Counter, "{}", metric.name);
            }
        }
    }
}
