//! Measurements of running containers and pods. CRI ch. "Stats fields"; bytes and nanoseconds.

use crate::UnixNanos;

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PressureLine {
    /// Stall time since start, nanoseconds.
    pub total_ns: u64,
    /// Percent over 10 s.
    pub avg10: f64,
    /// Percent over 60 s.
    pub avg60: f64,
    /// Percent over 300 s.
    pub avg300: f64,
}

/// Pressure stall information of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// Some task stalled.
    pub some: PressureLine,
    /// All tasks stalled.
    pub full: PressureLine,
}

/// Processor use.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CpuStats {
    /// When it was read.
    pub at: UnixNanos,
    /// Time used on all cores since start.
    pub usage_ns: u64,
    /// Recent rate in billionths of a core, once two samples exist.
    pub nano_cores: Option<u64>,
    /// Pressure, where the kernel reports it.
    pub pressure: Option<Pressure>,
}

/// Memory use.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MemoryStats {
    /// When it was read.
    pub at: UnixNanos,
    /// Everything charged.
    pub usage_bytes: u64,
    /// Usage without inactive file pages; drives eviction.
    pub working_set_bytes: u64,
    /// Limit minus working set; `None` without a limit.
    pub available_bytes: Option<u64>,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed IO.
    pub major_page_faults: u64,
    /// Pressure, where the kernel reports it.
    pub pressure: Option<Pressure>,
}

/// Swap use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SwapStats {
    /// When it was read.
    pub at: UnixNanos,
    /// In use.
    pub usage_bytes: u64,
    /// Still allowed; `None` without a limit.
    pub available_bytes: Option<u64>,
}

/// Block IO.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct IoStats {
    /// When it was read.
    pub at: UnixNanos,
    /// Pressure, where the kernel reports it.
    pub pressure: Option<Pressure>,
}

/// Space used on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskUsage {
    /// When it was measured.
    pub at: UnixNanos,
    /// Directory that tells which file system.
    pub mountpoint: String,
    /// Bytes.
    pub used_bytes: u64,
    /// Inodes.
    pub inodes_used: u64,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceStats {
    /// Interface name.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Received packets that were dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Send errors.
    pub tx_errors: u64,
    /// Packets that were dropped instead of sent.
    pub tx_dropped: u64,
}

/// Everything measured of one container; parts are absent when it does not run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ContainerStats {
    /// Processor.
    pub cpu: Option<CpuStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Swap.
    pub swap: Option<SwapStats>,
    /// Block IO.
    pub io: Option<IoStats>,
    /// Processes.
    pub processes: Option<u64>,
    /// The container's own layer.
    pub writable_layer: Option<DiskUsage>,
}

/// Everything measured of one pod.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PodStats {
    /// When it was read.
    pub at: UnixNanos,
    /// Processor.
    pub cpu: Option<CpuStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Block IO.
    pub io: Option<IoStats>,
    /// Interfaces other than loopback; absent for host network.
    pub interfaces: Vec<InterfaceStats>,
    /// Processes.
    pub processes: u64,
}
