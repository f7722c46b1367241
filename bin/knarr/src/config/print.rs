//! The configuration as a file an operator can read and start from.

use super::{
    Loaded,
    file::matches,
    schema::{self, KEYS, Key},
};

/// All keys with their meaning, commented out at their defaults.
pub(crate) fn default_file() -> String {
    let mut text = String::from(
        "# Configuration of knarr. Everything here is the default.\n\
         # Files in conf.d beside this one are read after it, in the order of their names.\n",
    );
    render(&mut text, |key| {
        let help: String = key.help.lines().map(|line| format!("# {line}\n")).collect();
        let default = literal(key, &schema::default_of(key.path));
        match key.path.strip_prefix("handlers.*.") {
            // A table that nobody may want; the example is a whole one.
            Some("path") => format!("{help}# [handlers.runc]\n# path = \"/usr/bin/runc\"\n"),
            Some(_) | None => format!("{help}# {} = {default}\n", name(key)),
        }
    });
    text
}

/// What holds, each setting with where it was made.
pub(crate) fn effective(loaded: &Loaded) -> String {
    let files: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    let read = if files.is_empty() { "nothing".to_owned() } else { files.join(", ") };
    let mut text = format!("# read: {read}\n");
    render(&mut text, |key| {
        match key.path.strip_prefix("handlers.*.") {
            Some("path") => return handlers(loaded),
            Some(_) => return String::new(),
            None => {}
        }
        let (value, origin) = match loaded.settings.get(key.path) {
            Some(setting) => (setting.value.clone(), setting.origin.to_string()),
            None => (schema::default_of(key.path), "default".to_owned()),
        };
        format!("{} = {} # {origin}\n", name(key), literal(key, &value))
    });
    text
}

/// Settings are sorted: those of one handler are together.
fn handlers(loaded: &Loaded) -> String {
    let mut text = String::new();
    let mut last = "";
    for (path, setting) in &loaded.settings {
        let parts = path.strip_prefix("handlers.").and_then(|rest| rest.rsplit_once('.'));
        let Some((name, _)) = parts else { continue };
        let Some(key) = KEYS.iter().find(|key| matches(key.path, path)) else { continue };
        if name != last {
            let separator = if text.is_empty() { "" } else { "\n" };
            text += &format!("{separator}[handlers.{name}]\n");
            last = name;
        }
        let value = literal(key, &setting.value);
        text += &format!("{} = {value} # {}\n", self::name(key), setting.origin);
    }
    text
}

/// Writes every key by `each`, under its table's header.
fn render(text: &mut String, each: impl Fn(&Key) -> String) {
    let mut table = "";
    for key in KEYS {
        let body = each(key);
        if body.is_empty() {
            continue;
        }
        let own = key.path.rsplit_once('.').map_or("", |(table, _)| table);
        text.push('\n');
        if own != table && !own.contains('*') {
            text.push_str(&format!("[{own}]\n"));
        }
        table = own;
        text.push_str(&body);
    }
}

fn name(key: &Key) -> &str {
    key.path.rsplit('.').next().unwrap_or(key.path)
}

fn literal(key: &Key, value: &[String]) -> String {
    let quoted = |text: &String| toml::Value::String(text.clone()).to_string();
    let texts: Vec<String> = value.iter().map(quoted).collect();
    if key.list { format!("[{}]", texts.join(", ")) } else { texts.concat() }
}
