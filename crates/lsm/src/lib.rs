//! The host's security modules: the AppArmor profile of containers, compiled and loaded here, and
//! SELinux labels of files.
//!
//! Never here: what a request may ask for (`bundle`), entering a profile or label (`launch`).
//!
//! Main types: [`apparmor::AppArmor`], [`selinux::BaseLabels`]; entry points [`apparmor::detect`],
//! [`selinux::detect`], [`selinux::relabel`].
#![forbid(unsafe_code)]

pub mod apparmor;
pub mod selinux;
