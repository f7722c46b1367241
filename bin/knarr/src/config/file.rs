//! One file: from TOML to settings that know their lines.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use cli::suggest::nearest;
use toml::de::{DeTable, DeValue};

use super::{
    Origin, Problem,
    schema::{self, KEYS, Key},
};

/// One setting: its texts, and where it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) value: Vec<String>,
    pub(crate) origin: Origin,
}

/// Settings by dotted path.
pub(crate) type Settings = BTreeMap<String, Setting>;

/// Reads one file's text. What is wrong with it goes to `problems`; the rest is still read, so
/// that one look at the messages is enough.
pub(crate) fn read(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Settings {
    let mut reader = Reader { path: path.to_owned(), text, problems, settings: Settings::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        let said = error.message().replace('\n', ", ");
        reader.problem(offset, format!("this is not TOML: {said}"));
    }
    reader.table("", table.get_ref());
    reader.settings
}

struct Reader<'t, 'p> {
    path: PathBuf,
    text: &'t str,
    problems: &'p mut Vec<Problem>,
    settings: Settings,
}

impl Reader<'_, '_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
        Origin { file: self.path.clone(), line }
    }

    fn problem(&mut self, offset: usize, text: String) {
        let origin = self.origin(offset);
        self.problems.push(Problem { origin, text });
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let at = name.span().start;
            let name = name.get_ref().as_ref();
            let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            if let Some(key) = KEYS.iter().find(|key| matches(key.path, &path)) {
                self.setting(at, path, key, value.get_ref());
            } else if KEYS.iter().any(|key| is_table(key.path, &path)) {
                self.sub_table(at, &path, value.get_ref());
            } else {
                let text = unknown(prefix, name);
                self.problem(at, text);
            }
        }
    }

    fn sub_table(&mut self, at: usize, path: &str, value: &DeValue<'_>) {
        if let Some(name) = path.strip_prefix("handlers.")
            && let Err(text) = schema::handler_name(name)
        {
            self.problem(at, format!("`{name}` {text}"));
            return;
        }
        match value {
            DeValue::Table(table) if table.is_empty() && path.starts_with("handlers.") => {
                // Named without a path: the built-in runtime under another name.
                let setting = Setting { value: vec![String::new()], origin: self.origin(at) };
                self.settings.insert(format!("{path}.path"), setting);
            }
            DeValue::Table(table) => self.table(path, table),
            other => self.problem(at, format!("`{path}` must be a table, not {}", kind(other))),
        }
    }

    fn setting(&mut self, at: usize, path: String, key: &Key, value: &DeValue<'_>) {
        let texts = match (key.list, value) {
            (false, DeValue::String(text)) => Ok(vec![text.to_string()]),
            (false, DeValue::Boolean(flag)) if key.is_flag() => Ok(vec![flag.to_string()]),
            (false, DeValue::Integer(number)) if key.is_number() => Ok(vec![number.to_string()]),
            (true, DeValue::Array(items)) => items
                .iter()
                .map(|item| {
                    item.get_ref().as_str().map(str::to_owned).ok_or_else(|| item.get_ref())
                })
                .collect::<Result<Vec<_>, _>>()
                .map_err(|item| format!("must hold only texts, not {}", kind(item))),
            (true, other) => Err(format!("must be a list of texts, not {}", kind(other))),
            (false, other) => Err(format!("must be a text, not {}", kind(other))),
        };
        let checked = texts.and_then(|texts| {
            if key.list {
                schema::check_list(key, &texts)?;
            }
            for text in &texts {
                (key.check)(text).map_err(|said| format!("\"{text}\" {said}"))?;
            }
            Ok(texts)
        });
        match checked {
            Ok(value) => {
                let origin = self.origin(at);
                self.settings.insert(path, Setting { value, origin });
            }
            Err(said) => self.problem(at, format!("`{path}`: {said}")),
        }
    }
}

/// Whether a path is that of a key, whose `*` fits any one name.
pub(super) fn matches(key: &str, path: &str) -> bool {
    let (key, path) = (key.split('.'), path.split('.'));
    key.clone().count() == path.clone().count()
        && key.zip(path).all(|(part, name)| part == "*" || part == name)
}

/// Whether a path is that of a table above a key.
fn is_table(key: &str, path: &str) -> bool {
    let depth = path.split('.').count();
    let above: Vec<&str> = key.split('.').take(depth).collect();
    key.split('.').count() > depth && matches(&above.join("."), path)
}

/// Names known directly below a table.
fn names_below(prefix: &str) -> Vec<&'static str> {
    let depth = if prefix.is_empty() { 0 } else { prefix.split('.').count() };
    let below = |key: &&Key| prefix.is_empty() || is_table(key.path, prefix);
    let mut names: Vec<&str> =
        KEYS.iter().filter(below).filter_map(|key| key.path.split('.').nth(depth)).collect();
    names.dedup();
    names
}

fn unknown(prefix: &str, name: &str) -> String {
    let place = if prefix.is_empty() { String::new() } else { format!(" in [{prefix}]") };
    let known = names_below(prefix);
    match nearest(name, known.iter().copied()) {
        Some(meant) => format!("unknown key `{name}`{place} — did you mean `{meant}`?"),
        None => format!("unknown key `{name}`{place}; there is {}", known.join(", ")),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
