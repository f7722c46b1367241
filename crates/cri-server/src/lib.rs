//! The CRI gRPC services.
#![forbid(unsafe_code)]
