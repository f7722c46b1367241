//! Files of this machine's Debian, for use in images.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::LayerBuilder;

/// The directories every root has, and the accounts the test images know.
pub(super) fn skeleton() -> LayerBuilder {
    ["bin", "dev", "etc", "home", "lib", "lib64", "proc", "root", "sbin", "sys", "usr", "var"]
        .iter()
        .fold(LayerBuilder::new(), |layer, dir| layer.dir(dir, 0o755))
        .dir("tmp", 0o1777)
        .dir("usr/sbin", 0o755)
        .dir("usr/bin", 0o755)
        .dir("var/log", 0o755)
        .file("etc/passwd", 0o644, PASSWD)
        .file("etc/group", 0o644, GROUP)
        .owner(1000, 1000)
        .dir("home/web", 0o755)
        .owner(0, 0)
}

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
web:x:1000:1000:web server:/home/web:/bin/sh
app:x:1001:1001:application:/:/bin/sh
";

const GROUP: &str = "\
root:x:0:
wheel:x:10:root
web:x:1000:
app:x:1001:
extra:x:50000:web
nogroup:x:65534:
";

/// Adds the static busybox with every applet as a hard link in `/bin`.
pub(super) fn with_busybox(layer: LayerBuilder) -> Result<LayerBuilder> {
    const BUSYBOX: &str = "/bin/busybox";
    let applets = Command::new(BUSYBOX).arg("--list").output().context(BUSYBOX)?;
    let applets = String::from_utf8(applets.stdout).context("busybox --list")?;
    ensure!(applets.lines().any(|name| name == "sh"), "busybox has no sh");
    let layer = layer.file("bin/busybox", 0o755, fs::read(BUSYBOX).context(BUSYBOX)?);
    Ok(applets
        .lines()
        .filter(|name| *name != "busybox")
        .fold(layer, |layer, name| layer.hard_link(&format!("bin/{name}"), "bin/busybox")))
}

/// Adds a program of this machine and every shared library it loads, at the same paths.
pub(super) fn with_program(mut layer: LayerBuilder, program: &str) -> Result<LayerBuilder> {
    let mut made = BTreeSet::from(["lib".to_owned(), "lib64".to_owned(), "usr/sbin".to_owned()]);
    for path in libraries(program)?.iter().map(String::as_str).chain([program]) {
        let inside = path.trim_start_matches('/');
        if let Some(dir) = Path::new(inside).parent().and_then(Path::to_str)
            && made.insert(dir.to_owned())
        {
            layer = layer.dir(dir, 0o755);
        }
        layer = layer.file(inside, 0o755, fs::read(path).context(path.to_owned())?);
    }
    Ok(layer)
}

/// The loader and the libraries of a program, as `ldd` names them.
fn libraries(program: &str) -> Result<BTreeSet<String>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    ensure!(output.status.success(), "ldd {program}: {}", output.status);
    let text = String::from_utf8(output.stdout).context("ldd")?;
    Ok(parse_ldd(&text))
}

fn parse_ldd(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| {
            let target = line.split_once("=>").map_or(line, |(_, path)| path);
            let path = target.split_whitespace().next()?;
            path.starts_with('/').then(|| path.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_a_library_and_the_vdso_is_not() {
        let text = "\tlinux-vdso.so.1 (0x00007f55)\n\tlibz.so.1 => /lib/libz.so.1 (0x0f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = parse_ldd(text).into_iter().collect();
        assert_eq!(found, ["/lib/libz.so.1", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
