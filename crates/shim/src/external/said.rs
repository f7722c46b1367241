//! What a runtime says in its log: JSON objects, of which two texts are wanted. There is no
//! JSON reader in the shim, and no need of one.

/// The last error of a log, else the last line of what was printed.
pub(super) fn reason(log: &str, printed: &str) -> Option<String> {
    let is_error = |record: &&String| {
        matches!(text_of(record, "level").as_deref(), Some("error" | "fatal" | "panic" | "ERROR"))
    };
    let records = records(log);
    let of_log = records.iter().rev().filter(is_error).find_map(|record| message(record));
    // youki's first error has what its last one has lost.
    let cause = records.iter().filter(is_error).find_map(|record| text_of(record, "err"));
    let of_log = match (of_log, cause) {
        (Some(last), Some(cause)) if !last.contains(&cause) => Some(format!("{last} ({cause})")),
        (of_log, _) => of_log,
    };
    // Some write plain text whatever they are told.
    let plain = || records.iter().rev().find(|record| is_plain(record)).cloned();
    let last = || printed.lines().rev().map(str::trim).find(|line| !line.is_empty());
    let said = of_log.or_else(plain).or_else(|| last().map(str::to_owned))?;
    let said = message(&said).unwrap_or(said);
    // Where in its source a runtime was is of use to its authors alone.
    let said = said.split("\n\nStack backtrace:").next().unwrap_or_default();
    Some(said.trim().replace('\n', "; "))
}

/// What a log has: lines, each an object or plain text. Newer crun spreads its
/// objects over several.
fn records(log: &str) -> Vec<String> {
    let mut records = Vec::new();
    let mut lines = log.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let mut record = line.to_owned();
        if line == "{" {
            for line in lines.by_ref() {
                record += line;
                if line == "}" {
                    break;
                }
            }
        }
        records.push(record);
    }
    records
}

/// What an object says; youki has another word for it.
fn message(line: &str) -> Option<String> {
    text_of(line, "msg").or_else(|| text_of(line, "message"))
}

fn is_plain(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('{')
}

/// The value of a key whose value is a text, in one line of an object.
fn text_of(line: &str, key: &str) -> Option<String> {
    let quoted = format!("\"{key}\"");
    let after = line.get(line.find(&quoted)? + quoted.len()..)?;
    let mut rest = after.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(text),
            '\\' => match rest.next()? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'u' => {
                    let digits: String = rest.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&digits, 16).ok()?;
                    // Halves of pairs are not put together: nobody writes them in a reason.
                    text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}

/// The number that is the value of a key.
pub(super) fn number_of(text: &str, key: &str) -> Option<i32> {
    let quoted = format!("\"{key}\"");
    let after = text.get(text.find(&quoted)? + quoted.len()..)?;
    let rest = after.trim_start().strip_prefix(':')?.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

/// Processes and their parents, of a table whose first line has `PID` and `PPID`.
pub(super) fn parents(table: &str) -> Vec<(i32, i32)> {
    let mut lines = table.lines();
    let head: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
    let column = |name: &str| head.iter().position(|word| *word == name);
    let (Some(own), Some(parent)) = (column("PID"), column("PPID")) else { return Vec::new() };
    let row = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        Some((words.get(own)?.parse().ok()?, words.get(parent)?.parse().ok()?))
    };
    lines.filter_map(row).collect()
}

/// Everybody who descends from `of`, the nearest first.
pub(super) fn descendants(parents: &[(i32, i32)], of: i32) -> Vec<i32> {
    let mut found = vec![of];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = parents.iter().filter(|(own, its)| *its == parent && !found.contains(own));
        let children: Vec<i32> = children.map(|(own, _)| *own).collect();
        found.extend(children);
        next += 1;
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_the_reason() {
        let log = "{\"level\":\"error\",\"msg\":\"first\",\"time\":\"t\"}\n\
                   {\"level\":\"error\",\"msg\":\"exec: \\\"no\\\\such\\\": not found\\u0021\",\"time\":\"t\"}\n\
                   {\"level\":\"warning\",\"msg\":\"later\",\"time\":\"t\"}\n";
        assert_eq!(reason(log, "x").as_deref(), Some("exec: \"no\\such\": not found!"));
    }

    #[test]
    fn objects_may_be_spread_over_lines() {
        let log = "{\n  \"msg\": \"first\",\n  \"level\": \"warning\"\n}\n\
                   {\n  \"msg\": \"openat `\\/proc`: denied\",\n  \"level\": \"error\",\n  \"time\": \"t\"\n}\n";
        assert_eq!(reason(log, "x").as_deref(), Some("openat `/proc`: denied"));
        assert_eq!(reason("{\n", "torn").as_deref(), Some("torn"));
    }

    #[test]
    fn without_a_log_the_last_line_printed_is() {
        assert_eq!(reason("", "a\nlast words\n\n").as_deref(), Some("last words"));
        assert_eq!(reason("plain\n", "other").as_deref(), Some("plain"));
        let object = "{\"msg\": \"said\", \"level\": \"info\"}";
        assert_eq!(reason("", object).as_deref(), Some("said"));
        assert_eq!(reason("", ""), None);
    }

    #[test]
    fn another_word_for_it_is_known_and_a_backtrace_is_left_out() {
        let log = "{\"level\":\"ERROR\",\"message\":\"no such\\n\\nStack backtrace:\\n   0: <unknown>\"}\n";
        assert_eq!(reason(log, "").as_deref(), Some("no such"));
        let log = "{\"level\":\"ERROR\",\"message\":\"root\",\"err\":\"Unknown(\\\"x\\\")\",\"target\":\"t\"}\n\
                   {\"level\":\"ERROR\",\"message\":\"cannot create\",\"target\":\"t\"}\n";
        assert_eq!(reason(log, "").as_deref(), Some("cannot create (Unknown(\"x\"))"));
    }

    #[test]
    fn torn_lines_are_no_reason_to_panic() {
        for torn in [
            "{\"level\":\"error\",\"msg\":\"cut \\",
            "{\"level\":\"error\",\"msg\":\"\\u12",
            "\"level\"",
        ] {
            assert_eq!(text_of(torn, "msg"), None);
        }
    }

    #[test]
    fn a_status_is_read() {
        assert_eq!(number_of("{\"id\":\"x\",\"exitStatus\":137}\n", "exitStatus"), Some(137));
        assert_eq!(number_of("{\"exitStatus\": -1 }", "exitStatus"), Some(-1));
        assert_eq!(number_of("{}", "exitStatus"), None);
    }

    #[test]
    fn families_are_read_of_a_table() {
        let table = "UID       PID       PPID      C         TTY       STIME     TIME      CMD\n\
                     0         1         0         0         ?         16:50     10ms      sh\n\
                     0         7         0         0         ?         16:50     0s        sh\n\
                     0         9         8         0         ?         16:50     0s        sleep\n\
                     0         8         7         0         ?         16:50     0s        sh\n";
        let parents = parents(table);
        assert_eq!(parents, [(1, 0), (7, 0), (9, 8), (8, 7)]);
        assert_eq!(descendants(&parents, 7), [8, 9]);
        assert_eq!(descendants(&parents, 9), []);
        // Of numbers that make no sense nothing comes, and it ends.
        assert_eq!(descendants(&[(1, 2), (2, 1)], 1), [2]);
        assert_eq!(super::parents("nothing of the kind\n1 2 3\n"), []);
    }
}
