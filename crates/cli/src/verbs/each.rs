//! Verbs that take several objects go on after a failure, and count.

use std::fmt::Display;

use crate::{Error, Io};

/// What became of the objects so far.
#[derive(Debug)]
pub(super) struct Each {
    of: usize,
    failed: usize,
    /// What was to be done, as a participle.
    done: &'static str,
}

impl Each {
    pub(super) fn new(of: usize, done: &'static str) -> Self {
        Self { of, failed: 0, done }
    }

    /// One more. Of a single object the failure itself is the verb's.
    ///
    /// # Errors
    /// That failure; or the output is gone.
    pub(super) fn went(
        &mut self,
        object: &str,
        how: Result<(), Error>,
        io: &mut Io<'_>,
    ) -> Result<(), Error> {
        match how {
            Ok(()) => io.line(object),
            Err(error) if self.of == 1 => Err(error),
            Err(error) => self.failed(error, io),
        }
    }

    /// One more that failed, for this reason.
    ///
    /// # Errors
    /// The output is gone.
    pub(super) fn failed(&mut self, why: impl Display, io: &mut Io<'_>) -> Result<(), Error> {
        self.failed += 1;
        io.note(why)
    }

    /// The verb's own exit code.
    ///
    /// # Errors
    /// Some failed.
    pub(super) fn end(self) -> Result<u8, Error> {
        let Self { of, failed, done } = self;
        if failed > 0 { Err(Error::Some { failed, of, done }) } else { Ok(0) }
    }
}
