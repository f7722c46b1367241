//! Tars by hand, since the hostile ones are those no builder makes, and a place to unpack them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use layer::{Beside, Compression, Packed, UnpackError, UnpackOptions, Unpacked, unpack};

/// Everything here makes devices and gives files away.
pub(crate) fn not_root() -> bool {
    let root = rustix_is_root();
    if !root {
        eprintln!("skipped: needs root to set owners and make devices");
    }
    !root
}

fn rustix_is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// One header field by field; `data` follows it.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) data: Vec<u8>,
    /// In the header, when it shall not be the length of `data`.
    pub(crate) size: Option<u64>,
    pub(crate) pax: Vec<(String, Vec<u8>)>,
}

pub(crate) fn item(name: &str, kind: u8) -> Item {
    Item {
        name: name.into(),
        kind,
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        mtime: 1_000_000_000,
        link: Vec::new(),
        device: (0, 0),
        data: Vec::new(),
        size: None,
        pax: Vec::new(),
    }
}

pub(crate) fn file(name: &str, data: &str) -> Item {
    Item { data: data.into(), ..item(name, b'0') }
}

pub(crate) fn dir(name: &str) -> Item {
    item(name, b'5')
}

pub(crate) fn symlink(name: &str, target: &str) -> Item {
    Item { link: target.into(), mode: 0o777, ..item(name, b'2') }
}

pub(crate) fn hard_link(name: &str, target: &str) -> Item {
    Item { link: target.into(), ..item(name, b'1') }
}

impl Item {
    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub(crate) fn owner(self, uid: u64, gid: u64) -> Self {
        Self { uid, gid, ..self }
    }

    pub(crate) fn mtime(self, mtime: u64) -> Self {
        Self { mtime, ..self }
    }

    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn xattr(self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{key}"), value)
    }

    pub(crate) fn header(&self) -> [u8; 512] {
        let mut header = tar_header(&self.name, self.kind);
        octal(&mut header[100..108], u64::from(self.mode));
        octal(&mut header[108..116], self.uid);
        octal(&mut header[116..124], self.gid);
        octal(&mut header[124..136], self.size.unwrap_or(self.data.len() as u64));
        octal(&mut header[136..148], self.mtime);
        put(&mut header[157..257], &self.link);
        octal(&mut header[329..337], u64::from(self.device.0));
        octal(&mut header[337..345], u64::from(self.device.1));
        sign(&mut header);
        header
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.pax.is_empty() {
            let records: Vec<u8> =
                self.pax.iter().flat_map(|(key, value)| record(key, value)).collect();
            let mut header = tar_header(b"pax", b'x');
            octal(&mut header[124..136], records.len() as u64);
            sign(&mut header);
            out.extend_from_slice(&header);
            block(&mut out, &records);
        }
        out.extend_from_slice(&self.header());
        block(&mut out, &self.data);
        out
    }
}

pub(crate) fn tar_header(name: &[u8], kind: u8) -> [u8; 512] {
    let mut header = [0; 512];
    put(&mut header[..100], name);
    header[156] = kind;
    put(&mut header[257..265], b"ustar\x0000");
    header
}

fn put(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

pub(crate) fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    assert!(text.len() <= digits, "{value} fits the field");
    put(field, text.as_bytes());
}

pub(crate) fn sign(header: &mut [u8; 512]) {
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    put(&mut header[148..156], format!("{sum:06o}\0 ").as_bytes());
}

/// `"<length> key=value\n"`, the length counting itself.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|n| n.to_string().len() + rest == *n).unwrap();
    let mut out = format!("{length} {key}=").into_bytes();
    out.extend_from_slice(value);
    out.push(b'\n');
    out
}

fn block(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

pub(crate) fn tar(items: &[Item]) -> Vec<u8> {
    let mut out: Vec<u8> = items.iter().flat_map(Item::bytes).collect();
    out.resize(out.len() + 1024, 0);
    out
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A layer root inside a directory whose other content must not change.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
    used: std::cell::Cell<bool>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::write(dir.path().join("outside"), "untouched").unwrap();
        Self { dir, used: std::cell::Cell::new(false) }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    pub(crate) fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.at(path)).unwrap()
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok()
    }

    pub(crate) fn is_whiteout(&self, path: &str) -> bool {
        let stat = self.stat(path);
        stat.file_type().is_char_device() && stat.rdev() == 0
    }

    pub(crate) fn xattr(&self, path: &str, key: &str) -> Option<Vec<u8>> {
        xattr(&self.at(path), key)
    }

    pub(crate) fn is_opaque(&self, path: &str) -> bool {
        self.xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
    }

    pub(crate) fn unpack_with(
        &self,
        blob: &[u8],
        compression: Compression,
        options: &UnpackOptions,
    ) -> Result<Unpacked, UnpackError> {
        let root = fs::File::open(self.root()).unwrap();
        let fresh = !self.used.replace(true);
        let (mut inventory, mut skeleton) = (Vec::new(), tempfile::tempfile().unwrap());
        let beside = Beside { inventory: Some(&mut inventory), skeleton: Some(&mut skeleton) };
        let unpacked = unpack(blob, root.as_fd(), compression, options, beside);
        if let (Ok(unpacked), true) = (&unpacked, fresh) {
            // Whatever was unpacked is what the inventory says.
            let checksum = unpacked.inventory.as_deref().unwrap();
            let verified = layer::verify(root.as_fd(), &*inventory, checksum).unwrap();
            assert_eq!(verified.findings, [], "{}", String::from_utf8_lossy(&inventory));
            if unpacked.skeleton {
                // And can be packed again.
                let packed = Packed::open(skeleton).unwrap();
                let mut tar = Vec::new();
                let digest = packed.write(root.as_fd(), &mut tar).unwrap();
                assert_eq!(digest, unpacked.diff_id);
                assert_eq!(packed.bytes(), tar.len() as u64);
            }
        }
        let outside: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(outside.len(), 2, "nothing appears outside the root: {outside:?}");
        let content = fs::read_to_string(self.dir.path().join("outside")).unwrap();
        assert_eq!(content, "untouched");
        assert_eq!(fs::metadata(self.dir.path().join("outside")).unwrap().nlink(), 1);
        unpacked
    }

    pub(crate) fn unpack(&self, blob: &[u8]) -> Result<Unpacked, UnpackError> {
        self.unpack_with(blob, Compression::Auto, &UnpackOptions::default())
    }
}

pub(crate) fn xattr(path: &Path, key: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    match rustix::fs::lgetxattr(path, key, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Some(value)
        }
        Err(rustix::io::Errno::NODATA) => None,
        Err(errno) => panic!("{key} of {}: {errno}", path.display()),
    }
}

/// Unpacks what must work.
#[track_caller]
pub(crate) fn unpacked(items: &[Item]) -> Scratch {
    let scratch = Scratch::new();
    scratch.unpack(&tar(items)).unwrap();
    scratch
}

/// Unpacks what must be refused.
#[track_caller]
pub(crate) fn refused(items: &[Item]) -> UnpackError {
    Scratch::new().unpack(&tar(items)).unwrap_err()
}

/// Everything a tree is, by path: type, mode, owner, mtime, size or target, content, xattr.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut tree = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let content = if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if kind.is_file() {
            format!("{:?} links {}", fs::read(&path).unwrap(), stat.nlink())
        } else {
            format!("device {}", stat.rdev())
        };
        if kind.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let line = format!(
            "{:o} {}:{} {}.{} {content} {:?}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            if kind.is_file() { xattr(&path, "user.note") } else { None },
        );
        tree.insert(path.strip_prefix(root).unwrap().to_path_buf(), line);
    }
    tree
}
