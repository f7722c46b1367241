//! Sandbox and container ids: 64 lowercase hexadecimal digits.

use std::fmt;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id: want {want}")]
pub struct IdError {
    /// The refused text.
    pub text: String,
    /// The expected form.
    pub want: &'static str,
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex(bytes: [u8; 32]) -> String {
    let mut text = String::with_capacity(64);
    for byte in bytes {
        text.push(HEX[usize::from(byte >> 4)].into());
        text.push(HEX[usize::from(byte & 15)].into());
    }
    text
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
        pub struct $name(String);

        impl $name {
            /// An id from 32 random bytes.
            pub fn from_random(bytes: [u8; 32]) -> Self {
                Self(hex(bytes))
            }

            /// Accepts exactly 64 lowercase hexadecimal digits.
            ///
            /// # Errors
            /// [`IdError`] names the refused text.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                if is_hex64(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError { text: text.to_owned(), want: "64 lowercase hexadecimal digits" })
                }
            }

            /// The whole id.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits, for people.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

hex_id! {
    /// Names one pod sandbox for its whole life.
    SandboxId
}
hex_id! {
    /// Names one container for its whole life.
    ContainerId
}

/// Names one exec session within a shim; unique for the shim's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecId(pub u64);

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exec-{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_make_an_id_that_parses_back() {
        let id = SandboxId::from_random([0xa5; 32]);
        assert_eq!(SandboxId::parse(id.as_str()), Ok(id.clone()));
        assert_eq!(id.short(), "a5a5a5a5a5a5");
    }

    #[test]
    fn anything_but_64_lowercase_hex_digits_is_refused() {
        for text in ["", "abc", &"A".repeat(64), &"g".repeat(64), &"a".repeat(65), "../etc"] {
            assert!(ContainerId::parse(text).is_err(), "{text}");
        }
    }
}
