//! Holds no code: the tests are in `tests/tests/`.
#![forbid(unsafe_code)]
