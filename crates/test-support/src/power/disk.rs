//! A disk with a volatile write cache: what was not flushed may be lost with the power, block by
//! block.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::random::Random;

/// What the device writes whole or not at all.
pub const BLOCK: usize = 4096;

/// The disk and what it has in its cache.
#[derive(Debug)]
pub struct VolatileDisk {
    file: File,
    size: u64,
    /// What blocks held when they were last flushed, of those written since.
    flushed: BTreeMap<u64, Vec<u8>>,
    /// Write requests since the machine was switched on.
    writes: u64,
}

/// How serving a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The power failed at the write that was asked for.
    Cut,
    /// The machine went away by itself.
    Closed,
}

/// How much of the cache a power cut takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    All,
    Half,
    Nothing,
}

impl Loss {
    /// Half of the cache more often than all or nothing.
    pub fn any(random: &mut Random) -> Self {
        *random.pick(&[Self::All, Self::Half, Self::Half, Self::Nothing])
    }
}

impl VolatileDisk {
    /// All that is in the file counts as flushed.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of(File::options().read(true).write(true).open(path)?)
    }

    /// The same with an open file.
    ///
    /// # Errors
    /// It has no length.
    pub fn of(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size, flushed: BTreeMap::new(), writes: 0 })
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Write requests since [`VolatileDisk::switched_on`].
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// A machine is switched on.
    pub fn switched_on(&mut self) {
        self.writes = 0;
    }

    /// A write request has come; gives its number.
    pub fn count(&mut self) -> u64 {
        self.writes += 1;
        self.writes
    }

    /// Reads what a machine sees.
    ///
    /// # Errors
    /// Not all of it lies on the disk, or the file cannot be read.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.inside(offset, data.len())?;
        self.file.read_exact_at(data, offset)
    }

    /// Writes into the cache, or `through` it.
    ///
    /// # Errors
    /// Not all of it lies on the disk, or the file cannot be written.
    pub fn write(&mut self, offset: u64, data: &[u8], through: bool) -> io::Result<()> {
        self.inside(offset, data.len())?;
        let behind = offset + data.len() as u64;
        let blocks = offset / BLOCK as u64..behind.div_ceil(BLOCK as u64);
        for block in blocks {
            if through {
                self.flushed.remove(&block);
            } else if let std::collections::btree_map::Entry::Vacant(free) =
                self.flushed.entry(block)
            {
                let mut before = vec![0; BLOCK];
                self.file.read_exact_at(&mut before, block * BLOCK as u64)?;
                free.insert(before);
            }
        }
        self.file.write_all_at(data, offset)
    }

    /// All that was written is safe now.
    pub fn flush(&mut self) {
        self.flushed.clear();
    }

    /// The power is gone: of what was written and not flushed, blocks are as they were before.
    /// Gives how many of how many.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn lose(&mut self, loss: Loss, random: &mut Random) -> io::Result<(usize, usize)> {
        let cached = std::mem::take(&mut self.flushed);
        let (mut lost, all) = (0, cached.len());
        for (block, before) in cached {
            let goes = match loss {
                Loss::All => true,
                Loss::Half => random.below(2) == 0,
                Loss::Nothing => false,
            };
            if goes {
                self.file.write_all_at(&before, block * BLOCK as u64)?;
                lost += 1;
            }
        }
        Ok((lost, all))
    }

    fn inside(&self, offset: u64, length: usize) -> io::Result<()> {
        let end = offset.checked_add(length as u64);
        if end.is_some_and(|end| end <= self.size) {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> VolatileDisk {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * BLOCK as u64).unwrap();
        VolatileDisk::of(file).unwrap()
    }

    fn content(disk: &VolatileDisk) -> Vec<u8> {
        let mut bytes = vec![0; 8 * BLOCK];
        disk.read(0, &mut bytes).unwrap();
        bytes.chunks(BLOCK).map(|block| block[10]).collect()
    }

    #[test]
    fn what_was_not_flushed_is_lost_and_what_was_is_not() {
        let written = || {
            let mut disk = disk();
            let mut write = |block: usize, byte, through| {
                disk.write((block * BLOCK) as u64, &[byte; BLOCK], through).unwrap();
            };
            write(0, 1, false);
            write(1, 1, false);
            disk.flush();
            let mut write = |block: usize, byte, through| {
                disk.write((block * BLOCK) as u64, &[byte; BLOCK], through).unwrap();
            };
            write(1, 2, false);
            write(2, 2, true);
            write(3, 2, false);
            disk
        };
        let mut random = Random::new(1);
        let mut disk = written();
        assert_eq!(content(&disk), [1, 2, 2, 2, 0, 0, 0, 0]);
        assert_eq!(disk.lose(Loss::All, &mut random).unwrap(), (2, 2));
        assert_eq!(content(&disk), [1, 1, 2, 0, 0, 0, 0, 0]);
        let mut disk = written();
        assert_eq!(disk.lose(Loss::Nothing, &mut random).unwrap(), (0, 2));
        assert_eq!(content(&disk), [1, 2, 2, 2, 0, 0, 0, 0]);
    }

    #[test]
    fn requests_beyond_the_end_are_refused() {
        let mut disk = disk();
        assert!(disk.read(8 * BLOCK as u64, &mut [0]).is_err());
        assert!(disk.write(u64::MAX, &[0, 0], false).is_err());
    }
}
