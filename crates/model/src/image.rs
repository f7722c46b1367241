//! What of an image's configuration shapes a container.

use crate::{Signal, StringMap};

/// Operating system and processor an image is built for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`, … (Go's names)
    pub architecture: String,
    /// `v8`, … or empty
    pub variant: String,
}

impl Platform {
    /// `os/architecture` or `os/architecture/variant`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(str::to_owned);
        let (os, architecture) = (parts.next()?, parts.next()?);
        let variant = parts.next().unwrap_or_default();
        let whole = parts.next().is_none() && !os.is_empty() && !architecture.is_empty();
        whole.then_some(Self { os, architecture, variant })
    }

    /// The platform this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "x86" => ("386", ""),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// The user part of an image's `User`, before it is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ImageUser {
    /// Numeric.
    Uid(i64),
    /// By name.
    Name(String),
}

/// The run-time part of an image's configuration. OCI image-spec, `config`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty: root.
    pub user: String,
    /// `KEY=value` entries.
    pub env: Vec<String>,
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// Working directory; empty: `/`.
    pub working_dir: String,
    /// Paths of anonymous volumes.
    pub volumes: Vec<String>,
    /// Signal that asks the process to end.
    pub stop_signal: Option<Signal>,
    /// Labels.
    pub labels: StringMap,
}

/// What an image says of itself, for those who make something else of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageDescription {
    /// How it is run.
    pub config: ImageConfig,
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub architecture: String,
    /// Variant of the architecture.
    pub variant: String,
    /// Version of the operating system.
    pub os_version: String,
    /// What it needs of the operating system.
    pub os_features: Vec<String>,
    /// Who made it.
    pub author: String,
    /// When, as written.
    pub created: String,
    /// `80/tcp` and the like.
    pub exposed_ports: Vec<String>,
    /// As written.
    pub stop_signal: String,
}

impl ImageConfig {
    /// The user before `:`, as CRI's `Image.uid`/`Image.username` report it.
    pub fn image_user(&self) -> Option<ImageUser> {
        let user = self.user.split(':').next().unwrap_or_default();
        match user.parse::<i64>() {
            Ok(uid) => Some(ImageUser::Uid(uid)),
            Err(_) if user.is_empty() => None,
            Err(_) => Some(ImageUser::Name(user.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_part_is_what_stands_before_the_colon() {
        let user =
            |text: &str| ImageConfig { user: text.into(), ..Default::default() }.image_user();
        assert_eq!(user(""), None);
        assert_eq!(user("1002"), Some(ImageUser::Uid(1002)));
        assert_eq!(user("1003:50"), Some(ImageUser::Uid(1003)));
        assert_eq!(user("www-data:www-data"), Some(ImageUser::Name("www-data".into())));
    }
}
