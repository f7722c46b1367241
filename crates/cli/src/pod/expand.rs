//! `$(NAME)` in commands, arguments and environment values, by Kubernetes' rules.

use std::collections::BTreeMap;

/// Replaces `$(NAME)` by the variable's value. An unknown name stays as it is written, and `$$`
/// is a plain dollar, so that `$$(NAME)` is never replaced.
pub(super) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            result.push('$');
            rest = tail;
        } else if let Some((name, tail)) =
            after.strip_prefix('(').and_then(|after| after.split_once(')'))
        {
            match variables.get(name) {
                Some(value) => result.push_str(value),
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = tail;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn variables_are_replaced_and_escapes_kept() {
        let variables =
            [("A", "1"), ("B", "$(A)"), ("EMPTY", "")].map(|(k, v)| (k.into(), v.into())).into();
        for (text, expected) in [
            ("plain", "plain"),
            ("x$(A)y", "x1y"),
            ("$(A)$(A)", "11"),
            ("$(EMPTY)", ""),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("cost: 5$", "cost: 5$"),
            ("$()", "$()"),
            // A value is not expanded again.
            ("$(B)", "$(A)"),
            ("ä$(A)ö", "ä1ö"),
        ] {
            assert_eq!(expand(text, &variables), expected, "{text}");
        }
    }
}
