//! One disk, and the nodes that lose their power with it, one after the other.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::SystemTime;

use test_support::power::{
    Change, Ended, Fates, Loss, Mounted, NAMES, Namespace, Random, VolatileDisk, make_disk, storm,
};
use test_support::registry::LocalRegistry;

use crate::node;

const DISK_BYTES: u64 = 320 << 20;
/// Each so often everything is removed, to see that nothing stays.
const PURGE_EVERY: u32 = 5;
/// The power is cut at one of so many writes. A pull makes some hundred.
const WRITES: u64 = 300;
const CUTS: &str = "KNARR_CUTS";
const SEED: &str = "KNARR_SEED";
/// Directories grow and do not shrink.
const SLACK_BYTES: u64 = 1 << 20;

pub(crate) fn run(fs: &str) {
    let number = |key: &str| std::env::var(key).ok().map(|text| text.parse().unwrap());
    let cuts = u32::try_from(number(CUTS).unwrap_or(8)).unwrap();
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = number(SEED).unwrap_or_else(now);
    println!("{cuts} power cuts on {fs}, {SEED}={seed}");
    let registry = LocalRegistry::start().unwrap();
    storm().unwrap().iter().for_each(|image| registry.add(image).unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let dir = |name: &str| {
        let dir = scratch.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    };
    let server = format!("server = \"http://{}\"\n", registry.host());
    std::fs::write(dir(&format!("certs.d/{}", registry.host())).join("hosts.toml"), server)
        .unwrap();
    let namespace = Namespace::new().unwrap();
    let mut trial = Trial {
        namespace: &namespace,
        disk: Some(make_disk(&scratch.path().join("disk"), DISK_BYTES, fs).unwrap()),
        shown: dir("shown"),
        root: dir("root"),
        hosts: dir("certs.d"),
        fs,
        host: registry.host(),
        random: Random::new(seed),
        fates: Fates::new(NAMES),
    };
    let empty = trial.used_when_empty();
    (1..=cuts).for_each(|number| println!("{fs}, cut {number}: {}", trial.live(number)));
    trial.last();
    let now = trial.used_when_empty();
    assert!(now <= empty + SLACK_BYTES, "{now} bytes are used, {empty} were in the beginning");
}

struct Trial<'a> {
    /// Where the nodes are, and everything that is mounted.
    namespace: &'a Namespace,
    /// Gone while it is a file that a node has.
    disk: Option<VolatileDisk>,
    shown: PathBuf,
    root: PathBuf,
    hosts: PathBuf,
    fs: &'a str,
    host: String,
    random: Random,
    fates: Fates,
}

enum Event {
    Line(String),
    Cut,
    Ended,
}

/// The power is gone, or so it seems: what the node does now counts no more.
struct Off;

impl Trial<'_> {
    /// From start to power cut; says what was lost.
    fn live(&mut self, number: u32) -> String {
        let after = self.random.below(WRITES) + 1;
        let loss = Loss::any(&mut self.random);
        let keeps = self.random.below(2) == 0;
        let ended = self.power_on(after, keeps, |node, trial| {
            trial.look(node)?;
            if number.is_multiple_of(PURGE_EVERY) {
                trial.purge(node)?;
            }
            loop {
                let (name, change) = trial.fates.next(&mut trial.random);
                trial.change(node, name, change)?;
            }
        });
        assert_eq!(ended, Ended::Cut, "the power was not cut");
        let disk = self.disk.as_mut().unwrap();
        let (lost, cached) = disk.lose(loss, &mut self.random).unwrap();
        format!("at write {after}; {lost} of {cached} unflushed blocks lost")
    }

    /// After the last cut: everything is whole, works, and can go without a trace.
    fn last(&mut self) {
        let ended = self.power_on(u64::MAX, true, |node, trial| {
            trial.look(node)?;
            for name in NAMES.iter().filter(|name| !trial.fates.has(name)).collect::<Vec<_>>() {
                trial.change(node, name, Change::Pull)?;
            }
            trial.look(node)?;
            trial.purge(node)?;
            node.say("nothing-kept").map(drop)
        });
        assert_eq!(ended, Ended::Closed, "the power was cut without need");
    }

    /// Bytes that the file system has given out while there is no image.
    fn used_when_empty(&mut self) -> u64 {
        let mut used = 0;
        self.power_on(u64::MAX, false, |node, _trial| {
            let lines = node.say("used")?;
            used = lines[0].strip_prefix("used ").unwrap().parse().unwrap();
            Ok(())
        });
        used
    }

    fn look(&mut self, node: &mut Node) -> Result<(), Off> {
        let prefix = format!("have {}/", self.host);
        let lines = node.say("list")?;
        let there: BTreeSet<_> =
            lines.iter().filter_map(|line| line.strip_prefix(&prefix)).collect();
        self.fates.compare(&there).unwrap();
        node.say("verify").map(drop)
    }

    fn change(&mut self, node: &mut Node, name: &'static str, change: Change) -> Result<(), Off> {
        let verb = match change {
            Change::Pull => "pull",
            Change::Remove => "rm",
        };
        self.fates.begun(name);
        let done = node.say(&format!("{verb} {}/{name}", self.host));
        // What it calls done is durable, even if its power went with the last word.
        if done.is_ok() || node.said_done() {
            self.fates.done(name, change);
        }
        done.map(drop)
    }

    fn purge(&mut self, node: &mut Node) -> Result<(), Off> {
        NAMES.iter().for_each(|name| self.fates.begun(name));
        node.say("purge")?;
        NAMES.iter().for_each(|name| self.fates.done(name, Change::Remove));
        Ok(())
    }

    /// Starts a node on the disk, does `what` with it, and ends it one way or the other.
    fn power_on(
        &mut self,
        cut_at: u64,
        keeps: bool,
        what: impl FnOnce(&mut Node, &mut Self) -> Result<(), Off>,
    ) -> Ended {
        let (post, events) = channel();
        let on_cut = {
            let post = post.clone();
            // Whoever listens may have gone.
            move || drop(post.send(Event::Cut))
        };
        let disk = self.disk.take().unwrap();
        let namespace = self.namespace;
        let mounted = Mounted::new(disk, (namespace, &self.shown), cut_at, on_cut).unwrap();
        if self.mount(&mounted.file()) {
            let mut command = namespace.command(std::env::current_exe().unwrap());
            command.args(["--exact", "tests::a_node", "--nocapture"]);
            command.env(node::ROOT, &self.root).env(node::HOSTS, &self.hosts);
            if keeps {
                command.env(node::KEEPS, "1");
            }
            let mut node = Node::start(command, post, events);
            if let Ok(()) = node.answer().and_then(|_up| what(&mut node, self)) {
                node.stop();
            }
            drop(node);
            let unmounted = namespace.command("umount").arg(&self.root).status().unwrap();
            assert!(unmounted.success(), "cannot unmount {}", self.fs);
        } else {
            assert!(matches!(events.try_recv(), Ok(Event::Cut)), "cannot mount {}", self.fs);
        }
        let (disk, ended) = mounted.finish().unwrap();
        self.disk = Some(disk);
        ended
    }

    /// False if it cannot be mounted: the power may have gone meanwhile.
    fn mount(&self, disk: &Path) -> bool {
        let mut mount = self.namespace.command("mount");
        mount.args(["-o", "loop", "-t", self.fs]).arg(disk).arg(&self.root).stderr(Stdio::null());
        mount.status().unwrap().success()
    }
}

/// A process that has the disk.
struct Node {
    child: Child,
    stdin: Option<ChildStdin>,
    events: Receiver<Event>,
}

impl Node {
    fn start(mut command: Command, post: Sender<Event>, events: Receiver<Event>) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(post.send(Event::Line(line)));
            }
            drop(post.send(Event::Ended));
        });
        Self { child, stdin, events }
    }

    /// Tells it something and waits until that is done; gives what it said meanwhile.
    fn say(&mut self, line: &str) -> Result<Vec<String>, Off> {
        // One that has ended does not listen; the event says so.
        drop(writeln!(self.stdin.as_mut().unwrap(), "{line}"));
        self.answer()
    }

    fn answer(&mut self) -> Result<Vec<String>, Off> {
        let mut lines = Vec::new();
        loop {
            match self.events.recv().unwrap() {
                Event::Line(line) => match line.strip_prefix("@ ") {
                    Some("done" | "up") => return Ok(lines),
                    Some(line) => lines.push(line.to_owned()),
                    None => {}
                },
                Event::Cut => {
                    self.child.kill().unwrap();
                    return Err(Off);
                }
                Event::Ended => panic!("the node ended by itself"),
            }
        }
    }

    /// Whether what was under way when the power went was told done all the same.
    fn said_done(&self) -> bool {
        let rest = self.events.iter().take_while(|event| !matches!(event, Event::Ended));
        rest.filter(|event| matches!(event, Event::Line(line) if line == "@ done")).count() > 0
    }

    fn stop(&mut self) {
        self.stdin = None;
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It has ended, or a test has failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
