//! `features`

use super::answer;
use super::state::to_text;
use crate::error::OciError;

pub(crate) fn run() -> Result<(), OciError> {
    answer(&format!("{}\n", to_text(&oci_runtime::features(crate::SPEC_VERSION))))
}
