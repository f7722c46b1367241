//! Who rewrites and drops packets: the kernel's nf_tables, or `iptables` where only that works.

use std::sync::Once;

use super::{BuiltInError, ruleset};
use crate::engine::chain;

/// By what means the built-in plugins filter and rewrite packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PacketFilter {
    /// nf_tables, or `iptables` on a kernel that lacks what is needed of it.
    #[default]
    Auto,
    /// Tables of our own, by the kernel's interface.
    Nftables,
    /// Chains of our own in the tables of `iptables`, by its programs.
    Iptables,
}

impl PacketFilter {
    /// What a plugin's configuration asks for under `key`, in the words of the reference
    /// plugins; without such a wish, what holds for the node.
    pub(super) fn asked(self, key: &str, text: &str) -> Result<Self, BuiltInError> {
        match text {
            "" => Ok(self),
            "nftables" => Ok(Self::Nftables),
            "iptables" => Ok(Self::Iptables),
            other => {
                let what = format!("`{key}` is `{other}`, not `nftables` or `iptables`");
                Err(BuiltInError::configuration(what))
            }
        }
    }

    /// Makes the same change by one means or the other.
    pub(super) fn apply(
        self,
        by_nftables: impl FnOnce() -> Result<(), BuiltInError>,
        by_iptables: impl FnOnce() -> Result<(), BuiltInError>,
    ) -> Result<(), BuiltInError> {
        match self {
            Self::Nftables => by_nftables(),
            Self::Iptables => by_iptables(),
            Self::Auto => match by_nftables() {
                Err(error @ BuiltInError::NoNftables(_)) => by_iptables()
                    .map_err(|instead| {
                        // Where neither is there, nf_tables is what knarr would rather have.
                        if let BuiltInError::NoIptables { .. } = instead { error } else { instead }
                    })
                    .inspect(|()| say_once()),
                done => done,
            },
        }
    }

    /// Whether it can be done on this kernel.
    pub(super) fn supported(
        self,
        iptables: impl FnOnce() -> Result<(), BuiltInError>,
    ) -> Result<(), BuiltInError> {
        self.apply(ruleset::supported, iptables)
    }
}

fn say_once() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let reason = ruleset::supported().err().map(|error| chain(&error)).unwrap_or_default();
        tracing::info!(reason, "pods are masqueraded and host ports served by iptables");
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::netlink::NetlinkError;

    fn no_nftables() -> Result<(), BuiltInError> {
        Err(BuiltInError::NoNftables(NetlinkError::NoAnswer { operation: "x".to_owned() }))
    }

    fn no_iptables() -> Result<(), BuiltInError> {
        Err(BuiltInError::NoIptables { name: "iptables", searched: Vec::new() })
    }

    #[test]
    fn iptables_is_used_where_nf_tables_is_not_there_and_nowhere_else() {
        PacketFilter::Auto.apply(no_nftables, || Ok(())).unwrap();
        PacketFilter::Auto.apply(|| Ok(()), no_iptables).unwrap();
        PacketFilter::Iptables.apply(no_nftables, || Ok(())).unwrap();
        let error = PacketFilter::Nftables.apply(no_nftables, || Ok(())).unwrap_err();
        assert!(matches!(error, BuiltInError::NoNftables(_)), "{error}");
        // Another failure of nf_tables is one, not a reason to try something else.
        let busy = || Err(BuiltInError::RulesetBusy { attempts: 1 });
        let error = PacketFilter::Auto.apply(busy, || Ok(())).unwrap_err();
        assert!(matches!(error, BuiltInError::RulesetBusy { .. }), "{error}");
    }

    #[test]
    fn where_neither_is_there_the_missing_nf_tables_is_named() {
        let error = PacketFilter::Auto.apply(no_nftables, no_iptables).unwrap_err();
        assert!(matches!(error, BuiltInError::NoNftables(_)), "{error}");
        let error = PacketFilter::Iptables.apply(|| Ok(()), no_iptables).unwrap_err();
        assert!(matches!(error, BuiltInError::NoIptables { .. }), "{error}");
    }

    #[test]
    fn a_plugins_own_wish_comes_first() {
        let node = PacketFilter::Nftables;
        assert_eq!(node.asked("backend", "").unwrap(), node);
        assert_eq!(node.asked("backend", "iptables").unwrap(), PacketFilter::Iptables);
        let error = node.asked("ipMasqBackend", "pf").unwrap_err().to_string();
        assert!(error.contains("`ipMasqBackend` is `pf`"), "{error}");
    }
}
