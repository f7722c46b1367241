//! `firewall`: lets the host forward what pods send and receive, and keeps networks apart.
//!
//! Only a rule in the same chain can outvote a policy of dropping what is forwarded, so where
//! `iptables` rules the host, pods are accepted where the reference plugin accepts them: in its
//! own chains CNI-FORWARD and CNI-ADMIN. A host without `iptables` has no such policy. Keeping
//! networks apart (`ingressPolicy`) takes only drops, and those are rules of our own table:
//!
//! ```text
//! set apart  { type ifname }   # bridges with a policy
//! set closed { type ifname }   # of those, bridges whose pods do not reach each other
//! chain apart { type filter hook forward priority filter - 1
//!     iifname "br1" oifname "br1" drop                        # for each closed bridge
//!     iifname "br1" oifname != "br1" oifname @apart drop }    # for each bridge
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use sys::netlink::IpPrefix;
use sys::netlink::nftables::{BaseChain, DataType, Element, Expression, Family, Hook, Nftables};

use super::ruleset::{self, Chain, REGISTER};
use super::{BuiltInError, changed, present};
use crate::exec;
use crate::invoke::{Call, Verb};
use crate::result;

const APART: &str = "apart";
const CLOSED: &str = "closed";
/// `nft`'s type of interface names.
const IFNAME: DataType = DataType { id: 41, len: 16 };
/// iptables waits for its own lock.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conf {
    backend: String,
    ingress_policy: Policy,
    iptables_admin_chain_name: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Policy {
    #[default]
    #[serde(alias = "")]
    Open,
    SameBridge,
    Isolated,
}

pub(super) fn run(call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let parsed =
        Conf::deserialize(conf).map_err(|error| BuiltInError::configuration(error.to_string()))?;
    if parsed.backend == "firewalld" {
        let what = "`backend` firewalld needs the reference firewall plugin to be installed";
        return Err(BuiltInError::configuration(what));
    }
    match call.verb {
        Verb::Add => {
            let previous = conf.get("prevResult").ok_or_else(|| {
                BuiltInError::configuration("it must come after the plugin that gives addresses")
            })?;
            for (tool, addresses) in tools(previous) {
                tool.accept(&addresses, &parsed)?;
            }
            keep_apart(parsed.ingress_policy, previous)?;
            Ok(previous.clone())
        }
        Verb::Del => {
            if let Some(previous) = conf.get("prevResult") {
                for (tool, addresses) in tools(previous) {
                    tool.forget(&addresses)?;
                }
            }
            Ok(result::empty())
        }
        Verb::Check => {
            for (tool, addresses) in tools(present::previous(conf)?) {
                tool.check(&addresses)?;
            }
            Ok(result::empty())
        }
        Verb::Status | Verb::Gc => Ok(result::empty()),
    }
}

/// `iptables` or `ip6tables`, where it is installed.
struct Tool {
    path: PathBuf,
}

/// The tools of the families the pod has addresses of.
fn tools(previous: &Value) -> Vec<(Tool, Vec<IpPrefix>)> {
    let all = result::all_addresses(previous);
    let mut out = Vec::new();
    for (name, v4) in [("iptables", true), ("ip6tables", false)] {
        let own = all.iter().filter(|prefix| prefix.address().is_ipv4() == v4);
        let own: Vec<IpPrefix> = own.map(|prefix| IpPrefix::host(prefix.address())).collect();
        let dirs = ["/usr/sbin", "/sbin", "/usr/local/sbin"].iter();
        let found = dirs.map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
        if let (Some(path), false) = (found, own.is_empty()) {
            out.push((Tool { path }, own));
        }
    }
    out
}

const FORWARD: &str = "CNI-FORWARD";
const ADMIN: &str = "CNI-ADMIN";

fn rules(address: &IpPrefix) -> [Vec<String>; 2] {
    let rule = |text: &str| {
        text.split(' ').map(|word| word.replace("POD", &address.to_string())).collect()
    };
    [rule("-d POD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"), rule("-s POD -j ACCEPT")]
}

impl Tool {
    fn accept(&self, addresses: &[IpPrefix], conf: &Conf) -> Result<(), BuiltInError> {
        let admin = Some(conf.iptables_admin_chain_name.as_str()).filter(|name| !name.is_empty());
        let admin = admin.unwrap_or(ADMIN);
        for chain in [FORWARD, admin] {
            if !self.holds(&["-S", chain])? {
                self.run(&["-N", chain])?;
            }
        }
        self.first("FORWARD", FORWARD, "CNI firewall plugin rules")?;
        self.first(FORWARD, admin, "CNI firewall plugin admin overrides")?;
        for rule in addresses.iter().flat_map(rules) {
            let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
            if !self.holds(&[&["-C", FORWARD], &rule[..]].concat())? {
                self.run(&[&["-A", FORWARD], &rule[..]].concat())?;
            }
        }
        Ok(())
    }

    fn first(&self, chain: &str, target: &str, comment: &str) -> Result<(), BuiltInError> {
        let rule = ["-m", "comment", "--comment", comment, "-j", target];
        if self.holds(&[&["-C", chain], &rule[..]].concat())? {
            return Ok(());
        }
        self.run(&[&["-I", chain, "1"], &rule[..]].concat())
    }

    fn forget(&self, addresses: &[IpPrefix]) -> Result<(), BuiltInError> {
        for rule in addresses.iter().flat_map(rules) {
            let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
            if self.holds(&[&["-C", FORWARD], &rule[..]].concat())? {
                self.run(&[&["-D", FORWARD], &rule[..]].concat())?;
            }
        }
        Ok(())
    }

    fn check(&self, addresses: &[IpPrefix]) -> Result<(), BuiltInError> {
        for rule in addresses.iter().flat_map(rules) {
            let words: Vec<&str> = rule.iter().map(String::as_str).collect();
            if !self.holds(&[&["-C", FORWARD], &words[..]].concat())? {
                return Err(changed(format!("chain {FORWARD} has no rule {}", rule.join(" "))));
            }
        }
        Ok(())
    }

    /// Whether a question is answered with yes.
    fn holds(&self, arguments: &[&str]) -> Result<bool, BuiltInError> {
        Ok(self.execute(arguments)?.status.success())
    }

    fn run(&self, arguments: &[&str]) -> Result<(), BuiltInError> {
        let done = self.execute(arguments)?;
        if done.status.success() {
            return Ok(());
        }
        Err(BuiltInError::Tool {
            path: self.path.clone(),
            arguments: arguments.join(" "),
            said: String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        })
    }

    fn execute(&self, arguments: &[&str]) -> Result<exec::Finished, BuiltInError> {
        let path = "/usr/sbin:/sbin:/usr/bin:/bin".to_owned();
        let arguments: Vec<&str> = ["-w"].iter().chain(arguments).copied().collect();
        exec::run_with(&self.path, &arguments, &[("PATH", path)], b"", LIMIT)
            .map_err(|source| BuiltInError::ToolFailed { path: self.path.clone(), source })
    }
}

/// Makes the bridge, the first interface of the result, one that is kept apart.
fn keep_apart(policy: Policy, previous: &Value) -> Result<(), BuiltInError> {
    let closed = match policy {
        Policy::Open => return Ok(()),
        Policy::SameBridge => false,
        Policy::Isolated => true,
    };
    let bridge = present::interfaces(previous).next().and_then(|first| first["name"].as_str());
    let bridge = bridge.filter(|name| !name.is_empty()).ok_or_else(|| {
        BuiltInError::configuration("`ingressPolicy` needs the plugin `bridge` before this one")
    })?;
    let addresses = result::all_addresses(previous);
    let mut nft = Nftables::open().map_err(BuiltInError::Socket)?;
    for family in [Family::Ipv4, Family::Ipv6] {
        if ruleset::of_family(family, &addresses).next().is_none() {
            continue;
        }
        ruleset::update(&mut nft, family, |nft, edit| {
            let apart = with(nft, family, APART, Some(bridge))?;
            let shut = with(nft, family, CLOSED, closed.then_some(bridge))?;
            edit.set(APART, IFNAME);
            edit.set(CLOSED, IFNAME);
            let chain = chain(&apart, &shut);
            let comments: Vec<(&str, Vec<Expression>)> =
                chain.iter().map(|(text, rule)| (text.as_str(), rule.clone())).collect();
            let base = BaseChain { name: APART, nat: false, hook: Hook::Forward, priority: -1 };
            if edit.chain(nft, &Chain { base, rules: comments })? {
                edit.add(APART, &apart.iter().map(|name| element(name)).collect::<Vec<_>>());
                edit.add(CLOSED, &shut.iter().map(|name| element(name)).collect::<Vec<_>>());
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The names in a set, and one more.
fn with(
    nft: &mut Nftables,
    family: Family,
    set: &str,
    more: Option<&str>,
) -> Result<Vec<String>, BuiltInError> {
    let name = |element: &Element| {
        let end = element.key.iter().position(|byte| *byte == 0).unwrap_or(element.key.len());
        String::from_utf8_lossy(&element.key[..end]).into_owned()
    };
    let mut names: Vec<String> = ruleset::read(nft, family, set)?.iter().map(name).collect();
    names.extend(more.map(str::to_owned));
    names.sort();
    names.dedup();
    Ok(names)
}

fn key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

fn element(name: &str) -> Element {
    Element { key: key(name), value: None, interval_end: false, comment: String::new() }
}

fn chain(apart: &[String], closed: &[String]) -> Vec<(String, Vec<Expression>)> {
    let from = |name: &str| {
        [Expression::incoming_link(REGISTER), Expression::compare(REGISTER, true, &key(name))]
    };
    let to = |name: &str, same: bool| {
        [Expression::outgoing_link(REGISTER), Expression::compare(REGISTER, same, &key(name))]
    };
    let mut rules = Vec::new();
    for name in closed {
        let mut rule = from(name).to_vec();
        rule.extend(to(name, true));
        rule.push(Expression::drop());
        rules.push((format!("knarr: {name} is closed (1)"), rule));
    }
    for name in apart {
        let mut rule = from(name).to_vec();
        rule.extend(to(name, false));
        rule.push(Expression::in_set(REGISTER, APART, true));
        rule.push(Expression::drop());
        rules.push((format!("knarr: {name} is apart (1)"), rule));
    }
    rules
}
