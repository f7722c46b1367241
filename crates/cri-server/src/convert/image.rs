//! Images.

use cri_api::v1;
use image::Image;
use model::{ImageSpec, ImageUser};

pub(crate) fn spec(spec: v1::ImageSpec) -> ImageSpec {
    ImageSpec {
        image: spec.image,
        user_specified: spec.user_specified_image,
        runtime_handler: spec.runtime_handler,
        image_ref: spec.image_ref,
        annotations: spec.annotations,
    }
}

pub(crate) fn spec_to_cri(spec: &ImageSpec) -> v1::ImageSpec {
    v1::ImageSpec {
        image: spec.image.clone(),
        annotations: spec.annotations.clone(),
        user_specified_image: spec.user_specified.clone(),
        runtime_handler: spec.runtime_handler.clone(),
        image_ref: spec.image_ref.clone(),
    }
}

pub(crate) fn item(image: &Image) -> v1::Image {
    let (uid, username) = match image.config.image_user() {
        Some(ImageUser::Uid(value)) => (Some(v1::Int64Value { value }), String::new()),
        Some(ImageUser::Name(name)) => (None, name),
        None => (None, String::new()),
    };
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size_bytes,
        uid,
        username,
        spec: None,
        pinned: image.pinned,
    }
}
