//! Which frame received files belong to.

/// The most files that belong to one frame (the three of an exec).
pub const MAX_FILES: usize = 3;

/// More files came than any frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_FILES} files came with one frame")]
pub struct TooManyFiles;

/// Keeps files until the frame they came with is whole. The sender attaches them to the frame's
/// first byte and sends nothing else in that message, so they belong to the frame in which the
/// bytes they came with lie.
#[derive(Debug)]
pub struct FrameFiles<F> {
    received: u64,
    /// The files, and the stream offset just behind the bytes they came with.
    waiting: Option<(u64, Vec<F>)>,
}

impl<F> Default for FrameFiles<F> {
    fn default() -> Self {
        Self { received: 0, waiting: None }
    }
}

impl<F> FrameFiles<F> {
    /// So many bytes were received, with these files or none.
    ///
    /// # Errors
    /// The connection cannot be used further: nobody knows where the files belong.
    pub fn received(&mut self, bytes: usize, files: Vec<F>) -> Result<(), TooManyFiles> {
        self.received += u64::try_from(bytes).unwrap_or(u64::MAX);
        if files.is_empty() {
            return Ok(());
        }
        if files.len() > MAX_FILES || self.waiting.is_some() {
            return Err(TooManyFiles);
        }
        self.waiting = Some((self.received, files));
        Ok(())
    }

    /// The files of the frame that has just been taken out of a reader, which holds `buffered`
    /// further bytes.
    pub fn of_frame(&mut self, buffered: usize) -> Vec<F> {
        let frame_end = self.received - u64::try_from(buffered).unwrap_or(u64::MAX);
        match self.waiting.take() {
            Some((offset, files)) if offset <= frame_end => files,
            later => {
                self.waiting = later;
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_wait_for_their_frame() {
        let mut files = FrameFiles::default();
        // Ten bytes of a first frame, then four of a second that has files.
        files.received(10, Vec::new()).unwrap();
        files.received(4, vec!["a", "b"]).unwrap();
        assert_eq!(files.of_frame(4), Vec::<&str>::new());
        files.received(6, Vec::new()).unwrap();
        assert_eq!(files.of_frame(0), ["a", "b"]);
        assert_eq!(files.of_frame(0), Vec::<&str>::new());
    }

    #[test]
    fn files_that_cannot_be_told_apart_are_refused() {
        let mut files = FrameFiles::default();
        assert_eq!(files.received(1, vec![0; MAX_FILES + 1]), Err(TooManyFiles));
        files.received(1, vec![1]).unwrap();
        assert_eq!(files.received(1, vec![2]), Err(TooManyFiles));
    }
}
