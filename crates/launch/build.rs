//! Builds the pause program with the compiler that builds this crate, apart from Cargo: it has no
//! standard library and needs other linker arguments than anything else here.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const SOURCE: &str = "pause/pause.rs";
    println!("cargo::rerun-if-changed={SOURCE}");
    let output = PathBuf::from(env::var("OUT_DIR")?).join("pause");
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "pause"]);
    rustc.arg("--target").arg(env::var("TARGET")?);
    for option in [
        "panic=abort",
        "opt-level=z",
        "debug-assertions=off",
        "overflow-checks=off",
        "codegen-units=1",
        "strip=symbols",
        "relocation-model=static",
        "link-arg=-nostdlib",
        "link-arg=-nostartfiles",
        "link-arg=-static",
        "link-arg=-Wl,--build-id=none",
        "link-arg=-Wl,-z,noseparate-code",
    ] {
        rustc.args(["-C", option]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    rustc.arg("-o").arg(&output).arg(SOURCE);
    let status = rustc.status()?;
    if status.success() { Ok(()) } else { Err(format!("rustc on {SOURCE}: {status}").into()) }
}
