//! The ingester as a service: start, push, flush, shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use skald_model::time::SECOND;
use skald_model::{
    EntryHash, Error, GroupVolume, PushStamp, RemovalSpec, Result, StreamId, TenantId, TenantLimits,
};
use skald_rpc::ingester::{
    HeldStreams, Holding, IdentitiesRequest, IngesterPush, StreamsRequest, VolumesRequest,
};
use skald_rpc::memory::{QueryMemory, STEP_BYTES};
use skald_rpc::patterns::{PatternSeries, PatternsRequest};
use skald_rpc::querier::{LogResult, LogTask, MetricResult, MetricTask};
use skald_rpc::tail::{TailStream, TailTask, buffer};
use skald_runtime::{Clock, Tasks};

use crate::config::Config;
use crate::core::{Admitted, Core};
use crate::instance::Instance;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::patterns::Patterns;
use crate::replicas::Writers;
use crate::table::Table;
use crate::wal::{self, Wal};
use crate::{flush, housekeeping, query, replay, tail};

/// How long a flush or a query may take to notice that the ingester shuts down.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(30);

/// Takes entries in and answers for them until the table does.
pub struct Ingester {
    pub(crate) core: Arc<Core>,
    tasks: Tasks,
    instance: Instance,
    pool: query::Pool,
    query_memory: QueryMemory,
}

/// Why an ingester can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The write-ahead log can't be opened or read.
    #[error(transparent)]
    Wal(#[from] wal::Error),
    /// What the log holds can't be brought back into memory.
    #[error(transparent)]
    Replay(#[from] Error),
    /// Metrics are registered already.
    #[error("failed to register the metrics of the ingester: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// How the ingester is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Why pushes are refused, if they are. An ingester in this state is not ready.
    pub refusing: Option<String>,
    /// Tenants whose last flush failed, with the reason. Their entries are safe, but memory and log grow.
    pub failing_flushes: Vec<(TenantId, String)>,
}

impl Ingester {
    /// Opens the log, replays it, and starts to take pushes in. What queries hold is held against `query_memory`.
    /// `open_table` gets the identity under which flushes are committed, and `writers` tells it who writes which stream;
    /// `None` where each entry is kept once.
    pub async fn start(
        config: Config,
        query_memory: QueryMemory,
        clock: Arc<dyn Clock>,
        limits: Arc<dyn TenantLimits>,
        registry: &Registry,
        open_table: impl FnOnce(&Instance) -> Arc<dyn Table>,
        writers: impl FnOnce(&Instance) -> Option<Arc<dyn Writers>>,
    ) -> std::result::Result<Arc<Self>, StartError> {
        let metrics = Metrics::new(registry)?;
        let (instance, log, replay) = open_log(&config, &metrics)?;
        let table = open_table(&instance);
        let dir = config.wal.enabled.then_some(config.wal.dir.as_path());
        let (patterns, mining) =
            config.patterns.enabled.then(|| Patterns::open(&config.patterns, dir, &metrics.patterns)).unzip();
        let (core, flushes) =
            Core::new(config, clock, limits, metrics, log, table, patterns, writers(&instance));
        let tasks = Tasks::new();
        if let (Some(patterns), Some(queue)) = (core.patterns.clone(), mining) {
            let clock = core.clock.clone();
            tasks.spawn("ingester-patterns", move |token| patterns.run(queue, clock, token));
        }
        let queue = Arc::new(tokio::sync::Mutex::new(flushes));
        for n in 0..core.config.concurrent_flushes.max(1) {
            let (core, queue) = (core.clone(), queue.clone());
            tasks.spawn(format!("ingester-flush-{n}"), move |token| flush::work(core, queue, token));
        }
        let pool = query::Pool::new(core.config.concurrent_queries);
        let ingester = Arc::new(Self { core, tasks, instance, pool, query_memory });
        if let Some(replay) = replay
            && let Err(e) = replay::replay(&ingester.core, replay).await
        {
            ingester.stop().await;
            return Err(e.into());
        }
        let core = ingester.core.clone();
        ingester.tasks.spawn_every("ingester-housekeeping", housekeeping::period(&core.config), move || {
            housekeeping::tick(core.clone())
        });
        Ok(ingester)
    }

    /// Who this ingester is in commits and file names.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// How it is, for readiness and status pages.
    pub fn status(&self) -> Status {
        let refusing = self.core.refusal().map(|e| e.message);
        let failing = |t: &Arc<crate::tenant::Tenant>| {
            let error = t.progress().borrow().error.clone();
            error.map(|e| (t.id.clone(), e.message))
        };
        Status { refusing, failing_flushes: self.core.all().iter().filter_map(failing).collect() }
    }

    /// Ends all live tails. Readers in other processes would otherwise keep their connections open while this one waits
    /// for open requests.
    pub fn end_tails(&self) {
        self.core.tails.end();
    }

    /// Refuses pushes from now on, so that what is held can be brought to the table; questions are still answered.
    pub fn refuse_pushes(&self) {
        self.core.closing.store(true, Ordering::Release);
    }

    /// Stops: refuses pushes, flushes if the configuration says so (or there is no log), ends its tasks, closes the log.
    pub async fn shutdown(&self) {
        self.refuse_pushes();
        let flushes = self.core.config.wal.flush_on_shutdown || self.core.log.wal().is_none();
        if flushes && let Err(error) = flush::flush_now(&self.core, self.core.all()).await {
            tracing::error!(%error, "failed to flush at shutdown");
        }
        self.stop().await;
    }

    pub(crate) async fn stop(&self) {
        self.tasks.shutdown(SHUTDOWN_DEADLINE).await;
        let core = self.core.clone();
        let closed = skald_runtime::blocking(move || core.log.wal().map(Wal::close)).await;
        if let Err(error) = closed {
            tracing::error!(%error, "closing the log panicked");
        }
        self.instance.release();
    }

    /// Takes note of delete requests that a query brings, so that what comes after them is kept apart. Best done at once,
    /// but no query waits long or fails for it.
    async fn learn_deletes(&self, tenant: &TenantId, removals: Option<&Arc<RemovalSpec>>) {
        let Some(removals) = removals else { return };
        if let Err(error) = self.core.table.learn_deletes(tenant, removals.generation).await {
            tracing::debug!(%tenant, %error, "failed to learn of delete requests; the next flush does");
        }
    }

    /// Refuses stamps that no clock nearly right can have made: by them replicas decide when to write what they have.
    fn check_stamp(&self, stamp: &PushStamp) -> Result<()> {
        let own = self.core.clock.now().div_euclid(SECOND);
        let off = stamp.second.abs_diff(own);
        let max = self.core.config.flush_interval.as_secs().max(1);
        if off > max {
            return Err(Error::unavailable(format!(
                "push is stamped {off} s away from the clock of this ingester, which takes at most {max} s \
                 (ingester.flush_interval); check that the clocks of distributors and ingesters agree"
            )));
        }
        Ok(())
    }
}

fn open_log(
    config: &Config,
    metrics: &Metrics,
) -> std::result::Result<(Instance, Log, Option<wal::Replay>), wal::Error> {
    if !config.wal.enabled {
        tracing::warn!("the write-ahead log is off: a crash loses what was not flushed");
        return Ok((Instance::without_log(&config.instance_id), Log::Off(AtomicU64::new(1)), None));
    }
    let instance = Instance::open(&config.wal.dir, &config.instance_id)?;
    let (wal, replay) = Wal::open(&config.wal, &metrics.wal)?;
    Ok((instance, Log::On(wal), Some(replay)))
}

#[async_trait]
impl skald_rpc::Ingester for Ingester {
    async fn push(&self, push: IngesterPush) -> Result<()> {
        if let Some(refusal) = self.core.refusal() {
            return Err(refusal);
        }
        self.check_stamp(&push.stamp)?;
        let IngesterPush { tenant, stamp, batch } = push;
        if batch.entries.refs.is_empty() {
            return Ok(());
        }
        let reservation = self.core.reserve(&batch).await?;
        let record = self.core.log.admit(&tenant, &stamp, &batch).await?;
        let batch = Arc::try_unwrap(batch).unwrap_or_else(|shared| (*shared).clone());
        let appended = self.core.append(&tenant, Admitted { batch, stamp, reservation, record })?;
        if let Some(ack) = appended.ack {
            ack.wait().await?;
        }
        if let Some(held) = appended.held {
            if appended.followed {
                self.core.tails.publish(&tenant, &held);
            }
            if let Some(patterns) = &self.core.patterns {
                patterns.offer(&tenant, &held);
            }
        }
        appended.refusal.map_or(Ok(()), Err)
    }

    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        self.learn_deletes(&task.tenant, task.removals.as_ref()).await;
        let query = query::parse_log(&task.query)?;
        let segments = self.core.cut(&task.tenant, task.version).await?;
        if segments.is_empty() || task.range.is_empty() {
            return Ok(LogResult::default());
        }
        let mut share = self.query_memory.share();
        share.resize(STEP_BYTES).await?;
        let scan = move |cancelled: &query::Cancelled| {
            query::query_logs(&segments, &query, &task, &mut share, cancelled)
        };
        let (mut result, waited) = self.pool.run(scan).await?;
        result.stats.queue_seconds += waited;
        Ok(result)
    }

    async fn query_metric(&self, task: MetricTask) -> Result<MetricResult> {
        self.learn_deletes(&task.tenant, task.removals.as_ref()).await;
        let query = query::parse_metric(&task.query)?;
        let segments = self.core.cut(&task.tenant, task.version).await?;
        let mut share = self.query_memory.share();
        share.resize(STEP_BYTES).await?;
        let scan = move |cancelled: &query::Cancelled| {
            query::query_metric(&segments, &query, &task, &mut share, cancelled)
        };
        let (mut result, waited) = self.pool.run(scan).await?;
        result.stats.queue_seconds += waited;
        Ok(result)
    }

    async fn streams(&self, request: StreamsRequest) -> Result<HeldStreams> {
        let selectors = query::parse_selectors(&request.selectors)?;
        let segments = self.core.cut(&request.tenant, request.version).await?;
        if segments.is_empty() || request.range.is_empty() {
            return Ok(HeldStreams::default());
        }
        let removing = query::Removing::of(request.removals.as_ref())?;
        let find = move |cancelled: &query::Cancelled| {
            query::streams(&segments, &selectors, request.range, removing, cancelled)
        };
        Ok(self.pool.run(find).await?.0)
    }

    async fn identities(&self, request: IdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        let segments = self.core.cut(&request.tenant, request.version).await?;
        let find = move |cancelled: &query::Cancelled| query::identities(&segments, &request, cancelled);
        Ok(self.pool.run(find).await?.0)
    }

    async fn holding(&self) -> Result<Holding> {
        let oldest = |t: &Arc<crate::tenant::Tenant>| t.lock().oldest_second();
        let oldest_stamp = self.core.all().iter().filter_map(oldest).min();
        Ok(Holding { name: self.instance.id.clone(), oldest_stamp })
    }

    async fn pattern_streams(&self, request: PatternsRequest) -> Result<Vec<(StreamId, u64)>> {
        let Some(patterns) = self.core.patterns.clone() else { return Ok(Vec::new()) };
        let selector = query::parse_selector(&request.selector)?;
        let work =
            move |_: &query::Cancelled| Ok(patterns.streams(&request.tenant, &selector, request.range));
        Ok(self.pool.run(work).await?.0)
    }

    async fn patterns(&self, request: PatternsRequest) -> Result<Vec<PatternSeries>> {
        let Some(patterns) = self.core.patterns.clone() else { return Ok(Vec::new()) };
        let selector = query::parse_selector(&request.selector)?;
        let work = move |_: &query::Cancelled| {
            let PatternsRequest { tenant, range, step, exclude, .. } = &request;
            Ok(patterns.patterns(tenant, &selector, *range, *step, exclude))
        };
        Ok(self.pool.run(work).await?.0)
    }

    async fn tail(&self, task: TailTask) -> Result<TailStream> {
        if let Some(refusal) = self.core.refusal() {
            return Err(refusal);
        }
        let query = query::parse_log(&task.query)?;
        let (config, metrics) = (&self.core.config, &self.core.metrics);
        let tails_max = self.core.limits.of(&task.tenant).max_concurrent_tail_requests;
        let bytes_max = config.tail_buffer_bytes as usize;
        let (subscription, arrivals) =
            self.core.tails.subscribe(&task.tenant, tails_max, bytes_max, metrics)?;
        let (writer, reader) = buffer(bytes_max);
        let metrics = metrics.clone();
        self.tasks.spawn("ingester-tail", move |token| tail::run(arrivals, query, writer, metrics, token));
        Ok(Box::pin(tail::Followed::new(reader, subscription)))
    }

    async fn volumes(&self, request: VolumesRequest) -> Result<Vec<GroupVolume>> {
        let VolumesRequest { streams, spec, skip } = request;
        let StreamsRequest { tenant, version, range, selectors, removals } = streams;
        let removing = query::Removing::of(removals.as_ref())?;
        let selectors = query::parse_selectors(&selectors)?;
        let segments = self.core.cut(&tenant, version).await?;
        if segments.is_empty() || range.is_empty() {
            return Ok(Vec::new());
        }
        let count = move |cancelled: &query::Cancelled| {
            query::volumes(&segments, &selectors, range, spec, &skip, removing, cancelled)
        };
        Ok(self.pool.run(count).await?.0)
    }

    async fn flush(&self, tenant: Option<TenantId>) -> Result<()> {
        let tenants = match tenant {
            Some(id) => self.core.known(&id).into_iter().collect(),
            None => self.core.all(),
        };
        flush::flush_now(&self.core, tenants).await
    }
}
