//! Flushes and rewrites on a store that is well.

use bytes::Bytes;
use object_store::ObjectStoreExt;

use super::*;
use crate::store::fault::{Fault, Request};
use crate::store::instrumented::Operation;

#[tokio::test]
async fn the_first_flush_makes_the_table_and_all_see_it() {
    let rig = rig(FaultConfig::default());
    let (writer, reader) = (catalog_on(rig.store.clone()), catalog_on(rig.store.clone()));
    assert_eq!(*reader.snapshot(&tenant()).await.unwrap(), Snapshot::empty());

    let committed = writer.commit_flush(&tenant(), &flush("i-1", 5)).await.unwrap();
    assert!(!committed.already);
    assert_eq!((committed.snapshot.version, committed.snapshot.txn("i-1")), (0, Some(5)));
    assert_eq!(writer.cached(&tenant()).unwrap(), committed.snapshot);
    assert_eq!(writer.txn_version(&tenant(), "i-1").await.unwrap(), Some(5));
    assert_eq!(writer.txn_version(&tenant(), "i-2").await.unwrap(), None);

    let seen = reader.snapshot(&tenant()).await.unwrap();
    assert_eq!(seen, committed.snapshot);
    let (entry, new) = (seen.block(&block("i-1-5").path).unwrap(), block("i-1-5"));
    assert_eq!((&entry.summary, &entry.origin, entry.date), (&new.summary, &new.origin, DATE));
    assert_eq!(*catalog_on(rig.store).snapshot(&tenant()).await.unwrap(), *seen);
}

#[tokio::test]
async fn a_flush_is_committed_once_however_often_it_comes() {
    let rig = rig(FaultConfig::default());
    let catalog = catalog_on(rig.store.clone());
    catalog.commit_flush(&tenant(), &flush("i", 1)).await.unwrap();
    catalog.commit_flush(&tenant(), &flush("i", 2)).await.unwrap();
    for other in [catalog, catalog_on(rig.store.clone())] {
        for version in [1, 2] {
            let again = other.commit_flush(&tenant(), &flush("i", version)).await.unwrap();
            assert!(again.already);
            assert_eq!(again.snapshot.version, 1);
        }
    }
    let empty = FlushCommit { blocks: vec![], app_id: "j".into(), app_version: 9 };
    let committed = catalog_on(rig.store).commit_flush(&tenant(), &empty).await.unwrap();
    assert_eq!((committed.snapshot.version, committed.snapshot.txn("j")), (2, Some(9)));
    assert_eq!(paths(&committed.snapshot).len(), 2);
}

#[tokio::test]
async fn a_commit_costs_one_request_when_nobody_else_commits() {
    let rig = rig(FaultConfig::default());
    let catalog = catalog_on(rig.store.clone());
    catalog.commit_flush(&tenant(), &flush("i", 1)).await.unwrap();
    let before = rig.metrics.requests_total();
    catalog.commit_flush(&tenant(), &flush("i", 2)).await.unwrap();
    assert_eq!(rig.metrics.requests_total() - before, 1);
}

/// Three processes, forty flushes each, all at once: nothing is lost and nothing is twice.
async fn many_committers(store: Arc<dyn ObjectStore>) {
    let writers = (0..3).map(|w| {
        let catalog = catalog_on(store.clone());
        tokio::spawn(async move {
            for version in 0..40 {
                catalog.commit_flush(&tenant(), &flush(&format!("i-{w}"), version)).await.unwrap();
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    let snapshot = catalog_on(store).snapshot(&tenant()).await.unwrap();
    assert_eq!(snapshot.version, 119);
    let mut expected: Vec<_> =
        (0..3).flat_map(|w| (0..40).map(move |v| block(&format!("i-{w}-{v}")).path)).collect();
    expected.sort();
    assert_eq!(paths(&snapshot), expected);
    assert!((0..3).all(|w| snapshot.txn(&format!("i-{w}")) == Some(39)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn many_committers_in_memory() {
    many_committers(Arc::new(InMemory::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn many_committers_in_a_directory() {
    let temp = tempfile::tempdir().unwrap();
    let config = crate::store::StoreConfig {
        filesystem: Some(crate::store::FilesystemConfig { directory: temp.path().into() }),
        ..Default::default()
    };
    many_committers(crate::store::open(&config, &Registry::new()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn committers_of_one_process_do_not_race_each_other() {
    let rig = rig(FaultConfig::default());
    let catalog = Arc::new(catalog_on(rig.store.clone()));
    let commits = (0..20).map(|n| {
        let catalog = Arc::clone(&catalog);
        tokio::spawn(async move { catalog.commit_flush(&tenant(), &flush(&format!("i-{n}"), 0)).await })
    });
    for commit in futures::future::join_all(commits).await {
        commit.unwrap().unwrap();
    }
    assert_eq!(rig.metrics.requests(Operation::Upload), 20);
    assert_eq!(catalog.cached(&tenant()).unwrap().version, 19);
}

#[tokio::test]
async fn blocks_that_break_a_rule_are_refused_before_anything_is_written() {
    let rig = rig(FaultConfig::default());
    let mut commit = flush("i", 1);
    commit.blocks[0].date += 1;
    let refused = catalog_on(rig.store).commit_flush(&tenant(), &commit).await;
    assert!(matches!(refused, Err(Error::InvalidBlock { .. })));
    assert_eq!(rig.metrics.requests_total(), 0);
}

async fn table_of_two(store: &Arc<dyn ObjectStore>) -> (Catalog, Arc<Snapshot>) {
    let catalog = catalog_on(store.clone());
    catalog.commit_flush(&tenant(), &flush("i", 1)).await.unwrap();
    let base = catalog.commit_flush(&tenant(), &flush("i", 2)).await.unwrap().snapshot;
    (catalog, base)
}

fn rewrite(base: &Arc<Snapshot>, removes: &[&str], adds: &[&str]) -> RewriteCommit {
    RewriteCommit {
        base: Arc::clone(base),
        removes: removes.iter().map(|name| block(name).path).collect(),
        adds: adds.iter().map(|name| block(name)).collect(),
        data_change: adds.is_empty(),
        note: None,
    }
}

#[tokio::test]
async fn of_two_rewrites_of_the_same_files_exactly_one_wins() {
    for _ in 0..10 {
        let rig = rig(FaultConfig::default());
        let (a, base) = table_of_two(&rig.store).await;
        let b = catalog_on(rig.store.clone());
        let (x, y) = (rewrite(&base, &["i-1", "i-2"], &["x"]), rewrite(&base, &["i-1", "i-2"], &["y"]));
        let tenant = tenant();
        let (x, y) = tokio::join!(a.commit_rewrite(&tenant, &x), b.commit_rewrite(&tenant, &y));
        let won = match (&x, &y) {
            (Ok(_), Err(Error::Conflict { .. })) => "x",
            (Err(Error::Conflict { .. }), Ok(_)) => "y",
            _ => panic!("{x:?} {y:?}"),
        };
        let snapshot = catalog_on(rig.store).snapshot(&tenant).await.unwrap();
        assert_eq!(paths(&snapshot), [block(won).path]);
        assert_eq!(snapshot.version, 2);
    }
}

#[tokio::test]
async fn rewrites_exclude_each_other_even_of_other_files_but_not_flushes() {
    let rig = rig(FaultConfig::default());
    let (catalog, base) = table_of_two(&rig.store).await;
    let other = catalog_on(rig.store.clone());
    other.commit_flush(&tenant(), &flush("j", 1)).await.unwrap();
    let first = rewrite(&base, &["i-1"], &["x"]);
    assert!(!catalog.commit_rewrite(&tenant(), &first).await.unwrap().already);
    let late = other.commit_rewrite(&tenant(), &rewrite(&base, &["i-2"], &["y"])).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    // The same again, as after an answer that was lost, is recognised.
    assert!(other.commit_rewrite(&tenant(), &first).await.unwrap().already);
    let base = other.snapshot(&tenant()).await.unwrap();
    let gone = other.commit_rewrite(&tenant(), &rewrite(&base, &["i-2"], &[])).await.unwrap();
    assert_eq!(paths(&gone.snapshot), [block("j-1").path, block("x").path]);
    let vanished = other.commit_rewrite(&tenant(), &rewrite(&gone.snapshot, &["i-2"], &["z"])).await;
    assert!(matches!(vanished, Err(Error::Conflict { .. })), "{vanished:?}");
}

#[tokio::test]
async fn a_rewrite_may_come_through_a_catalog_that_has_not_seen_its_base() {
    let rig = rig(FaultConfig::default());
    let other = catalog_on(rig.store.clone());
    other.snapshot(&tenant()).await.unwrap();
    let (_, base) = table_of_two(&rig.store).await;
    let done = other.commit_rewrite(&tenant(), &rewrite(&base, &["i-1"], &["x"])).await.unwrap();
    assert_eq!(paths(&done.snapshot), [block("i-2").path, block("x").path]);
}

#[tokio::test]
async fn a_rewrite_whose_answer_is_lost_has_happened() {
    let rig = rig(FaultConfig::default());
    let (catalog, base) = table_of_two(&rig.store).await;
    rig.faults.arm(Request::Put, "_delta_log", Fault::Lost);
    let done = catalog.commit_rewrite(&tenant(), &rewrite(&base, &["i-1"], &["x"])).await.unwrap();
    assert_eq!(done.snapshot.version, 2);
    assert_eq!(paths(&done.snapshot), [block("i-2").path, block("x").path]);
}

#[tokio::test]
async fn blocks_are_uploaded_whole_and_committed_ones_left_alone() {
    let rig = rig(FaultConfig::default());
    let catalog = catalog_on(rig.store.clone());
    let path = block("i-1").path;
    let location = catalog.location(&tenant(), &path);
    assert_eq!(location.as_ref(), format!("tables/fake/{path}"));
    let stored = async || rig.memory.get(&location).await.unwrap().bytes().await.unwrap();

    rig.faults.arm(Request::Put, "i-1", Fault::Torn);
    catalog.put_block(&tenant(), &path, Bytes::from_static(b"12345678")).await.unwrap();
    assert_eq!(stored().await, "12345678");
    let large = Bytes::from((0..40u32 << 20).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    rig.faults.arm(Request::Put, "i-1", Fault::Error);
    rig.faults.arm(Request::Put, "i-1", Fault::Lost);
    catalog.put_block(&tenant(), &path, large.clone()).await.unwrap();
    assert!(stored().await == large);

    catalog.commit_flush(&tenant(), &flush("i", 1)).await.unwrap();
    catalog.put_block(&tenant(), &path, Bytes::from_static(b"other")).await.unwrap();
    assert!(stored().await == large);
}
