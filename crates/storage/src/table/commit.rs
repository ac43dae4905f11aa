//! Commits.
//!
//! One loop for all kinds: take the newest snapshot known, ask the commit whether it is done, in conflict or
//! still to do, and if it is to do, put it under the next number. Whatever comes back but success, read on and
//! ask again. A put that was thought lost can only land on the number it was meant for, and that number is
//! either still free, and then tried again, or taken, and then read.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use deltalake_core::kernel::Action;
use object_store::{ObjectStore, PutMode, PutOptions};
use skald_model::TenantId;
use tokio::time::Instant;

use super::catalog::Catalog;
use super::entry::NewBlock;
use super::error::{Error, Result};
use super::log::{self, Operation, commit_path};
use super::schema;
use super::snapshot::{Changes, NO_VERSION, Snapshot};
use super::tenant::TenantTable;
use crate::store::retry::{Backoff, RetryPolicy};

/// The application id that all rewrites carry.
const REWRITES: &str = "skald.rewrite";

/// The application id under which tables tell the generation of their tenant's delete requests.
pub(super) const DELETES: &str = "skald.deletes";

/// Adds what an ingester has flushed.
#[derive(Clone, Debug)]
pub struct FlushCommit {
    /// The blocks, one for each day that the flush touches. Their files lie in place.
    pub blocks: Vec<NewBlock>,
    /// Who flushes, for example the ingester's id. Its flushes are counted by `app_version`.
    pub app_id: String,
    /// Which flush this is. Grows from flush to flush, also over restarts.
    pub app_version: i64,
}

/// Adds blocks that one of several replicas has written. Which of them does may change, so there is no order of flushes
/// to recognise a commit by; its blocks' names do.
#[derive(Clone, Debug)]
pub struct CopiesCommit {
    /// The blocks. Their files lie in place.
    pub blocks: Vec<NewBlock>,
    /// Who flushes.
    pub app_id: String,
    /// How far everything that it was given is in the table, by whoever, if that is known: the version of its
    /// application from then on.
    pub covered: Option<i64>,
}

/// Replaces or removes blocks.
#[derive(Clone, Debug)]
pub struct RewriteCommit {
    /// The snapshot that the inputs were chosen from.
    pub base: Arc<Snapshot>,
    /// Paths of the blocks that go.
    pub removes: Vec<String>,
    /// The blocks that come in their place. Their files lie in place.
    pub adds: Vec<NewBlock>,
    /// Whether entries are gone afterwards (retention, deletion), or the same entries only lie otherwise
    /// (compaction).
    pub data_change: bool,
    /// The version of an application that the table has from then on, beside the rewrite's own.
    pub note: Option<(String, i64)>,
}

/// Says of blocks that more delete requests have been applied to them, where nothing had to go. Their files stay.
#[derive(Clone, Debug)]
pub struct AppliedCommit {
    /// The snapshot that the blocks are of.
    pub base: Arc<Snapshot>,
    /// The blocks, as the table should know them.
    pub blocks: Vec<NewBlock>,
}

/// Makes a generation of the tenant's delete requests the one that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeletesCommit {
    /// The generation. Its list lies in place.
    pub(super) generation: i64,
}

/// What became of a commit.
#[derive(Clone, Debug)]
pub struct Committed {
    /// A version of the table that has it, and that this process has published.
    pub snapshot: Arc<Snapshot>,
    /// It was there before this call: an earlier one had succeeded without knowing.
    pub already: bool,
}

/// How a commit stands towards a snapshot.
#[derive(Debug)]
pub(super) enum Standing {
    Done,
    ToDo,
    Conflict(String),
}

/// A kind of commit.
pub(super) trait Intent {
    /// The blocks that it adds.
    fn adds(&self) -> &[NewBlock];
    /// The oldest version that tells anything about it.
    fn base_version(&self) -> i64;
    /// Whether `snapshot` has it, can take it, or can't take it any more.
    fn standing(&self, snapshot: &Snapshot) -> Standing;
    /// What it writes on top of `snapshot`, and what that changes.
    fn write(&self, snapshot: &Snapshot, now_ms: i64) -> serde_json::Result<(Vec<Action>, Changes)>;
}

impl Intent for FlushCommit {
    fn adds(&self) -> &[NewBlock] {
        &self.blocks
    }

    fn base_version(&self) -> i64 {
        NO_VERSION
    }

    fn standing(&self, snapshot: &Snapshot) -> Standing {
        match snapshot.txn(&self.app_id) {
            Some(committed) if committed >= self.app_version => Standing::Done,
            _ => Standing::ToDo,
        }
    }

    fn write(&self, snapshot: &Snapshot, now_ms: i64) -> serde_json::Result<(Vec<Action>, Changes)> {
        let mut actions = vec![log::commit_info(Operation::Flush, now_ms)];
        for block in &self.blocks {
            actions.push(log::add(block, true, now_ms)?);
        }
        actions.push(log::txn(&self.app_id, self.app_version, now_ms));
        let changes = Changes {
            version: snapshot.version + 1,
            adds: self.blocks.iter().map(|b| Arc::new(log::entry_of(b))).collect(),
            removes: Vec::new(),
            txns: vec![(self.app_id.clone(), self.app_version)],
        };
        Ok((actions, changes))
    }
}

impl Intent for CopiesCommit {
    fn adds(&self) -> &[NewBlock] {
        &self.blocks
    }

    fn base_version(&self) -> i64 {
        NO_VERSION
    }

    fn standing(&self, snapshot: &Snapshot) -> Standing {
        match self.blocks.iter().all(|block| snapshot.block(&block.path).is_some()) {
            true => Standing::Done,
            false => Standing::ToDo,
        }
    }

    fn write(&self, snapshot: &Snapshot, now_ms: i64) -> serde_json::Result<(Vec<Action>, Changes)> {
        let blocks = || self.blocks.iter().filter(|block| snapshot.block(&block.path).is_none());
        let mut actions = vec![log::commit_info(Operation::Flush, now_ms)];
        for block in blocks() {
            actions.push(log::add(block, true, now_ms)?);
        }
        let covered = self.covered.filter(|c| snapshot.txn(&self.app_id).is_none_or(|known| known < *c));
        actions.extend(covered.map(|covered| log::txn(&self.app_id, covered, now_ms)));
        let changes = Changes {
            version: snapshot.version + 1,
            adds: blocks().map(|b| Arc::new(log::entry_of(b))).collect(),
            removes: Vec::new(),
            txns: covered.map(|covered| (self.app_id.clone(), covered)).into_iter().collect(),
        };
        Ok((actions, changes))
    }
}

/// Whether what a commit changes is a rewrite's doing.
pub(super) fn is_rewrite(changes: &Changes) -> bool {
    changes.txns.iter().any(|(id, _)| id == REWRITES)
}

/// The version of a rewrite's application after `base`.
fn next_rewrite(base: &Snapshot) -> i64 {
    base.txn(REWRITES).unwrap_or(0) + 1
}

/// How a rewrite that was begun on `base`, needs these blocks, and is not done stands towards `snapshot`.
fn open_rewrite<'a>(
    base: &Snapshot,
    snapshot: &Snapshot,
    mut needed: impl Iterator<Item = &'a String>,
) -> Standing {
    if snapshot.txn(REWRITES) != base.txn(REWRITES) {
        return Standing::Conflict(format!("version {} of the table is another's rewrite", snapshot.version));
    }
    match needed.find(|path| snapshot.block(path).is_none()) {
        Some(path) => Standing::Conflict(format!("block {path} is gone")),
        None => Standing::ToDo,
    }
}

impl Intent for RewriteCommit {
    fn adds(&self) -> &[NewBlock] {
        &self.adds
    }

    fn base_version(&self) -> i64 {
        self.base.version
    }

    fn standing(&self, snapshot: &Snapshot) -> Standing {
        let all_gone = self.removes.iter().all(|path| snapshot.block(path).is_none());
        let all_there = self.adds.iter().all(|block| snapshot.block(&block.path).is_some());
        if all_gone && all_there {
            return Standing::Done;
        }
        open_rewrite(&self.base, snapshot, self.removes.iter())
    }

    fn write(&self, snapshot: &Snapshot, now_ms: i64) -> serde_json::Result<(Vec<Action>, Changes)> {
        let operation = if self.data_change { Operation::Delete } else { Operation::Compact };
        let mut actions = vec![log::commit_info(operation, now_ms)];
        let removed = self.removes.iter().filter_map(|path| snapshot.block(path));
        actions.extend(removed.map(|block| log::remove(block, self.data_change, now_ms)));
        for block in &self.adds {
            actions.push(log::add(block, self.data_change, now_ms)?);
        }
        let rewrite = (REWRITES.to_owned(), next_rewrite(&self.base));
        let txns: Vec<_> = std::iter::once(rewrite).chain(self.note.clone()).collect();
        actions.extend(txns.iter().map(|(app, version)| log::txn(app, *version, now_ms)));
        let changes = Changes {
            version: snapshot.version + 1,
            adds: self.adds.iter().map(|b| Arc::new(log::entry_of(b))).collect(),
            removes: self.removes.clone(),
            txns,
        };
        Ok((actions, changes))
    }
}

impl Intent for AppliedCommit {
    fn adds(&self) -> &[NewBlock] {
        &self.blocks
    }

    fn base_version(&self) -> i64 {
        self.base.version
    }

    fn standing(&self, snapshot: &Snapshot) -> Standing {
        let is_known = |b: &NewBlock| snapshot.block(&b.path).is_some_and(|known| known.origin == b.origin);
        if self.blocks.iter().all(is_known) {
            return Standing::Done;
        }
        open_rewrite(&self.base, snapshot, self.blocks.iter().map(|b| &b.path))
    }

    fn write(&self, snapshot: &Snapshot, now_ms: i64) -> serde_json::Result<(Vec<Action>, Changes)> {
        let mut actions = vec![log::commit_info(Operation::Applied, now_ms)];
        // What is added under a path that is there already takes the place of what was told of it.
        for block in &self.blocks {
            actions.push(log::add(block, false, now_ms)?);
        }
        let version = next_rewrite(&self.base);
        actions.push(log::txn(REWRITES, version, now_ms));
        let changes = Changes {
            version: snapshot.version + 1,
            adds: self.blocks.iter().map(|b| Arc::new(log::entry_of(b))).collect(),
            removes: Vec::new(),
            txns: vec![(REWRITES.to_owned(), version)],
        };
        Ok((actions, changes))
    }
}

impl Intent for DeletesCommit {
    fn adds(&self) -> &[NewBlock] {
        &[]
    }

    fn base_version(&self) -> i64 {
        NO_VERSION
    }

    fn standing(&self, snapshot: &Snapshot) -> Standing {
        match snapshot.txn(DELETES) {
            Some(known) if known >= self.generation => Standing::Done,
            _ => Standing::ToDo,
        }
    }

    fn write(&self, snapshot: &Snapshot, now_ms: i64) -> serde_json::Result<(Vec<Action>, Changes)> {
        let txns = vec![(DELETES.to_owned(), self.generation)];
        let actions =
            vec![log::commit_info(Operation::Requests, now_ms), log::txn(DELETES, self.generation, now_ms)];
        Ok((actions, Changes { version: snapshot.version + 1, adds: Vec::new(), removes: Vec::new(), txns }))
    }
}

impl Catalog {
    /// Brings `intent` into the tenant's table, within the time that a commit is given.
    pub(super) async fn commit(&self, tenant: &TenantId, intent: &impl Intent) -> Result<Committed> {
        for block in intent.adds() {
            log::check_block(block)
                .map_err(|reason| Error::InvalidBlock { path: block.path.clone(), reason })?;
        }
        let table = self.table(tenant);
        let timer = self.metrics.commit_seconds.start_timer();
        let mut unconfirmed = Unconfirmed { reason: "other commits took all the time".to_owned() };
        let attempts = self.commit_in_turn(&table, intent, &mut unconfirmed);
        let result = match tokio::time::timeout(self.config.commit_timeout, attempts).await {
            Ok(result) => result,
            Err(_) => Err(unconfirmed.error(self, &table)),
        };
        match &result {
            Ok(_) => timer.observe_duration(),
            Err(_) => {
                timer.stop_and_discard();
            }
        }
        if matches!(result, Err(Error::Unconfirmed { .. })) {
            self.metrics.commits_unconfirmed.inc();
        }
        result
    }

    async fn commit_in_turn(
        &self,
        table: &Arc<TenantTable>,
        intent: &impl Intent,
        unconfirmed: &mut Unconfirmed,
    ) -> Result<Committed> {
        let _turn = table.committing.lock().await;
        unconfirmed.reason = "the store has not answered".to_owned();
        let policy = RetryPolicy { elapsed_max: self.config.commit_timeout, ..Default::default() };
        // Processes that race get different jitter.
        let mut backoff = Backoff::new(policy, skald_runtime::random());
        let (mut tried, mut raced) = (false, false);
        loop {
            let known = table.known().filter(|k| !tried && k.version >= intent.base_version());
            let snapshot = match known {
                Some(known) => Ok(known),
                None => table.refresh().await,
            };
            match snapshot {
                // Until the log can be read, it is not known where the commit stands.
                Err(e @ Error::Store { .. }) => unconfirmed.reason = e.to_string(),
                Err(e) => return Err(e),
                Ok(snapshot) => match intent.standing(&snapshot) {
                    Standing::Done => {
                        self.weigh_again(table, None, &snapshot);
                        return Ok(Committed { snapshot, already: !tried });
                    }
                    Standing::Conflict(reason) => {
                        return Err(Error::Conflict { tenant: table.tenant.clone(), reason });
                    }
                    Standing::ToDo => match self.attempt(table, intent, &snapshot).await? {
                        Ok(snapshot) => return Ok(Committed { snapshot, already: false }),
                        Err(e) => {
                            unconfirmed.reason = e.to_string();
                            raced = matches!(e, object_store::Error::AlreadyExists { .. });
                        }
                    },
                },
            }
            let first_race = raced && !tried;
            tried = true;
            self.metrics.commit_retries.inc();
            tracing::debug!(tenant = %table.tenant, reason = %unconfirmed.reason, "committing again");
            // Others may have committed since this process last looked; that is no reason to wait yet.
            if !first_race && !backoff.pause().await {
                return Err(unconfirmed.error(self, table));
            }
        }
    }

    /// Puts the commit under the number after `base`. The inner error says that it is not known to have
    /// happened.
    async fn attempt(
        &self,
        table: &Arc<TenantTable>,
        intent: &impl Intent,
        base: &Arc<Snapshot>,
    ) -> Result<std::result::Result<Arc<Snapshot>, object_store::Error>> {
        let unencodable = |reason: String| Error::Delta {
            what: "encode a commit to the table",
            tenant: table.tenant.clone(),
            reason,
        };
        let now = SystemTime::now();
        let now_ms = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        let (mut actions, changes) = intent.write(base, now_ms).map_err(|e| unencodable(e.to_string()))?;
        if base.version == NO_VERSION {
            let hours = self.config.log_retention.as_secs() / 3600;
            let metadata = schema::metadata(hours).map_err(unencodable)?;
            let protocol = schema::protocol().map_err(unencodable)?;
            actions.splice(1..1, [Action::Protocol(protocol), Action::Metadata(metadata)]);
        }
        let bytes = log::encode(&actions).map_err(|e| unencodable(e.to_string()))?;
        let path = commit_path(&table.path, changes.version);
        let begun = (Instant::now(), now);
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        if let Err(e) = self.store.put_opts(&path, bytes.into(), options).await {
            return Ok(Err(e));
        }
        let snapshot = Arc::new(base.after(&[changes]));
        // A reader may have been faster and have published a later version; that one has the commit too.
        let snapshot = table.publish(snapshot, begun, NO_VERSION);
        self.weigh_again(table, Some(base), &snapshot);
        Ok(Ok(snapshot))
    }
}

/// What is known of a commit that is not confirmed.
struct Unconfirmed {
    reason: String,
}

impl Unconfirmed {
    fn error(&self, catalog: &Catalog, table: &TenantTable) -> Error {
        Error::Unconfirmed {
            tenant: table.tenant.clone(),
            limit: catalog.config.commit_timeout,
            reason: self.reason.clone(),
        }
    }
}
