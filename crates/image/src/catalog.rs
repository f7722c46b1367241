//! Names and images: pure functions over an immutable list.

use std::sync::Arc;

use model::{Digest, Reference, ReferenceError};

use crate::image::Image;

/// All images, sorted by id.
pub(crate) type List = Vec<Arc<Image>>;

/// Why a name leads to no image for certain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// More than one id starts with it.
    #[error("`{prefix}` is the start of {count} image ids")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many ids start with it.
        count: usize,
    },
    /// Neither an id nor a reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// The image a caller means: by id (with or without `sha256:`), reference, or start of an id.
/// A known reference beats the start of an id, so that an image called `cafe` cannot be mistaken
/// for one whose id happens to start so.
pub(crate) fn resolve(images: &List, name: &str) -> Result<Option<Arc<Image>>, ResolveError> {
    let bare = name.strip_prefix("sha256:").unwrap_or(name);
    if let Some(id) = Digest::from_hex(bare) {
        return Ok(images.iter().find(|image| image.id == id).cloned());
    }
    let reference = Reference::parse(name);
    if let Ok(reference) = &reference
        && let Some(image) = by_reference(images, reference)
    {
        return Ok(Some(image));
    }
    let is_prefix = !bare.is_empty()
        && bare.len() < 64
        && bare.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_prefix {
        let mut matching = images.iter().filter(|image| image.id.hex().starts_with(bare));
        if let Some(first) = matching.next() {
            return match matching.count() {
                0 => Ok(Some(Arc::clone(first))),
                more => Err(ResolveError::Ambiguous { prefix: name.into(), count: more + 1 }),
            };
        }
    }
    match reference {
        Ok(_) => Ok(None),
        Err(_) if is_prefix => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn by_reference(images: &List, reference: &Reference) -> Option<Arc<Image>> {
    let name = names_of(reference);
    let found = images.iter().find(|image| match &name {
        Name::Tag(tag) => image.tags.contains(tag),
        Name::Digest(digest) => image.digests.contains(digest),
    });
    found.cloned()
}

/// What of a reference counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Tag(Reference),
    Digest(Reference),
}

/// A digest decides; a tag beside it is decoration.
pub(crate) fn names_of(reference: &Reference) -> Name {
    match reference.digest() {
        Some(digest) => Name::Digest(reference.with_digest(*digest)),
        None => Name::Tag(reference.clone()),
    }
}

/// Gives `image` the names of one more pull: `root` is the digest that `reference` led to.
pub(crate) fn add_names(image: &mut Image, reference: &Reference, root: &Digest) {
    image.digests.insert(reference.with_digest(*root));
    if let Name::Tag(tag) = names_of(reference) {
        image.tags.insert(tag);
    }
    image.refresh_names();
}

/// Gives `image` names that no registry vouches for.
pub(crate) fn add_given(image: &mut Image, names: &[Reference]) {
    for name in names {
        match names_of(name) {
            Name::Tag(tag) => drop(image.tags.insert(tag)),
            Name::Digest(digest) => drop(image.digests.insert(digest)),
        }
    }
    image.refresh_names();
}

/// The images that lose a tag to `winner`, without it.
pub(crate) fn losers(images: &List, winner: &Image) -> Vec<Image> {
    let loses =
        |image: &&Arc<Image>| image.id != winner.id && !image.tags.is_disjoint(&winner.tags);
    let strip = |image: &Arc<Image>| {
        let mut image = Image::clone(image);
        image.tags.retain(|tag| !winner.tags.contains(tag));
        image.refresh_names();
        image
    };
    images.iter().filter(loses).map(strip).collect()
}

/// The list with these images put in, in place of those of the same id.
pub(crate) fn with(images: &List, changed: Vec<Image>) -> List {
    let mut list: List =
        images.iter().filter(|old| changed.iter().all(|new| new.id != old.id)).cloned().collect();
    list.extend(changed.into_iter().map(Arc::new));
    list.sort_by_key(|image| image.id);
    list
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;
    use crate::config;
    use crate::record::ImageRecord;

    fn image(id: Digest) -> Image {
        let record = ImageRecord {
            id,
            manifest_digest: id,
            size_bytes: 1,
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            generation: 0,
        };
        Image::new(record, config::parse(br#"{"rootfs":{}}"#).unwrap())
    }

    fn id(hex_start: &str) -> Digest {
        Digest::from_hex(&format!("{hex_start:0<64}")).unwrap()
    }

    /// What a pull does to the list.
    fn pull(images: &List, id: Digest, reference: &str, root: Digest) -> List {
        let known = images.iter().find(|image| image.id == id);
        let mut winner = known.map_or_else(|| image(id), |known| Image::clone(known));
        add_names(&mut winner, &Reference::parse(reference).unwrap(), &root);
        let mut changed = losers(images, &winner);
        changed.push(winner);
        with(images, changed)
    }

    fn found(images: &List, name: &str) -> Option<Digest> {
        resolve(images, name).unwrap().map(|image| image.id)
    }

    #[test]
    fn ids_prefixes_tags_and_digests_lead_to_the_image() {
        let (a, b, root) = (id("abc1"), id("abd2"), id("ff"));
        let images = pull(&List::new(), a, "quay.io/x/y:1", root);
        let images = pull(&images, b, &format!("busybox:9@{root}"), root);
        for (name, want) in [
            (a.to_string(), Some(a)),
            (a.hex(), Some(a)),
            ("abc".into(), Some(a)),
            ("sha256:abd".into(), Some(b)),
            ("quay.io/x/y:1".into(), Some(a)),
            (format!("quay.io/x/y@{root}"), Some(a)),
            (format!("quay.io/x/y:whatever@{root}"), Some(a)),
            (format!("docker.io/library/busybox@{root}"), Some(b)),
            ("busybox:9".into(), None),
            ("quay.io/x/y".into(), None),
            ("abcf".into(), None),
            (id("77").hex(), None),
        ] {
            assert_eq!(found(&images, &name), want, "{name}");
        }
        assert_eq!(
            resolve(&images, "ab").unwrap_err(),
            ResolveError::Ambiguous { prefix: "ab".into(), count: 2 }
        );
        assert!(matches!(resolve(&images, "A B"), Err(ResolveError::Reference(_))));
    }

    #[test]
    fn a_known_reference_beats_the_start_of_an_id() {
        let (named, other) = (id("11"), id("cafe"));
        let images = pull(&List::new(), other, "x:1", id("aa"));
        assert_eq!(found(&images, "cafe"), Some(other));
        let images = pull(&images, named, "cafe", id("ab"));
        assert_eq!(found(&images, "cafe"), Some(named));
    }

    #[test]
    fn a_moved_tag_leaves_the_old_image_its_digests() {
        let (old, new) = (id("01"), id("02"));
        let images = pull(&List::new(), old, "x:1", id("aa"));
        let images = pull(&images, old, "y:1", id("aa"));
        let images = pull(&images, new, "x:1", id("ab"));
        let old = resolve(&images, &old.hex()).unwrap().unwrap();
        assert_eq!(old.repo_tags, ["docker.io/library/y:1"]);
        assert_eq!(old.repo_digests.len(), 2);
        assert_eq!(found(&images, "x:1"), Some(new));
    }

    proptest! {
        /// Against a plain map from tag to image, whatever the order of pulls.
        #[test]
        fn each_tag_names_the_image_last_pulled_by_it(
            pulls in proptest::collection::vec((0_u8..4, 0_u8..5, 0_u8..6), 0..40)
        ) {
            let mut images = List::new();
            let mut model = HashMap::new();
            for (image, tag, root) in pulls {
                let id = Digest::from_sha256([image; 32]);
                let reference = format!("x.io/a:{tag}");
                images = pull(&images, id, &reference, Digest::from_sha256([root + 100; 32]));
                model.insert(reference, id);
            }
            for (reference, id) in &model {
                prop_assert_eq!(found(&images, reference), Some(*id));
            }
            let tags: usize = images.iter().map(|image| image.repo_tags.len()).sum();
            prop_assert_eq!(tags, model.len());
            prop_assert!(images.iter().all(|image| !image.repo_digests.is_empty()));
        }
    }
}
