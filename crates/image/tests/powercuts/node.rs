//! What loses its power: does what its standard input says, a line at a time, and answers with lines
//! that begin with `@`.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use image::Images;
use model::Reference;
use registry::{Config, Credentials};
use snapshot::Layers;

pub(crate) const ROOT: &str = "KNARR_POWERCUT_ROOT";
/// Where it is said that the registry speaks plain HTTP.
pub(crate) const HOSTS: &str = "KNARR_POWERCUT_HOSTS";
/// Downloads are kept from their first byte on.
pub(crate) const KEEPS: &str = "KNARR_POWERCUT_KEEPS";

pub(crate) fn run(root: &Path) {
    // Sweeps what the last power cut left; that is done when the store closes.
    drop(Layers::open(root).unwrap());
    assert_eq!(entries(root, "ingest"), Vec::<String>::new());
    let layers = Arc::new(Layers::open(root).unwrap());
    let hosts_dirs = vec![std::env::var_os(HOSTS).unwrap().into()];
    let mut config = image::Config::from(Config { hosts_dirs, ..Config::default() });
    if std::env::var_os(KEEPS).is_some() {
        config.keep_after = Duration::ZERO;
    }
    let images = Images::open(root, config, layers).unwrap();
    images.set_layer_users(Box::new(HashSet::new));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("@ up");
    for line in std::io::stdin().lines() {
        runtime.block_on(follow(&images, root, &line.unwrap()));
        println!("@ done");
    }
}

async fn follow(images: &Images, root: &Path, line: &str) {
    let (verb, name) = line.split_once(' ').unwrap_or((line, ""));
    match verb {
        "list" => {
            for image in images.list().iter() {
                image.repo_tags.iter().for_each(|name| println!("@ have {name}"));
            }
        }
        "verify" => verify(images).await,
        "used" => {
            let fs = rustix::fs::statvfs(root).unwrap();
            println!("@ used {}", (fs.f_blocks - fs.f_bfree) * fs.f_frsize);
        }
        "pull" => {
            let reference = Reference::parse(name).unwrap();
            images.pull(&reference, Credentials::Anonymous).await.unwrap();
        }
        "rm" => {
            images.remove(name).await.unwrap();
            images.collect().await.unwrap();
        }
        "purge" => {
            for image in images.list().iter() {
                images.remove(&image.id.to_string()).await.unwrap();
            }
            images.collect().await.unwrap();
            for dir in ["layers", "fixups", "images", "ingest"] {
                assert_eq!(entries(root, dir), Vec::<String>::new(), "{dir}");
            }
        }
        "nothing-kept" => assert_eq!(entries(root, "partial"), Vec::<String>::new()),
        other => panic!("no such verb {other}"),
    }
}

async fn verify(images: &Images) {
    for image in images.list().iter() {
        for layer in &image.diff_ids {
            let verdict = images.verify(layer).await.unwrap();
            assert!(verdict.is_sound(), "{verdict:?}");
        }
    }
}

fn entries(root: &Path, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root.join(dir)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}
