//! Randomness of the operating system.

use rustix::rand::{GetRandomFlags, getrandom};

/// Fresh random bytes. Blocks only in the first moments of a machine's life.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut have = 0;
    while have < N {
        // A request this small is only ever interrupted.
        if let Ok(more) = getrandom(&mut bytes[have..], GetRandomFlags::empty()) {
            have += more;
        }
    }
    bytes
}
