//! The exit record a shim leaves in `pods/<id>/exits/<container>`: readable by an operator, and
//! by the next daemon when the shim itself is gone.

use crate::Exit;

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
    fn a_torn_file_is_refused() {
        let whole = Exit { code: 3, ..Exit::default() }.to_file();
        for end in 0..whole.len() - "complete\n".len() + 1 {
            assert!(Exit::from_file(&whole[..end]).is_err(), "{end}");
        }
    }
}
