//! How busy others keep the machine while something is measured.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::usage::Used;

/// `USER_HZ`, which is part of the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// Since when.
#[derive(Debug, Clone, Copy)]
pub struct Noise {
    machine: Machine,
    own_seconds: f64,
}

/// Processor seconds of all processors together.
#[derive(Debug, Clone, Copy)]
struct Machine {
    busy: f64,
    idle: f64,
}

impl Machine {
    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        Self::parse(text.lines().next().context("/proc/stat is empty")?)
    }

    /// `cpu user nice system idle iowait irq softirq steal …`
    fn parse(line: &str) -> Result<Self> {
        let ticks = line.split_whitespace().skip(1).take(8).map(str::parse::<f64>);
        let ticks: Vec<f64> = ticks.collect::<Result<_, _>>().context("/proc/stat")?;
        let idle = ticks.iter().skip(3).take(2).sum::<f64>();
        let busy = ticks.iter().sum::<f64>() - idle;
        Ok(Self { busy: busy / TICKS_PER_SECOND, idle: idle / TICKS_PER_SECOND })
    }
}

fn own_seconds() -> Result<f64> {
    Ok(Used::of(std::process::id())?.cpu_seconds)
}

impl Noise {
    /// From now on.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn begin() -> Result<Self> {
        Ok(Self { machine: Machine::now()?, own_seconds: own_seconds()? })
    }

    /// Per cent of the machine that was taken by anybody but this process and those that used
    /// `measured` seconds. The kernel's own work for those counts as others'.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn share_of_others(&self, measured: f64) -> Result<f64> {
        let now = Machine::now()?;
        let busy = now.busy - self.machine.busy;
        let all = busy + now.idle - self.machine.idle;
        let others = busy - (own_seconds()? - self.own_seconds) - measured;
        Ok((others * 100.0 / all).max(0.0))
    }
}

/// Per cent of the machine that anybody takes while nothing is measured. Blocks for that time.
///
/// # Errors
/// `/proc` is not there.
pub fn of_others(time: Duration) -> Result<f64> {
    let noise = Noise::begin()?;
    std::thread::sleep(time);
    noise.share_of_others(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_the_disk_is_idle() {
        let machine = Machine::parse("cpu  100 0 50 700 100 0 25 25 0 0").unwrap();
        assert_eq!(machine.busy.to_bits(), 2.0_f64.to_bits());
        assert_eq!(machine.idle.to_bits(), 8.0_f64.to_bits());
    }
}
