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
//!
//! or, without nf_tables, of our own chains KNARR-APART and KNARR-APART-TO in `iptables`' `filter`.

use failpoint::Point;
use serde::Deserialize;
use serde_json::Value;
use sys::netlink::IpPrefix;
use sys::netlink::nftables::{BaseChain, Element, Expression, Family, Hook, Nftables};

use super::iptables::{self, Iptables, comment, commented};
use super::ruleset::{self, Chain, IFNAME, REGISTER, link_key};
use super::{BuiltInError, changed, present};
use crate::invoke::{Call, Plugins, Verb};
use crate::result;

const APART: &str = "apart";
const CLOSED: &str = "closed";
const APART_FROM: &str = "KNARR-APART";
const APART_TO: &str = "KNARR-APART-TO";

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

pub(super) fn run(plugins: &Plugins, call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let parsed =
        Conf::deserialize(conf).map_err(|error| BuiltInError::configuration(error.to_string()))?;
    match call.verb {
        Verb::Add => {
            parsed.served()?;
            let previous = conf.get("prevResult").ok_or_else(|| {
                BuiltInError::configuration("it must come after the plugin that gives addresses")
            })?;
            for (tool, addresses) in tools(plugins, previous) {
                accept(&tool, &addresses, &parsed)?;
            }
            keep_apart(plugins, parsed.ingress_policy, previous)?;
            Ok(previous.clone())
        }
        Verb::Del => {
            // Without a result an ADD was not completed, which may have come this far.
            if let Some(previous) = conf.get("prevResult").or(call.half_made) {
                for (tool, addresses) in tools(plugins, previous) {
                    forget(&tool, &addresses)?;
                }
            }
            Ok(result::empty())
        }
        Verb::Check => {
            for (tool, addresses) in tools(plugins, present::previous(conf)?) {
                check(&tool, &addresses)?;
            }
            Ok(result::empty())
        }
        Verb::Status => parsed.served().map(|()| result::empty()),
        Verb::Gc => Ok(result::empty()),
    }
}

impl Conf {
    fn served(&self) -> Result<(), BuiltInError> {
        match self.backend.as_str() {
            "" | "iptables" | "nftables" => Ok(()),
            other => {
                let what = format!(
                    "`backend` {other} needs the reference firewall plugin to be installed"
                );
                Err(BuiltInError::configuration(what))
            }
        }
    }
}

/// `iptables` and `ip6tables`, where they are installed, for the families of the pod's addresses.
fn tools(plugins: &Plugins, previous: &Value) -> Vec<(Iptables, Vec<IpPrefix>)> {
    let all = result::all_addresses(previous);
    let mut out = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let own = ruleset::of_family(family, &all);
        let own: Vec<IpPrefix> = own.map(|prefix| IpPrefix::host(prefix.address())).collect();
        if let (Some(tool), false) = (Iptables::find(&plugins.tool_dirs, family), own.is_empty()) {
            out.push((tool, own));
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

fn accept(tool: &Iptables, addresses: &[IpPrefix], conf: &Conf) -> Result<(), BuiltInError> {
    let admin = Some(conf.iptables_admin_chain_name.as_str()).filter(|name| !name.is_empty());
    let admin = admin.unwrap_or(ADMIN);
    let _lock = iptables::lock()?;
    for chain in [FORWARD, admin] {
        if !tool.holds(&["-S", chain])? {
            tool.run(&["-N", chain])?;
        }
    }
    first(tool, "FORWARD", FORWARD, "CNI firewall plugin rules")?;
    first(tool, FORWARD, admin, "CNI firewall plugin admin overrides")?;
    failpoint::reach(Point::CniAddFilter).map_err(BuiltInError::Socket)?;
    for rule in addresses.iter().flat_map(rules) {
        let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
        if !tool.holds(&[&["-C", FORWARD], &rule[..]].concat())? {
            tool.run(&[&["-A", FORWARD], &rule[..]].concat())?;
        }
    }
    Ok(())
}

fn first(tool: &Iptables, chain: &str, target: &str, comment: &str) -> Result<(), BuiltInError> {
    let rule = ["-m", "comment", "--comment", comment, "-j", target];
    if tool.holds(&[&["-C", chain], &rule[..]].concat())? {
        return Ok(());
    }
    tool.run(&[&["-I", chain, "1"], &rule[..]].concat()).map(drop)
}

fn forget(tool: &Iptables, addresses: &[IpPrefix]) -> Result<(), BuiltInError> {
    failpoint::reach(Point::CniDelFilter).map_err(BuiltInError::Socket)?;
    for rule in addresses.iter().flat_map(rules) {
        let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
        if tool.holds(&[&["-C", FORWARD], &rule[..]].concat())? {
            tool.run(&[&["-D", FORWARD], &rule[..]].concat())?;
        }
    }
    Ok(())
}

fn check(tool: &Iptables, addresses: &[IpPrefix]) -> Result<(), BuiltInError> {
    for rule in addresses.iter().flat_map(rules) {
        let words: Vec<&str> = rule.iter().map(String::as_str).collect();
        if !tool.holds(&[&["-C", FORWARD], &words[..]].concat())? {
            return Err(changed(format!("chain {FORWARD} has no rule {}", rule.join(" "))));
        }
    }
    Ok(())
}

/// Makes the bridge, the first interface of the result, one that is kept apart.
fn keep_apart(plugins: &Plugins, policy: Policy, previous: &Value) -> Result<(), BuiltInError> {
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
    for family in [Family::Ipv4, Family::Ipv6] {
        if ruleset::of_family(family, &addresses).next().is_some() {
            plugins.packet_filter.apply(
                || apart_by_nftables(family, bridge, closed),
                || apart_by_iptables(&Iptables::need(&plugins.tool_dirs, family)?, bridge, closed),
            )?;
        }
    }
    Ok(())
}

fn apart_by_nftables(family: Family, bridge: &str, closed: bool) -> Result<(), BuiltInError> {
    ruleset::update(&mut ruleset::open()?, family, |nft, edit| {
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
    })
}

/// A rule's comment is what it does and to which bridge, such as `closed br1`.
fn apart_by_iptables(tool: &Iptables, bridge: &str, closed: bool) -> Result<(), BuiltInError> {
    tool.update("filter", |present, change| {
        let named = |what: &str, more: bool| {
            let known = present.of(APART_FROM).filter_map(|rule| comment(rule).split_once(' '));
            let of = known.filter(|(of, _)| *of == what).map(|(_, name)| name.to_owned());
            let mut names: Vec<String> = of.chain(more.then(|| bridge.to_owned())).collect();
            names.sort();
            names.dedup();
            names
        };
        let (apart, shut) = (named("apart", true), named("closed", closed));
        let about = |what: &str, name: &str| commented(&format!("{what} {name}"));
        let to: Vec<String> = apart
            .iter()
            .map(|name| format!("-o {name} {} -j DROP", about("apart", name)))
            .collect();
        change.chain(present, APART_TO, &to);
        let drops = shut
            .iter()
            .map(|name| format!("-i {name} -o {name} {} -j DROP", about("closed", name)));
        let leaves = apart
            .iter()
            .map(|name| format!("-i {name} ! -o {name} {} -j {APART_TO}", about("apart", name)));
        change.chain(present, APART_FROM, &drops.chain(leaves).collect::<Vec<_>>());
        // What is dropped here must not have been accepted there.
        change.jump_first(present, "FORWARD", APART_FROM, FORWARD);
        Ok(())
    })
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

fn element(name: &str) -> Element {
    Element { key: link_key(name), value: None, interval_end: false, comment: String::new() }
}

fn chain(apart: &[String], closed: &[String]) -> Vec<(String, Vec<Expression>)> {
    let from = |name: &str| {
        [Expression::incoming_link(REGISTER), Expression::compare(REGISTER, true, &link_key(name))]
    };
    let to = |name: &str, same: bool| {
        [Expression::outgoing_link(REGISTER), Expression::compare(REGISTER, same, &link_key(name))]
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
