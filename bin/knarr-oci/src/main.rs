//! `knarr oci` as a small static program of its own, for those who call an OCI runtime for each
//! container: it starts twice for one (`oci-cli`'s `own_program` says why), and starting `knarr`, with its
//! loader and its relocations, takes longer than all that is ours in between (docs/adr/0020).
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    oci_cli::run(std::env::args_os())
}
