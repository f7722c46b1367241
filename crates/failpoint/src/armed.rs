//! What a test has asked for, and doing it.

use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

use crate::{Point, SpecError};

#[derive(Debug)]
enum Action {
    Kill,
    /// As often as this.
    Fail(AtomicU32),
}

type Plan = Vec<(Point, Action)>;

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

/// Every place by name, with what it can do: `pod.run.attach kill error`.
pub fn list() -> String {
    let line = |point: &Point| {
        let error = if point.can_fail() { " error" } else { "" };
        format!("{} kill{error}\n", point.name())
    };
    Point::ALL.iter().map(line).collect()
}

fn parse(spec: &str) -> Result<Plan, SpecError> {
    spec.split(',').filter(|part| !part.is_empty()).map(parse_one).collect()
}

fn parse_one(part: &str) -> Result<(Point, Action), SpecError> {
    let wrong = |what| SpecError { part: part.to_owned(), what };
    let (name, action) = part.split_once('=').ok_or_else(|| wrong("want NAME=ACTION"))?;
    let point = Point::named(name).ok_or_else(|| wrong("there is no such place"))?;
    let (action, times) = match action.split_once('*') {
        Some((action, times)) => {
            (action, times.parse().map_err(|_| wrong("how often is no number"))?)
        }
        None => (action, u32::MAX),
    };
    match action {
        "kill" => Ok((point, Action::Kill)),
        "error" if point.can_fail() => Ok((point, Action::Fail(AtomicU32::new(times)))),
        "error" => Err(wrong("nobody could be told of a failure there")),
        _ => Err(wrong("the action is neither `kill` nor `error`")),
    }
}

/// A step that can fail comes next.
///
/// # Errors
/// The test wants it to fail.
pub fn reach(point: Point) -> io::Result<()> {
    match planned(point) {
        None => Ok(()),
        Some(Action::Kill) => die(point),
        Some(Action::Fail(left)) => {
            let taken =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            if taken.is_err() {
                return Ok(());
            }
            say(point, "failing");
            Err(io::Error::other(format!("failpoint {}", point.name())))
        }
    }
}

/// A step comes next whose failure nobody could be told.
pub fn pass(point: Point) {
    if let Some(Action::Kill) = planned(point) {
        die(point);
    }
}

fn planned(point: Point) -> Option<&'static Action> {
    PLAN.get()?.iter().find(|(planned, _)| *planned == point).map(|(_, action)| action)
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
    // A test that does not hear of it fails.
    drop(writeln!(io::stderr(), "failpoint {}: {what}", point.name()));
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
        assert_eq!(list().lines().count(), all);
        assert!(list().contains("pod.run.attach kill error\n"));
    }

    #[test]
    fn what_is_asked_for_is_read_and_what_is_none_is_refused() {
        let plan = parse("pod.run.attach=kill,pod.run.intent=error*2,").unwrap();
        assert!(matches!(
            &plan[..],
            [(Point::PodAttach, Action::Kill), (Point::PodIntent, Action::Fail(left))]
                if left.load(Ordering::Relaxed) == 2
        ));
        for (spec, want) in [
            ("pod.run.attach", "NAME=ACTION"),
            ("nowhere=kill", "no such place"),
            ("pod.run.attach=explode", "neither"),
            ("pod.run.attach=error*x", "no number"),
            ("pod.run.answer=error", "nobody could be told"),
        ] {
            let error = parse(spec).unwrap_err().to_string();
            assert!(error.contains(want), "{spec}: {error}");
        }
    }

    #[test]
    fn a_step_fails_as_often_as_it_is_told_to() {
        arm("image.pull.record=error*2").unwrap();
        assert!(reach(Point::PodAttach).is_ok());
        for _ in 0..2 {
            let error = reach(Point::ImageRecord).unwrap_err();
            assert_eq!(error.to_string(), "failpoint image.pull.record");
        }
        assert!(reach(Point::ImageRecord).is_ok());
    }
}
