//! Measures every request that goes out to a store, under Loki's metric names.

use std::fmt;
use std::ops::Range;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

/// The operations that are told apart, by their label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A whole object.
    Get,
    /// A part of one.
    GetRange,
    /// Size and age of one.
    Attributes,
    /// A write, whole, or the beginning or the end of one in parts.
    Upload,
    /// A deletion.
    Delete,
    /// A listing.
    Iter,
    /// Never used by Skald; there because dashboards sum over it.
    Exists,
}

const OPERATIONS: [(Operation, &str); 7] = [
    (Operation::Get, "get"),
    (Operation::GetRange, "get_range"),
    (Operation::Attributes, "attributes"),
    (Operation::Upload, "upload"),
    (Operation::Delete, "delete"),
    (Operation::Iter, "iter"),
    (Operation::Exists, "exists"),
];

/// The instruments of the store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    instruments: std::sync::Arc<[(IntCounter, IntCounter, Histogram)]>,
}

impl StoreMetrics {
    /// Registers `loki_objstore_bucket_operations_total`, `…_operation_failures_total` and
    /// `…_operation_duration_seconds`. Fails if they are registered there already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let name = |suffix: &str| format!("loki_objstore_bucket_{suffix}");
        let label = &["operation"];
        let total = IntCounterVec::new(
            Opts::new(name("operations_total"), "Requests sent to the object store."),
            label,
        )?;
        let failures = IntCounterVec::new(
            Opts::new(
                name("operation_failures_total"),
                "Requests to the object store that failed; an object that is not there, or is there already, is no failure.",
            ),
            label,
        )?;
        let buckets =
            vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                name("operation_duration_seconds"),
                "Time to the answer of a request to the object store.",
            )
            .buckets(buckets),
            label,
        )?;
        register(registry, &total)?;
        register(registry, &failures)?;
        register(registry, &seconds)?;
        let instruments = OPERATIONS
            .iter()
            .map(|(_, label)| {
                (
                    total.with_label_values(&[label]),
                    failures.with_label_values(&[label]),
                    seconds.with_label_values(&[label]),
                )
            })
            .collect();
        Ok(Self { instruments })
    }

    /// Instruments that nobody scrapes.
    pub fn unregistered() -> Self {
        Self::new(&Registry::new()).expect("constant names in a fresh registry")
    }

    /// Requests of `operation` so far.
    pub fn requests(&self, operation: Operation) -> u64 {
        self.of(operation).0.get()
    }

    /// Requests of every kind so far.
    pub fn requests_total(&self) -> u64 {
        self.instruments.iter().map(|(total, _, _)| total.get()).sum()
    }

    fn of(&self, operation: Operation) -> &(IntCounter, IntCounter, Histogram) {
        let at = OPERATIONS.iter().position(|(o, _)| *o == operation).unwrap_or(0);
        &self.instruments[at]
    }

    fn record<T>(&self, operation: Operation, since: Instant, result: &Result<T>) {
        let (total, failures, seconds) = self.of(operation);
        total.inc();
        seconds.observe(since.elapsed().as_secs_f64());
        match result {
            Ok(_)
            | Err(Error::NotFound { .. } | Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Err(_) => failures.inc(),
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: &C) -> prometheus::Result<()> {
    registry.register(Box::new(collector.clone()))
}

/// See the module's page.
#[derive(Debug)]
pub struct InstrumentedStore<S> {
    inner: S,
    metrics: StoreMetrics,
}

impl<S: ObjectStore> InstrumentedStore<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, metrics: StoreMetrics) -> Self {
        Self { inner, metrics }
    }

    async fn measure<T>(&self, operation: Operation, work: impl Future<Output = Result<T>>) -> Result<T> {
        let since = Instant::now();
        let result = work.await;
        self.metrics.record(operation, since, &result);
        result
    }
}

impl<S: fmt::Display> fmt::Display for InstrumentedStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for InstrumentedStore<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.measure(Operation::Upload, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.measure(Operation::Upload, self.inner.put_multipart_opts(location, opts)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = match (options.head, &options.range) {
            (true, _) => Operation::Attributes,
            (_, Some(_)) => Operation::GetRange,
            (_, None) => Operation::Get,
        };
        self.measure(operation, self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.measure(Operation::GetRange, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.counted(Operation::Delete, self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.measured_to_the_first(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.measured_to_the_first(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.measure(Operation::Iter, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.measure(Operation::Upload, self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.measure(Operation::Upload, self.inner.rename_opts(from, to, options)).await
    }
}

impl<S> InstrumentedStore<S> {
    /// Counts every item of a stream as one request; how long one took can't be told.
    fn counted<T: 'static>(
        &self,
        operation: Operation,
        stream: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let metrics = self.metrics.clone();
        stream.inspect(move |item| metrics.record(operation, Instant::now(), item)).boxed()
    }

    /// Counts a listing as one request that ends with its first item.
    fn measured_to_the_first(
        &self,
        listing: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        // Fused, because an empty listing is asked once more below.
        let mut listing = listing.fuse();
        let metrics = self.metrics.clone();
        let begin = async move {
            let since = Instant::now();
            let first = listing.next().await;
            match &first {
                Some(item) => metrics.record(Operation::Iter, since, item),
                None => metrics.record(Operation::Iter, since, &Ok(())),
            }
            futures::stream::iter(first).chain(listing)
        };
        futures::stream::once(begin).flatten().boxed()
    }
}
