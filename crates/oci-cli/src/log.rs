//! What callers read when something goes wrong: lines of text, or of JSON, in a file of their choice.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::json;

use crate::args::{Arguments, LogFormat};
use crate::error::{At as _, OciError};

/// Where to and how it is logged.
#[derive(Debug)]
pub(crate) struct Log {
    /// `None`: standard error.
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(crate) fn open(arguments: &Arguments) -> Result<Self, OciError> {
        let elsewhere = |path: &&PathBuf| path.as_os_str() != "/dev/stderr";
        let file = match arguments.log.as_ref().filter(elsewhere) {
            Some(path) => {
                let file = File::options().append(true).create(true).open(path);
                Some(file.at("open the log", path)?)
            }
            None => None,
        };
        Ok(Self { file, format: arguments.log_format, debug: arguments.debug })
    }

    /// Whether people do not see it.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.file.is_some()
    }

    pub(crate) fn error(&self, text: &str) {
        self.line("error", text);
    }

    pub(crate) fn warning(&self, text: &str) {
        self.line("warning", text);
    }

    pub(crate) fn debug(&self, text: &str) {
        if self.debug {
            self.line("debug", text);
        }
    }

    fn line(&self, level: &str, text: &str) {
        let line = render(self.format, level, text, &now());
        // Who logs has nobody to tell that it failed.
        match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()).ok(),
            None => io::stderr().write_all(line.as_bytes()).ok(),
        };
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Callers look for the keys `level`, `msg` and `time`.
fn render(format: LogFormat, level: &str, text: &str, time: &str) -> String {
    match format {
        LogFormat::Json => format!("{}\n", json!({"level": level, "msg": text, "time": time})),
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={text:?}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_callers_parse() {
        let text = render(LogFormat::Text, "error", "no \"x\"", "T");
        assert_eq!(text, "time=\"T\" level=error msg=\"no \\\"x\\\"\"\n");
        let json = render(LogFormat::Json, "warning", "no \"x\"\n", "T");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json, json!({"level": "warning", "msg": "no \"x\"\n", "time": "T"}));
    }
}
