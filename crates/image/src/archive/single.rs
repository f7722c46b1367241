//! Images of an archive for those who have no store.

use std::io::Read;
use std::path::Path;

use layer::UnpackOptions;

use super::LoadError;
use super::contents::{Content, list};
use super::members::Members;

/// One image of an archive.
#[derive(Debug)]
pub(crate) struct ArchiveImage {
    members: Members,
    content: Content,
}

impl ArchiveImage {
    /// All images of the archive at `path`. Blocks; what has to be inflated goes below `scratch`.
    pub(crate) fn all(
        path: &Path,
        scratch: &Path,
        options: &UnpackOptions,
    ) -> Result<Vec<Self>, LoadError> {
        let members = Members::open(path, scratch, options)?;
        let Some(contents) = list(&members)? else {
            return Err(LoadError::NoImages { path: path.to_owned() });
        };
        let image = |content| Self { members: members.clone(), content };
        Ok(contents.into_iter().map(image).collect())
    }

    /// Its configuration, byte for byte.
    pub(crate) fn config(&self) -> &[u8] {
        &self.content.config
    }

    /// How many layers it has.
    pub(crate) fn layers(&self) -> usize {
        self.content.layers.len()
    }

    /// The blob of a layer, base first.
    pub(crate) fn layer(&self, index: usize) -> Result<Box<dyn Read + Send>, LoadError> {
        let missing = |member: &str| LoadError::Missing { member: member.to_owned() };
        let (member, _) = self.content.layers.get(index).ok_or_else(|| missing("layer"))?;
        self.members.read(member)?.ok_or_else(|| missing(member))
    }

    /// What the archive calls it: whole names, and tags of layouts.
    pub(crate) fn names(&self) -> Vec<String> {
        let whole = self.content.names.iter().map(ToString::to_string);
        let mut names: Vec<String> = whole.chain(self.content.tag.clone()).collect();
        // A layout's word may be the whole name.
        names.dedup();
        names
    }

    /// Whether `name` is one of its names, or the tag of one.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let ends = |whole: &String| whole == name || whole.ends_with(&format!(":{name}"));
        self.names().iter().any(ends)
            || model::Reference::parse(name).is_ok_and(|named| self.content.names.contains(&named))
    }
}
