//! Giving names by hand.

use std::sync::Arc;

use model::{Digest, Reference};
use store::WriteError;

use crate::catalog::{ResolveError, add_given};
use crate::collect::blocking;
use crate::image::Image;
use crate::images::Images;

/// Why an image did not get a name.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The name leads to no image for certain.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// There is no such image.
    #[error("there is no image `{name}`")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// A name with a digest is not anybody's to give.
    #[error("`{name}` names content by its digest; give a name and a tag")]
    Digest {
        /// The new name.
        name: Reference,
    },
    /// The record could not be written.
    #[error("cannot record image {id}")]
    Record {
        /// The image.
        id: Digest,
        /// Why.
        #[source]
        source: WriteError,
    },
    /// The program is shutting down.
    #[error("interrupted by shutdown")]
    ShuttingDown,
}

impl Images {
    /// Gives the image that `name` means the name `new`, which an other image may lose by it.
    ///
    /// # Errors
    /// [`TagError`].
    pub async fn tag(&self, name: &str, new: Reference) -> Result<Arc<Image>, TagError> {
        let not_found = || TagError::NotFound { name: name.to_owned() };
        if new.digest().is_some() {
            return Err(TagError::Digest { name: new });
        }
        let id = self.resolve(name)?.ok_or_else(not_found)?.id;
        let add = move |image: &mut Image| add_given(image, std::slice::from_ref(&new));
        blocking(&self.inner, move |inner| inner.publish_as(id, None, add))
            .await
            .ok_or(TagError::ShuttingDown)?
            .map_err(|source| TagError::Record { id, source })?
            .ok_or_else(not_found)
    }
}
