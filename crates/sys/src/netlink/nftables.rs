//! nf_tables by raw nfnetlink: transactions on one table, and reading back what is in it.
//!
//! A [`Transaction`] names the ruleset generation it was computed from; the kernel refuses it
//! with `ERESTART` when anything changed since ([`is_stale`]). Check, compute, commit is thus
//! free of races between daemons without a lock.

mod expression;
mod family;

use std::io;

use super::message::{Attributes, Batch, Body, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP};
use super::{NetlinkError, Socket};

pub use expression::Expression;
pub use family::{Family, TableFamily};

const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = NEW_TABLE | 3;
const NEW_RULE: u16 = NEW_TABLE | 6;
const GET_RULE: u16 = NEW_TABLE | 7;
const DEL_RULE: u16 = NEW_TABLE | 8;
const NEW_SET: u16 = NEW_TABLE | 9;
const NEW_ELEMENT: u16 = NEW_TABLE | 12;
const GET_ELEMENT: u16 = NEW_TABLE | 13;
const DEL_ELEMENT: u16 = NEW_TABLE | 14;
const GET_GENERATION: u16 = NEW_TABLE | 16;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

// Attribute numbers; most objects have their table in 1.
const NFNL_BATCH_GENID: u16 = 1;
const TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const ELEMENT_LIST: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_USERDATA: u16 = 6;
const LIST_ITEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const GENERATION_ID: u16 = 1;

const SET_FLAG_INTERVAL: u32 = 4;
const SET_FLAG_MAP: u32 = 8;
const INTERVAL_END: u32 = 1;
/// Tag of a comment in the user data of a rule or an element, as `nft` writes it.
const COMMENT: u8 = 0;

/// A base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether its rules may rewrite addresses (`nat`) or only judge (`filter`).
    pub nat: bool,
    /// Where it hooks in.
    pub hook: Hook,
    /// Chains of one hook run in ascending order of this.
    pub priority: i32,
}

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before routing; packets from elsewhere.
    Prerouting,
    /// Packets from elsewhere to elsewhere.
    Forward,
    /// Packets of local processes.
    Output,
    /// Just before a packet leaves.
    Postrouting,
}

/// The type of a set's keys or a map's values: how many bytes, and what `nft` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataType {
    /// The number `nft` knows the type by.
    pub id: u32,
    /// Bytes.
    pub len: u32,
}

/// An element of a set or map, as written or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Key in network byte order; parts of a concatenation are padded to 4 bytes.
    pub key: Vec<u8>,
    /// Value of a map's element.
    pub value: Option<Vec<u8>>,
    /// In an interval set: the interval ends before this key.
    pub interval_end: bool,
    /// A remark of at most 127 bytes; may be empty.
    pub comment: String,
}

/// Changes to one table that happen all or not at all.
#[derive(Debug)]
pub struct Transaction {
    batch: Batch,
    family: TableFamily,
    table: String,
}

impl Transaction {
    /// Opens a transaction on `table`, valid for this generation of the ruleset, that makes the
    /// table if there is none.
    pub fn new(family: impl Into<TableFamily>, table: &str, generation: u32) -> Self {
        let mut batch = Batch::new();
        batch.message(BATCH_BEGIN, 0, "open an nf_tables transaction", |body| {
            let mut header = [0; 4];
            header[2..4].copy_from_slice(&SUBSYSTEM.to_be_bytes());
            body.raw(&header).be32(NFNL_BATCH_GENID, generation);
        });
        let mut out = Self { batch, family: family.into(), table: table.to_owned() };
        out.push(NEW_TABLE, NLM_F_CREATE, "make the table", |_| {});
        out
    }

    /// Makes a base chain that accepts by default, if there is none of this name.
    pub fn chain(&mut self, chain: &BaseChain<'_>) {
        self.push(NEW_CHAIN, NLM_F_CREATE, &format!("make chain {}", chain.name), |body| {
            let number = match chain.hook {
                Hook::Prerouting => 0,
                Hook::Forward => 2,
                Hook::Output => 3,
                Hook::Postrouting => 4,
            };
            let kind = if chain.nat { "nat" } else { "filter" };
            body.text(CHAIN_NAME, chain.name).text(CHAIN_TYPE, kind).nest(CHAIN_HOOK, |hook| {
                hook.be32(HOOK_NUMBER, number);
                hook.be32(HOOK_PRIORITY, chain.priority.cast_unsigned());
            });
        });
    }

    /// Makes a set of intervals, if there is none of this name.
    pub fn interval_set(&mut self, name: &str, key: DataType) {
        self.set(name, SET_FLAG_INTERVAL, key, None);
    }

    /// Makes a set of single keys, if there is none of this name.
    pub fn plain_set(&mut self, name: &str, key: DataType) {
        self.set(name, 0, key, None);
    }

    /// Makes a map, if there is none of this name.
    pub fn map(&mut self, name: &str, key: DataType, value: DataType) {
        self.set(name, SET_FLAG_MAP, key, Some(value));
    }

    fn set(&mut self, name: &str, flags: u32, key: DataType, value: Option<DataType>) {
        // Only names sets within this transaction; sets that exist keep their own.
        let id = u32::try_from(self.batch.len()).unwrap_or(u32::MAX);
        self.push(NEW_SET, NLM_F_CREATE, &format!("make set {name}"), |body| {
            body.text(SET_NAME, name).be32(SET_FLAGS, flags);
            body.be32(SET_KEY_TYPE, key.id).be32(SET_KEY_LEN, key.len).be32(SET_ID, id);
            if let Some(value) = value {
                body.be32(SET_DATA_TYPE, value.id).be32(SET_DATA_LEN, value.len);
            }
        });
    }

    /// Adds elements; those there already are left as they are.
    pub fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENT, &format!("add elements to set {set}"), set, elements);
    }

    /// Deletes elements.
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(DEL_ELEMENT, &format!("delete elements of set {set}"), set, elements);
    }

    /// Deletes every element of a set.
    pub fn flush_set(&mut self, set: &str) {
        self.push(DEL_ELEMENT, 0, &format!("empty set {set}"), |body| {
            body.text(SET_NAME, set);
        });
    }

    fn elements(&mut self, kind: u16, label: &str, set: &str, elements: &[Element]) {
        let flags = if kind == NEW_ELEMENT { NLM_F_CREATE } else { 0 };
        // A nested attribute ends at 64 KiB; 512 elements of any type stay far below.
        for chunk in elements.chunks(512) {
            self.push(kind, flags, label, |body| {
                body.text(SET_NAME, set).nest(ELEMENT_LIST, |list| {
                    for element in chunk {
                        list.nest(LIST_ITEM, |item| write_element(item, element));
                    }
                });
            });
        }
    }

    /// Deletes every rule of a chain.
    pub fn flush_chain(&mut self, chain: &str) {
        self.push(DEL_RULE, 0, &format!("empty chain {chain}"), |body| {
            body.text(RULE_CHAIN, chain);
        });
    }

    /// Appends a rule. `comment` is what [`Nftables::comments`] gives back; at most 127 bytes.
    pub fn rule(&mut self, chain: &str, comment: &str, expressions: &[Expression]) {
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        self.push(NEW_RULE, flags, &format!("add a rule to chain {chain}"), |body| {
            body.text(RULE_CHAIN, chain).nest(RULE_EXPRESSIONS, |list| {
                for expression in expressions {
                    list.nest(LIST_ITEM, |item| expression.write(item));
                }
            });
            body.attr(RULE_USERDATA, &user_data(comment));
        });
    }

    fn push(&mut self, kind: u16, flags: u16, what: &str, body: impl FnOnce(&mut Body<'_>)) {
        let label = format!("{what} in table {} {}", self.family.name(), self.table);
        let family = self.family.number();
        let table = &self.table;
        self.batch.message(kind, flags, label, |out| {
            // Set elements and rules name the table by attribute 1, like tables themselves.
            body(out.raw(&[family, 0, 0, 0]).text(TABLE, table));
        });
    }
}

fn write_element(item: &mut Body<'_>, element: &Element) {
    item.nest(ELEMENT_KEY, |key| {
        key.attr(DATA_VALUE, &element.key);
    });
    if let Some(value) = &element.value {
        item.nest(ELEMENT_DATA, |data| {
            data.attr(DATA_VALUE, value);
        });
    }
    if element.interval_end {
        item.be32(ELEMENT_FLAGS, INTERVAL_END);
    }
    if !element.comment.is_empty() {
        item.attr(ELEMENT_USERDATA, &user_data(&element.comment));
    }
}

/// A comment in the form in which `nft` keeps and shows it.
fn user_data(comment: &str) -> Vec<u8> {
    let mut data = vec![COMMENT, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    data
}

/// An nfnetlink socket of the calling thread's network namespace.
#[derive(Debug)]
pub struct Nftables(Socket);

impl Nftables {
    /// Opens the socket.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT`: the kernel has no netfilter netlink.
    pub fn open() -> io::Result<Self> {
        Socket::open(Some(rustix::net::netlink::NETFILTER)).map(Self)
    }

    /// The ruleset's generation: a number that every change of any table raises.
    ///
    /// # Errors
    /// `EINVAL`: the kernel has no nf_tables.
    pub fn generation(&mut self) -> Result<u32, NetlinkError> {
        let mut batch = Batch::new();
        let label = "ask for the nf_tables generation";
        batch.message(GET_GENERATION, 0, label, |body| {
            body.raw(&[0; 4]);
        });
        let found = self.0.query(batch)?.iter().find_map(|reply| {
            let id = Attributes::new(reply.body.get(4..)?).get(GENERATION_ID)?;
            Some(u32::from_be_bytes(id.try_into().ok()?))
        });
        found.ok_or_else(|| NetlinkError::NoAnswer { operation: label.to_owned() })
    }

    /// The comments of the rules of a chain, in order; empty for a rule without one. A chain
    /// that does not exist has no rules.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn comments(
        &mut self,
        family: impl Into<TableFamily>,
        table: &str,
        chain: &str,
    ) -> Result<Vec<String>, NetlinkError> {
        let family = family.into();
        let label = format!("list chain {chain} of table {} {table}", family.name());
        let mut batch = Batch::new();
        batch.message(GET_RULE, NLM_F_DUMP, label, |body| {
            body.raw(&[family.number(), 0, 0, 0]).text(TABLE, table).text(RULE_CHAIN, chain);
        });
        let replies = absent_is_empty(self.0.query(batch))?;
        let rules = replies.iter().filter(|reply| reply.kind == NEW_RULE);
        let data = |body| Attributes::new(body).get(RULE_USERDATA);
        Ok(rules.map(|rule| comment(data(rule.body.get(4..).unwrap_or(&[])))).collect())
    }

    /// The elements of a set or map, in no order. One that does not exist has none.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn elements(
        &mut self,
        family: impl Into<TableFamily>,
        table: &str,
        set: &str,
    ) -> Result<Vec<Element>, NetlinkError> {
        let family = family.into();
        let label = format!("list set {set} of table {} {table}", family.name());
        let mut batch = Batch::new();
        batch.message(GET_ELEMENT, NLM_F_DUMP, label, |body| {
            body.raw(&[family.number(), 0, 0, 0]).text(TABLE, table).text(SET_NAME, set);
        });
        let replies = absent_is_empty(self.0.query(batch))?;
        let mut found = Vec::new();
        for reply in replies.iter().filter(|reply| reply.kind == NEW_ELEMENT) {
            let attributes = Attributes::new(reply.body.get(4..).unwrap_or(&[]));
            let list = attributes.get(ELEMENT_LIST).unwrap_or(&[]);
            found.extend(Attributes::new(list).filter_map(|(_, item)| parse_element(item)));
        }
        Ok(found)
    }

    /// Does the whole transaction, or nothing of it.
    ///
    /// # Errors
    /// The first change that was refused; see [`is_stale`].
    pub fn commit(&mut self, transaction: Transaction) -> Result<(), NetlinkError> {
        let mut batch = transaction.batch;
        let last = batch.len() - 1;
        batch.message(BATCH_END, 0, "close an nf_tables transaction", |body| {
            let mut header = [0; 4];
            header[2..4].copy_from_slice(&SUBSYSTEM.to_be_bytes());
            body.raw(&header);
        });
        self.0.transact(batch, last)
    }
}

/// Whether a transaction was refused because the ruleset changed since its generation was read:
/// read again and retry.
pub fn is_stale(error: &NetlinkError) -> bool {
    const ERESTART: i32 = 85;
    error.errno() == Some(ERESTART)
}

fn absent_is_empty(
    answer: Result<Vec<super::Reply>, NetlinkError>,
) -> Result<Vec<super::Reply>, NetlinkError> {
    match answer {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
        other => other,
    }
}

fn comment(data: Option<&[u8]>) -> String {
    let text = data.and_then(|data| {
        let (tag, len) = (*data.first()?, usize::from(*data.get(1)?));
        let text = data.get(2..2 + len)?;
        (tag == COMMENT).then(|| text.strip_suffix(&[0]).unwrap_or(text))
    });
    String::from_utf8_lossy(text.unwrap_or(&[])).into_owned()
}

fn parse_element(item: &[u8]) -> Option<Element> {
    let attributes = Attributes::new(item);
    let value_of = |kind| Attributes::new(attributes.get(kind)?).get(DATA_VALUE);
    let flags = attributes.get(ELEMENT_FLAGS).and_then(|flags| flags.try_into().ok());
    Some(Element {
        key: value_of(ELEMENT_KEY)?.to_vec(),
        value: value_of(ELEMENT_DATA).map(<[u8]>::to_vec),
        interval_end: flags.map_or(0, u32::from_be_bytes) & INTERVAL_END != 0,
        comment: comment(attributes.get(ELEMENT_USERDATA)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::netns;
    use std::os::fd::AsFd;

    const V4: DataType = DataType { id: 7, len: 4 };

    fn element(key: [u8; 4], interval_end: bool) -> Element {
        Element { key: key.to_vec(), value: None, interval_end, comment: String::new() }
    }

    fn in_host(body: impl FnOnce() + Send) {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let host = netns::create().unwrap();
        netns::run_in(host.as_fd(), body).unwrap();
    }

    fn masquerade(generation: u32) -> Transaction {
        let mut change = Transaction::new(Family::Ipv4, "test", generation);
        change.interval_set("pods", V4);
        change.flush_set("pods");
        change.add_elements("pods", &[element([10, 1, 0, 0], false), element([10, 2, 0, 0], true)]);
        change.chain(&BaseChain {
            name: "postrouting",
            nat: true,
            hook: Hook::Postrouting,
            priority: 100,
        });
        change.flush_chain("postrouting");
        let rule = [
            Expression::network_header(12, 4, 8),
            Expression::in_set(8, "pods", true),
            Expression::masquerade(),
        ];
        change.rule("postrouting", "one rule", &rule);
        change
    }

    #[test]
    fn what_is_committed_reads_back_and_may_be_committed_again() {
        in_host(|| {
            let mut nft = Nftables::open().unwrap();
            assert!(nft.comments(Family::Ipv4, "test", "postrouting").unwrap().is_empty());
            assert!(nft.elements(Family::Ipv4, "test", "pods").unwrap().is_empty());
            for _ in 0..2 {
                let generation = nft.generation().unwrap();
                nft.commit(masquerade(generation)).unwrap();
                let comments = nft.comments(Family::Ipv4, "test", "postrouting").unwrap();
                assert_eq!(comments, ["one rule"]);
                let elements = nft.elements(Family::Ipv4, "test", "pods").unwrap();
                assert!(elements.contains(&element([10, 1, 0, 0], false)), "{elements:?}");
                assert!(elements.contains(&element([10, 2, 0, 0], true)), "{elements:?}");
            }
        });
    }

    #[test]
    fn a_transaction_from_an_older_generation_is_refused_whole() {
        in_host(|| {
            let mut nft = Nftables::open().unwrap();
            let generation = nft.generation().unwrap();
            nft.commit(masquerade(generation)).unwrap();
            let mut stale = masquerade(generation);
            stale.flush_chain("postrouting");
            let error = nft.commit(stale).unwrap_err();
            assert!(is_stale(&error), "{error:?}");
            assert_eq!(nft.comments(Family::Ipv4, "test", "postrouting").unwrap().len(), 1);
        });
    }

    #[test]
    fn an_error_names_the_step_and_the_table() {
        in_host(|| {
            let mut nft = Nftables::open().unwrap();
            let mut change = Transaction::new(Family::Ipv6, "test", nft.generation().unwrap());
            change.flush_chain("nosuch");
            let error = nft.commit(change).unwrap_err();
            assert_eq!(error.to_string(), "cannot empty chain nosuch in table ip6 test");
            assert_eq!(error.errno(), Some(libc::ENOENT));
        });
    }
}
