//! The exit record a shim leaves in `pods/<id>/exits/<container>`: readable by an operator, and
//! by the next daemon when the shim itself is gone.

use crate::Exit;

/// How much a file takes that has room for any exit, in bytes.
const ROOM: usize = 128;

/// The first line of a file that was made when its container was started.
const RESERVED: &str = "reserved";

/// What a file holds until its container ends, so that its end needs no more of the file system
/// than it already has. To a reader that does not know it, it is a torn file.
pub fn reserved_exit_file() -> String {
    format!("{RESERVED:\n<ROOM$}")
}

/// Whether a file is one whose container has not ended, as far as its shim knew.
pub fn is_reserved_exit_file(text: &str) -> bool {
    text.lines().next() == Some(RESERVED)
}

/// An exit file that could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{line}` is not a line of an exit file")]
pub struct ExitFileError {
    /// The refused line.
    pub line: String,
}

impl Exit {
    /// `key value` lines; the last one marks the file as complete.
    pub fn to_file(&self) -> String {
        let signal = self.signal.map(|signal| format!("signal {signal}\n")).unwrap_or_default();
        format!(
            "code {}\n{signal}oom-killed {}\nfinished-at {}\ncomplete\n",
            self.code, self.oom_killed, self.finished_at
        )
    }

    /// Reads [`Self::to_file`]'s form; unknown keys are skipped.
    ///
    /// # Errors
    /// [`ExitFileError`] names the line, or says that the end is missing.
    pub fn from_file(text: &str) -> Result<Self, ExitFileError> {
        let mut exit = Self::default();
        let refuse = |line: &str| ExitFileError { line: line.to_owned() };
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "code" => exit.code = value.parse().map_err(|_| refuse(line))?,
                "signal" => exit.signal = Some(value.parse().map_err(|_| refuse(line))?),
                "oom-killed" => exit.oom_killed = value.parse().map_err(|_| refuse(line))?,
                "finished-at" => exit.finished_at = value.parse().map_err(|_| refuse(line))?,
                "complete" => return Ok(exit),
                _ => {}
            }
        }
        Err(refuse("(end of file without `complete`)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_reads_back_as_it_was_written() {
        for exit in [
            Exit::default(),
            Exit { code: 137, signal: Some(9), oom_killed: true, finished_at: i64::MAX },
        ] {
            assert_eq!(Exit::from_file(&exit.to_file()), Ok(exit));
        }
    }

    #[test]
    fn a_reserved_file_has_room_for_every_exit_and_is_none() {
        let longest = Exit {
            code: i32::MIN,
            signal: Some(i32::MIN),
            oom_killed: false,
            finished_at: i64::MIN,
        };
        let reserved = reserved_exit_file();
        assert!(longest.to_file().len() <= reserved.len());
        assert!(is_reserved_exit_file(&reserved) && Exit::from_file(&reserved).is_err());
        // Written over it, in one piece or in part.
        let whole = longest.to_file();
        for end in 0..=whole.len() {
            let text = format!("{}{}", &whole[..end], &reserved[end..]);
            let complete = end >= whole.trim_end().len();
            assert_eq!(Exit::from_file(&text).is_ok(), complete, "{end}");
        }
    }

    #[test]
    fn a_torn_file_is_refused() {
        let whole = Exit { code: 3, ..Exit::default() }.to_file();
        for end in 0..whole.len() - "complete\n".len() + 1 {
            assert!(Exit::from_file(&whole[..end]).is_err(), "{end}");
        }
    }
}
