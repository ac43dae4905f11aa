//! A store that misbehaves on purpose, for tests and for crash tests of the real process.
//!
//! The fault model, per request and drawn from a seed:
//! * **error**: the request never reaches the store; the caller sees an error.
//! * **lost**: the request is carried out; the caller sees an error all the same. The hard one: a commit that
//!   "failed" has happened.
//! * **torn**: an upload stops half way and the caller sees an error. Data files are left cut short under their
//!   name, as a careless store might; objects of a table's log never are, because every store that can do
//!   conditional put shows an object whole or not at all.
//! * **slow**: the request takes up to `slow_max` longer.
//!
//! Answers are never wrong, only missing or late. [`FaultHandle`] switches the faults on and off, counts them,
//! and can arm single faults at chosen places.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The environment variable that [`FaultConfig::from_env`] reads.
pub const FAULTS_VARIABLE: &str = "SKALD_FAULTS";

/// How often what goes wrong; each a probability from 0 to 1. As text:
/// `seed:42,error:0.05,lost:0.05,slow:0.05,torn:0.02`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FaultConfig {
    /// Where the sequence of draws begins. One sequence of requests with one seed gives one sequence of faults.
    pub seed: u64,
    /// Requests that fail before they happen.
    pub error: f64,
    /// Requests that happen and report an error.
    pub lost: f64,
    /// Requests that take up to `slow_max` longer.
    pub slow: f64,
    /// Uploads that stop half way.
    pub torn: f64,
    /// The longest delay of a slow request.
    pub slow_max: Duration,
}

impl Default for FaultConfig {
    fn default() -> Self {
        Self { seed: 0, error: 0.0, lost: 0.0, slow: 0.0, torn: 0.0, slow_max: Duration::from_millis(200) }
    }
}

impl FaultConfig {
    /// Reads [`FAULTS_VARIABLE`]; `None` if it is not set, an error if it is not understood.
    pub fn from_env() -> std::result::Result<Option<Self>, String> {
        match std::env::var(FAULTS_VARIABLE) {
            Ok(text) if !text.is_empty() => {
                text.parse().map(Some).map_err(|e| format!("{FAULTS_VARIABLE}: {e}"))
            }
            _ => Ok(None),
        }
    }
}

impl FromStr for FaultConfig {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut config = Self::default();
        for part in text.split(',').filter(|p| !p.trim().is_empty()) {
            let (key, value) =
                part.split_once(':').ok_or_else(|| format!("expected name:value, got {part:?}"))?;
            let (key, value) = (key.trim(), value.trim());
            let bad = || format!("bad value {value:?} for {key}");
            let probability =
                || value.parse::<f64>().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or_else(bad);
            match key {
                "seed" => config.seed = value.parse().map_err(|_| bad())?,
                "error" => config.error = probability()?,
                "lost" => config.lost = probability()?,
                "slow" => config.slow = probability()?,
                "torn" => config.torn = probability()?,
                "slow_ms_max" => config.slow_max = Duration::from_millis(value.parse().map_err(|_| bad())?),
                _ => return Err(format!("unknown fault {key:?}")),
            }
        }
        Ok(config)
    }
}

impl TryFrom<String> for FaultConfig {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<FaultConfig> for String {
    fn from(c: FaultConfig) -> String {
        format!(
            "seed:{},error:{},lost:{},slow:{},torn:{},slow_ms_max:{}",
            c.seed,
            c.error,
            c.lost,
            c.slow,
            c.torn,
            c.slow_max.as_millis()
        )
    }
}

/// What can go wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not happen and reports an error.
    Error,
    /// It happens and reports an error.
    Lost,
    /// It happens half and reports an error; for anything but an upload the same as `Error`.
    Torn,
}

/// The requests a single armed fault can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reading an object, a range of it or its attributes.
    Get,
    /// Writing an object, whole or in parts.
    Put,
    /// Listing.
    List,
    /// Deleting.
    Delete,
}

/// How many faults of each kind there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Requests that did not happen.
    pub error: u64,
    /// Requests that happened and reported an error.
    pub lost: u64,
    /// Uploads cut short.
    pub torn: u64,
    /// Requests delayed.
    pub slow: u64,
}

/// Steers and counts the faults of a [`FaultStore`]. Clones steer the same store.
#[derive(Clone, Debug)]
pub struct FaultHandle(Arc<State>);

#[derive(Debug)]
struct State {
    config: FaultConfig,
    enabled: AtomicBool,
    draws: AtomicU64,
    counts: [AtomicU64; 4],
    armed: Mutex<Vec<(Request, String, Fault)>>,
}

impl FaultHandle {
    /// Switches the drawn faults on or off. Armed ones stay.
    pub fn set_enabled(&self, enabled: bool) {
        self.0.enabled.store(enabled, Ordering::SeqCst);
    }

    /// Lets the next `request` whose path contains `path` fail with `fault`, once.
    pub fn arm(&self, request: Request, path: &str, fault: Fault) {
        self.0.armed.lock().push((request, path.to_owned(), fault));
    }

    /// The faults so far.
    pub fn counts(&self) -> FaultCounts {
        let [error, lost, torn, slow] = self.0.counts.each_ref().map(|c| c.load(Ordering::Relaxed));
        FaultCounts { error, lost, torn, slow }
    }
}

impl State {
    /// Uniform in `0..1`: the next number of the seed's sequence.
    fn draw(&self) -> f64 {
        let n = self.draws.fetch_add(1, Ordering::Relaxed);
        (super::retry::mix(self.config.seed, n) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn count(&self, fault: Fault) {
        let slot = match fault {
            Fault::Error => 0,
            Fault::Lost => 1,
            Fault::Torn => 2,
        };
        self.counts[slot].fetch_add(1, Ordering::Relaxed);
    }

    fn armed(&self, request: Request, path: &str) -> Option<Fault> {
        let mut armed = self.armed.lock();
        let at = armed.iter().position(|(r, p, _)| *r == request && path.contains(p.as_str()))?;
        Some(armed.remove(at).2)
    }

    /// Decides about one request: waits if it is to be slow, and returns what is to go wrong.
    async fn meet(&self, request: Request, path: &str) -> Option<Fault> {
        let config = &self.config;
        let mut fault = self.armed(request, path);
        if fault.is_none() && self.enabled.load(Ordering::SeqCst) {
            if self.draw() < config.slow {
                self.counts[3].fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(config.slow_max.mul_f64(self.draw())).await;
            }
            let p = self.draw();
            fault = [(config.error, Fault::Error), (config.lost, Fault::Lost), (config.torn, Fault::Torn)]
                .into_iter()
                .scan(0.0, |sum, (share, fault)| {
                    *sum += share;
                    Some((*sum, fault))
                })
                .find(|(sum, _)| p < *sum)
                .map(|(_, fault)| fault);
        }
        if let Some(fault) = fault {
            self.count(fault);
        }
        fault
    }
}

fn injected(fault: Fault, path: &str) -> Error {
    Error::Generic { store: "FaultStore", source: format!("injected fault ({fault:?}) at {path}").into() }
}

/// See the module's page.
#[derive(Debug)]
pub struct FaultStore<S> {
    inner: S,
    handle: FaultHandle,
}

impl<S: ObjectStore> FaultStore<S> {
    /// Wraps `inner`; faults are on from the start.
    pub fn new(inner: S, config: FaultConfig) -> Self {
        let state = State {
            config,
            enabled: AtomicBool::new(true),
            draws: AtomicU64::new(0),
            counts: Default::default(),
            armed: Mutex::default(),
        };
        Self { inner, handle: FaultHandle(Arc::new(state)) }
    }

    /// The handle that steers it.
    pub fn handle(&self) -> FaultHandle {
        self.handle.clone()
    }

    /// Runs one request under the faults. `torn` is what a torn one leaves behind.
    async fn run<T>(
        &self,
        request: Request,
        path: &str,
        work: impl Future<Output = Result<T>>,
        torn: impl Future<Output = ()>,
    ) -> Result<T> {
        match self.handle.0.meet(request, path).await {
            None => work.await,
            Some(fault @ Fault::Error) => Err(injected(fault, path)),
            Some(fault @ Fault::Lost) => {
                work.await?;
                Err(injected(fault, path))
            }
            Some(fault @ Fault::Torn) => {
                torn.await;
                Err(injected(fault, path))
            }
        }
    }
}

impl<S: fmt::Display> fmt::Display for FaultStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

/// Whether a torn upload to `location` leaves something behind.
fn leaves_torn(location: &Path, mode: &PutMode) -> bool {
    matches!(mode, PutMode::Overwrite) && !location.as_ref().contains("_delta_log/")
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for FaultStore<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let half = leaves_torn(location, &opts.mode).then(|| {
            let bytes = Bytes::from(payload.clone());
            bytes.slice(..bytes.len() / 2)
        });
        let torn = async {
            if let Some(half) = half {
                // Whether the rest of the fault works out is of no interest to the one who sees an error anyway.
                let _ = self.inner.put_opts(location, half.into(), PutOptions::default()).await;
            }
        };
        let work = self.inner.put_opts(location, payload, opts);
        self.run(Request::Put, location.as_ref(), work, torn).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let work = self.inner.put_multipart_opts(location, opts);
        let inner = self.run(Request::Put, location.as_ref(), work, async {}).await?;
        Ok(Box::new(FaultUpload { inner, handle: self.handle(), path: location.to_string() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let work = self.inner.get_opts(location, options);
        self.run(Request::Get, location.as_ref(), work, async {}).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let work = self.inner.get_ranges(location, ranges);
        self.run(Request::Get, location.as_ref(), work, async {}).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let handle = self.handle();
        self.inner
            .delete_stream(locations)
            .then(move |deleted| {
                let handle = handle.clone();
                async move {
                    let path = deleted?;
                    // Deleted already, so every fault is a lost answer here.
                    match handle.0.meet(Request::Delete, path.as_ref()).await {
                        None => Ok(path),
                        Some(fault) => Err(injected(fault, path.as_ref())),
                    }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        guarded(self.handle(), prefix, self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        guarded(self.handle(), prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.map_or("", |p| p.as_ref());
        self.run(Request::List, path, self.inner.list_with_delimiter(prefix), async {}).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.run(Request::Put, to.as_ref(), self.inner.copy_opts(from, to, options), async {}).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.run(Request::Put, to.as_ref(), self.inner.rename_opts(from, to, options), async {}).await
    }
}

/// A listing that may fail before its first item.
fn guarded(
    handle: FaultHandle,
    prefix: Option<&Path>,
    listing: BoxStream<'static, Result<ObjectMeta>>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let path = prefix.map_or(String::new(), ToString::to_string);
    let decision = async move {
        match handle.0.meet(Request::List, &path).await {
            Some(fault) => futures::stream::iter([Err(injected(fault, &path))]).boxed(),
            None => listing,
        }
    };
    decision.flatten_stream().boxed()
}

/// An upload in parts whose parts and whose end may fail.
#[derive(Debug)]
struct FaultUpload {
    inner: Box<dyn MultipartUpload>,
    handle: FaultHandle,
    path: String,
}

#[async_trait]
impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, handle, path) = (self.inner.put_part(data), self.handle.clone(), self.path.clone());
        async move {
            match handle.0.meet(Request::Put, &path).await {
                None => part.await,
                Some(Fault::Lost) => {
                    part.await?;
                    Err(injected(Fault::Lost, &path))
                }
                Some(fault) => Err(injected(fault, &path)),
            }
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        match self.handle.0.meet(Request::Put, &self.path).await {
            None => self.inner.complete().await,
            Some(Fault::Lost) => {
                self.inner.complete().await?;
                Err(injected(Fault::Lost, &self.path))
            }
            Some(fault) => Err(injected(fault, &self.path)),
        }
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
