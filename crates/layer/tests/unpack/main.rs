//! Layers on real directories, as root.

// `cfg(test)` is always true here; it tells clippy that helpers are test code too.
#[cfg(test)]
mod differential;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod inventory;
#[cfg(test)]
mod skeleton;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod trees;
#[cfg(test)]
mod whiteouts;
