//! The list: which functions a daemon runs, in the order in which it first did. A function is a hash of
//! its name without what differs from build to build, so that the list outlives most changes.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Functions in a line.
const WIDE: usize = 12;

/// Below this share of what the list names, the daemon has become another than the one that was traced.
const STALE_BELOW_PERCENT: usize = 60;

const HEAD: &str = "\
# The functions that the daemon runs, in the order in which it first did: `cargo xtask build` has the
# linker put them together, so that less of the program becomes resident (docs/adr/0021). Each is the
# FNV-1a hash of its name without disambiguators, folded to 32 bits. Names that are no more do no harm.
# Remake it with `cargo xtask order`, when `cargo xtask build` says that too few are found.
";

/// Where the list lies.
pub(crate) fn path(root: &Path) -> PathBuf {
    root.join("bin/knarr/functions.order")
}

/// Hashes of names, by rank.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    ranks: HashMap<u32, usize>,
}

impl List {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut list = Self::default();
        for word in
            text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace)
        {
            ensure!(word.len() == 8, "`{word}` is not a hash of eight digits");
            let hash = u32::from_str_radix(word, 16).with_context(|| format!("`{word}`"))?;
            list.push(hash);
        }
        Ok(list)
    }

    /// A list of functions by their symbols; of those with one name the first counts.
    pub(crate) fn of<'a>(symbols: impl IntoIterator<Item = &'a str>) -> Self {
        let mut list = Self::default();
        symbols.into_iter().for_each(|symbol| list.push(hash(symbol)));
        list
    }

    fn push(&mut self, hash: u32) {
        let rank = self.ranks.len();
        self.ranks.entry(hash).or_insert(rank);
    }

    pub(crate) fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for line in self.sorted().chunks(WIDE) {
            let words: Vec<String> = line.iter().map(|hash| format!("{hash:08x}")).collect();
            text.push_str(&words.join(" "));
            text.push('\n');
        }
        text
    }

    fn sorted(&self) -> Vec<u32> {
        let mut hashes: Vec<u32> = self.ranks.keys().copied().collect();
        hashes.sort_by_key(|hash| self.ranks.get(hash));
        hashes
    }

    pub(crate) fn len(&self) -> usize {
        self.ranks.len()
    }

    /// A number for what the list says: another one, another program.
    pub(crate) fn fingerprint(&self) -> u32 {
        let mut hasher = Fnv::default();
        self.sorted().iter().for_each(|hash| hasher.add(&hash.to_le_bytes()));
        hasher.folded()
    }

    /// Those of a program's symbols that the list names, as it orders them, and how many of its own
    /// functions that are.
    pub(crate) fn order<'a>(
        &self,
        symbols: impl IntoIterator<Item = &'a str>,
    ) -> (Vec<&'a str>, usize) {
        let mut found: Vec<(usize, &str)> = symbols
            .into_iter()
            .filter_map(|symbol| Some((*self.ranks.get(&hash(symbol))?, symbol)))
            .collect();
        found.sort_unstable();
        found.dedup();
        let mut ranks: Vec<usize> = found.iter().map(|(rank, _)| *rank).collect();
        ranks.dedup();
        (found.into_iter().map(|(_, symbol)| symbol).collect(), ranks.len())
    }

    /// Whether so few of its functions are found that it should be remade.
    pub(crate) fn is_stale(&self, found: usize) -> bool {
        found * 100 < self.len() * STALE_BELOW_PERCENT
    }
}

/// Of a symbol's name without crates' disambiguators and other hashes, which each compiler, version and
/// set of features makes anew.
fn hash(symbol: &str) -> u32 {
    let mut hasher = Fnv::default();
    match rustc_demangle::try_demangle(symbol) {
        // The alternate form is without hashes. Writing to a hasher cannot fail; a name that is too long
        // to be written is told from others by its beginning.
        Ok(name) => write!(hasher, "{name:#}").unwrap_or_default(),
        Err(_) => hasher.add(symbol.as_bytes()),
    }
    hasher.folded()
}

/// FNV-1a of 64 bits: the same everywhere and for ever, which the standard library's are not.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn folded(&self) -> u32 {
        let [a, b, c, d, e, f, g, h] = self.0.to_le_bytes();
        u32::from_le_bytes([a, b, c, d]) ^ u32::from_le_bytes([e, f, g, h])
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `foo::bar::<i32>` of the crate `foo`, told apart by what the compiler was given.
    const OF_ONE_BUILD: &str = "_RINvCs1234_3foo3barlECs5678_3baz";
    const OF_ANOTHER: &str = "_RINvCs9Zz8_3foo3barlECsAbCdE_3baz";
    const OTHER_TYPE: &str = "_RINvCs1234_3foo3barmECs5678_3baz";

    #[test]
    fn a_function_keeps_its_hash_from_build_to_build() {
        assert_eq!(hash(OF_ONE_BUILD), hash(OF_ANOTHER));
        assert_ne!(hash(OF_ONE_BUILD), hash(OTHER_TYPE), "instances are different functions");
        assert_eq!(
            hash("_ZN3foo3bar17h0123456789abcdefE"),
            hash("_ZN3foo3bar17hfedcba9876543210E")
        );
        assert_ne!(hash("ZSTD_compress"), hash("ZSTD_decompress"));
    }

    #[test]
    fn what_is_written_is_read_again_in_the_same_order() {
        let names: Vec<String> = (0..30).map(|number| format!("function_{number}")).collect();
        let list = List::of(names.iter().map(String::as_str));
        let text = list.text();
        assert!(text.lines().all(|line| line.len() < 120), "{text}");
        let read = List::parse(&text).unwrap();
        assert_eq!(read, list);
        let (found, known) = read.order(names.iter().rev().map(String::as_str));
        assert_eq!((found, known), (names.iter().map(String::as_str).collect(), 30));
        assert_eq!(read.fingerprint(), list.fingerprint());
    }

    #[test]
    fn functions_of_one_name_lie_together_and_strange_ones_stay_out() {
        let list = List::of(["second", OF_ONE_BUILD, "gone", "second"]);
        assert_eq!(list.len(), 3);
        let (found, known) = list.order([OTHER_TYPE, OF_ANOTHER, "new", "second", OF_ONE_BUILD]);
        assert_eq!(found, ["second", OF_ONE_BUILD, OF_ANOTHER]);
        assert_eq!(known, 2);
        assert!(!list.is_stale(known) && list.is_stale(1));
    }

    #[test]
    fn another_order_is_another_program() {
        let (one, other) = (List::of(["a", "b"]), List::of(["b", "a"]));
        assert_ne!(one.fingerprint(), other.fingerprint());
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        assert!(List::parse("# head\n0123abcd 0123abcg\n").is_err());
        assert!(List::parse("0123abc\n").unwrap_err().to_string().contains("0123abc"));
    }
}
