//! `linux.resources.blockIO`: weights and throttles of block devices.
//!
//! Which file takes a weight depends on the IO scheduler the kernel was built with or has loaded:
//! BFQ has files of its own, with values as the spec has them. Elsewhere v2 has another scale, and
//! v1 what remains of CFQ. No scheduler, no weights: that narrows, throttles are always there.

use launch::plan::{CgroupFile, CgroupSetting};
use oci_spec::runtime::{LinuxBlockIo, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice};

use super::{required, wanted};
use crate::PlanError;

/// Weights the specification allows; 0 is "not set".
const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

/// Refuses weights out of range and devices that cannot be.
pub(super) fn check(resources: &LinuxResources) -> Result<(), PlanError> {
    let Some(block_io) = resources.block_io() else { return Ok(()) };
    let field = |name: &str| format!("linux.resources.blockIO.{name}");
    let weight = |name: &str, value: Option<u16>| match value {
        None | Some(0) => Ok(()),
        Some(weight) if WEIGHTS.contains(&weight) => Ok(()),
        Some(weight) => Err(PlanError::invalid(field(name), weight, "10 to 1000")),
    };
    let device = |name: &str, major: i64, minor: i64| {
        if u32::try_from(major).is_ok() && u32::try_from(minor).is_ok() {
            Ok(())
        } else {
            let number = format!("{major}:{minor}");
            Err(PlanError::invalid(field(name), number, "device numbers"))
        }
    };
    weight("weight", block_io.weight())?;
    weight("leafWeight", block_io.leaf_weight())?;
    for one in block_io.weight_device().iter().flatten() {
        device("weightDevice", one.major(), one.minor())?;
        weight("weightDevice", one.weight())?;
        weight("weightDevice", one.leaf_weight())?;
    }
    for (_, _, list) in throttles(block_io) {
        for one in list.iter().flatten() {
            device("throttleDevice", one.major(), one.minor())?;
        }
    }
    Ok(())
}

/// Whether anything is asked for.
pub(super) fn limits(block_io: &LinuxBlockIo) -> bool {
    *block_io != LinuxBlockIo::default()
}

type Devices<'b> = &'b Option<Vec<LinuxThrottleDevice>>;

/// File of v1, word of v2, list of the spec.
fn throttles(block_io: &LinuxBlockIo) -> [(&'static str, &'static str, Devices<'_>); 4] {
    [
        ("blkio.throttle.read_bps_device", "rbps", block_io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", "wbps", block_io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", "riops", block_io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", "wiops", block_io.throttle_write_iops_device()),
    ]
}

fn set(weight: Option<u16>) -> Option<u16> {
    weight.filter(|weight| *weight != 0)
}

fn number(device: &LinuxWeightDevice) -> String {
    format!("{}:{}", device.major(), device.minor())
}

/// Values for the `blkio` controller: one device per write.
pub(super) fn v1(block_io: &LinuxBlockIo) -> Vec<CgroupSetting> {
    let weighed = |file: &str, older: &str, value: String| CgroupSetting {
        fallback: Some(CgroupFile { file: older.into(), value: value.clone() }),
        ..wanted(file, value)
    };
    let mut settings = Vec::new();
    settings.extend(
        set(block_io.weight()).map(|w| weighed("blkio.bfq.weight", "blkio.weight", w.to_string())),
    );
    settings.extend(set(block_io.leaf_weight()).map(|w| wanted("blkio.leaf_weight", w)));
    for device in block_io.weight_device().iter().flatten() {
        let line = |weight: u16| format!("{} {weight}", number(device));
        let (bfq, cfq) = ("blkio.bfq.weight_device", "blkio.weight_device");
        settings.extend(set(device.weight()).map(|w| weighed(bfq, cfq, line(w))));
        let leaf = set(device.leaf_weight());
        settings.extend(leaf.map(|w| wanted("blkio.leaf_weight_device", line(w))));
    }
    for (file, _, list) in throttles(block_io) {
        let line = |d: &LinuxThrottleDevice| {
            required(file, format!("{}:{} {}", d.major(), d.minor(), d.rate()))
        };
        settings.extend(list.iter().flatten().map(line));
    }
    settings
}

/// Values for the `io` controller. It has no weights of leaves.
pub(super) fn v2(block_io: &LinuxBlockIo) -> Vec<CgroupSetting> {
    let weighed = |prefix: String, weight: u16| CgroupSetting {
        fallback: Some(CgroupFile {
            file: "io.weight".into(),
            value: format!("{prefix} {}", unified_weight(weight)),
        }),
        ..wanted("io.bfq.weight", format!("{prefix} {weight}"))
    };
    let mut settings = Vec::new();
    settings.extend(set(block_io.weight()).map(|weight| weighed("default".into(), weight)));
    for device in block_io.weight_device().iter().flatten() {
        settings.extend(set(device.weight()).map(|weight| weighed(number(device), weight)));
    }
    for (_, word, list) in throttles(block_io) {
        let line = |d: &LinuxThrottleDevice| {
            let rate = if d.rate() == 0 { "max".to_owned() } else { d.rate().to_string() };
            required("io.max", format!("{}:{} {word}={rate}", d.major(), d.minor()))
        };
        settings.extend(list.iter().flatten().map(line));
    }
    settings
}

/// 10…1000 as 1…10000, evenly, as runc and crun convert it.
fn unified_weight(weight: u16) -> u32 {
    1 + u32::from(weight.saturating_sub(10)) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder};

    use super::*;

    fn lines(settings: &[CgroupSetting]) -> Vec<String> {
        let text = |setting: &CgroupSetting| {
            let fallback = setting.fallback.as_ref();
            let fallback = fallback.map(|f| format!(" else {}={}", f.file, f.value));
            let must = if setting.required { "!" } else { "" };
            format!("{}={}{}{must}", setting.file, setting.value, fallback.unwrap_or_default())
        };
        settings.iter().map(text).collect()
    }

    fn throttled(major: i64, rate: u64) -> LinuxThrottleDevice {
        LinuxThrottleDeviceBuilder::default().major(major).rate(rate).build().unwrap()
    }

    fn sample() -> LinuxBlockIo {
        let device = LinuxWeightDeviceBuilder::default().major(8).minor(16).weight(500u16);
        let device = device.build().unwrap();
        let throttle = |rate: u64| Some(vec![throttled(8, rate)]);
        let mut block_io = LinuxBlockIo::default();
        block_io
            .set_weight(Some(100))
            .set_weight_device(Some(vec![device]))
            .set_throttle_read_bps_device(throttle(1 << 20))
            .set_throttle_write_bps_device(throttle(0))
            .set_throttle_read_iops_device(throttle(10))
            .set_throttle_write_iops_device(throttle(20));
        block_io
    }

    #[test]
    fn v1_gets_a_write_per_device() {
        assert_eq!(
            lines(&v1(&sample())),
            [
                "blkio.bfq.weight=100 else blkio.weight=100",
                "blkio.bfq.weight_device=8:16 500 else blkio.weight_device=8:16 500",
                "blkio.throttle.read_bps_device=8:0 1048576!",
                "blkio.throttle.write_bps_device=8:0 0!",
                "blkio.throttle.read_iops_device=8:0 10!",
                "blkio.throttle.write_iops_device=8:0 20!",
            ]
        );
    }

    #[test]
    fn v2_has_one_file_for_throttles_and_a_scale_of_its_own_for_weights() {
        assert_eq!(
            lines(&v2(&sample())),
            [
                "io.bfq.weight=default 100 else io.weight=default 910",
                "io.bfq.weight=8:16 500 else io.weight=8:16 4950",
                "io.max=8:0 rbps=1048576!",
                "io.max=8:0 wbps=max!",
                "io.max=8:0 riops=10!",
                "io.max=8:0 wiops=20!",
            ]
        );
        assert_eq!((unified_weight(10), unified_weight(1000)), (1, 10_000));
    }

    #[test]
    fn what_is_no_weight_or_no_device_is_refused() {
        let refused = |block_io: LinuxBlockIo| {
            let mut resources = LinuxResources::default();
            resources.set_block_io(Some(block_io));
            check(&resources).is_err()
        };
        assert!(!refused(sample()));
        for weight in [1, 9, 1001] {
            let mut block_io = LinuxBlockIo::default();
            block_io.set_weight(Some(weight));
            assert!(refused(block_io), "{weight}");
        }
        let mut block_io = LinuxBlockIo::default();
        block_io.set_throttle_read_bps_device(Some(vec![throttled(-1, 1)]));
        assert!(refused(block_io));
    }
}
