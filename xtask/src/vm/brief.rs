//! The machine of `cargo xtask test`: a few minutes, a few tests, and nothing is said unless one fails.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_support::packages;

use super::boot::{Board, Disk};
use super::parts::{BRIEF, expected};
use super::summary::Summary;
use super::{PACKAGES, Request, live, machine, systemd, work_dir};
use crate::steps::step;

const MEMORY_MIB: u32 = 2048;

/// Runs the tests that this kernel cannot show, on Debian's, with systemd as the first process.
/// Programs are taken from `dist`, or else from `target/dist` as they are.
pub(crate) fn briefly(root: &Path, dist: Option<&Path>) -> Result<()> {
    step(BRIEF.name, || {
        packages::ensure(PACKAGES).context("the tests need a virtual machine")?;
        let work = work_dir(root);
        let kernel = machine::kernel(&work)?;
        let request = Request { dist: dist.map(Path::to_owned), ..Request::default() };
        let initrd = machine::initrd(root, &work, &kernel, &request, (BRIEF.kind, BRIEF.parts))?;
        let disk = systemd::disk(&work)?;
        let mut summary = Summary::default();
        live(
            &Board {
                kernel: &kernel.image,
                initrd: &initrd,
                kernel_args: systemd::KERNEL_ARGS,
                memory_mib: MEMORY_MIB,
                disk: Some(Disk::File(&disk)),
                reboots: false,
                saved: None,
                monitor: None,
                time_limit: Duration::from_secs(60 * BRIEF.minutes),
                quiet: true,
            },
            &mut summary,
        )?;
        summary.print();
        // One that was renamed would be run no more, and nobody would notice.
        let (seen, want) = (summary.seen(), expected(&BRIEF));
        ensure!(seen == want, "{seen} of the {want} tests named in xtask/src/vm/parts.rs were run");
        Ok(())
    })
}
