//! Just enough ELF to tell a static program from a dynamic one.

use std::path::Path;

use anyhow::{Context, Result, ensure};

const PT_INTERP: u32 = 3;

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

    #[test]
    fn a_cut_file_is_refused() {
        let whole = elf(&[1, 2]);
        assert!(segment_types(&whole[..100]).is_err());
        assert!(segment_types(b"#!/bin/sh").is_err());
    }
}
