//! `knarr image unpack`: bundles without a daemon.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use test_support::images::{OciImage, catalog};
use test_support::node::{dist, registry};
use test_support::skip;

/// A directory of the test's own.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("knarr-unpack-{name}-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        // Another user works in it too.
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        Ok(Self(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn on_a_place(name: &str, test: impl FnOnce(&Place, &Path) -> Result<()>) -> Result<()> {
    match dist() {
        Ok(dist) => test(&Place::new(name)?, &dist.join("knarr")),
        Err(why) => {
            skip(&why);
            Ok(())
        }
    }
}

/// An image of the catalogue as an OCI layout, called `1` there.
fn layout(name: &str, dir: &Path) -> Result<String> {
    let image = catalog::test_images()?.into_iter().find(|image| image.repository == name);
    let image: OciImage = image.with_context(|| format!("no image {name}"))?;
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |digest: &str, bytes: &[u8]| {
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes)
    };
    for blob in &image.blobs {
        put(&blob.digest, &blob.bytes)?;
    }
    for manifest in &image.manifests {
        put(&manifest.digest, &manifest.bytes)?;
    }
    let top = image.top()?;
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": top.media_type, "digest": top.digest, "size": top.bytes.len(),
        "annotations": {"org.opencontainers.image.ref.name": "1"},
    }]});
    fs::write(dir.join("index.json"), index.to_string())?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(format!("oci:{}:1", dir.display()))
}

fn unpack(knarr: &Path, image: &str, bundle: &Path) -> Result<Output> {
    let mut command = Command::new(knarr);
    command.args(["image", "unpack", image, "--bundle"]).arg(bundle);
    command.output().context("run knarr image unpack")
}

fn succeeded(output: &Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn spec(bundle: &Path) -> Result<serde_json::Value> {
    Ok(serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?)
}

/// Runs the bundle to its end; what it printed.
fn run(knarr: &Path, place: &Place, bundle: &Path, user: Option<u32>) -> Result<String> {
    let mut command = Command::new(knarr);
    let id = format!("unpacked-{}-{}", std::process::id(), user.unwrap_or_default());
    command.args(["oci", "--root"]).arg(place.path("runtime")).args(["run", "--bundle"]);
    command.arg(bundle).arg(id);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    succeeded(&command.output()?)
}

#[test]
fn an_image_of_a_layout_runs_without_a_daemon() -> Result<()> {
    on_a_place("run", |place, knarr| {
        let image = layout("test/entrypoint", &place.path("layout"))?;
        let bundle = place.path("bundle");
        succeeded(&unpack(knarr, &image, &bundle)?)?;
        let said = run(knarr, place, &bundle, None)?;
        ensure!(said == "args=from-cmd dir=/srv/here a=image b=image\n", "{said}");
        Ok(())
    })
}

#[test]
fn a_bundle_says_what_its_image_says() -> Result<()> {
    on_a_place("says", |place, knarr| {
        let image = layout("test/user-web", &place.path("layout"))?;
        let bundle = place.path("bundle");
        succeeded(&unpack(knarr, &image, &bundle)?)?;
        let spec = spec(&bundle)?;
        let user = &spec["process"]["user"];
        ensure!(user["uid"] == 1000 && user["gid"] == 1000, "{user}");
        ensure!(user["additionalGids"] == serde_json::json!([50000]), "{user}");
        ensure!(spec["annotations"]["org.opencontainers.image.os"] == "linux", "{spec}");
        let image = layout("test/layers", &place.path("layers"))?;
        let bundle = place.path("layered");
        succeeded(&unpack(knarr, &image, &bundle)?)?;
        let data = bundle.join("rootfs/data");
        let read = |name: &str| fs::read_to_string(data.join(name));
        ensure!(read("keep")? == "keep\n" && read("replace")? == "new\n");
        ensure!(!data.join("remove").exists() && !data.join("opaque/below").exists());
        ensure!(read("opaque/above")? == "above\n" && read("tree")? == "a file now\n");
        let mine = fs::metadata(data.join("owned/file"))?;
        ensure!((mine.uid(), mine.gid(), mine.mode() & 0o7777) == (1000, 50000, 0o600));
        ensure!(fs::metadata(data.join("setuid"))?.mode() & 0o7777 == 0o4755);
        Ok(())
    })
}

#[test]
fn an_image_of_a_registry_is_fetched() -> Result<()> {
    on_a_place("registry", |place, knarr| {
        let host = registry()?.host();
        let certs = place.path("certs.d").join(&host);
        fs::create_dir_all(&certs)?;
        let text = format!("server = \"http://{host}\"\n[host.\"http://{host}\"]\n");
        fs::write(certs.join("hosts.toml"), text)?;
        let config = place.path("config.toml");
        let text = format!("[registry]\nconfig_path = \"{}\"\n", place.path("certs.d").display());
        fs::write(&config, text)?;
        let bundle = place.path("bundle");
        let output = Command::new(knarr)
            .args(["image", "unpack", &format!("{host}/test/busybox:1"), "--bundle"])
            .arg(&bundle)
            .arg("--config")
            .arg(&config)
            .output()?;
        succeeded(&output)?;
        ensure!(bundle.join("rootfs/bin/busybox").exists() && bundle.join("config.json").exists());
        let entries = fs::read_dir(&bundle)?.count();
        ensure!(entries == 2, "{entries} entries in the bundle");
        let bundle = place.path("runs");
        let output = Command::new(knarr)
            .args(["image", "unpack", &format!("docker://{host}/test/entrypoint:1"), "--bundle"])
            .arg(&bundle)
            .arg("--config")
            .arg(&config)
            .output()?;
        succeeded(&output)?;
        let said = run(knarr, place, &bundle, None)?;
        ensure!(said == "args=from-cmd dir=/srv/here a=image b=image\n", "{said}");
        Ok(())
    })
}

/// An image as `docker save` writes it: layers uncompressed, named by a list.
fn docker_archive(name: &str, dir: &Path) -> Result<PathBuf> {
    let image = catalog::test_images()?.into_iter().find(|image| image.repository == name);
    let image = image.with_context(|| format!("no image {name}"))?;
    let parts = dir.join("parts");
    fs::create_dir_all(&parts)?;
    let mut layers = Vec::new();
    for blob in image.blobs.iter().filter(|blob| blob.digest != image.id) {
        let layer = format!("{}.tar", layers.len());
        let path = parts.join(&layer);
        fs::write(path.with_extension("tar.gz"), &blob.bytes)?;
        // `--force`: a layer may be a plain tar already.
        let inflated =
            Command::new("gzip").args(["-dcf"]).arg(path.with_extension("tar.gz")).output()?;
        ensure!(inflated.status.success(), "{}", String::from_utf8_lossy(&inflated.stderr));
        fs::write(&path, inflated.stdout)?;
        fs::remove_file(path.with_extension("tar.gz"))?;
        layers.push(layer);
    }
    let config = image.blobs.iter().find(|blob| blob.digest == image.id).context("no config")?;
    fs::write(parts.join("config.json"), &config.bytes)?;
    let list = serde_json::json!([
        {"Config": "config.json", "RepoTags": ["saved.example/it:7"], "Layers": layers}
    ]);
    fs::write(parts.join("manifest.json"), list.to_string())?;
    packed(&parts, &dir.join("saved.tar"))
}

/// A directory's contents as a tar.
fn packed(dir: &Path, to: &Path) -> Result<PathBuf> {
    let status = Command::new("tar").arg("-cf").arg(to).arg("-C").arg(dir).arg(".").status()?;
    ensure!(status.success(), "tar: {status}");
    Ok(to.to_owned())
}

#[test]
fn archives_of_either_kind_run_without_a_daemon() -> Result<()> {
    on_a_place("archives", |place, knarr| {
        let saved = docker_archive("test/entrypoint", &place.path("docker"))?;
        layout("test/entrypoint", &place.path("layout"))?;
        let of_oci = packed(&place.path("layout"), &place.path("layout.tar"))?;
        let squeezed = place.path("layout.tar.gz");
        let output = Command::new("gzip").arg("-c").arg(&of_oci).output()?;
        fs::write(&squeezed, output.stdout)?;
        for (number, image) in [
            format!("docker-archive:{}", saved.display()),
            format!("docker-archive:{}:saved.example/it:7", saved.display()),
            saved.display().to_string(),
            format!("oci-archive:{}:1", of_oci.display()),
            squeezed.display().to_string(),
        ]
        .iter()
        .enumerate()
        {
            let bundle = place.path(&format!("bundle{number}"));
            succeeded(&unpack(knarr, image, &bundle)?).with_context(|| image.clone())?;
            let said = run(knarr, place, &bundle, None).with_context(|| image.clone())?;
            ensure!(said == "args=from-cmd dir=/srv/here a=image b=image\n", "{image}: {said}");
        }
        let other = format!("docker-archive:{}:saved.example/other:7", saved.display());
        let output = unpack(knarr, &other, &place.path("other"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains("saved.example/it:7"), "{said}");
        Ok(())
    })
}

/// A shell's script in a mount namespace where this user has ids of its own below (`subuid(5)`).
fn with_subordinate_ids(place: &Place, user: u32, script: &str) -> Result<Output> {
    let files = [
        ("passwd", format!("root:x:0:0::/root:/bin/sh\nsub:x:{user}:{user}::/:/bin/sh\n")),
        ("group", format!("root:x:0:\nsub:x:{user}:\n")),
        ("subuid", "sub:700000:65536\n".to_owned()),
        ("subgid", "sub:800000:65536\n".to_owned()),
    ];
    let mut whole = String::from("set -e\n");
    for (name, text) in files {
        let path = place.path(name);
        fs::write(&path, text)?;
        whole += &format!("mount --bind {} /etc/{name}\n", path.display());
    }
    whole += &format!(
        "exec setpriv --reuid {user} --regid {user} --clear-groups --inh-caps=-all sh -c '{script}'"
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &whole]).output();
    output.context("run unshare")
}

#[test]
fn a_user_with_more_ids_has_the_images_owners_and_runs_it() -> Result<()> {
    const USER: u32 = 54_322;
    on_a_place("subuid", |place, knarr| {
        if !Path::new("/usr/bin/newuidmap").exists() {
            skip("newuidmap is not installed");
            return Ok(());
        }
        let layers = layout("test/layers", &place.path("layers"))?;
        let image = layout("test/user-web", &place.path("layout"))?;
        let program = place.path("knarr");
        fs::copy(knarr, &program)?;
        let at = |name: &str| place.path(name).display().to_string();
        let program = program.display();
        let edit = format!("{program} image unpack {image} --bundle {}", at("first"));
        succeeded(&with_subordinate_ids(place, USER, &edit)?)?;
        let mut told = spec(&place.path("first"))?;
        let map = &told["linux"]["uidMappings"];
        ensure!(map[0]["hostID"] == USER && map[1]["hostID"] == 700_000, "{map}");
        ensure!(map[1]["containerID"] == 1 && map[1]["size"] == 65_536, "{map}");
        ensure!(told["process"]["user"]["uid"] == 1000, "{}", told["process"]["user"]);
        told["process"]["args"] =
            serde_json::json!(["/bin/sh", "-c", "id -u; cat /proc/self/uid_map"]);
        fs::write(place.path("first/config.json"), told.to_string())?;
        let run = format!(
            "{program} oci --root {} run --bundle {} subordinate",
            at("runtime"),
            at("first")
        );
        let said = succeeded(&with_subordinate_ids(place, USER, &run)?)?;
        let words: Vec<_> = said.split_whitespace().collect();
        let user = USER.to_string();
        ensure!(words == ["1000", "0", &user, "1", "1", "700000", "65536"], "{said}");

        succeeded(&with_subordinate_ids(
            place,
            USER,
            &format!("{program} image unpack {layers} --bundle {}", at("layered")),
        )?)?;
        let mine = fs::metadata(place.path("layered/rootfs/data/owned/file"))?;
        let wanted = (700_000 + 999, 800_000 + 49_999, 0o600);
        ensure!((mine.uid(), mine.gid(), mine.mode() & 0o7777) == wanted, "{mine:?}");
        Ok(())
    })
}

#[test]
fn an_ordinary_users_bundle_is_that_users() -> Result<()> {
    const USER: u32 = 54_321;
    on_a_place("user", |place, knarr| {
        let image = layout("test/layers", &place.path("layout"))?;
        let bundle = place.path("bundle");
        // The build may lie where others cannot look.
        let program = place.path("knarr");
        fs::copy(knarr, &program)?;
        let mut command = Command::new(&program);
        command.args(["image", "unpack", &image, "--bundle"]).arg(&bundle).uid(USER).gid(USER);
        succeeded(&command.output()?)?;
        let mine = fs::metadata(bundle.join("rootfs/data/owned/file"))?;
        ensure!((mine.uid(), mine.gid(), mine.mode() & 0o7777) == (USER, USER, 0o600));
        ensure!(!bundle.join("rootfs/data/remove").exists());
        ensure!(!bundle.join("rootfs/data/opaque/below").exists());
        let spec = spec(&bundle)?;
        let map = &spec["linux"]["uidMappings"][0];
        ensure!(map["hostID"] == USER && map["containerID"] == 0, "{map}");
        let image = layout("test/entrypoint", &place.path("runs"))?;
        let bundle = place.path("runnable");
        let mut command = Command::new(&program);
        command.args(["image", "unpack", &image, "--bundle"]).arg(&bundle).uid(USER).gid(USER);
        succeeded(&command.output()?)?;
        let said = run(&program, place, &bundle, Some(USER))?;
        ensure!(said == "args=from-cmd dir=/srv/here a=image b=image\n", "{said}");
        Ok(())
    })
}

#[test]
fn what_cannot_be_unpacked_is_told_and_leaves_nothing() -> Result<()> {
    on_a_place("refused", |place, knarr| {
        let layout_dir = place.path("layout");
        layout("test/busybox", &layout_dir)?;
        let escape = layout("test/escape-hard-link", &place.path("escape"))?;
        for (image, words) in [
            ("./no/such/file".to_owned(), "there is no ./no/such/file"),
            (format!("oci:{}:2", layout_dir.display()), "say which"),
            ("UPPER CASE".to_owned(), "neither a file nor an image's name"),
            (escape, "cannot unpack layer"),
        ] {
            let bundle = place.path("bundle");
            let output = unpack(knarr, &image, &bundle)?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success() && said.contains(words), "{image}: {said}");
            ensure!(!bundle.exists(), "{image}: something is left");
        }
        let bundle = place.path("full");
        fs::create_dir(&bundle)?;
        fs::write(bundle.join("mine"), "")?;
        let output = unpack(knarr, &format!("oci:{}:1", layout_dir.display()), &bundle)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("is not empty"), "{said}");
        ensure!(fs::read_dir(&bundle)?.count() == 1, "it was touched");
        Ok(())
    })
}
