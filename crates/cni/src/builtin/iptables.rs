//! The programs `iptables` and `ip6tables`: chains of our own in their tables, each change of a
//! table all or nothing. Chains of others get one jump to ours each, and are else left alone.
//!
//! Rules are told apart by their comments, as in our nf_tables table: how the program prints the
//! rest of a rule depends on its version.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::FlockOperation;
use sys::netlink::nftables::{Family, Nftables};
use sys::program;

use super::BuiltInError;

/// iptables waits for its own lock.
const LIMIT: Duration = Duration::from_secs(30);

/// The program of one address family.
pub(super) struct Iptables {
    path: PathBuf,
    restore: PathBuf,
}

/// The rules of one table as the program prints them.
pub(super) struct Rules(Vec<String>);

/// Changes to one table, in the words of `iptables-restore`.
pub(super) struct Change(Vec<String>);

fn name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    }
}

impl Iptables {
    /// The program, in the first of the directories that has it.
    pub(super) fn find(dirs: &[PathBuf], family: Family) -> Option<Self> {
        let path = dirs.iter().map(|dir| dir.join(name(family))).find(|path| path.exists())?;
        let restore = path.with_file_name(format!("{}-restore", name(family)));
        Some(Self { path, restore })
    }

    /// As [`Self::find`]; that there is none is an error.
    pub(super) fn need(dirs: &[PathBuf], family: Family) -> Result<Self, BuiltInError> {
        Self::find(dirs, family)
            .ok_or_else(|| BuiltInError::NoIptables { name: name(family), searched: dirs.to_vec() })
    }

    /// Changes a table as `plan` says; writes nothing if it asks for nothing.
    pub(super) fn update(
        &self,
        table: &str,
        plan: impl FnOnce(&Rules, &mut Change) -> Result<(), BuiltInError>,
    ) -> Result<(), BuiltInError> {
        let _lock = lock()?;
        let mut change = Change(Vec::new());
        plan(&self.rules(table)?, &mut change)?;
        if change.0.is_empty() {
            return Ok(());
        }
        let text = format!("*{table}\n{}\nCOMMIT\n", change.0.join("\n"));
        let arguments = ["-w", "--noflush"];
        let done = self.execute(&self.restore, &arguments, text.as_bytes())?;
        self.succeeded(&self.restore, &arguments, done).map(drop)
    }

    /// What is in a table.
    pub(super) fn rules(&self, table: &str) -> Result<Rules, BuiltInError> {
        let stdout = self.run(&["-t", table, "-S"])?;
        Ok(Rules(String::from_utf8_lossy(&stdout).lines().map(str::to_owned).collect()))
    }

    /// Whether a question is answered with yes.
    pub(super) fn holds(&self, arguments: &[&str]) -> Result<bool, BuiltInError> {
        let arguments = [&["-w"], arguments].concat();
        Ok(self.execute(&self.path, &arguments, b"")?.status.success())
    }

    /// Does one thing; returns what was printed.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<Vec<u8>, BuiltInError> {
        let arguments = [&["-w"], arguments].concat();
        let done = self.execute(&self.path, &arguments, b"")?;
        self.succeeded(&self.path, &arguments, done)
    }

    fn execute(
        &self,
        path: &std::path::Path,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<program::Finished, BuiltInError> {
        let search = "/usr/sbin:/sbin:/usr/bin:/bin".to_owned();
        program::run(path, arguments, &[("PATH", search)], input, LIMIT)
            .map_err(|source| BuiltInError::ToolFailed { path: path.to_owned(), source })
    }

    fn succeeded(
        &self,
        path: &std::path::Path,
        arguments: &[&str],
        done: program::Finished,
    ) -> Result<Vec<u8>, BuiltInError> {
        if done.status.success() {
            return Ok(done.stdout);
        }
        Err(BuiltInError::Tool {
            path: path.to_owned(),
            arguments: arguments.join(" "),
            said: String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        })
    }
}

/// Whether a chain of this network namespace's `nat` table may have rules in it. Costs no
/// process: legacy tables exist only once somebody has used them, and the others are nf_tables.
pub(super) fn may_hold(family: Family, chain: &str) -> Result<bool, BuiltInError> {
    let legacy = match family {
        Family::Ipv4 => "/proc/thread-self/net/ip_tables_names",
        Family::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
    };
    // A kernel without them has no such file.
    let legacy = std::fs::read_to_string(legacy).unwrap_or_default();
    if legacy.lines().any(|table| table == "nat") {
        return Ok(true);
    }
    // Nor has every kernel nf_tables, which then hold nothing.
    let Ok(mut nft) = Nftables::open() else { return Ok(false) };
    if nft.generation().is_err() {
        return Ok(false);
    }
    Ok(!nft.comments(family, "nat", chain)?.is_empty())
}

/// Between reading a table and writing it nobody else of us must write it: daemons side by side,
/// plugins of other runtimes. What all of them share without having agreed on it is the network
/// namespace.
pub(super) fn lock() -> Result<OwnedFd, BuiltInError> {
    let own = std::fs::File::open("/proc/thread-self/ns/net").map_err(BuiltInError::Socket)?;
    rustix::fs::flock(&own, FlockOperation::LockExclusive)
        .map_err(|errno| BuiltInError::Socket(errno.into()))?;
    Ok(own.into())
}

impl Rules {
    /// The rules of a chain, without its name.
    pub(super) fn of(&self, chain: &str) -> impl Iterator<Item = &str> {
        let start = format!("-A {chain} ");
        self.0.iter().filter_map(move |line| line.strip_prefix(&start))
    }

    /// Whether there is a chain of this name.
    pub(super) fn has(&self, chain: &str) -> bool {
        self.0.iter().any(|line| line.strip_prefix("-N ") == Some(chain))
    }
}

impl Change {
    /// The chain has these rules and no others; each has a comment.
    pub(super) fn chain(&mut self, present: &Rules, chain: &str, rules: &[String]) {
        let same = present.of(chain).map(comment).eq(rules.iter().map(|rule| comment(rule)));
        if same && present.has(chain) {
            return;
        }
        // Made, or emptied if it is there.
        self.0.push(format!(":{chain} - [0:0]"));
        self.0.extend(rules.iter().map(|rule| format!("-A {chain} {rule}")));
    }

    /// What passes through the chain `from` and fits `condition` goes through ours.
    pub(super) fn jump(&mut self, present: &Rules, from: &str, condition: &str, to: &str) {
        if present.of(from).all(|rule| !leads_to(rule, to)) {
            self.0.push(format!("-A {from} {condition} -j {to}"));
        }
    }

    /// As [`Self::jump`], before everything else, and in any case before what leads to `other`.
    pub(super) fn jump_first(&mut self, present: &Rules, from: &str, to: &str, other: &str) {
        let of = |to: &str| present.of(from).position(|rule| leads_to(rule, to));
        match (of(to), of(other)) {
            (Some(ours), Some(others)) if ours > others => {
                self.0.push(format!("-D {from} -j {to}"))
            }
            (Some(_), _) => return,
            (None, _) => {}
        }
        self.0.push(format!("-I {from} 1 -j {to}"));
    }

    /// The chain, to which nothing leads any more, is gone.
    pub(super) fn delete(&mut self, chain: &str) {
        self.0.extend([format!("-F {chain}"), format!("-X {chain}")]);
    }
}

fn leads_to(rule: &str, chain: &str) -> bool {
    rule.split_ascii_whitespace().rev().take(2).eq([chain, "-j"])
}

/// `text` as one rule's comment. Must hold neither quotes nor backslashes.
pub(super) fn commented(text: &str) -> String {
    format!("-m comment --comment \"{text}\"")
}

/// The comment of a rule; empty if it has none. One word is printed without quotes.
pub(super) fn comment(rule: &str) -> &str {
    let Some((_, rest)) = rule.split_once("--comment ") else { return "" };
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => rest.split(' ').next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_read_back_quoted_or_not() {
        for text in ["one", "knarr abc tcp/80 *"] {
            assert_eq!(comment(&format!("-p tcp {} -j DROP", commented(text))), text);
        }
        assert_eq!(comment("-p tcp -m comment --comment one -j DROP"), "one");
        assert_eq!(comment("-j DROP"), "");
    }

    #[test]
    fn a_chain_is_written_only_if_it_is_not_there_as_wanted() {
        let rules = |text: &str| Rules(text.lines().map(str::to_owned).collect());
        let present = rules(
            "-P FORWARD ACCEPT\n-N OURS\n-N EMPTY\n-A FORWARD -j OTHERS\n-A FORWARD -j OURS\n\
             -A OURS -m comment --comment a -j DROP",
        );
        let rule = |text: &str| format!("{} -j DROP", commented(text));
        let written = |change: &dyn Fn(&mut Change)| {
            let mut out = Change(Vec::new());
            change(&mut out);
            out.0
        };
        assert!(written(&|c| c.chain(&present, "OURS", &[rule("a")])).is_empty());
        assert!(written(&|c| c.chain(&present, "EMPTY", &[])).is_empty());
        assert_eq!(written(&|c| c.chain(&present, "NEW", &[])), [":NEW - [0:0]"]);
        let rewritten = written(&|c| c.chain(&present, "OURS", &[rule("b")]));
        assert_eq!(rewritten, [":OURS - [0:0]", &format!("-A OURS {}", rule("b"))]);
        assert!(written(&|c| c.jump(&present, "FORWARD", "-i x", "OURS")).is_empty());
        let moved = written(&|c| c.jump_first(&present, "FORWARD", "OURS", "OTHERS"));
        assert_eq!(moved, ["-D FORWARD -j OURS", "-I FORWARD 1 -j OURS"]);
        assert!(written(&|c| c.jump_first(&present, "FORWARD", "OURS", "NONE")).is_empty());
    }
}
