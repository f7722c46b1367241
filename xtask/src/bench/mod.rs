//! `cargo xtask bench NAME`: measurements that decisions and promises go by. Each runs what it
//! compares in alternation, in one run on one machine; times of different machines say nothing.

mod process;
mod program;
mod pull;
mod pull_image;
mod runtimes;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Names of the benchmarks.
pub(crate) const NAMES: [&str; 4] = ["network", "pull", "scale", "streaming"];

/// What to measure, and how often.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Which benchmark.
    #[arg(value_parser = NAMES)]
    name: String,
    /// Measure another runtime beside knarr, in turn with it.
    #[arg(long, value_parser = ["containerd"])]
    against: Option<String>,
    /// Write the results here as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each is measured; the median is shown.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Megabytes of files in the image that is pulled.
    #[arg(long, default_value_t = 2500)]
    megabytes: u64,
}

/// One quantity's measurements, in the order in which they were taken.
pub(crate) struct Series {
    /// Who was measured.
    pub(crate) subject: String,
    /// What, with its unit.
    pub(crate) quantity: &'static str,
    pub(crate) values: Vec<f64>,
}

impl Series {
    fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match (sorted.len() % 2, sorted.get(middle)) {
            (_, None) => f64::NAN,
            (1, Some(value)) => *value,
            (_, Some(value)) => f64::midpoint(*value, sorted[middle - 1]),
        }
    }
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let series = match options.name.as_str() {
        "network" => program::run(root, options, &program::NETWORK)?,
        "pull" => pull::run(root, options)?,
        "scale" => program::run(root, options, &program::SCALE)?,
        "streaming" => program::run(root, options, &program::STREAMING)?,
        other => anyhow::bail!("there is no benchmark `{other}`"),
    };
    println!("\n{:<24} {:<20} {:>12} {:>8}", "what", "who", "median", "ratio");
    for one in &series {
        let base = series.iter().find(|other| other.quantity == one.quantity);
        let ratio = base.map_or(f64::NAN, |base| one.median() / base.median());
        let (what, who, median) = (one.quantity, &one.subject, one.median());
        println!("{what:<24} {who:<20} {median:>12.2} {ratio:>8.2}");
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report(&options.name, &series))?;
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn report(name: &str, series: &[Series]) -> Value {
    let one = |one: &Series| {
        json!({
            "subject": one.subject,
            "quantity": one.quantity,
            "median": one.median(),
            "values": one.values,
        })
    };
    json!({ "benchmark": name, "series": series.iter().map(one).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_those_in_the_middle() {
        let median = |values: &[f64]| {
            Series { subject: String::new(), quantity: "", values: values.to_vec() }.median()
        };
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert!(median(&[]).is_nan());
    }
}
