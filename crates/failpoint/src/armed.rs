//! What a test has asked for, and doing it.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use crate::{Point, SpecError};

/// What happens at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Fail,
    /// As on a file system that is full.
    Full,
}

#[derive(Debug)]
struct Planned {
    point: Point,
    action: Action,
    /// How often it is passed before.
    spared: AtomicU32,
    /// How often it happens then.
    left: AtomicU32,
}

type Plan = Vec<Planned>;

static PLAN: OnceLock<Plan> = OnceLock::new();

/// Takes what the variable says. Once per process, before the first place is reached.
///
/// # Errors
/// [`SpecError`]; then nothing is armed.
pub fn arm(spec: &str) -> Result<(), SpecError> {
    let plan = parse(spec)?;
    PLAN.get_or_init(|| plan);
    Ok(())
}

/// As [`arm`], for a shim, whose environment is empty: what the file `failpoints` says, in the
/// directory that holds the state of all pods' own directory, if there is one.
///
/// # Errors
/// [`SpecError`]; then nothing is armed.
pub fn arm_shim(pod_state: &Path) -> Result<(), SpecError> {
    let Some(state) = pod_state.parent().and_then(Path::parent) else { return Ok(()) };
    match std::fs::read_to_string(state.join("failpoints")) {
        Ok(spec) => arm(spec.trim()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            let part = state.display().to_string();
            Err(SpecError { part, what: "the file `failpoints` there cannot be read" })
        }
    }
}

/// The daemon's places by name, with what they can do: `pod.run.attach kill error`.
pub fn list() -> String {
    listed(|point| !point.is_the_shims())
}

/// The shim's places.
pub fn list_shim() -> String {
    listed(Point::is_the_shims)
}

fn listed(wanted: impl Fn(Point) -> bool) -> String {
    let line = |point: Point| {
        let error = if point.can_fail() { " error" } else { "" };
        let full = if point.writes() { " full" } else { "" };
        format!("{} kill{error}{full}\n", point.name())
    };
    Point::ALL.iter().copied().filter(|point| wanted(*point)).map(line).collect()
}

fn parse(spec: &str) -> Result<Plan, SpecError> {
    spec.split(',').filter(|part| !part.is_empty()).map(parse_one).collect()
}

fn parse_one(part: &str) -> Result<Planned, SpecError> {
    let wrong = |what| SpecError { part: part.to_owned(), what };
    let (name, action) = part.split_once('=').ok_or_else(|| wrong("want NAME=ACTION"))?;
    let point = Point::named(name).ok_or_else(|| wrong("there is no such place"))?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong("how often is no number"));
    let (action, spared) = match action.split_once('@') {
        Some((action, time)) => (action, number(time)?.saturating_sub(1)),
        None => (action, 0),
    };
    let (action, left) = match action.split_once('*') {
        Some((action, times)) => (action, number(times)?),
        None => (action, u32::MAX),
    };
    let action = match action {
        "kill" => Action::Kill,
        "error" if point.can_fail() => Action::Fail,
        "error" => return Err(wrong("nobody could be told of a failure there")),
        "full" if point.writes() => Action::Full,
        "full" => return Err(wrong("nothing is written there")),
        _ => return Err(wrong("the action is none of `kill`, `error` and `full`")),
    };
    Ok(Planned { point, action, spared: spared.into(), left: left.into() })
}

/// A step that can fail comes next.
///
/// # Errors
/// The test wants it to fail.
pub fn reach(point: Point) -> io::Result<()> {
    match happens(point) {
        None => Ok(()),
        Some(Action::Kill) => die(point),
        Some(Action::Fail) => {
            say(point, "failing");
            Err(io::Error::other(format!("failpoint {}", point.name())))
        }
        Some(Action::Full) => {
            say(point, "full");
            Err(Errno::NOSPC.into())
        }
    }
}

/// A step comes next whose failure nobody could be told.
pub fn pass(point: Point) {
    if happens(point) == Some(Action::Kill) {
        die(point);
    }
}

/// What happens there now.
fn happens(point: Point) -> Option<Action> {
    let planned = PLAN.get()?.iter().find(|planned| planned.point == point)?;
    if take(&planned.spared) {
        return None;
    }
    take(&planned.left).then_some(planned.action)
}

/// One of them, if one is left.
fn take(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn die(point: Point) -> ! {
    say(point, "dying");
    loop {
        // It takes the process away before it returns, or another thread's did.
        if kill_process(getpid(), Signal::KILL).is_err() {
            std::process::abort();
        }
        std::thread::park();
    }
}

fn say(point: Point, what: &str) {
    // In one piece: the shims write to the same place. A test that does not hear of it fails.
    let line = format!("failpoint {}: {what}\n", point.name());
    drop(io::stderr().write_all(line.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_a_name_of_its_own_and_is_listed() {
        let mut names: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        assert_eq!(list().lines().count() + list_shim().lines().count(), all);
        assert!(list().contains("pod.run.attach kill error\n"));
        assert!(list_shim().contains("shim.exit.record kill error full\n"));
    }

    #[test]
    fn what_is_asked_for_is_read_and_what_is_none_is_refused() {
        let plan =
            parse("pod.run.attach=kill@3,pod.run.intent=error*2,store.replace=full,").unwrap();
        let read = |planned: &Planned| {
            let count = |count: &AtomicU32| count.load(Ordering::Relaxed);
            (planned.point, planned.action, count(&planned.spared), count(&planned.left))
        };
        assert_eq!(
            plan.iter().map(read).collect::<Vec<_>>(),
            [
                (Point::PodAttach, Action::Kill, 2, u32::MAX),
                (Point::PodIntent, Action::Fail, 0, 2),
                (Point::RecordReplace, Action::Full, 0, u32::MAX),
            ]
        );
        for (spec, want) in [
            ("pod.run.attach", "NAME=ACTION"),
            ("nowhere=kill", "no such place"),
            ("pod.run.attach=explode", "none of"),
            ("pod.run.attach=error*x", "no number"),
            ("pod.run.answer=error", "nobody could be told"),
            ("pod.run.attach=full", "nothing is written"),
        ] {
            let error = parse(spec).unwrap_err().to_string();
            assert!(error.contains(want), "{spec}: {error}");
        }
    }

    #[test]
    fn a_step_fails_as_often_as_it_is_told_to() {
        let dir = std::env::temp_dir().join(format!("failpoint-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("pods/a")).unwrap();
        arm_shim(&dir.join("pods/a")).unwrap();
        std::fs::write(dir.join("failpoints"), "image.pull.record=full*2@2\n").unwrap();
        arm_shim(&dir.join("pods/a")).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(reach(Point::PodAttach).is_ok());
        assert!(reach(Point::ImageRecord).is_ok(), "the first time is spared");
        for _ in 0..2 {
            let error = reach(Point::ImageRecord).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
        assert!(reach(Point::ImageRecord).is_ok());
    }
}
