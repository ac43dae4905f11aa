//! Repeats requests that may be repeated, for a bounded time.
//!
//! The clients of object_store repeat what fails inside one HTTP exchange. This layer repeats what they do not:
//! bodies that break off, local and injected errors. It never repeats a conditional put: after an error it is
//! not known whether the first try happened, and only the caller can tell its own object from another's. It
//! does not repeat deletions (their callers come round again) nor the parts of an upload (the caller begins the
//! upload anew).

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use tokio::time::Instant;

/// Bodies up to this size are read here, so that one that breaks off is asked for again; larger ones stream.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// How long and how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// No new try begins after this long. More rides out longer outages; less tells the caller sooner.
    pub elapsed_max: Duration,
    /// The first pause; each further one is twice as long, with jitter.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            elapsed_max: Duration::from_secs(15),
            pause_min: Duration::from_millis(20),
            pause_max: Duration::from_secs(1),
        }
    }
}

/// The pauses between the tries of one operation.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    started: Instant,
    tries: u32,
    seed: u64,
}

impl Backoff {
    /// Starts the clock. Operations with different seeds pause differently.
    pub(crate) fn new(policy: RetryPolicy, seed: u64) -> Self {
        Self { policy, started: Instant::now(), tries: 0, seed }
    }

    /// Pauses before the next try; `false` at once if the time is up.
    pub(crate) async fn pause(&mut self) -> bool {
        let pause = self.next_pause();
        if self.started.elapsed() + pause > self.policy.elapsed_max {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }

    /// Half fixed and half random, so that those who failed together do not come back together.
    fn next_pause(&mut self) -> Duration {
        let full = self.policy.pause_min.saturating_mul(1 << self.tries.min(16)).min(self.policy.pause_max);
        let random = (mix(self.seed, u64::from(self.tries)) >> 11) as f64 / (1u64 << 53) as f64;
        self.tries += 1;
        full.mul_f64(0.5 + 0.5 * random)
    }
}

/// The `n`th number of the sequence of `seed` (splitmix64).
pub(crate) fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// See the module's page.
#[derive(Debug)]
pub struct RetryStore<S> {
    inner: S,
    policy: RetryPolicy,
    operations: AtomicU64,
}

impl<S: ObjectStore> RetryStore<S> {
    /// Wraps `inner`. `seed` should differ between processes; it spreads their tries.
    pub fn new(inner: S, policy: RetryPolicy, seed: u64) -> Self {
        Self { inner, policy, operations: AtomicU64::new(seed) }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.policy, self.operations.fetch_add(1, Ordering::Relaxed))
    }

    async fn retry<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T> {
        let mut backoff = self.backoff();
        loop {
            match attempt().await {
                Err(e) if may_pass(&e) && backoff.pause().await => {
                    tracing::debug!(error = %e, "repeating request to object store");
                }
                result => return result,
            }
        }
    }
}

/// Whether trying again may help. Refusals and absences stay what they are.
fn may_pass(e: &Error) -> bool {
    matches!(e, Error::Generic { .. } | Error::JoinError { .. })
}

/// Reads a small body to its end, so that nothing is left to break off later. A file is opened already.
async fn complete(result: GetResult) -> Result<GetResult> {
    let length = result.range.end.saturating_sub(result.range.start);
    let GetResult { payload: GetResultPayload::Stream(_), .. } = &result else { return Ok(result) };
    if length > BODY_BYTES_MAX {
        return Ok(result);
    }
    let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
    let bytes = result.bytes().await?;
    let payload = GetResultPayload::Stream(futures::stream::iter([Ok(bytes)]).boxed());
    Ok(GetResult { payload, meta, range, attributes })
}

impl<S: fmt::Display> fmt::Display for RetryStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for RetryStore<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match opts.mode {
            PutMode::Overwrite => {
                self.retry(|| self.inner.put_opts(location, payload.clone(), opts.clone())).await
            }
            _ => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.retry(|| self.inner.put_multipart_opts(location, opts.clone())).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.retry(|| async { complete(self.inner.get_opts(location, options.clone()).await?).await }).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.retry(|| self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    /// Not repeated: a listing may have gone half way when it fails.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.retry(|| self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
