//! The inventory: what a layer's tree holds, written line by line while the tree is.
//!
//! ```text
//! knarr-inventory 2
//! dir etc 755 0 0 1700000000.000000000
//! file etc/passwd 644 0 0 1700000000.000000000 1234 <XXH3>
//! sparse var/db 644 0 0 1700000000.000000000 1048576 <XXH3 of the pieces> 0+4096,8192+4096
//! link bin 777 0 0 1700000000.000000000 usr/bin
//! char dev/null 666 0 0 1700000000.000000000 1:3
//! hard etc/copy etc/passwd
//! implied opt          a directory that no entry names
//! whiteout etc/gone    opaque var
//! gone etc/passwd      what was there so far, and all below it
//! end 9
//! ```
//! Attributes are mode (octal), uid, gid, mtime; `key=value` pairs behind are xattrs. Every byte
//! that is no visible ASCII, and `%` and `=`, is written as `%XX`; `.` is the root. Later lines
//! replace earlier ones. In version 1 the sums of files are BLAKE3.

use std::collections::BTreeSet;
use std::io::{self, Write};

use rustix::fs::{major, minor};
use tar_core::SparseEntry;

use crate::dirs::DirFault;
use crate::entry::Attrs;
use crate::path::LayerPath;
use crate::sum::{Sum, SumHasher};

pub(crate) const VERSION: &str = "knarr-inventory 2";
/// All that can be read.
pub(crate) const VERSIONS: [&str; 2] = ["knarr-inventory 1", VERSION];
const BUFFER_BYTES: usize = 64 * 1024;

/// What an entry became, besides its attributes.
pub(crate) enum Made<'a> {
    Directory,
    File { size: u64, sum: Sum, pieces: Option<&'a [SparseEntry]> },
    Symlink(&'a [u8]),
    Char(u64),
    Block(u64),
    Fifo,
}

/// Takes note of everything that is done to the tree.
pub(crate) struct Ledger<'w> {
    out: Option<Output<'w>>,
    implied: BTreeSet<LayerPath>,
    implied_bytes: u64,
    max_implied_bytes: u64,
}

/// What is known at the end.
pub(crate) struct Written {
    /// Real paths, sorted; the empty one is the root.
    pub(crate) implied: Vec<Vec<u8>>,
    /// BLAKE3 of the inventory, hexadecimal.
    pub(crate) inventory: Option<String>,
}

impl<'w> Ledger<'w> {
    pub(crate) fn new(out: Option<&'w mut dyn Write>, max_implied_bytes: u64) -> Self {
        let out = out.map(|out| Output {
            out,
            buffer: format!("{VERSION}\n").into_bytes(),
            hash: blake3::Hasher::new(),
            lines: 0,
        });
        // The root is there before any entry names it.
        let implied = BTreeSet::from([LayerPath::root()]);
        Self { out, implied, implied_bytes: 0, max_implied_bytes }
    }

    /// For the content of a file; `None` if nobody wants to know.
    pub(crate) fn hasher(&self) -> Option<SumHasher> {
        self.out.as_ref().map(|_| SumHasher::default())
    }

    /// A directory was made only because something lies in it.
    pub(crate) fn implied(&mut self, path: &LayerPath) -> Result<(), DirFault> {
        self.implied_bytes += path.bytes().len() as u64;
        if self.implied_bytes > self.max_implied_bytes {
            return Err(DirFault::TooManyImplied(self.max_implied_bytes));
        }
        self.implied.insert(path.clone());
        self.line("implied", path, |_| {}).map_err(DirFault::Inventory)
    }

    /// The directory is this layer's own, whatever lies below.
    pub(crate) fn fresh(&mut self, path: &LayerPath) {
        self.implied.remove(path);
    }

    /// An entry was made, with those of its xattrs.
    pub(crate) fn made(
        &mut self,
        path: &LayerPath,
        made: &Made<'_>,
        attrs: &Attrs,
        xattrs: &[usize],
    ) -> io::Result<()> {
        let kind = match made {
            Made::Directory => "dir",
            Made::File { pieces: None, .. } => "file",
            Made::File { pieces: Some(_), .. } => "sparse",
            Made::Symlink(_) => "link",
            Made::Char(_) => "char",
            Made::Block(_) => "block",
            Made::Fifo => "fifo",
        };
        if matches!(made, Made::Directory) {
            self.implied.remove(path);
        }
        self.line(kind, path, |line| {
            let Attrs { mode, uid, gid, mtime, .. } = attrs;
            let (sec, nsec) = (mtime.tv_sec, mtime.tv_nsec);
            text(line, format_args!(" {mode:o} {uid} {gid} {sec}.{nsec:09}"));
            detail(line, made);
            for (key, value) in xattrs.iter().filter_map(|place| attrs.xattrs.get(*place)) {
                line.push(b' ');
                escape(line, key);
                line.push(b'=');
                escape(line, value);
            }
        })
    }

    /// `path` is the same file as `target`.
    pub(crate) fn linked(&mut self, path: &LayerPath, target: &LayerPath) -> io::Result<()> {
        self.line("hard", path, |line| {
            line.push(b' ');
            escape_path(line, target.bytes());
        })
    }

    pub(crate) fn whiteout(&mut self, path: &LayerPath) -> io::Result<()> {
        self.line("whiteout", path, |_| {})
    }

    pub(crate) fn opaque(&mut self, path: &LayerPath) -> io::Result<()> {
        self.line("opaque", path, |_| {})
    }

    /// What was at `path` is no more, nor what was below it.
    pub(crate) fn gone(&mut self, path: &LayerPath) -> io::Result<()> {
        self.implied.remove(path);
        let (first, behind) = path.range_below();
        let below: Vec<_> = self.implied.range(first..behind).cloned().collect();
        for path in below {
            self.implied.remove(&path);
        }
        self.line("gone", path, |_| {})
    }

    /// Writes the rest.
    pub(crate) fn finish(&mut self) -> io::Result<Written> {
        let implied = std::mem::take(&mut self.implied);
        let inventory = match self.out.take() {
            Some(out) => Some(out.finish()?),
            None => None,
        };
        let implied = implied.into_iter().map(LayerPath::into_bytes).collect();
        Ok(Written { implied, inventory })
    }

    fn line(
        &mut self,
        kind: &str,
        path: &LayerPath,
        rest: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        out.buffer.extend_from_slice(kind.as_bytes());
        out.buffer.push(b' ');
        escape_path(&mut out.buffer, path.bytes());
        rest(&mut out.buffer);
        out.buffer.push(b'\n');
        out.lines += 1;
        if out.buffer.len() >= BUFFER_BYTES { out.flush() } else { Ok(()) }
    }
}

struct Output<'w> {
    out: &'w mut dyn Write,
    buffer: Vec<u8>,
    hash: blake3::Hasher,
    lines: u64,
}

impl Output<'_> {
    fn flush(&mut self) -> io::Result<()> {
        self.hash.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<String> {
        let lines = self.lines;
        text(&mut self.buffer, format_args!("end {lines}\n"));
        self.flush()?;
        self.out.flush()?;
        Ok(self.hash.finalize().to_hex().to_string())
    }
}

fn detail(line: &mut Vec<u8>, made: &Made<'_>) {
    match made {
        Made::Directory | Made::Fifo => {}
        Made::File { size, sum, pieces } => {
            text(line, format_args!(" {size} {sum}"));
            let Some(pieces) = pieces else { return };
            for (place, piece) in pieces.iter().enumerate() {
                let before = if place == 0 { ' ' } else { ',' };
                text(line, format_args!("{before}{}+{}", piece.offset, piece.length));
            }
            if pieces.is_empty() {
                line.extend_from_slice(b" -");
            }
        }
        Made::Symlink(target) => {
            line.push(b' ');
            escape(line, target);
        }
        Made::Char(device) | Made::Block(device) => {
            text(line, format_args!(" {}:{}", major(*device), minor(*device)));
        }
    }
}

fn text(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    line.extend_from_slice(text.to_string().as_bytes());
}

fn escape_path(line: &mut Vec<u8>, path: &[u8]) {
    escape(line, if path.is_empty() { b"." } else { path });
}

fn escape(line: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b'=') {
            line.push(*byte);
        } else {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            line.extend_from_slice(&[b'%', DIGITS[high], DIGITS[low]]);
        }
    }
}

/// The bytes an escaped word stands for.
pub(crate) fn unescape(word: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let mut digit = || char::from(*rest.next()?).to_digit(16);
        let code = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(code).ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn escaped_words_read_back(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..50)) {
            let mut word = Vec::new();
            escape(&mut word, &bytes);
            proptest::prop_assert!(word.iter().all(u8::is_ascii_graphic));
            proptest::prop_assert_eq!(unescape(&word), Some(bytes));
        }
    }

    #[test]
    fn what_was_replaced_is_implied_no_more() {
        let path = |text: &str| LayerPath::clean(text.as_bytes()).unwrap();
        let mut ledger = Ledger::new(None, 100);
        for text in ["a", "a/b", "ab"] {
            ledger.implied(&path(text)).unwrap();
        }
        ledger.gone(&path("a")).unwrap();
        let implied = ledger.finish().unwrap().implied;
        assert_eq!(implied, [b"".to_vec(), b"ab".to_vec()]);
    }

    #[test]
    fn names_of_implied_directories_are_bounded() {
        let mut ledger = Ledger::new(None, 9);
        ledger.implied(&LayerPath::clean(b"12345").unwrap()).unwrap();
        let refused = ledger.implied(&LayerPath::clean(b"6789x").unwrap());
        assert!(matches!(refused, Err(DirFault::TooManyImplied(9))));
    }
}
