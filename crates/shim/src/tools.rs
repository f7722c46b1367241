//! What every part of the shim works with, once per shim: the poller, the journal, and the only
//! large buffers there are.

use sys::cgroup::OomWatch;

use crate::journal::Journal;
use crate::log::Batch;
use crate::poll::{Poller, Token};

/// The most one read takes: also what one ready file may cost the others per turn.
pub(crate) const READ: usize = 32 << 10;

/// Shared tools.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) poller: Poller,
    pub(crate) journal: Journal,
    pub(crate) buffer: Box<[u8; READ]>,
    pub(crate) batch: Batch,
}

impl Tools {
    pub(crate) fn new(journal: Journal) -> rustix::io::Result<Self> {
        Ok(Self {
            poller: Poller::new()?,
            journal,
            buffer: Box::new([0; READ]),
            batch: Batch::default(),
        })
    }

    /// Waits for the OOM killer's next visit; whether that could be arranged.
    pub(crate) fn watch_oom(&self, watch: &OomWatch, number: u64) -> bool {
        let token = Token::Oom(number);
        let added = if watch.is_priority() {
            self.poller.add_priority(watch, token)
        } else {
            self.poller.add(watch, token)
        };
        added.is_ok()
    }
}
