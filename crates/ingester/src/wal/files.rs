//! Which files of the log exist, and whose uncovered records keep each of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use skald_model::TenantId;

use super::Lsn;
use super::error::{Error, Result};
use super::marks::{self, Marks};
use crate::metrics::WalMetrics;

/// The files of one log directory.
///
/// A file may go when nobody writes to or replays it and every record in it is covered. `covered` never goes down, so a
/// pin that comes after its coverage (a flush may overtake the log's writer) is not kept.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, FileState>,
    covered: Marks,
    /// Whether `covered` says more than the marks on disk.
    unmarked: bool,
}

#[derive(Debug)]
struct FileState {
    bytes: u64,
    /// Still written to, or still to be replayed.
    in_use: bool,
    /// The highest uncovered LSN of each tenant that has one.
    pins: FxHashMap<TenantId, Lsn>,
}

impl Files {
    /// Those of `dir`, with the marks that are there; the files are still to be added.
    pub(crate) fn new(dir: &Path) -> Self {
        let state = State { covered: marks::read(dir), ..State::default() };
        Self { dir: dir.to_owned(), state: Mutex::new(state) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, sequence: u64) -> PathBuf {
        self.dir.join(format!("{sequence:020}.wal"))
    }

    /// Notes a file that is written to or to be replayed.
    pub(crate) fn add(&self, sequence: u64, bytes: u64) {
        let file = FileState { bytes, in_use: true, pins: FxHashMap::default() };
        self.state.lock().files.insert(sequence, file);
    }

    pub(crate) fn set_len(&self, sequence: u64, bytes: u64) {
        if let Some(file) = self.state.lock().files.get_mut(&sequence) {
            file.bytes = bytes;
        }
    }

    /// Nothing will be written to or read from the file any more.
    pub(crate) fn done(&self, sequence: u64) {
        if let Some(file) = self.state.lock().files.get_mut(&sequence) {
            file.in_use = false;
        }
    }

    /// Keeps the file until `tenant` is covered up to `lsn`.
    pub(crate) fn pin(&self, sequence: u64, tenant: &TenantId, lsn: Lsn) {
        let mut state = self.state.lock();
        if state.covered.get(tenant).is_some_and(|covered| *covered >= lsn) {
            return;
        }
        if let Some(file) = state.files.get_mut(&sequence) {
            match file.pins.get_mut(tenant) {
                Some(highest) => *highest = lsn.max(*highest),
                None => {
                    file.pins.insert(tenant.clone(), lsn);
                }
            }
        }
    }

    /// The table has all of `tenant`'s records up to `lsn`.
    pub(crate) fn cover(&self, tenant: &TenantId, lsn: Lsn) {
        let mut state = self.state.lock();
        let known = state.covered.get(tenant).copied();
        let covered = known.map_or(lsn, |known| lsn.max(known));
        if known != Some(covered) {
            state.covered.insert(tenant.clone(), covered);
            state.unmarked = true;
        }
        for file in state.files.values_mut() {
            if file.pins.get(tenant).is_some_and(|highest| *highest <= covered) {
                file.pins.remove(tenant);
            }
        }
    }

    /// Whether the table has the record.
    pub(crate) fn is_covered(&self, tenant: &TenantId, lsn: Lsn) -> bool {
        self.state.lock().covered.get(tenant).is_some_and(|covered| *covered >= lsn)
    }

    /// The highest LSN that the table is known to have; 0 if none is.
    pub(crate) fn highest_covered(&self) -> Lsn {
        self.state.lock().covered.values().copied().max().unwrap_or(0)
    }

    /// Makes what is covered known to the next start. Blocks on the file system.
    pub(crate) fn mark_covered(&self) -> Result<()> {
        let marks = {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.unmarked) {
                return Ok(());
            }
            state.covered.clone()
        };
        let written = marks::write(&self.dir, &marks);
        if written.is_err() {
            self.state.lock().unmarked = true;
        }
        written
    }

    /// Deletes the files that nobody needs. Blocks on the file system.
    pub(crate) fn remove_unpinned(&self, metrics: &WalMetrics) -> Result<usize> {
        let mut removed = 0;
        loop {
            let free = |f: &FileState| !f.in_use && f.pins.is_empty();
            let Some((sequence, file)) = ({
                let mut state = self.state.lock();
                let next = state.files.iter().find(|(_, f)| free(f)).map(|(s, _)| *s);
                next.and_then(|s| state.files.remove_entry(&s))
            }) else {
                metrics.disk_bytes.set(self.bytes() as i64);
                return Ok(removed);
            };
            let path = self.path(sequence);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    self.state.lock().files.insert(sequence, file);
                    return Err(Error::io("removing", &path, e));
                }
                _ => removed += 1,
            }
        }
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.lock().files.values().map(|f| f.bytes).sum()
    }

    /// The tenants that keep the oldest files which together are over `bytes_max`.
    pub(crate) fn pinning_beyond(&self, bytes_max: u64) -> Vec<TenantId> {
        let state = self.state.lock();
        let mut excess = state.files.values().map(|f| f.bytes).sum::<u64>().saturating_sub(bytes_max);
        let mut tenants = Vec::new();
        for file in state.files.values() {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(file.bytes);
            tenants.extend(file.pins.keys().cloned());
        }
        tenants.sort_unstable();
        tenants.dedup();
        tenants
    }
}

/// The sequences of the log files in `dir`, in order.
pub(crate) fn list(dir: &Path) -> Result<Vec<u64>> {
    let failed = |e| Error::io("listing", dir, e);
    let mut sequences = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let sequence = name.to_str().and_then(|n| n.strip_suffix(".wal")).filter(|n| n.len() == 20);
        sequences.extend(sequence.and_then(|n| n.parse::<u64>().ok()));
    }
    sequences.sort_unstable();
    Ok(sequences)
}

/// Makes a new or removed name in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("syncing", dir, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics_of_test() -> WalMetrics {
        crate::metrics::Metrics::of_test().wal
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn files(dir: &Path, sequences: std::ops::Range<u64>) -> Files {
        let files = Files::new(dir);
        for s in sequences {
            std::fs::write(files.path(s), b"x").unwrap();
            files.add(s, 10);
        }
        files
    }

    #[test]
    fn a_file_goes_when_every_tenant_in_it_is_covered() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), 1..4);
        let metrics = metrics_of_test();
        files.pin(1, &tenant("a"), 5);
        files.pin(1, &tenant("b"), 6);
        files.pin(2, &tenant("a"), 9);
        files.done(1);
        files.done(2);
        assert_eq!(files.remove_unpinned(&metrics).unwrap(), 0);
        files.cover(&tenant("a"), 5);
        assert_eq!(files.pinning_beyond(0), [tenant("a"), tenant("b")]);
        assert_eq!(files.remove_unpinned(&metrics).unwrap(), 0);
        files.cover(&tenant("b"), 7);
        assert_eq!(files.remove_unpinned(&metrics).unwrap(), 1);
        files.cover(&tenant("a"), 100);
        assert_eq!(files.remove_unpinned(&metrics).unwrap(), 1);
        assert_eq!(list(dir.path()).unwrap(), [3], "the file in use stays");
    }

    #[test]
    fn a_pin_after_its_coverage_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), 1..2);
        files.cover(&tenant("a"), 8);
        files.pin(1, &tenant("a"), 8);
        files.done(1);
        assert_eq!(files.remove_unpinned(&metrics_of_test()).unwrap(), 1);
    }

    #[test]
    fn only_the_tenants_of_the_oldest_excess_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), 1..4);
        files.pin(1, &tenant("a"), 1);
        files.pin(2, &tenant("b"), 2);
        files.pin(3, &tenant("c"), 3);
        assert_eq!(files.pinning_beyond(15), [tenant("a"), tenant("b")]);
        assert!(files.pinning_beyond(30).is_empty());
    }
}
