use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use skald_model::{Batch, PushStamp};

use super::format::{FILE_HEADER_LEN, RecordHeader};
use super::writer::LogFile;
use super::*;
use crate::metrics::Metrics;
use crate::samples::{self, tenant};

fn config(dir: &Path) -> WalConfig {
    WalConfig { dir: dir.to_owned(), ..WalConfig::default() }
}

fn metrics() -> WalMetrics {
    Metrics::of_test().wal
}

fn sample(tenant_name: &str, text: &str) -> Batch {
    samples::batch(&tenant(tenant_name), &[("a", &[(1, text, ""), (2, "second", "m")])])
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

async fn append(wal: &Wal, who: &str, second: i64, batch: &Batch) -> skald_model::Result<Lsn> {
    let record = EncodedRecord::new(&tenant(who), &PushStamp::unnumbered(second), batch)?;
    let room = wal.room_for(&record).await?;
    let (lsn, ack) = wal.append(&tenant(who), record, room)?;
    ack.wait().await?;
    Ok(lsn)
}

/// Appends one record after the other, each synced by itself, and closes.
fn write(config: &WalConfig, texts: &[&str]) -> Vec<Lsn> {
    let (wal, mut replay) = Wal::open(config, &metrics()).unwrap();
    while replay.read_next().unwrap().is_some() {}
    let lsns = texts.iter().map(|t| run(append(&wal, "t", 5, &sample("t", t))).unwrap()).collect();
    wal.close();
    lsns
}

fn text_of(record: &Record) -> String {
    let batch = Batch::decode(&record.batch, &|_, _| None).unwrap();
    samples::entries(&batch)[0].2.clone()
}

/// What a replay gives: texts, or the error.
fn read(config: &WalConfig) -> Result<Vec<String>> {
    let (wal, mut replay) = Wal::open(config, &metrics())?;
    let mut texts = Vec::new();
    while let Some(record) = replay.read_next()? {
        texts.push(text_of(&record));
    }
    wal.close();
    Ok(texts)
}

fn first_file(dir: &Path) -> PathBuf {
    dir.join(format!("{:020}.wal", 1))
}

/// Offsets at which the records of a file begin, and its length.
fn record_offsets(bytes: &[u8]) -> Vec<usize> {
    let mut at = FILE_HEADER_LEN;
    let mut offsets = vec![at];
    while let Some(header) = RecordHeader::decode(&bytes[at..]) {
        at += format::RECORD_HEADER_LEN + header.payload_len as usize;
        offsets.push(at);
    }
    offsets
}

#[test]
fn what_was_appended_is_replayed_in_order_and_lsns_grow_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let mut lsns = write(&config, &["one", "two"]);
    lsns.extend(write(&config, &["three"]));
    assert!(lsns.is_sorted_by(|a, b| a < b), "{lsns:?}");
    assert!(lsns[2] - lsns[1] > 1 << 39, "a new opening begins a new term");
    assert_eq!(read(&config).unwrap(), ["one", "two", "three"]);
    assert_eq!(read(&config).unwrap(), ["one", "two", "three"], "reading changes nothing");
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    write(&config(dir.path()), &["one", "two", "three"]);
    let bytes = std::fs::read(first_file(dir.path())).unwrap();
    let offsets = record_offsets(&bytes);
    assert_eq!(*offsets.last().unwrap(), bytes.len());
    for cut in 0..bytes.len() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(first_file(dir.path()), &bytes[..cut]).unwrap();
        let whole = offsets[1..].iter().filter(|end| **end <= cut).count();
        let config = config(dir.path());
        assert_eq!(read(&config).unwrap(), ["one", "two", "three"][..whole], "cut at {cut}");
        write(&config, &["four"]);
        let texts = read(&config).unwrap();
        assert_eq!((texts.len(), texts.last().unwrap().as_str()), (whole + 1, "four"), "cut at {cut}");
    }
}

#[test]
fn damage_to_acknowledged_records_is_refused_with_its_place_or_skipped_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    write(&config(dir.path()), &["one", "two", "three"]);
    let path = first_file(dir.path());
    let bytes = std::fs::read(&path).unwrap();
    let offsets = record_offsets(&bytes);
    for at in offsets[1]..offsets[2] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        std::fs::write(&path, &damaged).unwrap();
        let error = read(&config(dir.path())).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { offset, .. } if *offset == offsets[1] as u64), "{error}");
        assert!(error.to_string().contains("corrupt_action"), "{error}");
        let skip = WalConfig { corrupt_action: CorruptAction::Skip, ..config(dir.path()) };
        assert_eq!(read(&skip).unwrap(), ["one", "three"], "damaged at {at}");
    }
}

#[test]
fn damage_in_a_file_that_others_follow_is_no_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    write(&config, &["one"]);
    write(&config, &["two"]);
    let path = first_file(dir.path());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(read(&config).unwrap_err(), Error::Corrupt { .. }));
    std::fs::write(&path, b"garbage where a header should be, and then some").unwrap();
    assert!(matches!(read(&config).unwrap_err(), Error::Corrupt { offset: 0, .. }));
    let skip = WalConfig { corrupt_action: CorruptAction::Skip, ..config };
    assert_eq!(read(&skip).unwrap(), ["two"]);
}

#[test]
fn a_hole_in_a_group_that_was_never_synced_is_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    // Without fsync no record claims that anything before it is on disk.
    let config = WalConfig { fsync: false, ..config(dir.path()) };
    write(&config, &["one", "two", "three"]);
    let path = first_file(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let at = record_offsets(&bytes)[1] + 40;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(read(&config).unwrap(), ["one"]);
}

#[test]
fn files_rotate_and_go_when_covered() {
    let dir = tempfile::tempdir().unwrap();
    let config = WalConfig { segment_bytes: 200, ..config(dir.path()) };
    let (wal, _) = Wal::open(&config, &metrics()).unwrap();
    let long = "x".repeat(150);
    let lsns: Vec<_> =
        (0..4).map(|i| run(append(&wal, ["a", "b"][i % 2], 0, &sample("a", &long))).unwrap()).collect();
    assert_eq!(files::list(dir.path()).unwrap().len(), 4, "one record per file");
    wal.cover(&tenant("a"), lsns[2]);
    assert_eq!(wal.remove_covered().unwrap(), 2);
    wal.cover(&tenant("b"), lsns[3]);
    assert_eq!(wal.remove_covered().unwrap(), 1, "the file that is written to stays");
    wal.close();
}

#[test]
fn covered_records_do_not_keep_replayed_files() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let lsns = write(&config, &["one", "two"]);
    let (wal, mut replay) = Wal::open(&config, &metrics()).unwrap();
    wal.cover(&tenant("t"), lsns[1]);
    while replay.read_next().unwrap().is_some() {}
    assert_eq!(wal.remove_covered().unwrap(), 1);
    wal.close();
}

#[test]
fn what_was_covered_is_not_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let (wal, _) = Wal::open(&config, &metrics()).unwrap();
    let lsns: Vec<_> =
        ["one", "two", "three"].map(|l| run(append(&wal, "t", 0, &sample("a", l))).unwrap()).into();
    wal.cover(&tenant("t"), lsns[1]);
    assert_eq!(wal.remove_covered().unwrap(), 0);
    wal.close();
    assert_eq!(read(&config).unwrap(), ["three"]);
    // Should the files be gone and the marks be left, nothing new may look as if it were covered.
    std::fs::remove_file(first_file(dir.path())).unwrap();
    for sequence in files::list(dir.path()).unwrap() {
        std::fs::remove_file(dir.path().join(format!("{sequence:020}.wal"))).unwrap();
    }
    write(&config, &["four"]);
    assert_eq!(read(&config).unwrap(), ["four"]);
}

#[test]
fn many_appends_share_syncs_and_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (config, metrics) = (config(dir.path()), metrics());
    let (wal, _) = Wal::open(&config, &metrics).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let acks: Vec<_> = {
            let mut acks = Vec::new();
            for i in 0..500 {
                let record =
                    EncodedRecord::new(&tenant("t"), &PushStamp::default(), &sample("t", &format!("{i:03}")))
                        .unwrap();
                let room = wal.room_for(&record).await.unwrap();
                acks.push(wal.append(&tenant("t"), record, room).unwrap().1);
            }
            acks
        };
        for ack in acks {
            ack.wait().await.unwrap();
        }
    });
    assert_eq!(metrics.records_logged.get(), 500);
    assert!(metrics.sync_seconds.get_sample_count() < 500, "one sync serves many records");
    wal.close();
    let texts = read(&config).unwrap();
    assert_eq!(texts.len(), 500);
    assert!(texts.is_sorted());
}

#[test]
fn a_record_beyond_the_queue_still_passes() {
    let dir = tempfile::tempdir().unwrap();
    let config = WalConfig { queue_bytes: 1024, segment_bytes: 1024, ..config(dir.path()) };
    let long = "y".repeat(10_000);
    write(&config, &[&long]);
    assert_eq!(read(&config).unwrap(), [long]);
}

#[test]
fn a_closed_log_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(&config(dir.path()), &metrics()).unwrap();
    wal.close();
    let error = run(append(&wal, "t", 0, &sample("t", "late"))).unwrap_err();
    assert_eq!(error.kind, skald_model::Kind::Unavailable);
}

/// A disk whose writes or syncs fail while the switch is on.
struct Faulty {
    file: std::fs::File,
    write: Arc<AtomicBool>,
    sync: Arc<AtomicBool>,
}

impl LogFile for Faulty {
    fn write(&mut self, slices: &mut [IoSlice<'_>]) -> std::io::Result<()> {
        if self.write.load(Ordering::SeqCst) {
            // Half of it lands.
            let half = slices.len() / 2;
            LogFile::write(&mut self.file, &mut slices[..half])?;
            return Err(ErrorKind::StorageFull.into());
        }
        LogFile::write(&mut self.file, slices)
    }
    fn sync(&mut self) -> std::io::Result<()> {
        if self.sync.load(Ordering::SeqCst) { Err(ErrorKind::Other.into()) } else { self.file.sync() }
    }
    fn truncate(&mut self, len: u64) -> std::io::Result<()> {
        self.file.truncate(len)
    }
}

fn faulty(config: &WalConfig) -> (Wal, Arc<AtomicBool>, Arc<AtomicBool>) {
    let (write, sync) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (w, s) = (write.clone(), sync.clone());
    let create: Create = Box::new(move |path| {
        Ok(Box::new(Faulty { file: std::fs::File::create_new(path)?, write: w.clone(), sync: s.clone() }))
    });
    let (wal, _) = Wal::open_on(config, &metrics(), create).unwrap();
    (wal, write, sync)
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _, sync) = faulty(&config(dir.path()));
    run(append(&wal, "t", 0, &sample("t", "one"))).unwrap();
    sync.store(true, Ordering::SeqCst);
    run(append(&wal, "t", 0, &sample("t", "two"))).unwrap_err();
    sync.store(false, Ordering::SeqCst);
    let error = run(append(&wal, "t", 0, &sample("t", "three"))).unwrap_err();
    assert!(error.message.contains("refuses writes"), "{error}");
    assert!(wal.failure().is_some());
    wal.close();
}

#[test]
fn a_full_disk_refuses_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let (wal, write, _) = faulty(&config);
    run(append(&wal, "t", 0, &sample("t", "one"))).unwrap();
    write.store(true, Ordering::SeqCst);
    let error = run(append(&wal, "t", 0, &sample("t", "two"))).unwrap_err();
    assert!(error.message.contains("no space left"), "{error}");
    write.store(false, Ordering::SeqCst);
    run(append(&wal, "t", 0, &sample("t", "three"))).unwrap();
    wal.close();
    assert_eq!(read(&config).unwrap(), ["one", "three"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_batches_round_trip(
        pushes in proptest::collection::vec(
            ("[ab]", any::<i64>(), proptest::collection::vec((any::<i64>(), ".{0,20}", "[a-z]{0,3}"), 0..6)), 1..20),
        segment_bytes in 64u64..2000,
        restart_at in 0usize..20,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let config = WalConfig { segment_bytes, ..config(dir.path()) };
        let (mut wal, _) = Wal::open(&config, &metrics()).unwrap();
        let mut sent = Vec::new();
        for (i, (who, stamp, entries)) in pushes.iter().enumerate() {
            if i == restart_at {
                wal.close();
                let (next, mut replay) = Wal::open(&config, &metrics()).unwrap();
                while replay.read_next().unwrap().is_some() {}
                wal = next;
            }
            let entries: Vec<_> = entries.iter().map(|(t, l, m)| (*t, l.as_str(), m.as_str())).collect();
            let batch = samples::batch(&tenant(who), &[("a", &entries), ("b", &entries)]);
            let lsn = run(append(&wal, who, *stamp, &batch)).unwrap();
            sent.push((lsn, who.clone(), *stamp, samples::entries(&batch)));
        }
        wal.close();
        let (wal, mut replay) = Wal::open(&config, &metrics()).unwrap();
        let mut got = Vec::new();
        while let Some(r) = replay.read_next().unwrap() {
            let batch = Batch::decode(&r.batch, &|_, _| None).unwrap();
            got.push((r.lsn, r.tenant.to_string(), r.stamp.second, samples::entries(&batch)));
        }
        wal.close();
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn changed_bytes_anywhere_never_give_a_record_that_was_not_written(
        at in any::<prop::sample::Index>(), flip in 1u8..,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let config = WalConfig { corrupt_action: CorruptAction::Skip, ..config(dir.path()) };
        write(&config, &["one", "two", "three"]);
        let path = first_file(dir.path());
        let mut bytes = std::fs::read(&path).unwrap();
        let i = at.index(bytes.len());
        bytes[i] ^= flip;
        std::fs::write(&path, &bytes).unwrap();
        let got = read(&config).unwrap();
        let mut expected = ["one", "two", "three"].iter();
        prop_assert!(got.iter().all(|g| expected.any(|e| e == g)), "{got:?}");
        prop_assert!(got.len() >= 2 || i < FILE_HEADER_LEN);
    }
}
