//! Statistics.

use cri_api::v1;
use model::{
    CpuStats, DiskUsage, InterfaceStats, IoStats, MemoryStats, PodStats, Pressure, PressureLine,
    SwapStats,
};
use sandbox::{ContainerUsage, PodUsage};

use super::{container, pod};

fn value(value: u64) -> v1::UInt64Value {
    v1::UInt64Value { value }
}

fn line(line: PressureLine) -> v1::PsiData {
    v1::PsiData { total: line.total_ns, avg10: line.avg10, avg60: line.avg60, avg300: line.avg300 }
}

fn pressure(pressure: Pressure) -> v1::PsiStats {
    v1::PsiStats { full: Some(line(pressure.full)), some: Some(line(pressure.some)) }
}

fn cpu(stats: CpuStats) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: stats.at.0,
        usage_core_nano_seconds: Some(value(stats.usage_ns)),
        usage_nano_cores: stats.nano_cores.map(value),
        psi: stats.pressure.map(pressure),
    }
}

fn memory(stats: MemoryStats) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp: stats.at.0,
        working_set_bytes: Some(value(stats.working_set_bytes)),
        available_bytes: stats.available_bytes.map(value),
        usage_bytes: Some(value(stats.usage_bytes)),
        rss_bytes: Some(value(stats.rss_bytes)),
        page_faults: Some(value(stats.page_faults)),
        major_page_faults: Some(value(stats.major_page_faults)),
        psi: stats.pressure.map(pressure),
    }
}

fn swap(stats: SwapStats) -> v1::SwapUsage {
    v1::SwapUsage {
        timestamp: stats.at.0,
        swap_available_bytes: stats.available_bytes.map(value),
        swap_usage_bytes: Some(value(stats.usage_bytes)),
    }
}

fn io(stats: IoStats) -> v1::IoUsage {
    v1::IoUsage { timestamp: stats.at.0, psi: stats.pressure.map(pressure) }
}

pub(crate) fn disk(usage: DiskUsage) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: usage.at.0,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: usage.mountpoint }),
        used_bytes: Some(value(usage.used_bytes)),
        inodes_used: Some(value(usage.inodes_used)),
    }
}

pub(crate) fn container(usage: ContainerUsage) -> v1::ContainerStats {
    let ContainerUsage { container: view, stats } = usage;
    let config = &view.record.config;
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: view.record.id.to_string(),
            metadata: Some(container::metadata(&config.name)),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu: stats.cpu.map(cpu),
        memory: stats.memory.map(memory),
        writable_layer: stats.writable_layer.map(disk),
        swap: stats.swap.map(swap),
        io: stats.io.map(io),
    }
}

fn interface(stats: InterfaceStats) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: stats.name,
        rx_bytes: Some(value(stats.rx_bytes)),
        rx_errors: Some(value(stats.rx_errors)),
        tx_bytes: Some(value(stats.tx_bytes)),
        tx_errors: Some(value(stats.tx_errors)),
    }
}

/// CRI: `eth0` is the default interface, the others are listed beside it.
fn network(stats: &PodStats) -> Option<v1::NetworkUsage> {
    if stats.interfaces.is_empty() {
        return None;
    }
    let (default, others): (Vec<_>, Vec<_>) =
        stats.interfaces.iter().cloned().partition(|interface| interface.name == "eth0");
    Some(v1::NetworkUsage {
        timestamp: stats.at.0,
        default_interface: default.into_iter().next().map(interface),
        interfaces: others.into_iter().map(interface).collect(),
    })
}

pub(crate) fn pod(usage: PodUsage) -> v1::PodSandboxStats {
    let PodUsage { pod: view, stats, containers } = usage;
    let config = &view.record.config;
    let network = network(&stats);
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: view.record.id.to_string(),
            metadata: Some(pod::metadata(&config.name)),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: stats.cpu.map(cpu),
            memory: stats.memory.map(memory),
            network,
            process: Some(v1::ProcessUsage {
                timestamp: stats.at.0,
                process_count: Some(value(stats.processes)),
            }),
            containers: containers.into_iter().map(self::container).collect(),
            io: stats.io.map(io),
        }),
        windows: None,
    }
}
