//! The images of one root.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use model::{Platform, Reference, chain};
use registry::{Client, Credentials};
use snapshot::Layers;
use tokio::sync::{Semaphore, watch};

use crate::accounts::{self, Accounts, AccountsError};
use crate::catalog::{self, List, ResolveError};
use crate::collect::{CollectError, Collected, FsUsage, LayerUsers, blocking};
use crate::error::{OpenError, PullError, RemoveError};
use crate::image::Image;
use crate::partial::Partials;
use crate::progress::{Board, PullProgress};
use crate::pull;
use crate::record::Directory;
use crate::slots::{Hold, Slots};
use crate::verifiers::Verifiers;

/// What can be configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// How registries are asked.
    pub registry: registry::Config,
    /// What a layer may ask of the node.
    pub limits: layer::Limits,
    /// Layers of one pull that are fetched at once.
    pub parallel_layers: usize,
    /// A download that breaks off after this time is kept for the next attempt.
    pub keep_after: Duration,
    /// Whose consent each pull needs.
    pub verifiers: Option<Verifiers>,
}

impl Default for Config {
    fn default() -> Self {
        registry::Config::default().into()
    }
}

impl From<registry::Config> for Config {
    fn from(registry: registry::Config) -> Self {
        Self {
            registry,
            limits: layer::Limits::default(),
            parallel_layers: 3,
            keep_after: Duration::from_secs(8),
            verifiers: None,
        }
    }
}

/// Over all pulls. Each takes some 6 MiB of memory.
const LAYERS_AT_ONCE: usize = 4;

/// The images of one root directory. Cheap to clone; one per root and process.
#[derive(Clone)]
pub struct Images {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Images({})", self.inner.root.display())
    }
}

pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) directory: Directory,
    pub(crate) registry: Client,
    pub(crate) verifiers: Option<Verifiers>,
    pub(crate) unpack: layer::UnpackOptions,
    pub(crate) parallel_layers: usize,
    /// For layers that are unpacked at once, over all pulls.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) partials: Partials,
    pub(crate) layers: Arc<Layers>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) board: Arc<Board>,
    pub(crate) accounts: accounts::Cache,
    /// What readers see. Replaced, never changed.
    pub(crate) catalog: ArcSwap<List>,
    pub(crate) pinned: ArcSwap<Vec<String>>,
    /// Held over each change of records and list. Only blocking threads take it.
    pub(crate) writer: Mutex<()>,
    pub(crate) users: Mutex<Option<LayerUsers>>,
}

/// An image whose layers stay until this is dropped, whatever is removed meanwhile.
#[derive(Debug)]
pub struct ImageLease {
    image: Arc<Image>,
    _hold: Hold,
}

impl Deref for ImageLease {
    type Target = Arc<Image>;
    fn deref(&self) -> &Arc<Image> {
        &self.image
    }
}

impl Images {
    /// Reads the records below `root`. Blocks on the disk. Unusable records are logged and set
    /// aside.
    ///
    /// # Errors
    /// [`OpenError`] if the directory itself cannot be used.
    pub fn open(
        root: &Path,
        config: impl Into<Config>,
        layers: Arc<Layers>,
    ) -> Result<Self, OpenError> {
        let Config { registry, limits, parallel_layers, keep_after, verifiers } = config.into();
        let partials = Partials::open(root, keep_after)
            .map_err(|source| OpenError::Directory { path: root.join("partial"), source })?;
        let directory = Directory::create(root)?;
        let images = directory.load(|layer| layers.contains(layer))?;
        let images = complete_again(&layers, &directory, images);
        let list: List = images.into_iter().map(Arc::new).collect();
        Ok(Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                directory,
                registry: Client::new(registry),
                verifiers,
                unpack: layer::UnpackOptions { limits, ..layer::UnpackOptions::default() },
                parallel_layers: parallel_layers.max(1),
                room: Arc::new(Semaphore::new(LAYERS_AT_ONCE.max(parallel_layers))),
                partials,
                layers,
                slots: Arc::default(),
                board: Arc::default(),
                accounts: accounts::Cache::default(),
                catalog: ArcSwap::from_pointee(list),
                pinned: ArcSwap::default(),
                writer: Mutex::default(),
                users: Mutex::default(),
            }),
        })
    }

    /// Pulls an image, or finds that it is here and current. The registry is asked in any case,
    /// with these credentials.
    ///
    /// Dropping the future cancels: downloads stop, half-made layers are removed by their
    /// threads, whole ones stay for the next attempt.
    ///
    /// # Errors
    /// [`PullError`], by what a caller does about it.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: Credentials,
    ) -> Result<Arc<Image>, PullError> {
        Box::pin(pull::pull(&self.inner, reference, credentials, None)).await
    }

    /// As [`Images::pull`], of another platform's image.
    ///
    /// # Errors
    /// As [`Images::pull`].
    pub async fn pull_for(
        &self,
        reference: &Reference,
        credentials: Credentials,
        platform: Platform,
    ) -> Result<Arc<Image>, PullError> {
        Box::pin(pull::pull(&self.inner, reference, credentials, Some(platform))).await
    }

    /// Follows the running pull of `reference`, or the next one if none runs. The sender goes
    /// away after a value with `finished` set.
    pub fn watch_pull(&self, reference: &Reference) -> watch::Receiver<PullProgress> {
        self.inner.board.watch(reference)
    }

    /// Those whose records could not be used at the start and have not been pulled since. Never
    /// waits.
    pub fn unusable(&self) -> Vec<crate::Unusable> {
        self.inner.directory.unusable()
    }

    /// All images, sorted by id. Never waits.
    pub fn list(&self) -> Arc<Vec<Arc<Image>>> {
        self.inner.catalog.load_full()
    }

    /// The image a name means: an id with or without `sha256:`, a reference, or the unique start
    /// of an id. 64 hexadecimal digits are always an id. Never waits.
    ///
    /// # Errors
    /// [`ResolveError`] for the start of several ids, and for what is no name at all.
    pub fn resolve(&self, name: &str) -> Result<Option<Arc<Image>>, ResolveError> {
        catalog::resolve(&self.inner.catalog.load(), name)
    }

    /// As [`Images::resolve`], keeping the image's layers.
    ///
    /// # Errors
    /// As [`Images::resolve`].
    pub fn lease(&self, name: &str) -> Result<Option<ImageLease>, ResolveError> {
        let Some(image) = self.resolve(name)? else { return Ok(None) };
        let hold = self.inner.slots.hold(&image.diff_ids);
        // Only an image that is still there after the hold is safe from a collection that came
        // between.
        let still = self.inner.catalog.load().iter().any(|known| known.id == image.id);
        Ok(still.then_some(ImageLease { image, _hold: hold }))
    }

    /// Removes the image that `name` means, with all its names; absent already is success. Its
    /// layers go with the next [`Images::collect`].
    ///
    /// # Errors
    /// [`RemoveError`]; the image then is still there.
    pub async fn remove(&self, name: &str) -> Result<(), RemoveError> {
        let Some(image) = self.resolve(name)? else { return Ok(()) };
        let id = image.id;
        blocking(&self.inner, move |inner| inner.unpublish(&id))
            .await
            .ok_or(RemoveError::ShuttingDown)?
            .map_err(|source| RemoveError::Record { id, source })?;
        failpoint::pass(failpoint::Point::ImageRemoveAnswer);
        Ok(())
    }

    /// Says how to find out which layers containers use. Until then nothing is collected.
    pub fn set_layer_users(&self, users: LayerUsers) {
        *self.inner.users.lock().unwrap_or_else(PoisonError::into_inner) = Some(users);
    }

    /// Exempts images from garbage collection by name: a reference, `start*` or `*middle*`.
    /// Blocks while another change is written.
    pub fn set_pinned(&self, patterns: Vec<String>) {
        self.inner.repin(patterns);
    }

    /// Frees layers used by no image, lease, container or running pull.
    ///
    /// # Errors
    /// [`CollectError`]; what could be freed is.
    pub async fn collect(&self) -> Result<Collected, CollectError> {
        blocking(&self.inner, Inner::collect).await.ok_or(CollectError::ShuttingDown)?
    }

    /// The image's account files, from all its layers.
    ///
    /// # Errors
    /// [`AccountsError`] if its file system cannot be read, or one of the files is too long.
    pub async fn accounts(&self, image: &Arc<Image>) -> Result<Arc<Accounts>, AccountsError> {
        if let Some(known) = self.inner.accounts.get(&image.id) {
            return Ok(known);
        }
        let image = Arc::clone(image);
        blocking(&self.inner, move |inner| inner.read_accounts(&image))
            .await
            .ok_or(AccountsError::ShuttingDown)?
    }

    /// What images use on disk.
    pub async fn fs_usage(&self) -> FsUsage {
        let empty =
            || FsUsage { mountpoint: self.inner.root.clone(), used_bytes: 0, inodes_used: 0 };
        blocking(&self.inner, Inner::fs_usage).await.unwrap_or_else(empty)
    }

    /// Where the image's configuration lies, byte for byte as pulled.
    pub fn config_path(&self, image: &Image) -> PathBuf {
        self.inner.directory.config(&image.id)
    }

    /// Where the image's manifest lies, byte for byte as first pulled.
    pub fn manifest_path(&self, image: &Image) -> PathBuf {
        self.inner.directory.manifest(&image.id)
    }
}

/// Makes anew what has to lie between the layers of images where that is found broken. An image for
/// which it cannot be made is not there, until it is pulled or the next start succeeds.
fn complete_again(layers: &Layers, directory: &Directory, images: Vec<Image>) -> Vec<Image> {
    if !layers.has_broken_fixups() {
        return images;
    }
    let all = images.len();
    let whole = images.into_iter().filter(|image| match layers.complete(&image.diff_ids) {
        Ok(()) => true,
        Err(error) => {
            let reason = chain(&error);
            tracing::error!(image = %image.id, error = reason, "it cannot be used");
            directory.tell_unusable(&image.id, reason);
            false
        }
    });
    let whole: Vec<Image> = whole.collect();
    if whole.len() == all {
        layers.discard_broken_fixups();
    }
    whole
}
