//! What is pulled while the power goes: small images that share layers, of many files and of a
//! few large ones, with what needs a layer of its own between them.

use anyhow::Result;

use super::random::Random;
use crate::images::Compression::{Gzip, None, Zstd};
use crate::images::{ImageBuilder, Layer, LayerBuilder, OciImage};

/// Names of the images of [`storm`].
pub const NAMES: &[&str] = &["storm/a:1", "storm/b:1", "storm/c:1"];

/// The images called [`NAMES`].
///
/// # Errors
/// A layer cannot be written.
pub fn storm() -> Result<Vec<OciImage>> {
    let base = many("usr/share", 300, 1)?;
    let large = LayerBuilder::new()
        .dir("var", 0o755)
        .file("var/one", 0o644, noise(3 << 20, 2))
        .file("var/two", 0o600, noise(2 << 20, 3))
        .finish(None)?;
    // Directories it does not name, which the base has with other modes.
    let implied = (0..40).fold(LayerBuilder::new(), |layer, number| {
        layer.file(&format!("usr/share/{number}/more"), 0o644, noise(9000, 100 + number))
    });
    let implied = implied.finish(Zstd)?;
    let other = many("opt", 150, 4)?;
    let image = |name: &str, layers: &[&Layer]| -> Result<OciImage> {
        let image = ImageBuilder::new(name)?;
        Ok(layers.iter().fold(image, |image, layer| image.layer((*layer).clone())).build())
    };
    Ok(vec![
        image(NAMES[0], &[&base, &large])?,
        image(NAMES[1], &[&base, &implied, &other])?,
        image(NAMES[2], &[&other, &large, &implied])?,
    ])
}

fn many(dir: &str, files: u64, seed: u64) -> Result<Layer> {
    let parts: Vec<&str> = dir.split('/').collect();
    let layer = (1..=parts.len())
        .fold(LayerBuilder::new(), |layer, length| layer.dir(&parts[..length].join("/"), 0o711));
    let layer = (0..files).fold(layer, |layer, number| {
        let own = format!("{dir}/{number}");
        let content =
            noise(500 + 97 * usize::try_from(number % 60).unwrap_or_default(), seed + number);
        let file = format!("{own}/file");
        layer.dir(&own, 0o700).file(&file, 0o644, content).symlink(&format!("{own}/link"), "file")
    });
    layer.finish(Gzip)
}

/// Bytes that no compressor makes small.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    std::iter::repeat_with(|| random.below(256).to_le_bytes()[0]).take(length).collect()
}
