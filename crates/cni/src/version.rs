//! The versions of the CNI specification knarr speaks.

use std::fmt;

use serde_json::Value;

/// A specification version; later ones compare greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum CniVersion {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

const ALL: [(CniVersion, &str); 7] = [
    (CniVersion::V0_1_0, "0.1.0"),
    (CniVersion::V0_2_0, "0.2.0"),
    (CniVersion::V0_3_0, "0.3.0"),
    (CniVersion::V0_3_1, "0.3.1"),
    (CniVersion::V0_4_0, "0.4.0"),
    (CniVersion::V1_0_0, "1.0.0"),
    (CniVersion::V1_1_0, "1.1.0"),
];

impl CniVersion {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        ALL.iter().find(|(_, name)| *name == text).map(|(version, _)| *version)
    }

    /// Every version, the oldest first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter().map(|(version, _)| version)
    }

    pub(crate) fn as_str(self) -> &'static str {
        ALL.iter().find(|(version, _)| *version == self).map_or("", |(_, name)| name)
    }

    /// The version a configuration asks for: the highest known of `cniVersion` and
    /// `cniVersions`; neither means 0.2.0. `Err` is the text nobody here knows.
    pub(crate) fn of_configuration(conf: &serde_json::Map<String, Value>) -> Result<Self, String> {
        let single = conf.get("cniVersion").and_then(Value::as_str).filter(|v| !v.is_empty());
        let many = conf.get("cniVersions").and_then(Value::as_array);
        let named = many.into_iter().flatten().filter_map(Value::as_str).chain(single);
        let mut unknown = None;
        let mut best = None;
        for text in named {
            match Self::parse(text) {
                Some(version) => best = best.max(Some(version)),
                None => unknown = Some(text.to_owned()),
            }
        }
        match (best, unknown) {
            (Some(best), _) => Ok(best),
            (None, Some(unknown)) => Err(unknown),
            (None, None) => Ok(Self::V0_2_0),
        }
    }

    /// DEL, CHECK: whether plugins take the cached result.
    pub(crate) fn passes_result_to_del(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Whether the CHECK verb exists.
    pub(crate) fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Whether the STATUS and GC verbs exist.
    pub(crate) fn has_status_and_gc(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_highest_known_version_is_chosen() {
        let table = [
            (json!({}), Ok("0.2.0")),
            (json!({"cniVersion": "0.3.1"}), Ok("0.3.1")),
            (json!({"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"]}), Ok("1.1.0")),
            (json!({"cniVersion": "1.0.0", "cniVersions": ["2.0.0"]}), Ok("1.0.0")),
            (json!({"cniVersion": "9.9.9"}), Err("9.9.9")),
        ];
        for (conf, want) in table {
            let got = CniVersion::of_configuration(conf.as_object().unwrap());
            assert_eq!(got.map(CniVersion::as_str), want.map_err(str::to_owned), "{conf}");
        }
    }
}
