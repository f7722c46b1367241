//! A place of its own for one daemon: directories, a bridge name, a subnet, a parent cgroup.
//!
//! Any number of daemons run side by side, so everything a daemon makes must carry the number of
//! its scratch place, and nothing here touches what does not.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// How many places there are: one /24 each in 10.208.0.0/12.
const PLACES: u16 = 4096;

/// A claimed place. Its directories are deleted when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    number: u16,
    dir: PathBuf,
    state: PathBuf,
}

impl Scratch {
    /// Claims the first free place. `mkdir` is the claim: what an interrupted run left behind
    /// stays taken.
    ///
    /// # Errors
    /// Not root, or no place is free.
    pub fn claim() -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "not root");
        for number in 0..PLACES {
            let state = state_dir(number);
            match fs::create_dir(&state) {
                Ok(()) => return Self::furnish(number, state),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).with_context(|| state.display().to_string()),
            }
        }
        bail!("all of /run/kt000 to /run/kt{:03x} are taken", PLACES - 1)
    }

    /// The state directories of all claimed places.
    pub(crate) fn taken() -> Vec<PathBuf> {
        (0..PLACES).map(state_dir).filter(|path| path.exists()).collect()
    }

    /// Clears away what claimants have left that were killed before they could.
    pub fn sweep_abandoned() {
        for number in 0..PLACES {
            let state = state_dir(number);
            let dir = dir(number);
            let Ok(owner) = fs::read_to_string(dir.join(OWNER)) else { continue };
            let mut words = owner.split_whitespace();
            let lives = match (words.next().and_then(|pid| pid.parse().ok()), words.next()) {
                (Some(pid), Some(begun)) => begin_of(pid).is_some_and(|known| known == begun),
                _ => true,
            };
            if !lives && state.exists() {
                eprintln!("clearing away {}, whose owner was killed", dir.display());
                drop(Self { number, dir, state });
            }
        }
    }

    /// Whether some scratch place's pods may have this address.
    pub(crate) fn may_use(address: Ipv4Addr) -> bool {
        let [a, b, _, _] = address.octets();
        a == 10 && (208..240).contains(&b)
    }

    fn furnish(number: u16, state: PathBuf) -> Result<Self> {
        let this = Self { number, dir: dir(number), state };
        if this.dir.exists() {
            fs::remove_dir_all(&this.dir).with_context(|| this.dir.display().to_string())?;
        }
        for name in ["root", "certs.d", "cni.d", "logs"] {
            let path = this.dir.join(name);
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        let pid = std::process::id();
        let begun = begin_of(pid).context("/proc does not know this process")?;
        fs::write(this.dir.join(OWNER), format!("{pid} {begun}")).context("write the owner")?;
        Ok(this)
    }

    /// The directory of everything durable; on a disk, not in memory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The daemon's `--root`.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The daemon's `--state`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.state.join("knarr.sock")
    }

    /// What marks everything of this place: bridge, parent cgroup.
    pub fn mark(&self) -> String {
        format!("kt{:03x}", self.number)
    }

    /// The first three bytes of every pod's address, with a dot at the end.
    pub fn subnet_prefix(&self) -> String {
        let base = u32::from(Ipv4Addr::new(10, 208, 0, 0)) + (u32::from(self.number) << 8);
        let [a, b, c, _] = Ipv4Addr::from(base).octets();
        format!("{a}.{b}.{c}.")
    }

    /// The pods' subnet: `10.x.y.0/24`.
    pub fn subnet(&self) -> String {
        format!("{}0/24", self.subnet_prefix())
    }

    /// A subnet for more pods than [`Self::subnet`] has addresses for.
    ///
    /// # Errors
    /// This place has none: there are a /22 in 10.224.0.0/12 for each of the first 1024.
    pub fn wide_subnet(&self) -> Result<String> {
        ensure!(self.number < 1024, "place {:03x} has no wide subnet", self.number);
        let base = u32::from(Ipv4Addr::new(10, 224, 0, 0)) + (u32::from(self.number) << 10);
        Ok(format!("{}/22", Ipv4Addr::from(base)))
    }

    /// The pods' parent cgroup.
    pub fn cgroup_parent(&self) -> String {
        let end = if systemd_driver() { ".slice" } else { "" };
        format!("/{}{end}", self.mark())
    }

    /// Where a container's cgroup is below a hierarchy's mount point, without a slash before it:
    /// directly in the pods' parent, or in the scope that systemd has made for its pod.
    pub fn container_cgroup(&self, container: &str) -> String {
        let parent = self.cgroup_parent().trim_start_matches('/').to_owned();
        let scopes = fs::read_dir(Path::new("/sys/fs/cgroup").join(&parent)).into_iter().flatten();
        let scope = scopes.flatten().find(|scope| scope.path().join(container).is_dir());
        match scope.filter(|_| systemd_driver()) {
            Some(scope) => format!("{parent}/{}/{container}", scope.file_name().display()),
            None => format!("{parent}/{container}"),
        }
    }

    /// The pods' log directories lie here.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }
}

/// In [`Scratch::dir`]: process id and when it began, in the kernel's ticks.
const OWNER: &str = "owner";

fn begin_of(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The 22nd field; the name in parentheses may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

fn dir(number: u16) -> PathBuf {
    PathBuf::from(format!("/var/tmp/knarr-test-{number:03x}"))
}

/// Whether daemons have systemd make control groups: `KNARR_TEST_CGROUP_DRIVER=systemd`.
pub fn systemd_driver() -> bool {
    std::env::var_os("KNARR_TEST_CGROUP_DRIVER").is_some_and(|driver| driver == "systemd")
}

/// Short, because a unix socket's path has 108 bytes and an id takes 64 of them.
fn state_dir(number: u16) -> PathBuf {
    PathBuf::from(format!("/run/kt{number:03x}"))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        crate::leaks::sweep(self);
        for dir in [&self.dir, &self.state] {
            if let Err(e) = fs::remove_dir_all(dir) {
                eprintln!("cannot remove {}: {e}", dir.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_the_living_are_left_alone() {
        let Ok(scratch) = Scratch::claim() else {
            crate::skip("not root");
            return;
        };
        Scratch::sweep_abandoned();
        assert!(scratch.dir().join(OWNER).exists() && scratch.state().exists());
        // Whoever has this number now began later.
        fs::write(scratch.dir().join(OWNER), format!("{} 1", std::process::id())).unwrap();
        let dir = scratch.dir().to_owned();
        let scratch = std::mem::ManuallyDrop::new(scratch);
        Scratch::sweep_abandoned();
        assert!(!dir.exists() && !scratch.state().exists());
    }

    #[test]
    fn every_place_has_a_subnet_of_its_own() {
        let place = |number| Scratch {
            number,
            dir: PathBuf::from("/nowhere/scratch"),
            state: PathBuf::from("/nowhere/state"),
        };
        for (number, subnet, mark) in [
            (0, "10.208.0.0/24", "kt000"),
            (255, "10.208.255.0/24", "kt0ff"),
            (4095, "10.223.255.0/24", "ktfff"),
        ] {
            let place = std::mem::ManuallyDrop::new(place(number));
            assert_eq!((place.subnet().as_str(), place.mark().as_str()), (subnet, mark));
            let wide = (number < 1024)
                .then(|| format!("10.{}.{}.0/22", 224 + (number >> 6), (number & 63) << 2));
            assert_eq!(place.wide_subnet().ok(), wide);
        }
    }
}
