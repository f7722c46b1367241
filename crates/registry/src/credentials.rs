//! What a caller may log in with.

use std::fmt;

/// Credentials of one pull. `Debug` tells only which kind they are.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Credentials {
    /// None.
    #[default]
    Anonymous,
    /// User name and password.
    Basic {
        /// User name.
        user: String,
        /// Password or access token.
        password: String,
    },
    /// An OAuth2 refresh token, exchanged at the token service.
    IdentityToken(String),
    /// A finished bearer token, sent as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(redacted)",
            Self::IdentityToken(_) => "IdentityToken(redacted)",
            Self::RegistryToken(_) => "RegistryToken(redacted)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        for secret in [
            Credentials::Basic { user: "hush".into(), password: "hush".into() },
            Credentials::IdentityToken("hush".into()),
            Credentials::RegistryToken("hush".into()),
        ] {
            assert!(!format!("{secret:?}").contains("hush"));
        }
    }
}
