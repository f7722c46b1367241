//! Which images an operator exempts from garbage collection.

use model::Reference;

use crate::image::Image;

/// Whether a name of `image` matches: a reference, or text with `*` at its end or at both ends.
pub(crate) fn matches(patterns: &[String], image: &Image) -> bool {
    let names = || image.repo_tags.iter().chain(&image.repo_digests);
    patterns.iter().any(|pattern| {
        let inner = pattern.strip_suffix('*');
        match (inner, inner.and_then(|inner| inner.strip_prefix('*'))) {
            (_, Some(middle)) => names().any(|name| name.contains(middle)),
            (Some(start), None) => names().any(|name| name.starts_with(start)),
            (None, None) => Reference::parse(pattern).is_ok_and(|reference| {
                image.tags.contains(&reference) || image.digests.contains(&reference)
            }),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model::Digest;

    use super::*;
    use crate::config;
    use crate::record::ImageRecord;

    #[test]
    fn exact_names_starts_and_middles_match() {
        let id = Digest::from_sha256([0; 32]);
        let record = ImageRecord {
            id,
            manifest_digest: id,
            size_bytes: 1,
            tags: BTreeSet::from([Reference::parse("quay.io/infra/pause:3").unwrap()]),
            digests: BTreeSet::new(),
            generation: 0,
        };
        let image = Image::new(record, config::parse(br#"{"rootfs":{}}"#).unwrap());
        for (pattern, want) in [
            ("quay.io/infra/pause:3", true),
            ("quay.io/infra/pause", false),
            ("quay.io/infra/*", true),
            ("*pause*", true),
            ("*pause", false),
            ("quay.io/other*", false),
        ] {
            assert_eq!(matches(&[pattern.to_owned()], &image), want, "{pattern}");
        }
        assert!(!matches(&[], &image));
    }
}
