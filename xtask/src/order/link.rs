//! `xtask` in the linker's place: it links the daemon twice, first to see which functions there are, then
//! in the order of the list. Neither takes long: all the work was the compiler's. Anything else it leaves
//! to the linker.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::list::List;
use crate::elf;

/// Says that we are the linker, and which list is meant.
pub(crate) const VARIABLE: &str = "KNARR_LINK_IN_ORDER";
/// Asks for the order; behind it stands the list's fingerprint, for whoever else looks whether the
/// arguments are the same as before.
pub(crate) const ASKS: &str = "--function-order=";

/// The program as it is first linked: in no order, with symbols.
pub(crate) const SYMBOLS: &str = "knarr.symbols";
/// What the linker is told: symbols, as they are to lie.
const ORDER: &str = "knarr.order";

/// A file beside the finished program.
pub(crate) fn beside(program: &Path, name: &str) -> PathBuf {
    program.with_file_name(name)
}

/// Does what the linker is asked for by our own arguments.
pub(crate) fn run(list: &OsStr) -> Result<()> {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let before = arguments.len();
    arguments.retain(|argument| !argument.as_encoded_bytes().starts_with(ASKS.as_bytes()));
    let program = output_of(&arguments).filter(|_| arguments.len() < before);
    let Some(program) = program else { return linker(&arguments) };
    // Cargo has it made in `deps` and puts it one directory up.
    let finished = program.parent().context("the program is to lie nowhere")?;
    let symbols = beside(finished, SYMBOLS);
    linker(&kept_whole(&arguments, &symbols))?;
    let image = fs::read(&symbols).with_context(|| symbols.display().to_string())?;
    let functions = elf::functions(&image).with_context(|| symbols.display().to_string())?;
    let list = List::read(Path::new(list))?;
    let (ordered, _) = list.order(functions.iter().map(|function| function.name.as_str()));
    let file = beside(finished, ORDER);
    fs::write(&file, ordered.join("\n") + "\n").with_context(|| file.display().to_string())?;
    if knows_orders(&arguments) {
        arguments.extend(passed_on("--symbol-ordering-file"));
        arguments.extend(passed_on(&file));
        arguments.extend(passed_on("--no-warn-symbol-ordering"));
    }
    linker(&arguments)
}

fn linker(arguments: &[OsString]) -> Result<()> {
    let status = Command::new("cc").args(arguments).status().context("start cc")?;
    ensure!(status.success(), "cc: {status}");
    Ok(())
}

/// What is linked.
fn output_of(arguments: &[OsString]) -> Option<PathBuf> {
    let place = arguments.iter().position(|argument| argument == "-o")?;
    arguments.get(place + 1).map(PathBuf::from)
}

/// The same link to another file that keeps its symbols.
fn kept_whole(arguments: &[OsString], to: &Path) -> Vec<OsString> {
    let strips = |argument: &OsString| argument == "-Wl,--strip-all" || argument == "-s";
    let mut whole: Vec<OsString> =
        arguments.iter().filter(|argument| !strips(argument)).cloned().collect();
    if let Some(place) = whole.iter().position(|argument| argument == "-o")
        && let Some(output) = whole.get_mut(place + 1)
    {
        *output = to.into();
    }
    whole
}

/// GNU's linker has no such option: there the program stays as it is.
fn knows_orders(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| argument == "-fuse-ld=lld")
}

/// An argument that `cc` passes on as it is, whatever characters it has.
fn passed_on(argument: impl AsRef<OsStr>) -> [OsString; 2] {
    ["-Xlinker".into(), argument.as_ref().to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_first_link_keeps_symbols_and_goes_elsewhere() {
        let asked = arguments(&["-m64", "-o", "/t/knarr-0a", "-Wl,--strip-all", "a.o"]);
        assert_eq!(output_of(&asked), Some("/t/knarr-0a".into()));
        let first = kept_whole(&asked, Path::new("/t/knarr.symbols"));
        assert_eq!(first, arguments(&["-m64", "-o", "/t/knarr.symbols", "a.o"]));
    }

    #[test]
    fn only_a_linker_that_knows_orders_is_given_one() {
        assert!(knows_orders(&arguments(&["-fuse-ld=lld", "a.o"])));
        assert!(!knows_orders(&arguments(&["-fuse-ld=bfd", "a.o"])));
    }
}
