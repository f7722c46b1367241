//! Taking a map's fields by name and type, and naming all that is wrong with them.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use super::node::{Entry, Node, Value};
use crate::suggest::nearest;

/// One thing that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; 0 if the whole file is meant.
    pub line: u64,
    /// Path of the field; empty if the whole file is meant.
    pub path: String,
    /// The rest of a sentence that begins with the path.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.path.is_empty() {
            write!(f, "{} ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// Where a value stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) path: String,
}

impl Place {
    pub(super) fn problem(&self, text: impl Into<String>) -> Problem {
        Problem { line: self.line, path: self.path.clone(), text: text.into() }
    }

    fn below(&self, line: u64, key: &str) -> Self {
        let path =
            if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { line, path }
    }

    fn item(&self, line: u64, index: usize) -> Self {
        Self { line, path: format!("{}[{index}]", self.path) }
    }
}

/// Collects problems, so that a manifest is refused once for all of them.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(super) fn add(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    /// The problems in the order of their lines.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }
}

/// A map whose fields are taken one after another; [`Fields::finish`] names what is left.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    pub(super) place: Place,
    problems: &'n Problems,
    left: Vec<&'n Entry>,
    asked: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    pub(super) fn open(place: Place, node: &'n Node, problems: &'n Problems) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            problems.add(place.problem(format!("must be a map, not {}", node.value.kind())));
            return None;
        };
        Some(Self { place, problems, left: entries.iter().collect(), asked: Vec::new() })
    }

    pub(super) fn problem(&self, place: &Place, text: impl Into<String>) {
        self.problems.add(place.problem(text));
    }

    /// Takes a field; null is the same as absent.
    pub(super) fn take(&mut self, key: &'static str) -> Option<(Place, &'n Node)> {
        self.asked.push(key);
        let index = self.left.iter().position(|entry| entry.key == key)?;
        let entry = self.left.remove(index);
        if entry.value.value == Value::Null {
            return None;
        }
        Some((self.place.below(entry.line, key), &entry.value))
    }

    /// Says that a field must be there.
    pub(super) fn require<T>(&self, key: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            let place = self.place.below(self.place.line, key);
            let known = self.problems.0.borrow().iter().any(|problem| problem.path == place.path);
            if !known {
                self.problem(&place, "is required");
            }
        }
        value
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        convert: impl FnOnce(&'n Value) -> Option<T>,
    ) -> Option<T> {
        let (place, node) = self.take(key)?;
        let value = convert(&node.value);
        if value.is_none() {
            self.problem(&place, mismatch(expected, &node.value));
        }
        value
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.typed(key, "a text", text_of)
    }

    /// A text that is not empty.
    pub(super) fn word(&mut self, key: &'static str) -> Option<String> {
        self.text(key).filter(|text| !text.is_empty())
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.typed(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn integer(&mut self, key: &'static str) -> Option<i64> {
        self.typed(key, "a whole number", |value| match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        })
    }

    /// An integer within bounds.
    pub(super) fn within(
        &mut self,
        key: &'static str,
        bounds: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        let line = self.line_of(key);
        let number = self.integer(key)?;
        if bounds.contains(&number) {
            return Some(number);
        }
        let place = self.place.below(line, key);
        let text = format!("must be between {} and {}", bounds.start(), bounds.end());
        self.problem(&place, text);
        None
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let line = self.line_of(key);
        let text = self.word(key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let text = format!("must be one of {}, not `{text}`", known.join(", "));
            self.problem(&self.place.below(line, key), text);
        }
        found
    }

    pub(super) fn fields(&mut self, key: &'static str) -> Option<Self> {
        let (place, node) = self.take(key)?;
        Self::open(place, node, self.problems)
    }

    pub(super) fn list(&mut self, key: &'static str) -> Vec<(Place, &'n Node)> {
        let Some((place, node)) = self.take(key) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            self.problem(&place, mismatch("a list", &node.value));
            return Vec::new();
        };
        let located = |(index, item): (usize, &'n Node)| (place.item(item.line, index), item);
        items.iter().enumerate().map(located).collect()
    }

    /// A list of maps, each opened.
    pub(super) fn objects(&mut self, key: &'static str) -> Vec<Self> {
        let items = self.list(key);
        items.into_iter().filter_map(|(at, node)| Self::open(at, node, self.problems)).collect()
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        let items = self.list(key);
        let mut texts = Vec::with_capacity(items.len());
        for (place, node) in items {
            match text_of(&node.value) {
                Some(text) => texts.push(text),
                None => self.problem(&place, mismatch("a text", &node.value)),
            }
        }
        texts
    }

    pub(super) fn integers(&mut self, key: &'static str) -> Vec<i64> {
        let items = self.list(key);
        let mut numbers = Vec::with_capacity(items.len());
        for (place, node) in items {
            match node.value {
                Value::Integer(number) => numbers.push(number),
                _ => self.problem(&place, mismatch("a whole number", &node.value)),
            }
        }
        numbers
    }

    /// A map from texts to texts, such as labels.
    pub(super) fn text_map(&mut self, key: &'static str) -> BTreeMap<String, String> {
        let Some(fields) = self.fields(key) else { return BTreeMap::new() };
        let mut map = BTreeMap::new();
        for entry in &fields.left {
            match text_of(&entry.value.value) {
                Some(text) => {
                    map.insert(entry.key.clone(), text);
                }
                None => {
                    let place = fields.place.below(entry.line, &entry.key);
                    fields.problem(&place, mismatch("a text", &entry.value.value));
                }
            }
        }
        map
    }

    /// Whether one of these fields is there and says something, be it an empty map.
    pub(super) fn has_any(&self, keys: &[&str]) -> bool {
        let given = |entry: &&Entry| entry.value.value != Value::Null;
        self.left.iter().copied().filter(given).any(|entry| keys.contains(&entry.key.as_str()))
    }

    /// All fields that are left, for maps with free keys.
    pub(super) fn drain(&mut self) -> Vec<(Place, &'n str, &'n Node)> {
        let left = std::mem::take(&mut self.left);
        left.into_iter()
            .map(|entry| {
                (self.place.below(entry.line, &entry.key), entry.key.as_str(), &entry.value)
            })
            .collect()
    }

    /// Names every field that was not taken: those Kubernetes knows are not supported, unless
    /// they are empty as in generated manifests; others do not exist.
    pub(super) fn finish(self, unsupported: &[&str]) {
        self.refuse_left(unsupported, Value::is_empty);
    }

    /// The same where an empty map already asks for something, as `downwardAPI: {}` does.
    pub(super) fn finish_strictly(self, unsupported: &[&str]) {
        self.refuse_left(unsupported, |value| *value == Value::Null);
    }

    fn refuse_left(self, unsupported: &[&str], is_unset: impl Fn(&Value) -> bool) {
        for entry in &self.left {
            let place = self.place.below(entry.line, &entry.key);
            if unsupported.contains(&entry.key.as_str()) {
                if !is_unset(&entry.value.value) {
                    self.problem(&place, "is not supported by knarr run");
                }
                continue;
            }
            let known = self.asked.iter().copied().chain(unsupported.iter().copied());
            let text = match nearest(&entry.key, known) {
                Some(meant) => format!("does not exist in a Pod; did you mean `{meant}`?"),
                None => "does not exist in a Pod".to_owned(),
            };
            self.problem(&place, text);
        }
    }

    fn line_of(&self, key: &str) -> u64 {
        let entry = self.left.iter().find(|entry| entry.key == key);
        entry.map_or(self.place.line, |entry| entry.line)
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Null
        | Value::Bool(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::List(_)
        | Value::Map(_) => None,
    }
}

fn mismatch(expected: &str, found: &Value) -> String {
    let scalar = matches!(found, Value::Bool(_) | Value::Integer(_) | Value::Float(_));
    let hint = if expected == "a text" && scalar { " (put it in quotes)" } else { "" };
    format!("must be {expected}, not {}{hint}", found.kind())
}
