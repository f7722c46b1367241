//! Just enough ELF to tell a static program from a dynamic one, and to name its functions.

use std::path::Path;

use anyhow::{Context, Result, ensure};

const PT_INTERP: u32 = 3;
const SHT_SYMTAB: u32 = 2;
const STT_FUNC: u8 = 2;
/// Size of `Elf64_Sym`.
const SYMBOL: usize = 24;

/// A function of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its symbol, mangled.
    pub(crate) name: String,
    /// From where the program is loaded.
    pub(crate) address: u64,
}

/// Whether the 64-bit little-endian ELF file at `path` asks for a dynamic loader.
pub(crate) fn needs_a_loader(path: &Path) -> Result<bool> {
    let image = std::fs::read(path).with_context(|| path.display().to_string())?;
    segment_types(&image)
        .map(|types| types.contains(&PT_INTERP))
        .with_context(|| path.display().to_string())
}

/// `p_type` of every program header.
fn segment_types(image: &[u8]) -> Result<Vec<u32>> {
    ensure!(image.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    let table = usize::try_from(u64::from_le_bytes(field(image, 32)?))?;
    let size = usize::from(u16::from_le_bytes(field(image, 54)?));
    let count = usize::from(u16::from_le_bytes(field(image, 56)?));
    (0..count).map(|i| Ok(u32::from_le_bytes(field(image, table + i * size)?))).collect()
}

/// Every function that the 64-bit little-endian ELF file defines and has a symbol for.
pub(crate) fn functions(image: &[u8]) -> Result<Vec<Function>> {
    ensure!(image.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    let table = size(image, 40)?;
    let entry = usize::from(u16::from_le_bytes(field(image, 58)?));
    let count = usize::from(u16::from_le_bytes(field(image, 60)?));
    let header = |number: usize| table + number * entry;
    for at in (0..count).map(header) {
        if u32::from_le_bytes(field(image, at + 4)?) == SHT_SYMTAB {
            let names = header(usize::try_from(u32::from_le_bytes(field(image, at + 40)?))?);
            let (start, length) = (size(image, at + 24)?, size(image, at + 32)?);
            let names = size(image, names + 24)?;
            let symbols = (start..start.saturating_add(length)).step_by(SYMBOL);
            let function = |symbol| function(image, symbol, names).transpose();
            return symbols.filter_map(function).collect();
        }
    }
    anyhow::bail!("the ELF file has no symbols")
}

/// What the symbol at `at` names, if that is a function of this file.
fn function(image: &[u8], at: usize, names: usize) -> Result<Option<Function>> {
    let [kind] = field(image, at + 4)?;
    let section = u16::from_le_bytes(field(image, at + 6)?);
    if kind & 0xf != STT_FUNC || section == 0 {
        return Ok(None);
    }
    let name = names + usize::try_from(u32::from_le_bytes(field(image, at)?))?;
    let rest = image.get(name..).context("the ELF file is cut short")?;
    let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8(name.to_vec()).context("the name of a function")?;
    Ok(Some(Function { name, address: u64::from_le_bytes(field(image, at + 8)?) }))
}

/// A number of 64 bits that must fit into memory.
fn size(image: &[u8], at: usize) -> Result<usize> {
    Ok(usize::try_from(u64::from_le_bytes(field(image, at)?))?)
}

fn field<const N: usize>(image: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = image.get(at..at.saturating_add(N)).context("the ELF file is cut short")?;
    bytes.try_into().context("the ELF file is cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(types: &[u32]) -> Vec<u8> {
        let mut image = vec![0; 64 + types.len() * 56];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[32] = 64;
        image[54] = 56;
        image[56] = u8::try_from(types.len()).unwrap();
        for (i, kind) in types.iter().enumerate() {
            image[64 + i * 56..][..4].copy_from_slice(&kind.to_le_bytes());
        }
        image
    }

    #[test]
    fn every_program_header_is_seen() {
        assert_eq!(segment_types(&elf(&[1, PT_INTERP, 2])).unwrap(), [1, PT_INTERP, 2]);
    }

    /// A file of a table of symbols and one of names: `far` from elsewhere, a function `run`, data.
    fn with_symbols() -> Vec<u8> {
        let mut image = elf(&[]);
        let symbol = |name: u32, kind: u8, section: u16, address: u64| {
            let head = [&name.to_le_bytes()[..], &[kind, 0], &section.to_le_bytes()].concat();
            [head, address.to_le_bytes().to_vec(), vec![0; 8]].concat()
        };
        image.extend(symbol(1, 0x12, 0, 0));
        image.extend(symbol(5, 0x12, 1, 0x4000));
        image.extend(symbol(5, 0x11, 1, 0x8000));
        image.extend(b"\0far\0run\0");
        image[40..48].copy_from_slice(&146_u64.to_le_bytes());
        image[58..62].copy_from_slice(&[64, 0, 2, 0]);
        let header = |kind: u32, offset: u64, size: u64, link: u32| {
            let mut header = vec![0; 64];
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&offset.to_le_bytes());
            header[32..40].copy_from_slice(&size.to_le_bytes());
            header[40..44].copy_from_slice(&link.to_le_bytes());
            header
        };
        image.resize(146, 0);
        image.extend(header(SHT_SYMTAB, 64, 72, 1));
        image.extend(header(3, 136, 9, 0));
        image
    }

    #[test]
    fn functions_of_the_file_itself_are_named() {
        let run = Function { name: "run".to_owned(), address: 0x4000 };
        assert_eq!(functions(&with_symbols()).unwrap(), [run]);
        assert!(functions(&elf(&[1])).unwrap_err().to_string().contains("no symbols"));
        assert!(functions(&with_symbols()[..200]).is_err());
    }

    #[test]
    fn a_cut_file_is_refused() {
        let whole = elf(&[1, 2]);
        assert!(segment_types(&whole[..100]).is_err());
        assert!(segment_types(b"#!/bin/sh").is_err());
    }
}
