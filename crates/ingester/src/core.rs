//! What the parts of the ingester share: tenants, log, memory, the queue of flushes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use skald_model::{Batch, Error, Kind, PushStamp, Result, TenantId, TenantLimits, Timestamp};
use skald_runtime::Clock;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::Config;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::patterns::Patterns;
use crate::replicas::Writers;
use crate::segment::{HeldBatch, Segment, memory_cost};
use crate::table::{Standing, Table};
use crate::tail::Tails;
use crate::tenant::{Cut, Released, Rules, SealReason, State, Tenant};
use crate::wal::{Ack, EncodedRecord, Lsn, Room};
use skald_runtime::memory::{Memory, Reservation};

/// The shared state of one ingester.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Arc<dyn TenantLimits>,
    pub(crate) metrics: Metrics,
    pub(crate) memory: Memory,
    pub(crate) log: Log,
    pub(crate) table: Arc<dyn Table>,
    pub(crate) closing: AtomicBool,
    pub(crate) tails: Arc<Tails>,
    pub(crate) patterns: Option<Arc<Patterns>>,
    /// Who writes which stream, where others keep the same streams.
    pub(crate) writers: Option<Arc<dyn Writers>>,
    tenants: RwLock<FxHashMap<TenantId, Arc<Tenant>>>,
    /// Bytes of segments that are sealed and not released.
    sealed_bytes: AtomicUsize,
    /// One looks for the largest tenant at a time.
    relieving: Mutex<()>,
    flushes: mpsc::UnboundedSender<Arc<Tenant>>,
}

/// A push that has its memory and its place in the queue of the log.
pub(crate) struct Admitted {
    pub(crate) batch: Batch,
    pub(crate) stamp: PushStamp,
    pub(crate) reservation: Reservation,
    /// The encoded batch and its room; `None` when there is no log.
    pub(crate) record: Option<(EncodedRecord, Room)>,
}

/// What became of a push.
#[derive(Debug, Default)]
pub(crate) struct Appended {
    /// Tells when the log has it; `None` if nothing had to be logged.
    pub(crate) ack: Option<Ack>,
    /// Why some entries were refused.
    pub(crate) refusal: Option<Error>,
    /// What was stored, if anybody wants to know.
    pub(crate) held: Option<Arc<HeldBatch>>,
    /// Whether live tails do.
    pub(crate) followed: bool,
}

impl Core {
    #[expect(clippy::too_many_arguments, reason = "each is a part of it")]
    pub(crate) fn new(
        config: Config,
        clock: Arc<dyn Clock>,
        limits: Arc<dyn TenantLimits>,
        metrics: Metrics,
        log: Log,
        table: Arc<dyn Table>,
        patterns: Option<Arc<Patterns>>,
        writers: Option<Arc<dyn Writers>>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<Tenant>>) {
        // Each tenant is in the queue at most once, which is the bound.
        let (flushes, queue) = mpsc::unbounded_channel();
        let memory = Memory::new(config.entries_budget());
        let core = Self {
            config,
            clock,
            limits,
            metrics,
            memory,
            log,
            table,
            closing: AtomicBool::new(false),
            tails: Arc::default(),
            patterns,
            writers,
            tenants: RwLock::default(),
            sealed_bytes: AtomicUsize::new(0),
            relieving: Mutex::new(()),
            flushes,
        };
        (Arc::new(core), queue)
    }

    /// Reserves memory for a batch, waiting for flushes up to the configured time.
    pub(crate) async fn reserve(&self, batch: &Batch) -> Result<Reservation> {
        let bytes = memory_cost(batch);
        if let Some(reservation) = self.memory.try_reserve(bytes) {
            return Ok(reservation);
        }
        self.relieve(bytes);
        let patience = self.config.memory_wait;
        self.memory.reserve(bytes, patience).await.ok_or_else(|| {
            self.metrics.memory_refusals.inc();
            let budget = skald_runtime::units::format_bytes(self.memory.total() as u64);
            Error::limit(
                format!(
                    "ingester is out of memory for new entries: {} of {budget} bytes are in use and this push needs \
                     {bytes} more; nothing was stored, try again (settings ingester.memory_budget, ingester.memory_wait)",
                    self.memory.used()
                ),
                patience.max(Duration::from_secs(1)),
            )
        })
    }

    /// Gives the push its LSN and shows it to queries, under one lock.
    pub(crate) fn append(&self, id: &TenantId, push: Admitted) -> Result<Appended> {
        let now = self.clock.now();
        let limits = self.limits.of(id);
        let rules = Rules {
            tenant: id,
            limits: &limits,
            behind_max: (self.config.max_chunk_age.as_nanos() / 2) as i64,
            listed_max: self.config.max_returned_stream_errors,
            now,
        };
        let (tenant, appended) = self.with_tenant(id, |state| self.append_to(state, &rules, push));
        self.schedule(&tenant);
        if self.memory.used() > self.memory.total() / 4 * 3 {
            self.relieve(0);
        }
        appended
    }

    fn append_to(&self, state: &mut State, rules: &Rules<'_>, push: Admitted) -> Result<Appended> {
        let id = rules.tenant;
        let Admitted { mut batch, mut stamp, reservation, mut record } = push;
        let checked = state.check(&batch, rules);
        self.count_new_streams(id, state, checked.new_streams);
        let mut refusal = None;
        if let Some(refused) = checked.refused {
            for (reason, discarded) in [
                ("too_far_behind", refused.behind),
                ("stream_limit", refused.over_limit),
                ("per_stream_rate_limit", refused.too_fast),
            ] {
                if discarded.entries > 0 {
                    let labels = [reason, id.as_str()];
                    self.metrics.discarded_samples.with_label_values(&labels).inc_by(discarded.entries);
                    self.metrics.discarded_bytes.with_label_values(&labels).inc_by(discarded.bytes);
                }
            }
            let rest = refused.rest_of(&batch);
            refusal = refused.error;
            match rest {
                Some(rest) => batch = rest,
                None => return Ok(Appended { refusal, ..Appended::default() }),
            }
            stamp.partial = true;
            if let Some((record, _)) = &mut record {
                *record = EncodedRecord::new(id, &stamp, &batch)?;
            }
        }
        let (lsn, ack) = self.log.append(id, record)?;
        let held = Arc::new(HeldBatch::new(batch, lsn, stamp, reservation));
        let followed = self.tails.follow(id);
        let wanted = (followed || self.patterns.is_some()).then(|| held.clone());
        self.insert(id, state, held, rules.now);
        Ok(Appended { ack, refusal, held: wanted, followed })
    }

    fn insert(&self, id: &TenantId, state: &mut State, held: Arc<HeldBatch>, now: Timestamp) {
        if state.is_divided(held.stamp.second, |from, to| self.table.delete_between(id, from, to)) {
            self.seal(state, SealReason::Deletes);
        }
        let inserted = state.insert(held, now);
        self.metrics.bytes_received.inc_by(inserted.bytes);
        self.metrics.entries_received.inc_by(inserted.entries);
        self.metrics.duplicate_entries.inc_by(inserted.duplicates);
        self.metrics.memory_chunks.add(inserted.new_streams as i64);
        if state.active_bytes() >= self.config.seal_bytes(self.writers.is_some()) {
            self.seal(state, SealReason::Full);
        }
    }

    /// Puts a replayed batch where it was.
    pub(crate) fn replay(
        &self,
        id: &TenantId,
        batch: Batch,
        lsn: Lsn,
        stamp: PushStamp,
        reservation: Reservation,
    ) {
        let now = self.clock.now();
        let (tenant, ()) = self.with_tenant(id, |state| {
            let new_streams = state.learn(&batch, now);
            self.count_new_streams(id, state, new_streams);
            let held = Arc::new(HeldBatch::new(batch, lsn, stamp, reservation));
            if let Some(patterns) = &self.patterns {
                patterns.offer_replayed(id, &held);
            }
            self.insert(id, state, held, now);
        });
        self.schedule(&tenant);
    }

    /// What a query at table version `version` sees; none if nothing is or was in memory.
    pub(crate) async fn cut(&self, id: &TenantId, version: i64) -> Result<Vec<Arc<Segment>>> {
        // A settlement can be overtaken by the begin of the next commit, hardly twice.
        for _ in 0..4 {
            let known = self.known(id);
            if let Some(tenant) = &known {
                let mut state = tenant.lock();
                if state.is_retired() {
                    continue;
                }
                match state.cut(version, self.clock.now()) {
                    Ok(Cut::Ready(segments)) => return Ok(segments),
                    Ok(Cut::Unsettled) => {}
                    Err(e) => {
                        self.metrics.snapshots_too_old.inc();
                        return Err(e);
                    }
                }
            }
            let standing = self.table.standing(id).await?;
            if standing.version < version {
                return Err(Error::unavailable(format!(
                    "the table of tenant {id} is at version {}, but the query reads version {version}",
                    standing.version
                )));
            }
            if known.is_none() && standing.version < 0 {
                return Ok(Vec::new());
            }
            let tenant = known.unwrap_or_else(|| self.tenant(id));
            self.settle(&tenant, standing);
        }
        Err(Error::unavailable(format!(
            "commits to the table of tenant {id} come too fast to read beside them"
        )))
    }

    /// Takes over what the table says about a tenant, and gives memory and log back.
    pub(crate) fn settle(&self, tenant: &Arc<Tenant>, standing: Standing) {
        let released = tenant.lock().settle(standing);
        self.give_back(tenant, released);
    }

    /// Gives memory and log of what was released back.
    pub(crate) fn give_back(&self, tenant: &Arc<Tenant>, released: Released) {
        let Released { segments, covered } = released;
        for sealed in &segments {
            self.sealed_bytes.fetch_sub(sealed.bytes, Ordering::Relaxed);
            self.metrics.flush_queue_length.dec();
            self.metrics.memory_chunks.sub(sealed.chunks as i64);
            self.metrics
                .chunks_flushed
                .with_label_values(&[sealed.reason.as_str()])
                .inc_by(sealed.chunks as u64);
        }
        drop(segments);
        if let Some(covered) = covered {
            self.log.cover(&tenant.id, covered);
            tenant.report_covered(covered);
        }
    }

    /// Seals what the tenant has gathered and queues its flush.
    pub(crate) fn seal_and_schedule(&self, tenant: &Arc<Tenant>, reason: SealReason) {
        self.seal(&mut tenant.lock(), reason);
        self.schedule(tenant);
    }

    fn seal(&self, state: &mut State, reason: SealReason) {
        if let Some(bytes) = state.seal(reason, self.clock.now()) {
            self.sealed_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.metrics.flush_queue_length.inc();
        }
    }

    /// Queues a flush of the tenant, if it has something sealed and is not queued already.
    pub(crate) fn schedule(&self, tenant: &Arc<Tenant>) {
        if tenant.lock().schedule(Instant::now()) {
            // Without a receiver the ingester is shutting down, and the log has it all.
            let _ = self.flushes.send(tenant.clone());
        }
    }

    /// Seals the largest tenants until enough is on its way out: a quarter of the budget, or `bytes`. Where other ingesters
    /// write some of it, they may wait for what is not sealed here, so all that is worth it is sealed.
    pub(crate) fn relieve(&self, bytes: usize) {
        let Some(_one_at_a_time) = self.relieving.try_lock() else { return };
        let total = self.memory.total();
        let enough = (total / 4).max(bytes.min(total));
        loop {
            let least = match self.sealed_bytes.load(Ordering::Relaxed) {
                sealed if sealed < enough => 1,
                _ if self.writers.is_some() => total / 8,
                _ => return,
            };
            let bytes_of = |tenant: &Arc<Tenant>| tenant.lock().active_bytes();
            let all = self.all();
            let largest = all.iter().map(|t| (bytes_of(t), t)).max_by_key(|(bytes, _)| *bytes);
            match largest {
                Some((bytes, tenant)) if bytes >= least => self.seal_and_schedule(tenant, SealReason::Memory),
                _ => return,
            }
        }
    }

    /// All tenants that are known.
    pub(crate) fn all(&self) -> Vec<Arc<Tenant>> {
        self.tenants.read().values().cloned().collect()
    }

    /// The tenant, if it is known.
    pub(crate) fn known(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        self.tenants.read().get(id).cloned()
    }

    /// The tenant, made if it is not known.
    pub(crate) fn tenant(&self, id: &TenantId) -> Arc<Tenant> {
        if let Some(tenant) = self.known(id) {
            return tenant;
        }
        let mut tenants = self.tenants.write();
        let make = || Arc::new(Tenant::new(id.clone(), self.clock.now(), self.writers.is_some()));
        tenants.entry(id.clone()).or_insert_with(make).clone()
    }

    /// Takes tenants out that nobody used since `cut` and that nothing is known of.
    pub(crate) fn retire_idle(&self, cut: Timestamp) {
        let mut gone = Vec::new();
        self.tenants.write().retain(|id, tenant| {
            let retired = tenant.lock().retire(cut);
            if retired {
                gone.push(id.clone());
            }
            !retired
        });
        for id in gone {
            // Fails only if it was never counted.
            let _ = self.metrics.memory_streams.remove_label_values(&[id.as_str()]);
            let _ = self.metrics.streams_created.remove_label_values(&[id.as_str()]);
        }
    }

    /// Does something under the lock of the tenant, which is made if it is not known.
    fn with_tenant<R>(&self, id: &TenantId, act: impl FnOnce(&mut State) -> R) -> (Arc<Tenant>, R) {
        loop {
            let tenant = self.tenant(id);
            let mut state = tenant.lock();
            if state.is_retired() {
                // It was taken out of the map between the two lines above; the map has or gets a new one.
                continue;
            }
            let result = act(&mut state);
            drop(state);
            return (tenant, result);
        }
    }

    /// Whether the ingester shuts down.
    pub(crate) fn is_leaving(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Why no more pushes are taken, if that is so.
    pub(crate) fn refusal(&self) -> Option<Error> {
        if self.is_leaving() {
            return Some(Error::unavailable("ingester is shutting down"));
        }
        self.log.failure().map(|reason| {
            Error::new(Kind::Internal, format!("write-ahead log refuses writes after a failure: {reason}"))
        })
    }

    fn count_new_streams(&self, id: &TenantId, state: &State, new_streams: usize) {
        if new_streams > 0 {
            self.metrics.streams.add(new_streams as i64);
            self.metrics.streams_created.with_label_values(&[id.as_str()]).inc_by(new_streams as u64);
            self.metrics.memory_streams.with_label_values(&[id.as_str()]).set(state.streams_len() as i64);
        }
    }
}
