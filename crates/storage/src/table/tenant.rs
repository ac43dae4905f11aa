//! One tenant's table as this process knows it: the newest snapshot it has seen, and how it gets newer ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use skald_model::TenantId;
use tokio::time::Instant;

use super::checkpoint::{self, LastCheckpoint};
use super::error::{Error, Result};
use super::log::{self, LOG_FOLDER, LogFile, Replayed, Unacceptable, commit_path};
use super::snapshot::{NO_VERSION, Snapshot};
use crate::store::read_if_there;

/// Commits read at the same time when there are many to catch up with.
const FETCHES_MAX: usize = 16;
/// How often a load begins anew when the log is cleaned under its hands.
const LOADS_MAX: usize = 4;

/// See the module's page.
#[derive(Debug)]
pub(super) struct TenantTable {
    pub(super) tenant: TenantId,
    pub(super) path: Path,
    pub(super) store: Arc<dyn ObjectStore>,
    /// A snapshot last confirmed longer ago than this is not followed but loaded anew: the commits that follow
    /// on it may have been cleaned away, and their numbers look free.
    stale_after: Duration,
    known: Mutex<Option<Known>>,
    refreshing: tokio::sync::Mutex<()>,
    /// Number of the newest refresh that began, and of the newest that succeeded.
    begun: AtomicU64,
    succeeded: AtomicU64,
    /// Held by whoever commits: writers of one process queue here instead of racing each other in the store.
    pub(super) committing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Known {
    snapshot: Arc<Snapshot>,
    confirmed: (Instant, SystemTime),
    checkpoint: i64,
}

impl TenantTable {
    pub(super) fn new(
        tenant: TenantId,
        path: Path,
        store: Arc<dyn ObjectStore>,
        stale_after: Duration,
    ) -> Self {
        Self {
            tenant,
            path,
            store,
            stale_after,
            known: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
            begun: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            committing: tokio::sync::Mutex::default(),
        }
    }

    /// The newest snapshot that this process has seen, if it is not too old to build on.
    pub(super) fn known(&self) -> Option<Arc<Snapshot>> {
        self.known.lock().as_ref().filter(|k| !self.is_stale(k)).map(|k| Arc::clone(&k.snapshot))
    }

    /// The version of the newest checkpoint known; [`NO_VERSION`] if none is.
    pub(super) fn checkpoint(&self) -> i64 {
        self.known.lock().as_ref().map_or(NO_VERSION, |k| k.checkpoint)
    }

    pub(super) fn set_checkpoint(&self, version: i64) {
        if let Some(known) = self.known.lock().as_mut() {
            known.checkpoint = known.checkpoint.max(version);
        }
    }

    /// The known snapshot, or one from the store if none is known.
    pub(super) async fn known_or_load(&self) -> Result<Arc<Snapshot>> {
        match self.known() {
            Some(snapshot) => Ok(snapshot),
            None => self.refresh().await,
        }
    }

    /// A snapshot that is at least as new as the table was when this was called. Callers that come together
    /// share one look at the store.
    pub(super) async fn refresh(&self) -> Result<Arc<Snapshot>> {
        let arrived = self.begun.load(Ordering::SeqCst);
        let _turn = self.refreshing.lock().await;
        if self.succeeded.load(Ordering::SeqCst) > arrived
            && let Some(snapshot) = self.known()
        {
            return Ok(snapshot);
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let looked = (Instant::now(), SystemTime::now());
        let (snapshot, checkpoint) = match self.known() {
            Some(known) => (self.follow(&known).await?, NO_VERSION),
            None => self.load().await?,
        };
        let snapshot = self.publish(snapshot, looked, checkpoint);
        self.succeeded.store(number, Ordering::SeqCst);
        Ok(snapshot)
    }

    /// Makes `snapshot` the known one unless a newer one is. Returns the newer of both.
    pub(super) fn publish(
        &self,
        snapshot: Arc<Snapshot>,
        confirmed: (Instant, SystemTime),
        checkpoint: i64,
    ) -> Arc<Snapshot> {
        let mut known = self.known.lock();
        match known.as_mut() {
            Some(k) if !self.is_stale(k) && k.snapshot.version >= snapshot.version => {
                k.confirmed = (k.confirmed.0.max(confirmed.0), k.confirmed.1.max(confirmed.1));
                Arc::clone(&k.snapshot)
            }
            _ => {
                let checkpoint = checkpoint.max(known.as_ref().map_or(NO_VERSION, |k| k.checkpoint));
                *known = Some(Known { snapshot: Arc::clone(&snapshot), confirmed, checkpoint });
                snapshot
            }
        }
    }

    /// By either clock: one may stand still while the machine sleeps, the other may be set back.
    fn is_stale(&self, known: &Known) -> bool {
        let by_wall = known.confirmed.1.elapsed().unwrap_or_default();
        known.confirmed.0.elapsed().max(by_wall) > self.stale_after
    }

    /// Reads on from `known`: the next commit, and if there is one, more and more at a time.
    async fn follow(&self, known: &Arc<Snapshot>) -> Result<Arc<Snapshot>> {
        let mut log = Vec::new();
        let mut next = known.version + 1;
        let mut window = 1;
        'news: loop {
            let mut fetched = futures::stream::iter(next..next + window as i64)
                .map(|version| async move { Ok::<_, Error>((version, self.fetch(version).await?)) })
                .buffered(window);
            while let Some((version, bytes)) = fetched.try_next().await? {
                let Some(bytes) = bytes else { break 'news };
                log.push(self.decode(version, &bytes)?.changes);
            }
            next += window as i64;
            window = (window * 2).min(FETCHES_MAX);
        }
        Ok(if log.is_empty() { Arc::clone(known) } else { Arc::new(known.after(&log)) })
    }

    /// The table as it was at `version`, and then with every later commit that is no rewrite: as if what rewrites have
    /// done since had not been done, and nothing that was flushed since were lost. None if the log does not reach back.
    pub(super) async fn without_rewrites_since(&self, version: i64) -> Result<Option<Snapshot>> {
        let files = self.list(None).await?;
        let older: Vec<LogFile> = files.iter().filter(|f| f.version() <= version).copied().collect();
        let base = match newest_checkpoint(&older) {
            Some(Checkpoint { version, parts }) => match self.read_checkpoint(version, parts).await? {
                Some(snapshot) => snapshot,
                None => return Ok(None),
            },
            None => Snapshot::empty(),
        };
        let commits = |f: &LogFile| matches!(f, LogFile::Commit { version } if *version > base.version);
        let mut versions: Vec<i64> = files.iter().filter(|f| commits(f)).map(LogFile::version).collect();
        versions.sort_unstable();
        let reaches = versions.contains(&version) || version == base.version;
        let is_gapless = versions.iter().zip(base.version + 1..).all(|(found, expected)| *found == expected);
        if !reaches || !is_gapless {
            return Ok(None);
        }
        let mut log = Vec::new();
        for number in versions {
            let Some(bytes) = self.fetch(number).await? else { return Ok(None) };
            let changes = self.decode(number, &bytes)?.changes;
            if number <= version || !super::commit::is_rewrite(&changes) {
                log.push(changes);
            }
        }
        Ok(Some(base.after(&log)))
    }

    /// Reads the table from its newest checkpoint, or its begin. Returns it with the checkpoint's version.
    async fn load(&self) -> Result<(Arc<Snapshot>, i64)> {
        for _ in 0..LOADS_MAX {
            if let Some((snapshot, checkpoint)) = self.try_load().await? {
                return Ok((Arc::new(snapshot), checkpoint));
            }
        }
        Err(self.damaged("commits vanish while it is read".into()))
    }

    /// One try at a load; `None` if a file was gone between listing and reading.
    async fn try_load(&self) -> Result<Option<(Snapshot, i64)>> {
        let hint = self.last_checkpoint().await?;
        let mut files = self.list(hint).await?;
        if hint.is_some() && newest_checkpoint(&files).is_none() {
            files = self.list(None).await?;
        }
        let checkpoint = newest_checkpoint(&files);
        let base = match checkpoint {
            Some(Checkpoint { version, parts }) => match self.read_checkpoint(version, parts).await? {
                Some(snapshot) => snapshot,
                None => return Ok(None),
            },
            None => Snapshot::empty(),
        };
        let unknown = files.iter().filter_map(|f| match f {
            LogFile::UnknownCheckpoint { version } => Some(*version),
            _ => None,
        });
        if let Some(version) = unknown.max().filter(|v| *v > base.version) {
            return Err(
                self.foreign(format!("its checkpoint {version} is of a kind that Skald does not use"))
            );
        }
        let mut versions: Vec<i64> = files
            .iter()
            .filter_map(|f| match f {
                LogFile::Commit { version } if *version > base.version => Some(*version),
                _ => None,
            })
            .collect();
        versions.sort_unstable();
        if let Some(at) = (0..versions.len()).find(|i| versions[*i] != base.version + 1 + *i as i64) {
            // A listing may have missed what was cleaned away meanwhile, but then there is a newer checkpoint.
            return match self.last_checkpoint().await? {
                newer if newer != hint => Ok(None),
                _ => Err(self.damaged(format!("commit {} is missing", base.version + 1 + at as i64))),
            };
        }
        let fetches = futures::stream::iter(versions)
            .map(|version| async move { Ok::<_, Error>((version, self.fetch(version).await?)) });
        let fetched: Vec<_> = fetches.buffered(FETCHES_MAX).try_collect().await?;
        let mut log = Vec::with_capacity(fetched.len());
        for (version, bytes) in fetched {
            let Some(bytes) = bytes else { return Ok(None) };
            log.push(self.decode(version, &bytes)?.changes);
        }
        let checkpoint = checkpoint.map_or(NO_VERSION, |c| c.version);
        Ok(Some((base.after(&log), checkpoint)))
    }

    async fn last_checkpoint(&self) -> Result<Option<i64>> {
        let path = self.path.clone().join(LOG_FOLDER).join("_last_checkpoint");
        let Some(bytes) = self.get(&path).await? else { return Ok(None) };
        // A hint that can't be read is no hint.
        Ok(serde_json::from_slice::<LastCheckpoint>(&bytes).ok().map(|hint| hint.version))
    }

    /// The files of the log, from checkpoint `from` on if that is given.
    pub(super) async fn list(&self, from: Option<i64>) -> Result<Vec<LogFile>> {
        let folder = self.path.clone().join(LOG_FOLDER);
        let listing = match from {
            Some(version) => {
                self.store.list_with_offset(Some(&folder), &folder.clone().join(format!("{version:020}")))
            }
            None => self.store.list(Some(&folder)),
        };
        let metas: Vec<_> = listing.try_collect().await.map_err(|e| self.failed("list the log", e))?;
        Ok(metas.iter().filter_map(|m| LogFile::parse(m.location.filename()?)).collect())
    }

    async fn read_checkpoint(&self, version: i64, parts: u32) -> Result<Option<Snapshot>> {
        let mut replayed = Replayed::new(version);
        for part in 1..=parts {
            let name = match parts {
                1 => format!("{version:020}.checkpoint.parquet"),
                _ => format!("{version:020}.checkpoint.{part:010}.{parts:010}.parquet"),
            };
            let path = self.path.clone().join(LOG_FOLDER).join(name);
            let Some(bytes) = self.get(&path).await? else { return Ok(None) };
            checkpoint::read(bytes, &mut replayed).map_err(|e| self.unacceptable(e))?;
        }
        self.check_complete(&replayed)?;
        Ok(Some(Snapshot::empty().after(&[replayed.changes])))
    }

    /// The commit `version`, if it is there.
    async fn fetch(&self, version: i64) -> Result<Option<Bytes>> {
        self.get(&commit_path(&self.path, version)).await
    }

    fn decode(&self, version: i64, bytes: &[u8]) -> Result<Replayed> {
        let replayed = log::decode(version, bytes).map_err(|e| self.unacceptable(e))?;
        if version == 0 {
            self.check_complete(&replayed)?;
        }
        Ok(replayed)
    }

    /// The begin of a log has to say what the table is.
    fn check_complete(&self, replayed: &Replayed) -> Result<()> {
        if replayed.metadata && replayed.protocol {
            return Ok(());
        }
        Err(self.damaged(format!("version {} has no metadata or no protocol", replayed.changes.version)))
    }

    async fn get(&self, path: &Path) -> Result<Option<Bytes>> {
        read_if_there(&self.store, path).await.map_err(|e| self.failed("read the table", e))
    }

    pub(super) fn failed(&self, what: &'static str, source: object_store::Error) -> Error {
        Error::Store { what, tenant: self.tenant.clone(), source: Arc::new(source) }
    }

    fn damaged(&self, reason: String) -> Error {
        Error::Damaged { table: self.path.to_string(), reason }
    }

    fn foreign(&self, reason: String) -> Error {
        Error::Foreign { table: self.path.to_string(), reason }
    }

    fn unacceptable(&self, e: Unacceptable) -> Error {
        match e {
            Unacceptable::Foreign(reason) => self.foreign(reason),
            Unacceptable::Damaged(reason) => self.damaged(reason),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    version: i64,
    parts: u32,
}

/// The newest checkpoint all of whose parts are there.
fn newest_checkpoint(files: &[LogFile]) -> Option<Checkpoint> {
    let mut found: Vec<(i64, u32, u32)> = files
        .iter()
        .filter_map(|f| match *f {
            LogFile::Checkpoint { version, part, parts } => Some((version, parts, part)),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    let mut whole = found.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).filter(|c| c.len() == c[0].1 as usize);
    whole.next_back().map(|c| Checkpoint { version: c[0].0, parts: c[0].1 })
}
