//! The shim's own log: plain lines on stderr. Writing one never fails the shim.

use std::fmt;
use std::rc::Rc;

/// Writes lines that start with the pod's short id.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    prefix: Rc<str>,
}

impl Journal {
    /// A journal for the pod of this name.
    pub(crate) fn new(pod: &str) -> Self {
        Self { prefix: format!("knarr-shim {pod}: ").into() }
    }

    /// Writes one line, as one write.
    pub(crate) fn say(&self, message: fmt::Arguments<'_>) {
        let line = format!("{}{message}\n", self.prefix);
        // Nobody may be left to read it (EPIPE), or its disk may be full: supervising goes on.
        rustix::io::write(rustix::stdio::stderr(), line.as_bytes()).ok();
    }
}
