//! OCI runtime spec to LaunchPlan.
#![forbid(unsafe_code)]
