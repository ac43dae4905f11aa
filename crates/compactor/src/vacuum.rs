//! Removes files that no table names: inputs of rewrites, and what crashes and lost races left behind.
//!
//! In two phases. A file that the newest version does not name is *marked*, with the moment; the marks lie in the store
//! beside the tables. Only when a file has been marked for the whole delay, and was not written again meanwhile, is it
//! removed. So a query has the delay to end, `skald table restore` has it to bring a version back, and a flush that lies
//! in wait for its commit, which gives its names up after a quarter of the delay, never loses its files.
//!
//! Files are listed before the table is asked what it names: what is committed in between is then named.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};
use skald_model::{Result, TenantId};
use skald_storage::store::read_if_there;
use skald_storage::table::{Catalog, DataFile};
use tokio::time::Instant;

use crate::Compactor;
use crate::outbox::Outbox;
use crate::work::failed;

/// Where marks lie. No tenant can have this name.
const FOLDER: &str = "_skald/vacuum";

/// Files that no table names, with the second in which that was seen first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    files: BTreeMap<String, i64>,
}

/// What a vacuum did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vacuumed {
    /// Files that were removed.
    pub removed: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that wait for the end of their delay.
    pub waiting: u64,
    /// The second since which the first of them waits.
    pub since: Option<i64>,
}

impl Marks {
    /// The second since which a file is marked.
    pub fn since(&self, path: &str) -> Option<i64> {
        self.files.get(path).copied()
    }

    /// Marks and unmarks `files` as they are at second `now`; returns those whose `delay` (seconds) is over.
    pub fn judge<'a>(
        &mut self,
        files: &'a [DataFile],
        is_named: impl Fn(&str) -> bool,
        now: i64,
        delay: i64,
    ) -> Vec<&'a DataFile> {
        let before = std::mem::take(&mut self.files);
        let mut over = Vec::new();
        for file in files.iter().filter(|f| !is_named(&f.path)) {
            let since = before.get(&file.path).copied().unwrap_or(now);
            self.files.insert(file.path.clone(), since);
            if since.max(file.modified).saturating_add(delay) <= now {
                over.push(file);
            }
        }
        over
    }
}

/// The files of a tenant's table that vacuum has marked.
///
/// # Errors
/// When the store fails.
pub async fn marks(catalog: &Catalog, tenant: &TenantId) -> Result<Marks> {
    let at = place(tenant);
    let marks = read_marks(catalog.store().as_ref(), &at).await;
    marks.map_err(|e| failed("read the vacuum's marks", tenant, &e))
}

fn place(tenant: &TenantId) -> Path {
    Path::from(format!("{FOLDER}/{tenant}.json"))
}

/// Marks what no version needs and removes what has been marked for `delay` seconds. `swept` is told of each file how long it
/// took to remove it, and whether it is.
///
/// May be dropped at any point.
///
/// # Errors
/// When the store fails; what was done stays done.
pub async fn vacuum(
    catalog: &Catalog,
    tenant: &TenantId,
    now: i64,
    delay: i64,
    swept: impl Fn(Duration, bool),
) -> Result<Vacuumed> {
    let (at, store) = (place(tenant), catalog.store());
    let before = marks(catalog, tenant).await?;
    let files = catalog.data_files(tenant).await?;
    let snapshot = catalog.snapshot(tenant).await?;
    let mut after = before.clone();
    let over = after.judge(&files, |path| snapshot.block(path).is_some(), now, delay);
    if after != before {
        let text = serde_json::to_vec(&after).map_err(|e| skald_model::Error::internal(e.to_string()))?;
        let written = store.put(&at, text.into()).await;
        written.map_err(|e| failed("write the vacuum's marks", tenant, &e))?;
    }
    let going: BTreeSet<&str> = over.iter().map(|f| f.path.as_str()).collect();
    let waiting = after.files.iter().filter(|(path, _)| !going.contains(path.as_str()));
    let since = waiting.map(|(_, since)| *since).min();
    let mut done =
        Vacuumed { waiting: (after.files.len() - over.len()) as u64, since, ..Vacuumed::default() };
    if over.is_empty() {
        return Ok(done);
    }
    // Once more, now that they are to go: a restore may have come meanwhile.
    let snapshot = catalog.snapshot(tenant).await?;
    for file in over.into_iter().filter(|f| snapshot.block(&f.path).is_none()) {
        let begun = Instant::now();
        let removed = catalog.remove_file(tenant, &file.path).await;
        swept(begun.elapsed(), removed.is_ok());
        removed?;
        done.removed += 1;
        done.bytes += file.size;
    }
    Ok(done)
}

/// Marks that cannot be read are none: then files stay longer.
async fn read_marks(store: &dyn ObjectStore, at: &Path) -> object_store::Result<Marks> {
    let Some(text) = read_if_there(store, at).await? else { return Ok(Marks::default()) };
    Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(%at, %error, "the vacuum's marks are damaged; it begins anew");
        Marks::default()
    }))
}

impl Compactor {
    /// Vacuums a tenant's tables, that in the archive too, if that was not done lately.
    pub(crate) async fn vacuum_if_due(&self, tenant: &TenantId) -> Result<()> {
        let period = self.config.vacuum_interval.min(self.config.commit_patience());
        let is_due = self.vacuumed.lock().get(tenant).is_none_or(|at| at.elapsed() >= period);
        if !is_due {
            return Ok(());
        }
        let done = self.vacuum(&self.parts.catalog, tenant, "table").await?;
        self.vacuumed.lock().insert(tenant.clone(), Instant::now());
        self.status.change(tenant, |s| {
            s.files_removed += done.removed;
            s.files_waiting = done.waiting;
            s.waiting_since = done.since.map(|second| second.saturating_mul(skald_model::time::SECOND));
        });
        if let Some(archive) = &self.parts.archive {
            let snapshot = self.parts.catalog.snapshot(tenant).await?;
            // Files that are owed to the archive it does not name.
            self.deliver(tenant, &snapshot).await?;
            let before = self.now_seconds() - self.delay_seconds();
            Outbox::new(archive, tenant).sweep(&snapshot, before).await?;
            archive.maintain(tenant).await?;
            self.vacuum(archive, tenant, "archive").await?;
        }
        Ok(())
    }

    fn now_seconds(&self) -> i64 {
        self.parts.clock.now().div_euclid(skald_model::time::SECOND)
    }

    fn delay_seconds(&self) -> i64 {
        // Clocks tell seconds, so that the last one may not be over.
        i64::try_from(self.config.retention_delete_delay.as_secs()).unwrap_or(i64::MAX / 4) + 1
    }

    async fn vacuum(&self, catalog: &Catalog, tenant: &TenantId, what: &str) -> Result<Vacuumed> {
        let (now, delay) = (self.now_seconds(), self.delay_seconds());
        let swept = |took, is_removed| self.metrics.removal.swept(took, is_removed);
        let done = vacuum(catalog, tenant, now, delay, swept).await?;
        self.metrics.files_removed.inc_by(done.removed);
        self.metrics.file_bytes_removed.inc_by(done.bytes);
        if done.removed > 0 {
            tracing::info!(%tenant, what, files = done.removed, bytes = done.bytes, waiting = done.waiting, "vacuumed");
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, modified: i64) -> DataFile {
        DataFile { path: path.into(), size: 1, modified }
    }

    #[track_caller]
    fn judged(marks: &mut Marks, files: &[DataFile], named: &[&str], now: i64) -> Vec<String> {
        let over = marks.judge(files, |p| named.contains(&p), now, 100);
        over.into_iter().map(|f| f.path.clone()).collect()
    }

    #[test]
    fn only_what_was_unnamed_for_the_whole_delay_goes() {
        let mut marks = Marks::default();
        let files = [file("a", 0), file("b", 0)];
        assert!(judged(&mut marks, &files, &["a"], 1000).is_empty(), "seen for the first time");
        assert!(judged(&mut marks, &files, &[], 1050).is_empty());
        assert_eq!(judged(&mut marks, &files, &[], 1100), ["b"]);
        assert_eq!(judged(&mut marks, &files, &[], 1149), ["b"]);
        assert_eq!(judged(&mut marks, &files, &[], 1150), ["a", "b"]);
    }

    #[test]
    fn what_is_named_again_or_written_again_begins_anew() {
        let mut marks = Marks::default();
        let files = [file("a", 0)];
        judged(&mut marks, &files, &[], 1000);
        assert!(judged(&mut marks, &files, &["a"], 1090).is_empty(), "restored");
        assert!(judged(&mut marks, &files, &[], 1120).is_empty());
        assert_eq!(judged(&mut marks, &files, &[], 1220), ["a"]);
        let rewritten = [file("a", 1200)];
        assert!(judged(&mut marks, &rewritten, &[], 1250).is_empty(), "its commit may still come");
        assert_eq!(judged(&mut marks, &rewritten, &[], 1300), ["a"]);
        assert!(judged(&mut marks, &[], &[], 1300).is_empty());
        assert_eq!(marks, Marks::default());
    }
}
