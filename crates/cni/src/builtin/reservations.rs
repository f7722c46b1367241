//! Address reservations on disk, in the layout of the reference `host-local` plugin, so that
//! either can go on where the other stopped:
//!
//! ```text
//! <data dir>/<network>/lock                  locked (flock) while anything below changes
//! <data dir>/<network>/10.88.0.5             "<container id>\r\n<interface>"
//! <data dir>/<network>/last_reserved_ip.0    where the next search in range set 0 begins
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use failpoint::Point;
use rustix::fs::FlockOperation;
use sys::netlink::prefix::{from_number, number};

use super::BuiltInError;

/// First and last address that may be given out, both included, and the gateway's between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
    pub(crate) gateway: IpAddr,
}

impl Range {
    fn numbers(&self) -> std::ops::RangeInclusive<u128> {
        number(self.first)..=number(self.last)
    }

    /// Whether the ranges have an address in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.numbers().contains(&number(address))
    }
}

/// The reservations of one network, locked.
#[derive(Debug)]
pub(crate) struct Reservations {
    dir: PathBuf,
    network: String,
    /// Dropping it unlocks.
    _lock: File,
}

impl Reservations {
    /// Opens and locks the directory of `network`, making it. Waits for other holders.
    pub(crate) fn lock(data_dir: &Path, network: &str) -> Result<Self, BuiltInError> {
        let dir = data_dir.join(network);
        std::fs::create_dir_all(&dir).map_err(|e| failed("make", &dir, e))?;
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|e| failed("open", &path, e))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| failed("lock", &path, e.into()))?;
        Ok(Self { dir, network: network.to_owned(), _lock: lock })
    }

    /// As [`Self::lock`]; `None` if the network has never reserved anything.
    pub(crate) fn lock_existing(
        data_dir: &Path,
        network: &str,
    ) -> Result<Option<Self>, BuiltInError> {
        if data_dir.join(network).is_dir() {
            Self::lock(data_dir, network).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Reserves a free address of range set number `set` for an interface of a container. The
    /// search goes round robin, so that an address rests before it is used again.
    pub(crate) fn reserve(
        &self,
        set: usize,
        ranges: &[Range],
        owner: &Owner<'_>,
    ) -> Result<(IpAddr, Range), BuiltInError> {
        let cursor = self.dir.join(format!("last_reserved_ip.{set}"));
        let last = std::fs::read_to_string(&cursor).ok().and_then(|text| text.trim().parse().ok());
        for (address, range) in candidates(ranges, last) {
            if self.take(address, &cursor, owner)? {
                return Ok((address, range));
            }
        }
        self.exhausted(ranges)
    }

    /// Reserves this address and no other.
    pub(crate) fn reserve_one(
        &self,
        set: usize,
        ranges: &[Range],
        address: IpAddr,
        owner: &Owner<'_>,
    ) -> Result<(IpAddr, Range), BuiltInError> {
        let range = ranges.iter().find(|range| range.contains(address));
        let range = range.ok_or(BuiltInError::NotInRange { address })?;
        if address == range.gateway {
            return Err(BuiltInError::IsGateway { address });
        }
        let cursor = self.dir.join(format!("last_reserved_ip.{set}"));
        if self.take(address, &cursor, owner)? {
            return Ok((address, *range));
        }
        let text = std::fs::read_to_string(self.dir.join(address.to_string())).unwrap_or_default();
        Err(BuiltInError::AddressTaken { address, holder: holder(&text).to_owned() })
    }

    /// False when somebody has it.
    fn take(
        &self,
        address: IpAddr,
        cursor: &Path,
        owner: &Owner<'_>,
    ) -> Result<bool, BuiltInError> {
        let path = self.dir.join(address.to_string());
        let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(failed("write", &path, error)),
        };
        let filled = failpoint::reach(Point::CniAddReserve)
            .and_then(|()| fill(file, &owner.text(), cursor, address));
        match filled {
            Ok(()) => Ok(true),
            Err(error) => {
                // An empty reservation has no holder who could release it.
                std::fs::remove_file(&path).map_err(|e| failed("remove", &path, e))?;
                Err(failed("write", &path, error))
            }
        }
    }

    /// The addresses that an owner holds.
    pub(crate) fn of_owner(&self, owner: &Owner<'_>) -> Result<Vec<IpAddr>, BuiltInError> {
        let mut found = Vec::new();
        for (address, text) in self.held()? {
            if owner.holds(&text) {
                found.push(address);
            }
        }
        Ok(found)
    }

    /// What is reserved on a network, for who only looks: nothing is made or changed. Waits for
    /// those who change it.
    pub(crate) fn look(
        data_dir: &Path,
        network: &str,
    ) -> Result<Vec<(IpAddr, String)>, BuiltInError> {
        let dir = data_dir.join(network);
        let path = dir.join("lock");
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            // Nobody has ever changed anything.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("open", &path, error)),
        };
        rustix::fs::flock(&lock, FlockOperation::LockShared)
            .map_err(|e| failed("lock", &path, e.into()))?;
        Self { dir, network: network.to_owned(), _lock: lock }.held()
    }

    /// Every reserved address with the text that says for whom.
    pub(crate) fn held(&self) -> Result<Vec<(IpAddr, String)>, BuiltInError> {
        let mut found = Vec::new();
        for address in self.reserved()? {
            let path = self.dir.join(address.to_string());
            found.extend(read_holder(&path)?.map(|text| (address, text)));
        }
        Ok(found)
    }

    /// Releases `addresses`, those of them that `owner` holds; says how many that were.
    pub(crate) fn release(
        &self,
        addresses: &[IpAddr],
        owner: &Owner<'_>,
    ) -> Result<usize, BuiltInError> {
        let mut released = 0;
        for address in addresses {
            released += usize::from(self.release_if(*address, |text| owner.holds(text))?);
        }
        Ok(released)
    }

    /// Releases whatever `owner` holds, looking at every reservation.
    pub(crate) fn release_all(&self, owner: &Owner<'_>) -> Result<(), BuiltInError> {
        self.retain(|text| !owner.holds(text)).map(drop)
    }

    /// Releases every reservation whose text is refused; says how many that were.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<usize, BuiltInError> {
        let mut released = 0;
        for address in self.reserved()? {
            released += usize::from(self.release_if(address, |text| !keep(text))?);
        }
        Ok(released)
    }

    fn release_if(
        &self,
        address: IpAddr,
        release: impl Fn(&str) -> bool,
    ) -> Result<bool, BuiltInError> {
        let path = self.dir.join(address.to_string());
        if !read_holder(&path)?.is_some_and(|text| release(&text)) {
            return Ok(false);
        }
        failpoint::reach(Point::CniDelRelease)
            .and_then(|()| std::fs::remove_file(&path))
            .map_err(|e| failed("remove", &path, e))?;
        Ok(true)
    }

    fn reserved(&self) -> Result<Vec<IpAddr>, BuiltInError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(|e| failed("read", &self.dir, e))? {
            let entry = entry.map_err(|e| failed("read", &self.dir, e))?;
            // Every other name (lock, cursors) is no address.
            found.extend(entry.file_name().to_str().and_then(|name| name.parse::<IpAddr>().ok()));
        }
        Ok(found)
    }

    fn exhausted<T>(&self, ranges: &[Range]) -> Result<T, BuiltInError> {
        let reserved = self.reserved()?;
        let taken = reserved.iter().filter(|a| ranges.iter().any(|range| range.contains(**a)));
        let text = |range: &Range| format!("{}-{}", range.first, range.last);
        Err(BuiltInError::Exhausted {
            network: self.network.clone(),
            ranges: ranges.iter().map(text).collect::<Vec<_>>().join(", "),
            taken: taken.count(),
        })
    }
}

fn fill(mut file: File, text: &str, cursor: &Path, address: IpAddr) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    let text = address.to_string();
    // Overwritten, then cut: a file that is emptied first makes ext4 write it out at once.
    let mut cursor = OpenOptions::new().write(true).create(true).truncate(false).open(cursor)?;
    cursor.write_all(text.as_bytes())?;
    cursor.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))
}

/// Who holds a reservation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) container: &'a str,
    pub(crate) ifname: &'a str,
}

impl Owner<'_> {
    fn text(&self) -> String {
        format!("{}\r\n{}", self.container, self.ifname)
    }

    fn holds(&self, text: &str) -> bool {
        // Old versions of the reference plugin wrote the container alone.
        text.trim() == self.text() || text.trim() == self.container
    }
}

/// The container a reservation's text names; empty for a reservation torn by a power cut.
pub(crate) fn holder(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim()
}

/// Every address of the ranges once, beginning behind `last`; never a gateway's.
fn candidates(
    ranges: &[Range],
    last: Option<IpAddr>,
) -> impl Iterator<Item = (IpAddr, Range)> + '_ {
    let at = last.and_then(|last| {
        let range = ranges.iter().position(|range| range.contains(last))?;
        Some((range, number(last)))
    });
    let (start, after) = at.map_or((0, None), |(range, last)| (range, Some(last)));
    let rest = ranges.get(start).map(|range| {
        let first = after.map_or_else(|| number(range.first), |last| last.saturating_add(1));
        (*range, first..=number(range.last))
    });
    let others = (1..ranges.len()).map(move |step| ranges[(start + step) % ranges.len()]);
    let before = ranges.get(start).and_then(|range| Some((*range, number(range.first)..=after?)));
    rest.into_iter()
        .chain(others.map(|range| (range, range.numbers())))
        .chain(before)
        .flat_map(|(range, numbers)| numbers.map(move |n| (from_number(n, range.first), range)))
        .filter(|(address, range)| *address != range.gateway)
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> BuiltInError {
    BuiltInError::Reservation { operation, path: path.to_owned(), source }
}

/// What a reservation says of its holder, if it is there. A damaged one says nothing that anybody
/// is called.
fn read_holder(path: &Path) -> Result<Option<String>, BuiltInError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: &str, last: &str, gateway: &str) -> Range {
        let parse = |text: &str| text.parse().unwrap();
        Range { first: parse(first), last: parse(last), gateway: parse(gateway) }
    }

    fn owner(container: &str) -> Owner<'_> {
        Owner { container, ifname: "eth0" }
    }

    fn reserve(held: &Reservations, ranges: &[Range], container: &str) -> String {
        held.reserve(0, ranges, &owner(container)).unwrap().0.to_string()
    }

    #[test]
    fn addresses_are_given_out_round_robin_and_never_the_gateways() {
        let dir = tempfile::tempdir().unwrap();
        let held = Reservations::lock(dir.path(), "net").unwrap();
        let ranges = [range("10.0.0.1", "10.0.0.4", "10.0.0.1")];
        assert_eq!(reserve(&held, &ranges, "a"), "10.0.0.2");
        held.release_all(&owner("a")).unwrap();
        assert_eq!(reserve(&held, &ranges, "b"), "10.0.0.3");
        assert_eq!(reserve(&held, &ranges, "c"), "10.0.0.4");
        assert_eq!(reserve(&held, &ranges, "d"), "10.0.0.2");
        let error = held.reserve(0, &ranges, &owner("e")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "network `net` has no free address in 10.0.0.1-10.0.0.4: 3 are taken"
        );
    }

    #[test]
    fn the_files_have_the_reference_plugins_form() {
        let dir = tempfile::tempdir().unwrap();
        let held = Reservations::lock(dir.path(), "net").unwrap();
        let ranges = [range("fd00::1", "fd00::ff", "fd00::1")];
        let (address, _) = held.reserve(1, &ranges, &owner("abc")).unwrap();
        assert_eq!(address.to_string(), "fd00::2");
        let read = |name: &str| std::fs::read_to_string(dir.path().join("net").join(name)).unwrap();
        assert_eq!(read("fd00::2"), "abc\r\neth0");
        assert_eq!(read("last_reserved_ip.1"), "fd00::2");
        assert_eq!(read("lock"), "");
    }

    #[test]
    fn a_reservation_that_says_nothing_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let held = Reservations::lock(dir.path(), "net").unwrap();
        let path = dir.path().join("net/10.0.0.9");
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert_eq!(held.held().unwrap().len(), 1);
        assert_eq!(held.retain(|text| text.contains("abc")).unwrap(), 1);
        assert!(!path.exists());
    }

    #[test]
    fn only_the_holder_releases() {
        let dir = tempfile::tempdir().unwrap();
        let held = Reservations::lock(dir.path(), "net").unwrap();
        let ranges = [range("10.0.0.2", "10.0.0.9", "10.0.0.1")];
        let (first, _) = held.reserve(0, &ranges, &owner("a")).unwrap();
        let (second, _) = held.reserve(0, &ranges, &owner("b")).unwrap();
        held.release(&[first, second], &owner("a")).unwrap();
        assert_eq!(held.reserved().unwrap(), [second]);
        held.release(&[first], &owner("a")).unwrap();
        assert_eq!(held.retain(|text| holder(text) != "b").unwrap(), 1);
        assert!(held.reserved().unwrap().is_empty());
    }

    #[test]
    fn the_search_goes_through_every_range_of_a_set_once() {
        let ranges =
            [range("10.0.0.1", "10.0.0.3", "10.0.0.1"), range("10.1.0.1", "10.1.0.2", "10.9.9.9")];
        let walk = |last: Option<&str>| {
            candidates(&ranges, last.map(|l| l.parse().unwrap()))
                .map(|(address, _)| address.to_string())
                .collect::<Vec<_>>()
        };
        let all = ["10.0.0.2", "10.0.0.3", "10.1.0.1", "10.1.0.2"];
        assert_eq!(walk(None), all);
        assert_eq!(walk(Some("10.0.0.2")), ["10.0.0.3", "10.1.0.1", "10.1.0.2", "10.0.0.2"]);
        assert_eq!(walk(Some("10.1.0.2")), all);
        assert_eq!(walk(Some("192.0.2.1")), all);
    }
}
