//! Which entry of an index fits this host.

use model::Platform;

/// The same platform in the form comparisons use: Go's names, and no variant where it is the
/// architecture's only or first one.
pub(crate) fn normalised(platform: &Platform) -> Platform {
    let architecture = match platform.architecture.as_str() {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        "armhf" => "arm",
        other => other,
    };
    let variant = match (architecture, platform.variant.as_str()) {
        ("arm64", "" | "8" | "v8") | ("amd64", "v1") => "",
        ("arm", "" | "7") => "v7",
        ("arm", "6") => "v6",
        ("arm", "5") => "v5",
        (_, other) => other,
    };
    Platform {
        os: platform.os.to_ascii_lowercase(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
    }
}

pub(crate) fn fits(wanted: &Platform, offered: &Platform) -> bool {
    normalised(wanted) == normalised(offered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        Platform { os: next(), architecture: next(), variant: next() }
    }

    #[test]
    fn only_the_same_machine_fits() {
        for (wanted, offered, want) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v1", true),
            ("linux/amd64", "linux/amd64/v3", false),
            ("linux/amd64", "windows/amd64", false),
            ("linux/amd64", "unknown/unknown", false),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64/v8", "linux/aarch64/8", true),
            ("linux/arm/v7", "linux/arm", true),
            ("linux/arm/v7", "linux/arm/v6", false),
        ] {
            assert_eq!(fits(&platform(wanted), &platform(offered)), want, "{wanted} {offered}");
        }
    }
}
