//! Programs that say whether an image may be pulled, by the contract of containerd's image
//! verifiers: `PROGRAM -name REFERENCE -digest DIGEST -stdin-media-type TYPE`, the descriptor on
//! standard input; 0 allows, and what it prints is the reason.
//!
//! Where an operator has named a directory, nothing is pulled that not all programs in it allow:
//! also not when it is missing or empty, which containerd takes for consent.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use model::{Digest, Reference};
use registry::Descriptor;
use sys::program::{self, ExecError, Finished};

const STDIN_TYPE: &str = "application/vnd.oci.descriptor.v1+json";
/// Of a verifier's reason so much is told.
const REASON_CHARS: usize = 500;

/// Who is asked about each image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifiers {
    /// Every file in it is a program. Names that begin with a dot are not looked at: they are how
    /// mounted directories are replaced as a whole.
    pub dir: PathBuf,
    /// How long each may take.
    pub limit: Duration,
}

/// Why an image may not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// A verifier said so.
    #[error("verifier {} refuses {digest} ({status}): {reason}", program.display())]
    Refused {
        /// Who.
        program: PathBuf,
        /// The manifest or index.
        digest: Digest,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        reason: String,
    },
    /// A verifier could not be asked.
    #[error("verifier {} gave no verdict on {digest}", program.display())]
    Run {
        /// Who.
        program: PathBuf,
        /// The manifest or index.
        digest: Digest,
        /// Why.
        #[source]
        source: ExecError,
    },
    /// It is not known who the verifiers are.
    #[error("cannot read the directory of image verifiers {}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There are none.
    #[error("there is no verifier in {}: nothing may be pulled until there is one", dir.display())]
    Nobody {
        /// The directory.
        dir: PathBuf,
    },
}

impl Verifiers {
    /// Asks all of them, in the order of their names, until one refuses. Blocks, for each at most
    /// for the limit.
    ///
    /// # Errors
    /// [`VerifierError`]: the image may not be pulled.
    pub(crate) fn ask(&self, name: &Reference, root: &Descriptor) -> Result<(), VerifierError> {
        let programs = self.programs()?;
        if programs.is_empty() {
            return Err(VerifierError::Nobody { dir: self.dir.clone() });
        }
        programs.into_iter().try_for_each(|program| self.ask_one(program, name, root))
    }

    fn programs(&self) -> Result<Vec<PathBuf>, VerifierError> {
        let fault = |source| VerifierError::Directory { dir: self.dir.clone(), source };
        let entries = std::fs::read_dir(&self.dir).map_err(fault)?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        let mut names = names.collect::<Result<Vec<OsString>, _>>().map_err(fault)?;
        names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
        names.sort_unstable();
        Ok(names.into_iter().map(|name| self.dir.join(name)).collect())
    }

    fn ask_one(
        &self,
        program: PathBuf,
        name: &Reference,
        root: &Descriptor,
    ) -> Result<(), VerifierError> {
        let digest = root.digest;
        let (name, text) = (name.to_string(), digest.to_string());
        let input = serde_json::json!({
            "mediaType": root.media_type, "digest": text, "size": root.size,
        });
        let arguments = ["-name", &name, "-digest", &text, "-stdin-media-type", STDIN_TYPE];
        let input = input.to_string();
        // Its keys and proxies are where the daemon's environment says.
        let ended = program::run_inheriting(&program, &arguments, input.as_bytes(), self.limit);
        match ended {
            Ok(Finished { status, .. }) if status.success() => Ok(()),
            Ok(Finished { status, stdout, .. }) => {
                Err(VerifierError::Refused { program, digest, status, reason: reason(&stdout) })
            }
            Err(source) => Err(VerifierError::Run { program, digest, source }),
        }
    }
}

/// Fit to be read in one line.
fn reason(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    let mut told: String = line.chars().take(REASON_CHARS).flat_map(char::escape_debug).collect();
    if told.is_empty() {
        told.push_str("it gave no reason");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short_and_in_one_line() {
        assert_eq!(reason(b" not\n signed \x1b[1m\n"), "not signed \\u{1b}[1m");
        assert_eq!(reason(b" \n"), "it gave no reason");
        assert_eq!(reason(&[b'a'; 9000]).len(), REASON_CHARS);
    }
}
