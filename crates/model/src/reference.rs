//! Image references: the text that names an image at a registry, normalised.

use std::fmt;
use std::net::Ipv6Addr;

use crate::Digest;

/// The registry that is meant when a reference names none.
const DEFAULT_HOST: &str = "docker.io";
/// Older name of the same registry.
const DEFAULT_HOST_ALIAS: &str = "index.docker.io";
const DEFAULT_TAG: &str = "latest";
/// Limit of the distribution grammar for host and repository together.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {problem}")]
pub struct ReferenceError {
    /// The refused text.
    pub text: String,
    /// What is wrong with it.
    pub problem: ReferenceProblem,
}

/// What is wrong with a refused reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceProblem {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// 64 hexadecimal digits always mean an image id.
    #[error("64 hexadecimal digits name an image id, not a repository")]
    LooksLikeId,
    /// The part before the first slash is not a host.
    #[error("the registry host is malformed")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the registry port is not a number from 1 to 65535")]
    Port,
    /// A repository path component breaks the grammar.
    #[error(
        "the repository may hold lowercase letters and digits, joined by `.`, `_`, `__`, `-` or `/`"
    )]
    Repository,
    /// Host and repository are too long.
    #[error("host and repository are longer than 255 characters")]
    TooLong,
    /// The tag breaks the grammar.
    #[error("a tag is up to 128 letters, digits, `_`, `.` and `-`, not starting with `.` or `-`")]
    Tag,
    /// The digest breaks the grammar or uses another algorithm.
    #[error("a digest is `sha256:` and 64 lowercase hexadecimal digits")]
    Digest,
}

/// A normalised image reference: registry host, repository, and a tag, a digest or both.
///
/// `busybox` becomes `docker.io/library/busybox:latest`. Where both are given the digest decides
/// what is pulled and the tag is only decoration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads and normalises a reference as people write it.
    ///
    /// # Errors
    /// [`ReferenceError`] names the text and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|problem| ReferenceError { text: text.to_owned(), problem })
    }

    /// The registry: host, and port if one was written; `docker.io` if none was.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository below the host, `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only where a digest was given without one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and repository: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// The same name with this tag alone: no digest is kept.
    ///
    /// # Errors
    /// [`ReferenceError`] names the tag if it breaks the grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError { text: tag.to_owned(), problem: ReferenceProblem::Tag });
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same name with this digest alone: no tag is kept.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

fn parse(text: &str) -> Result<Reference, ReferenceProblem> {
    if text.is_empty() {
        return Err(ReferenceProblem::Empty);
    }
    if Digest::from_hex(text).is_some() {
        return Err(ReferenceProblem::LooksLikeId);
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(Digest::parse(digest).map_err(|_| ReferenceProblem::Digest)?))
        }
        None => (text, None),
    };
    let (host, path) = split_host(rest)?;
    let (repository, tag) = match path.split_once(':') {
        Some((_, tag)) if !is_tag(tag) => return Err(ReferenceProblem::Tag),
        Some((repository, tag)) => (repository, Some(tag.to_owned())),
        None => (path, None),
    };
    if !repository.split('/').all(is_path_component) {
        return Err(ReferenceProblem::Repository);
    }
    let repository = if host == DEFAULT_HOST && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    if host.len() + 1 + repository.len() > NAME_MAX {
        return Err(ReferenceProblem::TooLong);
    }
    let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
    Ok(Reference { host: host.to_owned(), repository, tag, digest })
}

/// The registry host and what follows it. The first component is a host only if it could not be
/// part of a repository path, or is `localhost`.
fn split_host(text: &str) -> Result<(&str, &str), ReferenceProblem> {
    match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            check_host(first)?;
            Ok((if first == DEFAULT_HOST_ALIAS { DEFAULT_HOST } else { first }, rest))
        }
        Some(_) | None => Ok((DEFAULT_HOST, text)),
    }
}

fn check_host(host: &str) -> Result<(), ReferenceProblem> {
    let (name, port) = if let Some(literal) = host.strip_prefix('[') {
        let (address, after) = literal.split_once(']').ok_or(ReferenceProblem::Host)?;
        address.parse::<Ipv6Addr>().map_err(|_| ReferenceProblem::Host)?;
        if after.is_empty() {
            return Ok(());
        }
        (None, Some(after.strip_prefix(':').ok_or(ReferenceProblem::Host)?))
    } else {
        match host.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(host), None),
        }
    };
    if !name.is_none_or(|name| name.split('.').all(is_host_component)) {
        return Err(ReferenceProblem::Host);
    }
    match port {
        None => Ok(()),
        Some(port) if !port.bytes().all(|b| b.is_ascii_digit()) => Err(ReferenceProblem::Port),
        Some(port) => match port.parse::<u16>() {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(ReferenceProblem::Port),
        },
    }
}

fn is_host_component(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// `[a-z0-9]+` runs joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(*first)
        && alphanumeric(*last)
        && bytes
            .split(|b| alphanumeric(*b))
            .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= TAG_MAX
        && bytes.first().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn what_people_write_is_normalised() {
        let at = |name: &str| format!("{name}@sha256:{HEX}");
        for (text, want) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("library/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000", "docker.io/library/localhost:5000".to_owned()),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t".to_owned()),
            ("quay.io/a/b/c", "quay.io/a/b/c:latest".to_owned()),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned()),
            ("[fe80::1]/app:X_y.Z-0", "[fe80::1]/app:X_y.Z-0".to_owned()),
            ("a__b/c--d.e:1", "docker.io/a__b/c--d.e:1".to_owned()),
            (&at("busybox"), at("docker.io/library/busybox")),
            (&at("quay.io/a/b:t"), at("quay.io/a/b:t")),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), want, "{text}");
        }
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        use ReferenceProblem as P;
        let long = format!("quay.io/{}", "a".repeat(248));
        let tag = format!("busybox:{}", "t".repeat(129));
        for (text, problem) in [
            ("", P::Empty),
            (HEX, P::LooksLikeId),
            ("Busybox", P::Repository),
            ("user/App", P::Repository),
            ("a//b", P::Repository),
            ("/a", P::Repository),
            ("quay.io/", P::Repository),
            ("a___b", P::Repository),
            ("a..b", P::Repository),
            ("a._b", P::Repository),
            ("-a", P::Repository),
            ("a-", P::Repository),
            ("../../etc/passwd", P::Host),
            ("quay.io/../x", P::Repository),
            ("a b", P::Repository),
            ("quäy.io/x", P::Host),
            ("-quay.io/x", P::Host),
            ("[::g]/x", P::Host),
            ("[::1]5000/x", P::Host),
            ("quay.io:/x", P::Port),
            ("quay.io:0/x", P::Port),
            ("quay.io:99999/x", P::Port),
            ("quay.io:5x/x", P::Port),
            ("busybox:", P::Tag),
            ("busybox:.a", P::Tag),
            ("busybox:a:b", P::Tag),
            (&tag, P::Tag),
            ("busybox@", P::Digest),
            ("busybox@sha256:12", P::Digest),
            ("busybox@sha512:12", P::Digest),
            (&long, P::TooLong),
        ] {
            let refused = Reference::parse(text).unwrap_err();
            assert_eq!(refused, ReferenceError { text: text.into(), problem }, "{text}");
        }
    }

    #[test]
    fn a_tag_or_a_digest_replaces_both() {
        let digest = Digest::from_hex(HEX).unwrap();
        let both = Reference::parse(&format!("busybox:1@sha256:{HEX}")).unwrap();
        assert_eq!(both.tag(), Some("1"));
        assert_eq!(both.digest(), Some(&digest));
        assert_eq!(both.name(), "docker.io/library/busybox");
        assert_eq!(both.with_tag("2").unwrap().to_string(), "docker.io/library/busybox:2");
        assert_eq!(
            both.with_digest(digest).to_string(),
            format!("docker.io/library/busybox@sha256:{HEX}")
        );
        assert_eq!(both.with_tag("/").unwrap_err().problem, ReferenceProblem::Tag);
    }

    proptest! {
        #[test]
        fn a_normalised_reference_parses_to_itself(
            host in "([a-z][a-z0-9-]{0,8}[a-z0-9]\\.[a-z]{2,4}|localhost|\\[::1\\])(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}){0,2}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            bytes in proptest::option::of(any::<[u8; 32]>()),
        ) {
            let mut text = format!("{host}/{path}");
            if let Some(tag) = &tag {
                text.push(':');
                text.push_str(tag);
            }
            if let Some(bytes) = bytes {
                text.push_str(&format!("@{}", Digest::from_sha256(bytes)));
            }
            let reference = Reference::parse(&text).unwrap();
            prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
            prop_assert_eq!(reference.host(), host);
            prop_assert_eq!(reference.repository(), path);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference.clone()));
            }
        }
    }
}
