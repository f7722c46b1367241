//! Whether the file systems that a container's mounts and its log lead to answer at all. A dead network mount answers
//! nobody, and who has begun to ask it cannot stop: so that is done on a thread of its own, and given up
//! in time by whoever waits for it.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::blocking;
use crate::files::{self, FileError};

/// How long one may take: less than kubelet gives a call. Those that wake a disk, or fetch what was moved to
/// another place, take seconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// How soon one that keeps silent is asked once more: something else may be mounted there by now, while who has asked
/// before still waits for what was.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// How many may wait at one path: each costs a thread, and kubelet tries for days.
const ASKERS: u64 = 8;

/// Paths that somebody still asks about, after everybody has given up. Others are refused there meanwhile, but for one
/// now and then.
#[derive(Debug, Clone, Default)]
pub(crate) struct Silent(Arc<Mutex<HashMap<String, Waiting>>>);

/// Those who wait at a path.
#[derive(Debug)]
struct Waiting {
    count: u64,
    /// When the last one was given up.
    since: Instant,
}

impl Waiting {
    /// Whether nobody else should begin to.
    fn is_enough(&self) -> bool {
        self.count >= ASKERS || self.since.elapsed() < ASKED_AGAIN_AFTER
    }
}

/// How far one that asks has come.
#[derive(Debug, Default)]
struct Asking {
    /// What it waits for; none once it has ended.
    path: Option<String>,
    given_up: bool,
}

impl Silent {
    /// Looks at all of these, one after the other; what they answer is not looked at.
    ///
    /// # Errors
    /// The first that does not answer, or did not before and has not since.
    pub(crate) async fn ask(&self, paths: Vec<String>) -> Result<(), FileError> {
        self.ask_with(paths, ANSWERS_WITHIN, |path| {
            // Errors are told by who uses it.
            drop(std::fs::canonicalize(path));
        })
        .await
    }

    /// Makes a directory of logs, given up in time as [`Self::ask`] is.
    ///
    /// # Errors
    /// As there, or it cannot be made.
    pub(crate) async fn make_log_dir(&self, path: &Path) -> Result<(), FileError> {
        let dir = path.to_owned();
        // It comes from a request, and so is text.
        self.work_at(&path.to_string_lossy(), move || files::make_log_dir(&dir)).await?
    }

    /// Does work that needs an answer of this place, given up in time as [`Self::ask`] is.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn work_at<T: Send + 'static>(
        &self,
        place: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FileError> {
        let done = Arc::new(Mutex::new(None));
        let (tells, mut work) = (Arc::clone(&done), Some(work));
        self.ask_with(vec![place.to_owned()], ANSWERS_WITHIN, move |_place| {
            let result = work.take().map(|work| work());
            *tells.lock().unwrap_or_else(PoisonError::into_inner) = result;
        })
        .await?;
        let result = done.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.ok_or_else(|| is_silent(place))
    }

    async fn ask_with(
        &self,
        paths: Vec<String>,
        limit: Duration,
        mut look: impl FnMut(&str) + Send + 'static,
    ) -> Result<(), FileError> {
        if paths.is_empty() {
            return Ok(());
        }
        if let Some(path) = self.known_among(&paths) {
            return Err(is_silent(path));
        }
        let asking = Arc::new(Mutex::new(Asking { path: paths.first().cloned(), given_up: false }));
        let asked = {
            let (this, asking) = (self.clone(), Arc::clone(&asking));
            blocking::run(move || {
                for (index, path) in paths.iter().enumerate() {
                    look(path);
                    if this.has_answered(path, paths.get(index + 1), &asking) {
                        return;
                    }
                }
            })
        };
        if tokio::time::timeout(limit, asked).await.is_ok() {
            return Ok(());
        }
        let mut all = self.lock();
        let mut asking = asking.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = asking.path.clone() else { return Ok(()) };
        asking.given_up = true;
        let count = all.get(&path).map_or(0, |waiting| waiting.count);
        all.insert(path.clone(), Waiting { count: count + 1, since: Instant::now() });
        Err(is_silent(&path))
    }

    /// Goes on to the next; true when nobody waits any more.
    fn has_answered(&self, path: &str, next: Option<&String>, asking: &Mutex<Asking>) -> bool {
        let mut all = self.lock();
        let mut asking = asking.lock().unwrap_or_else(PoisonError::into_inner);
        if asking.given_up
            && let Some(waiting) = all.get_mut(path)
        {
            waiting.count -= 1;
            if waiting.count == 0 {
                all.remove(path);
            }
        }
        asking.path = next.cloned();
        asking.given_up
    }

    fn known_among<'p>(&self, paths: &'p [String]) -> Option<&'p str> {
        let all = self.lock();
        paths.iter().map(String::as_str).find(|path| all.get(*path).is_some_and(Waiting::is_enough))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_silent(path: &str) -> FileError {
    let text = "its file system does not answer: unmount what is dead, or bring its server back";
    FileError::at("look at", Path::new(path))(io::Error::new(io::ErrorKind::TimedOut, text))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use tokio::sync::Notify;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    fn paths(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    /// Time goes on when the test says so: not before the dead one is reached.
    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_asked_once_and_again_when_he_has() {
        let silent = Silent::default();
        let (asked, reached) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let (answer, answers) = mpsc::channel::<()>();
        let hang = {
            let (asked, reached) = (Arc::clone(&asked), Arc::clone(&reached));
            move |path: &str| {
                asked.fetch_add(1, Ordering::SeqCst);
                if path == "/dead" {
                    reached.notify_one();
                    answers.recv().unwrap();
                }
            }
        };
        let count = || {
            let asked = Arc::clone(&asked);
            move |_: &str| {
                asked.fetch_add(1, Ordering::SeqCst);
            }
        };
        let in_time = async {
            reached.notified().await;
            tokio::time::advance(LIMIT).await;
        };
        let all = paths(&["/alive", "/dead", "/never"]);
        let (error, ()) = tokio::join!(silent.ask_with(all, LIMIT, hang), in_time);
        let error = error.unwrap_err();
        assert!(error.to_string().contains("/dead"), "{error}");
        assert!(error.source.to_string().contains("does not answer"), "{error:?}");
        let again = paths(&["/dead", "/alive"]);
        silent.ask_with(again.clone(), Duration::MAX, count()).await.unwrap_err();
        assert_eq!(asked.load(Ordering::SeqCst), 2, "another thread asks it");
        silent.ask_with(paths(&["/alive"]), Duration::MAX, count()).await.unwrap();
        silent.ask_with(Vec::new(), Duration::MAX, count()).await.unwrap();
        // Something else is mounted there.
        tokio::time::advance(ASKED_AGAIN_AFTER).await;
        silent.ask_with(paths(&["/dead"]), Duration::MAX, count()).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 4, "nobody asks it again");
        answer.send(()).unwrap();
        while !silent.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        silent.ask_with(again, Duration::MAX, count()).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 6, "nobody waited for the last one");
    }
}
