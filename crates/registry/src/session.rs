//! One pull's view of a registry: which hosts to ask, in which order, with which log-in.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use model::{Digest, Platform, Reference};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode};

use crate::auth::Login;
use crate::blob::BlobStream;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::digest_of;
use crate::docker_config;
use crate::endpoint::Endpoint;
use crate::error::{RegistryError, Subject};
use crate::hosts;
use crate::manifest::{self, ACCEPT_MANIFEST, Descriptor, Document, ImageManifest, MediaType};
use crate::tls::SystemRoots;
use crate::transport::{self, Answer, Request};

/// The distribution-spec asks registries to take no larger ones.
const MANIFEST_MAX: u64 = 4 << 20;
const CONFIG_MAX: u64 = 8 << 20;
const DIGEST_HEADER: &str = "docker-content-digest";

/// Opens sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<Config>,
}

impl Client {
    /// Nothing is read or connected yet.
    pub fn new(config: Config) -> Self {
        Self { config: Arc::new(config) }
    }

    /// A session for one pull. Reads the operator's host settings, and node-wide credentials where
    /// the caller has none, on a blocking thread.
    ///
    /// # Errors
    /// [`RegistryError::Hosts`] if those cannot be used.
    pub async fn session(
        &self,
        reference: &Reference,
        credentials: Credentials,
    ) -> Result<Session, RegistryError> {
        let config = Arc::clone(&self.config);
        let host = reference.host().to_owned();
        let load = move || {
            let credentials = match credentials {
                Credentials::Anonymous => docker_config::credentials(&config, &host),
                given => given,
            };
            let system = SystemRoots::default();
            hosts::load(&config.hosts_dirs, &host)
                .and_then(|entries| {
                    let endpoint = |entry| Endpoint::new(entry, &host, &config, &system);
                    entries.into_iter().map(endpoint).collect::<Result<Vec<_>, _>>()
                })
                .map(|endpoints| (endpoints, credentials))
                .map_err(|source| RegistryError::Hosts { host: host.clone(), source })
        };
        let (endpoints, credentials) =
            tokio::task::spawn_blocking(load).await.map_err(|_| RegistryError::ShuttingDown)??;
        Ok(Session {
            shared: Arc::new(Shared {
                config: Arc::clone(&self.config),
                reference: reference.clone(),
                credentials,
                endpoints,
            }),
        })
    }
}

/// Hosts, connections and log-ins of one pull. Cheap to clone; all methods may run in parallel,
/// and a dropped future only loses its own request.
#[derive(Debug, Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Arc<Config>,
    reference: Reference,
    credentials: Credentials,
    endpoints: Vec<Endpoint>,
}

/// Which kind of host a request needs.
#[derive(Debug, Clone, Copy)]
enum Need {
    Resolve,
    Pull,
}

impl Session {
    /// The reference this session was opened for.
    pub fn reference(&self) -> &Reference {
        &self.shared.reference
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shared.config
    }

    /// What the reference means now, and that these credentials may have it. For a digest that
    /// is the digest itself.
    ///
    /// # Errors
    /// Those of the host asked last; failures of mirrors before it are logged.
    pub async fn resolve(&self) -> Result<Descriptor, RegistryError> {
        let reference = &self.shared.reference;
        let need = if reference.digest().is_some() { Need::Pull } else { Need::Resolve };
        let mut candidates = self.candidates(need);
        loop {
            let endpoint = candidates.next()?;
            match self.resolve_at(endpoint).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => candidates.failed(endpoint, error)?,
            }
        }
    }

    /// The manifest that `root` names, or that of `platform` if it names an index. Bytes are
    /// exact and verified.
    ///
    /// # Errors
    /// Those of the host asked last; failures of mirrors before it are logged.
    pub async fn image(
        &self,
        root: &Descriptor,
        platform: &Platform,
    ) -> Result<ImageManifest, RegistryError> {
        let what = self.manifest_subject();
        let (bytes, document) = self.document(root).await?;
        let entries = match document {
            Document::Image(manifest) => {
                return Ok(ImageManifest { digest: root.digest, bytes, manifest, index: None });
            }
            Document::Index(entries) => entries,
        };
        let chosen = manifest::choose(entries, platform, &what)?;
        let index = Some(bytes);
        match self.document(&chosen).await? {
            (bytes, Document::Image(manifest)) => {
                Ok(ImageManifest { digest: chosen.digest, bytes, manifest, index })
            }
            // Nobody needs an index in an index, and a chain of them could be endless.
            (_, Document::Index(_)) => {
                Err(RegistryError::UnsupportedMediaType { what, media_type: chosen.media_type })
            }
        }
    }

    /// An image configuration: whole and verified, at most 8 MiB.
    ///
    /// # Errors
    /// Besides those of the request: [`RegistryError::TooLarge`] and
    /// [`RegistryError::DigestMismatch`].
    pub async fn config_blob(&self, descriptor: &Descriptor) -> Result<Bytes, RegistryError> {
        let what = Subject::Blob(descriptor.digest);
        if descriptor.size > CONFIG_MAX {
            let host = self.shared.reference.host().to_owned();
            return Err(RegistryError::TooLarge { what, host, limit: CONFIG_MAX });
        }
        let mut stream = self.blob(descriptor).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        verified(bytes.into(), descriptor.digest, what, stream.host())
    }

    /// Opens a blob. The stream has exactly `descriptor.size` bytes or ends in an error; whether
    /// they hash to the digest is for the reader to check.
    ///
    /// # Errors
    /// Those of the host asked last; failures of mirrors before it are logged.
    pub async fn blob(&self, descriptor: &Descriptor) -> Result<BlobStream, RegistryError> {
        self.blob_from(descriptor, 0).await
    }

    /// As [`Session::blob`], from the byte `offset` on: the bytes before are there already.
    ///
    /// # Errors
    /// As [`Session::blob`].
    pub async fn blob_from(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BlobStream, RegistryError> {
        let offset = offset.min(descriptor.size);
        let answer = self.open_blob(&descriptor.digest, offset, 0).await?;
        BlobStream::new(self.clone(), descriptor, offset, answer)
    }

    /// A blob from its byte `from` on, at the host `after` places behind the preferred one.
    pub(crate) async fn open_blob(
        &self,
        digest: &Digest,
        from: u64,
        after: usize,
    ) -> Result<Answer, RegistryError> {
        let mut candidates = self.candidates(Need::Pull);
        candidates.rotate(after);
        loop {
            let endpoint = candidates.next()?;
            let url = endpoint.url(&self.tail("blobs", &digest.to_string()));
            let mut request = Request::get(url, Subject::Blob(*digest));
            request.from = from;
            request.pinned = true;
            let mut asked = self.ask(endpoint, &request).await;
            if from > 0 && asked.as_ref().is_err_and(refuses_ranges) {
                request.from = 0;
                asked = self.ask(endpoint, &request).await;
            }
            match asked {
                Ok(answer) => return Ok(answer),
                Err(error) => candidates.failed(endpoint, error)?,
            }
        }
    }

    async fn resolve_at(&self, endpoint: &Endpoint) -> Result<Descriptor, RegistryError> {
        let reference = &self.shared.reference;
        let name = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let mut request =
            Request::get(endpoint.url(&self.tail("manifests", &name)), self.manifest_subject());
        request.accept = Some(ACCEPT_MANIFEST);
        request.method = Method::HEAD;
        match self.ask(endpoint, &request).await {
            Ok(answer) => {
                if let Some(descriptor) = described(&answer, reference.digest()) {
                    return Ok(descriptor);
                }
            }
            // Some registries know no HEAD.
            Err(RegistryError::Status { status: 400..=428 | 430..=499 | 501, .. }) => {}
            // Only GET says why. A refused log-in is not repeated: it may lock the account.
            Err(RegistryError::Unauthorized { what: Subject::Manifest(_), detail, .. })
                if detail.is_empty() => {}
            Err(other) => return Err(other),
        }
        request.method = Method::GET;
        let mut answer = self.ask(endpoint, &request).await?;
        let media_type = content_type(answer.response.headers());
        let bytes =
            transport::read_all(self.config(), &mut answer, &request.what, MANIFEST_MAX).await?;
        let digest = digest_of(&bytes);
        if let Some(wanted) = reference.digest().filter(|wanted| **wanted != digest) {
            tracing::debug!(%wanted, "the registry has other content under this digest");
            let (what, host) = (request.what, answer.host);
            return Err(RegistryError::DigestMismatch { what, host, found: digest });
        }
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Descriptor { media_type, digest, size })
    }

    async fn document(&self, named: &Descriptor) -> Result<(Bytes, Document), RegistryError> {
        let mut candidates = self.candidates(Need::Pull);
        loop {
            let endpoint = candidates.next()?;
            match self.document_at(endpoint, named).await {
                Ok(found) => return Ok(found),
                Err(error) => candidates.failed(endpoint, error)?,
            }
        }
    }

    async fn document_at(
        &self,
        endpoint: &Endpoint,
        named: &Descriptor,
    ) -> Result<(Bytes, Document), RegistryError> {
        let url = endpoint.url(&self.tail("manifests", &named.digest.to_string()));
        let mut request = Request::get(url, self.manifest_subject());
        request.accept = Some(ACCEPT_MANIFEST);
        request.pinned = true;
        let mut answer = self.ask(endpoint, &request).await?;
        let media_type = match MediaType::parse(&named.media_type) {
            Some(_) => named.media_type.clone(),
            None => content_type(answer.response.headers()),
        };
        let bytes =
            transport::read_all(self.config(), &mut answer, &request.what, MANIFEST_MAX).await?;
        let bytes = verified(bytes, named.digest, request.what.clone(), &answer.host)?;
        let document = manifest::read(&bytes, &media_type, &request.what, &answer.host)?;
        Ok((bytes, document))
    }

    /// One successful answer, logged in if need be.
    async fn ask(&self, endpoint: &Endpoint, request: &Request) -> Result<Answer, RegistryError> {
        let shared = &self.shared;
        let login = Login {
            config: &shared.config,
            endpoint,
            credentials: &shared.credentials,
            repository: shared.reference.repository(),
        };
        let mut authorization = login.header().await?;
        // A token may end between its check and its use: one more round is not a failed log-in.
        for _ in 0..2 {
            let answer =
                transport::send(&shared.config, endpoint, request, authorization.as_ref()).await?;
            if answer.response.status() != StatusCode::UNAUTHORIZED || !answer.direct {
                return self.accepted(answer, request).await;
            }
            if !login.challenged(answer.response.headers(), authorization.as_ref()).await? {
                return Err(transport::refusal(&shared.config, answer, &request.what).await);
            }
            authorization = login.header().await?;
        }
        let answer =
            transport::send(&shared.config, endpoint, request, authorization.as_ref()).await?;
        self.accepted(answer, request).await
    }

    async fn accepted(&self, answer: Answer, request: &Request) -> Result<Answer, RegistryError> {
        if answer.response.status().is_success() {
            Ok(answer)
        } else {
            Err(transport::refusal(&self.shared.config, answer, &request.what).await)
        }
    }

    fn tail(&self, kind: &str, name: &str) -> String {
        format!("{}/{kind}/{name}", self.shared.reference.repository())
    }

    fn manifest_subject(&self) -> Subject {
        Subject::Manifest(self.shared.reference.to_string())
    }

    fn candidates(&self, need: Need) -> Candidates<'_> {
        let able = |endpoint: &&Endpoint| match need {
            Need::Resolve => endpoint.capabilities.resolve,
            Need::Pull => endpoint.capabilities.pull,
        };
        let mut left: VecDeque<_> = self.shared.endpoints.iter().filter(able).collect();
        if left.iter().any(|endpoint| !endpoint.is_unreachable()) {
            left.retain(|endpoint| !endpoint.is_unreachable());
        }
        Candidates { session: self, left, last: None }
    }
}

/// The hosts left to ask for one thing.
struct Candidates<'a> {
    session: &'a Session,
    left: VecDeque<&'a Endpoint>,
    last: Option<RegistryError>,
}

impl<'a> Candidates<'a> {
    /// Puts the first `by` hosts behind the others.
    fn rotate(&mut self, by: usize) {
        if !self.left.is_empty() {
            self.left.rotate_left(by % self.left.len());
        }
    }

    /// The next host; the last failure once none is left.
    fn next(&mut self) -> Result<&'a Endpoint, RegistryError> {
        match (self.left.pop_front(), self.last.take()) {
            (Some(endpoint), _) => Ok(endpoint),
            (None, Some(error)) => Err(error),
            // Every host was configured without the capability.
            (None, None) => Err(RegistryError::NotFound {
                what: self.session.manifest_subject(),
                host: self.session.shared.reference.host().to_owned(),
            }),
        }
    }

    /// Takes note of a failure. What one mirror cannot do the next may; but a host that was reached after a guess has
    /// really answered, and is not asked without TLS.
    fn failed(&mut self, endpoint: &Endpoint, error: RegistryError) -> Result<(), RegistryError> {
        let unreachable = matches!(error, RegistryError::Unavailable { .. });
        if unreachable {
            endpoint.mark_unreachable();
        } else if endpoint.guess {
            self.left.retain(|other| !endpoint.is_twin_of(other));
        }
        if !endpoint.guess && !self.left.is_empty() {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(host = endpoint.host, error, "a mirror failed, trying the next host");
        }
        self.last = Some(error);
        Ok(())
    }
}

/// There are hosts that refuse what they could pass over: a range without an end. One that has less says the same.
fn refuses_ranges(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Status { status: 400 | 416 | 501, .. })
}

fn verified(
    bytes: Bytes,
    digest: Digest,
    what: Subject,
    host: &str,
) -> Result<Bytes, RegistryError> {
    let found = digest_of(&bytes);
    if found == digest {
        Ok(bytes)
    } else {
        Err(RegistryError::DigestMismatch { what, host: host.to_owned(), found })
    }
}

/// The descriptor in the headers of a `HEAD` answer, if they hold a believable one.
fn described(answer: &Answer, wanted: Option<&Digest>) -> Option<Descriptor> {
    let headers = answer.response.headers();
    let named = headers.get(DIGEST_HEADER).and_then(|value| value.to_str().ok());
    let digest = match (wanted, named) {
        // Named by digest, found: the content is verified when it is fetched.
        (Some(wanted), _) => *wanted,
        (None, Some(named)) => Digest::parse(named).ok()?,
        (None, None) => return None,
    };
    let size = headers.get("content-length")?.to_str().ok()?.parse().ok()?;
    Some(Descriptor { media_type: content_type(headers), digest, size })
}

fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_owned()
}
