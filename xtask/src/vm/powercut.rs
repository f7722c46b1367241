//! Power cuts while images are pulled and removed: a machine whose disk loses what was not
//! flushed, at a write request that chance picks; booted again and looked at, over and over.

mod life;
mod nbd;

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use test_support::power::{
    Ended, FILE_SYSTEMS, Fates, Loss, NAMES, Random, VolatileDisk, make_disk,
};

use self::life::{Life, Stop};
use super::boot::{Board, Disk, Event, Machine};
use super::parts::POWERCUT;
use super::summary::Summary;

const DISK_BYTES: u64 = 1 << 30;
/// Each so often everything is removed, to see that nothing stays.
const PURGE_EVERY: u32 = 5;
/// The power is cut at one of so many writes. A pull makes some hundred.
const WRITES: u64 = 400;

/// How many cuts, on what.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Cuts {
    /// `powercut`: cut the power this often.
    #[arg(long, value_name = "N", default_value_t = 2)]
    cuts: u32,
    /// `powercut`: file system of the disk; both in turn if it is not given.
    #[arg(long, value_parser = FILE_SYSTEMS.to_vec())]
    fs: Option<String>,
    /// `powercut`: begin with this number, to cut at like moments again.
    #[arg(long)]
    seed: Option<u64>,
}

/// A disk, what should be on it, and how its machine is made.
struct Trial<'a> {
    board: &'a Board<'a>,
    socket: &'a Path,
    disk: VolatileDisk,
    random: Random,
    fates: Fates,
    fs: &'a str,
}

/// Runs all trials; each cut is a test. `work` holds the disk and its socket.
pub(super) fn run(cuts: &Cuts, board: Board<'_>, work: &Path, summary: &mut Summary) -> Result<()> {
    summary.enter(POWERCUT);
    let seed = match cuts.seed {
        Some(seed) => seed,
        None => SystemTime::UNIX_EPOCH.elapsed().context("the clock")?.as_secs(),
    };
    let dir = work.join("powercut");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let socket = dir.join("disk.sock");
    let (saved, monitor) = (dir.join("saved"), dir.join("monitor"));
    let board = Board { disk: Some(Disk::Socket(&socket)), ..board };
    boot_once(&Board { monitor: Some(&monitor), ..board }, &socket, &dir, (&monitor, &saved))?;
    let board = Board { saved: Some(&saved), ..board };
    let systems = match &cuts.fs {
        Some(one) => vec![one.as_str()],
        None => FILE_SYSTEMS.to_vec(),
    };
    for fs in systems {
        println!("    {} power cuts on {fs}, seed {seed}", cuts.cuts);
        let mut trial = Trial {
            board: &board,
            socket: &socket,
            disk: make_disk(&dir.join("disk"), DISK_BYTES, fs)?,
            random: Random::new(seed),
            fates: Fates::new(NAMES),
            fs,
        };
        for number in 1..=cuts.cuts {
            let name = format!("cut {number} of {} on {fs}", cuts.cuts);
            let lived = noted(summary, &name, trial.live(number), seed)?;
            println!("    {name}: {lived}");
        }
        noted(summary, &format!("after the last cut on {fs}"), trial.last(), seed)?;
    }
    fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())
}

fn noted<T>(summary: &mut Summary, name: &str, ended: Result<T>, seed: u64) -> Result<T> {
    summary.take(&format!("{} {name}", if ended.is_ok() { "ok  " } else { "FAIL" }));
    ended.with_context(|| format!("{name}, seed {seed}"))
}

/// Boots a machine and saves it before it has looked at its disk. Each life goes on from there:
/// emulated, booting takes longer than all the rest.
fn boot_once(
    board: &Board<'_>,
    socket: &Path,
    dir: &Path,
    (monitor, saved): (&Path, &Path),
) -> Result<()> {
    let mut trial = Trial {
        board,
        socket,
        disk: make_disk(&dir.join("disk"), DISK_BYTES, "ext4")?,
        random: Random::new(0),
        fates: Fates::new(NAMES),
        fs: "ext4",
    };
    let ended = trial.power_on(u64::MAX, |life| {
        life.awake()?;
        Ok(life.machine.save(monitor, saved)?)
    })?;
    ensure!(ended == Ended::Closed, "the machine was not saved");
    Ok(())
}

impl Trial<'_> {
    /// From boot to power cut; says what was lost.
    fn live(&mut self, number: u32) -> Result<String> {
        // Some cuts meet the machine while it comes back from the one before.
        let early = number > 1 && self.random.below(4) == 0;
        let after = self.random.below(WRITES) + 1;
        let loss = Loss::any(&mut self.random);
        let mut before = 0;
        let ended = self.power_on(if early { after } else { u64::MAX }, |life| {
            life.begin()?;
            life.look()?;
            if number.is_multiple_of(PURGE_EVERY) {
                life.purge()?;
            }
            before = life.cut_after(after);
            loop {
                life.change()?;
            }
        })?;
        ensure!(ended == Ended::Cut, "the machine went off before its power was cut");
        let (lost, cached) = self.disk.lose(loss, &mut self.random).context("the disk")?;
        let writes = self.disk.writes();
        let when = if before == 0 { "coming back" } else { "at work" };
        Ok(format!("{when}, at write {writes}; {lost} of {cached} unflushed blocks lost"))
    }

    /// After the last cut: everything is whole, works, and can go without a trace.
    fn last(&mut self) -> Result<()> {
        let ended = self.power_on(u64::MAX, |life| {
            life.begin()?;
            life.look()?;
            NAMES.iter().try_for_each(|name| life.pull(name))?;
            life.look()?;
            life.purge()?;
            life.say("nothing")?;
            life.say("stop")?;
            Ok(())
        })?;
        ensure!(ended == Ended::Closed, "the power was cut without need");
        Ok(())
    }

    /// Boots, does `what`, and waits until the machine is off.
    fn power_on(
        &mut self,
        cut_at: u64,
        what: impl FnOnce(&mut Life<'_>) -> Result<(), Stop>,
    ) -> Result<Ended> {
        let Self { board, socket, disk, random, fates, fs } = self;
        // Each machine finds its own: one whose disk goes away tries to come back to it.
        if socket.exists() {
            fs::remove_file(*socket).with_context(|| socket.display().to_string())?;
        }
        let listener = UnixListener::bind(*socket).with_context(|| socket.display().to_string())?;
        let (writes, cut_at) = (AtomicU64::new(0), AtomicU64::new(cut_at));
        let machine = Machine::start(board)?;
        let post = machine.post();
        std::thread::scope(|scope| {
            let served = scope.spawn(|| -> Result<Ended> {
                let (stream, _) = listener.accept().context("the disk's socket")?;
                drop(listener);
                let ended = nbd::serve(disk, stream, |number| {
                    writes.store(number, Ordering::Relaxed);
                    number >= cut_at.load(Ordering::Relaxed)
                });
                let ended = ended.context("the disk")?;
                if ended == Ended::Cut {
                    // Who listens kills the machine.
                    drop(post.send(Event::Cut));
                }
                Ok(ended)
            });
            let mut life = Life { machine, random, fates, fs, writes: &writes, cut_at: &cut_at };
            let outcome = match what(&mut life) {
                Ok(()) => life.see_off(),
                Err(Stop::Cut) => life.machine.cut(),
                Err(Stop::Failed(error)) => Err(error),
            };
            // Its end of the socket goes with it.
            drop(life);
            if outcome.is_err() {
                // A machine that never asked for its disk keeps nobody waiting.
                drop(UnixStream::connect(*socket));
            }
            let served = served.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome?;
            served
        })
    }
}
