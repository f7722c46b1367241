//! Distribution API client.
#![forbid(unsafe_code)]
