//! CRI log files: `<time> <stdout|stderr> <P|F>[:tags] <content>`, one record per line.

mod file;
mod join;
mod record;

pub use file::{Follower, LogError};
pub use join::{Joiner, Piece};
pub use record::{Record, Stream};

use jiff::Timestamp;

/// Which lines of a log to show, and how.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only so many of the last lines.
    pub tail: Option<usize>,
    /// Only what was written since.
    pub since: Option<Timestamp>,
    /// With the time in front.
    pub timestamps: bool,
}

impl Selection {
    /// Whether a record is new enough. A time that cannot be read does not hide a line.
    #[must_use]
    pub fn wants(&self, record: &Record<'_>) -> bool {
        match (self.since, record.time.parse::<Timestamp>()) {
            (Some(since), Ok(time)) => time >= since,
            _ => true,
        }
    }

    /// A piece as it is printed.
    #[must_use]
    pub fn print(&self, piece: &Piece) -> Vec<u8> {
        let mut line = Vec::with_capacity(piece.content.len() + 40);
        if self.timestamps && piece.starts_line {
            line.extend_from_slice(piece.time.as_bytes());
            line.push(b' ');
        }
        line.extend_from_slice(&piece.content);
        if piece.ends_line {
            line.push(b'\n');
        }
        line
    }
}
