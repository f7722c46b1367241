//! Manifests and what becomes of them.
