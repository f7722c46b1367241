//! The images of the tests and of the demo.

use anyhow::Result;
use serde_json::json;

use super::{
    Compression::{Gzip, None, Zstd},
    ImageBuilder, LayerBuilder, OciImage,
    debian::{skeleton, with_busybox, with_program},
};

/// `demo/web:1`: Debian's nginx, run by the user `web` (1000), serving `/srv/www` on port 8080.
/// Four layers, gzip and zstd in turn, with a whiteout and an opaque directory.
///
/// # Errors
/// `nginx-light` or `busybox-static` is not installed.
pub fn web() -> Result<OciImage> {
    let base = with_busybox(skeleton())?.finish(Gzip)?;
    let server = with_program(LayerBuilder::new(), "/usr/sbin/nginx")?.finish(Zstd)?;
    let site = LayerBuilder::new()
        .dir("etc/nginx", 0o755)
        .file("etc/nginx/nginx.conf", 0o644, NGINX_CONF)
        .dir("srv", 0o755)
        .owner(1000, 1000)
        .dir("srv/www", 0o755)
        .file("srv/www/index.html", 0o644, "<p>the image's own page</p>\n")
        .file("srv/www/draft.html", 0o644, "not for the public\n")
        .dir("srv/cache", 0o755)
        .file("srv/cache/stale", 0o644, "stale\n")
        .finish(Gzip)?;
    let clean = LayerBuilder::new()
        .owner(1000, 1000)
        .whiteout("srv/www/draft.html")
        .dir("srv/cache", 0o755)
        .opaque("srv/cache")
        .finish(Zstd)?;
    Ok(ImageBuilder::new("demo/web:1")?
        .layer(base)
        .layer(server)
        .layer(site)
        .layer(clean)
        .config("User", json!("web"))
        .config("Entrypoint", json!(["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf"]))
        .config("WorkingDir", json!("/srv/www"))
        .config("ExposedPorts", json!({"8080/tcp": {}}))
        .config("StopSignal", json!("SIGQUIT"))
        .build())
}

const NGINX_CONF: &str = "\
daemon off;
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr notice;
events { worker_connections 64; }
http {
    access_log /dev/stdout;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    default_type text/html;
    server { listen 8080; root /srv/www; }
}
";

/// `demo/client:1`: busybox with every applet as a hard link.
///
/// # Errors
/// `busybox-static` is not installed.
pub fn client() -> Result<OciImage> {
    busybox("demo/client:1").map(ImageBuilder::build)
}

/// busybox with the accounts root, nobody, web (1000, also in group 50000) and app (1001).
///
/// # Errors
/// `busybox-static` is not installed.
pub fn busybox(name: &str) -> Result<ImageBuilder> {
    let layer = with_busybox(skeleton())?.finish(Gzip)?;
    Ok(ImageBuilder::new(name)?.layer(layer).config("Cmd", json!(["/bin/sh"])))
}

/// Everything the ring-2 tests pull.
///
/// # Errors
/// A Debian package is not installed.
pub fn test_images() -> Result<Vec<OciImage>> {
    let plain = busybox("test/busybox:1")?;
    let with_user = |name: &str, user: &str| -> Result<OciImage> {
        let layer = LayerBuilder::new().file("name", 0o644, name).finish(Gzip)?;
        let image = ImageBuilder::new(name)?.layer(layer);
        Ok(image.config("User", json!(user)).config("Cmd", json!(["/name"])).build())
    };
    Ok(vec![
        plain.clone().build(),
        plain.clone().build().named("mirror/busybox", "1"),
        layers()?,
        platforms()?,
        foreign()?,
        volumes()?,
        entrypoint()?,
        no_command()?,
        with_user("test/user-uid:1", "1002")?,
        with_user("test/user-name:1", "web")?,
        with_user("test/user-uid-group:1", "1003:users")?,
        with_user("test/user-name-group:1", "web:web")?,
        busybox("test/user-ghost:1")?.config("User", json!("ghost")).build(),
        busybox("test/user-web:1")?.config("User", json!("web")).build(),
        busybox("test/stop-signal:1")?.config("StopSignal", json!("SIGUSR1")).build(),
        hostile("test/escape-dots:1", LayerBuilder::new().file("../../escaped", 0o644, "x"))?,
        hostile(
            "test/escape-link:1",
            LayerBuilder::new().symlink("out", "/tmp").file("out/escaped", 0o644, "x"),
        )?,
        hostile(
            "test/escape-hard-link:1",
            LayerBuilder::new().hard_link("stolen", "../../../../../../etc/hostname"),
        )?,
        wrong_diff_id()?,
    ])
}

/// `test/layers:1`: five layers, every compression, whiteouts, an opaque directory, hard and
/// symbolic links, a setuid program, a replaced file and a directory that became a file.
fn layers() -> Result<OciImage> {
    let base = with_busybox(skeleton())?
        .dir("data", 0o755)
        .file("data/keep", 0o644, "keep\n")
        .file("data/remove", 0o644, "remove\n")
        .file("data/replace", 0o644, "old\n")
        .dir("data/tree", 0o755)
        .file("data/tree/a", 0o644, "a\n")
        .dir("data/opaque", 0o755)
        .file("data/opaque/below", 0o644, "below\n")
        .finish(Gzip)?;
    let links = LayerBuilder::new()
        .file("data/original", 0o640, "linked\n")
        .hard_link("data/hard", "data/original")
        .symlink("data/soft", "original")
        .finish(Zstd)?;
    let owned = LayerBuilder::new()
        .owner(1000, 50000)
        .dir("data/owned", 0o2770)
        .file("data/owned/file", 0o600, "mine\n")
        .finish(None)?;
    let changes = LayerBuilder::new()
        .whiteout("data/remove")
        .file("data/replace", 0o644, "new\n")
        .dir("data/opaque", 0o755)
        .opaque("data/opaque")
        .file("data/opaque/above", 0o644, "above\n")
        .whiteout("data/tree")
        .finish(Gzip)?;
    let last = LayerBuilder::new()
        .file("data/tree", 0o644, "a file now\n")
        .file("data/setuid", 0o4755, "#!/bin/sh\n")
        .finish(Zstd)?;
    let image = ImageBuilder::new("test/layers:1")?.config("Cmd", json!(["/bin/sh"]));
    Ok([base, links, owned, changes, last].into_iter().fold(image, ImageBuilder::layer).build())
}

/// `test/platforms:1`: an index of three processors, this machine's in the middle.
fn platforms() -> Result<OciImage> {
    let of = |architecture: &str| -> Result<OciImage> {
        let layer = LayerBuilder::new().file("arch", 0o644, architecture).finish(Gzip)?;
        let image = busybox("test/platforms:1")?.layer(layer);
        Ok(image.architecture(architecture).build())
    };
    OciImage::index(vec![of("s390x")?, of(super::build::host_architecture())?, of("riscv64")?])
}

/// `test/foreign:1`: an index without this machine's processor.
fn foreign() -> Result<OciImage> {
    let layer = LayerBuilder::new().file("arch", 0o644, "s390x").finish(Gzip)?;
    let image = ImageBuilder::new("test/foreign:1")?.layer(layer).architecture("s390x").build();
    OciImage::index(vec![image])
}

/// `test/volumes:1`: an anonymous volume with content of user 1000.
fn volumes() -> Result<OciImage> {
    let content = LayerBuilder::new()
        .owner(1000, 1000)
        .dir("data", 0o750)
        .file("data/seed", 0o640, "seed\n")
        .finish(Gzip)?;
    Ok(busybox("test/volumes:1")?.layer(content).config("Volumes", json!({"/data": {}})).build())
}

/// `test/entrypoint:1`: says its arguments, environment and directory.
fn entrypoint() -> Result<OciImage> {
    let script = "#!/bin/sh\necho \"args=$* dir=$PWD a=$A b=$B\"\n";
    let layer = LayerBuilder::new().file("entry", 0o755, script).finish(Gzip)?;
    Ok(busybox("test/entrypoint:1")?
        .layer(layer)
        .config("Entrypoint", json!(["/entry"]))
        .config("Cmd", json!(["from-cmd"]))
        .config("Env", json!(["A=image", "B=image"]))
        .config("WorkingDir", json!("/srv/here"))
        .build())
}

/// `test/no-command:1`: nothing to run.
fn no_command() -> Result<OciImage> {
    let layer = LayerBuilder::new().file("file", 0o644, "x").finish(Gzip)?;
    Ok(ImageBuilder::new("test/no-command:1")?
        .layer(layer)
        .config("Entrypoint", json!([""]))
        .build())
}

fn hostile(name: &str, layer: LayerBuilder) -> Result<OciImage> {
    Ok(ImageBuilder::new(name)?.layer(layer.finish(Gzip)?).config("Cmd", json!(["/x"])).build())
}

/// `test/wrong-diff-id:1`: the configuration promises another archive than the layer holds.
fn wrong_diff_id() -> Result<OciImage> {
    let mut layer = LayerBuilder::new().file("a", 0o644, "x").finish(Gzip)?;
    layer.diff_id = format!("sha256:{}", "0".repeat(64));
    Ok(ImageBuilder::new("test/wrong-diff-id:1")?.layer(layer).build())
}
