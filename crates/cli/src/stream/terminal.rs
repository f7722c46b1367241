//! The terminal we sit at: raw while a session runs, and as it was afterwards on every way out.

use std::io;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use streaming::TerminalSize;

/// Every key goes to the process at the other end, ours among them. Dropping it (also by a panic)
/// puts the terminal back.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes the terminal of standard input raw.
    ///
    /// # Errors
    /// It does not take the change.
    pub fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing any more.
        let _gone = tcsetattr(io::stdin(), OptionalActions::Now, &self.before).is_err();
    }
}

/// Columns and rows; `None` where there is no terminal, or one that does not know.
pub fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(io::stdin()).or_else(|_| tcgetwinsize(io::stdout())).ok()?;
    let some = size.ws_col > 0 && size.ws_row > 0;
    some.then_some(TerminalSize { width: size.ws_col, height: size.ws_row })
}
