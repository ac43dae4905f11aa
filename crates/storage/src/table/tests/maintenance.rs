//! Checkpoints and the log behind them, and that other readers read what is written.

use std::time::SystemTime;

use deltalake_core::DeltaTable;
use deltalake_core::logstore::{StorageConfig, default_logstore};
use object_store::prefix::PrefixStore;

use super::*;
use crate::store::instrumented::Operation;

fn every(checkpoint_interval: u64) -> CatalogConfig {
    CatalogConfig { checkpoint_interval, ..Default::default() }
}

/// The files of a table as `deltalake-core` reads them.
async fn as_others_see_it(store: Arc<dyn ObjectStore>, tenant: &str) -> Vec<String> {
    let prefix = format!("tables/{tenant}");
    let url = url::Url::parse(&format!("memory:///{prefix}")).unwrap();
    let prefixed = Arc::new(PrefixStore::new(store.clone(), prefix.as_str()));
    let mut table = DeltaTable::new(default_logstore(prefixed, store, &url, &StorageConfig::default()));
    table.load().await.unwrap();
    let mut paths: Vec<_> = table.get_file_uris().unwrap().collect();
    paths.sort();
    paths.iter().map(|uri| uri.split_once(&format!("{tenant}/")).unwrap().1.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_changes_nothing_but_the_cost() {
    let rig = rig(FaultConfig::default());
    let catalog = catalog_with(&every(10), rig.store.clone());
    assert_eq!(catalog.maintain(&tenant()).await.unwrap(), Maintained::default());
    for version in 0..9 {
        catalog.commit_flush(&tenant(), &flush("i", version)).await.unwrap();
    }
    assert_eq!(catalog.maintain(&tenant()).await.unwrap(), Maintained::default());
    for version in 9..23 {
        catalog.commit_flush(&tenant(), &flush("i", version)).await.unwrap();
    }
    let base = catalog.cached(&tenant()).unwrap();
    let removes = vec![block("i-3").path, block("i-4").path];
    let rewrite =
        RewriteCommit { base, removes, adds: vec![block("merged")], data_change: false, note: None };
    catalog.commit_rewrite(&tenant(), &rewrite).await.unwrap();

    let before = catalog_on(rig.store.clone()).snapshot(&tenant()).await.unwrap();
    let done = catalog.maintain(&tenant()).await.unwrap();
    assert_eq!(done, Maintained { checkpoint: Some(23), log_files_removed: 0 });
    assert_eq!(catalog.maintain(&tenant()).await.unwrap(), Maintained::default());

    let requests = rig.metrics.requests_total();
    let after = catalog_on(rig.store.clone()).snapshot(&tenant()).await.unwrap();
    assert_eq!(after, before);
    // The hint, the listing and the checkpoint.
    assert_eq!(rig.metrics.requests_total() - requests, 3);
    assert_eq!(as_others_see_it(rig.store.clone(), "fake").await, paths(&after));

    catalog.commit_flush(&tenant(), &flush("i", 99)).await.unwrap();
    let newest = catalog_on(rig.store.clone()).snapshot(&tenant()).await.unwrap();
    assert_eq!(newest, catalog.cached(&tenant()).unwrap());
    assert_eq!(newest.txn("i"), Some(99));
}

/// What tells the generation of delete requests has nothing in it for others, and outlives checkpoints.
#[tokio::test(flavor = "multi_thread")]
async fn delete_requests_change_nothing_for_others() {
    let rig = rig(FaultConfig::default());
    let catalog = catalog_with(&every(2), rig.store.clone());
    let committed = catalog.commit_deletes(&tenant(), 1).await.unwrap();
    assert!(!committed.already);
    assert_eq!((committed.snapshot.version, committed.snapshot.deletes()), (0, 1));
    assert_eq!(as_others_see_it(rig.store.clone(), "fake").await, [] as [String; 0]);
    catalog.commit_flush(&tenant(), &flush("i", 1)).await.unwrap();
    for generation in [1, 0] {
        let again = catalog.commit_deletes(&tenant(), generation).await.unwrap();
        assert!(again.already);
        assert_eq!((again.snapshot.version, again.snapshot.deletes()), (1, 1));
    }
    catalog.commit_deletes(&tenant(), 2).await.unwrap();
    assert_eq!(catalog.maintain(&tenant()).await.unwrap().checkpoint, Some(2));
    let anew = catalog_on(rig.store.clone()).snapshot(&tenant()).await.unwrap();
    assert_eq!((anew.deletes(), anew.version), (2, 2));
    assert_eq!(as_others_see_it(rig.store.clone(), "fake").await, paths(&anew));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_checkpoint_open_elsewhere() {
    let rig = rig(FaultConfig::default());
    let catalog = catalog_on(rig.store.clone());
    for version in 0..3 {
        catalog.commit_flush(&tenant(), &flush("i", version)).await.unwrap();
    }
    let ours = catalog.cached(&tenant()).unwrap();
    assert_eq!(as_others_see_it(rig.store, "fake").await, paths(&ours));
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_that_fail_harm_nothing() {
    for seed in 0..5 {
        let weather = FaultConfig { seed, error: 0.1, lost: 0.1, torn: 0.05, ..Default::default() };
        let rig = rig(weather);
        let catalog = catalog_with(&every(3), rig.store.clone());
        let mut checkpoints = 0;
        for version in 0..20 {
            while catalog.commit_flush(&tenant(), &flush("i", version)).await.is_err() {}
            // Whoever keeps a table comes round again; errors may stay errors.
            checkpoints +=
                usize::from(catalog.maintain(&tenant()).await.is_ok_and(|m| m.checkpoint.is_some()));
        }
        assert!(checkpoints > 0);
        let calm: Arc<dyn ObjectStore> = rig.memory.clone();
        let fresh = catalog_on(calm.clone()).snapshot(&tenant()).await.unwrap();
        assert_eq!((fresh.version, fresh.blocks.len(), fresh.txn("i")), (19, 20, Some(19)));
        assert_eq!(as_others_see_it(calm, "fake").await, paths(&fresh));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_tenant_names_can_be_checkpointed() {
    let rig = rig(FaultConfig::default());
    let catalog = catalog_with(&every(1), rig.store.clone());
    let tenant = TenantId::new("x_(1)!*'").unwrap();
    let committed = catalog.commit_flush(&tenant, &flush("i", 0)).await.unwrap();
    assert_eq!(catalog.maintain(&tenant).await.unwrap().checkpoint, Some(0));
    let lists = rig.metrics.requests(Operation::Iter);
    assert_eq!(catalog_on(rig.store.clone()).snapshot(&tenant).await.unwrap(), committed.snapshot);
    assert_eq!(rig.metrics.requests(Operation::Iter) - lists, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_behind_a_checkpoint_is_removed_once_old() {
    let temp = tempfile::tempdir().unwrap();
    let config = crate::store::StoreConfig {
        filesystem: Some(crate::store::FilesystemConfig { directory: temp.path().into() }),
        ..Default::default()
    };
    let store = crate::store::open(&config, &Registry::new()).await.unwrap();
    let catalog = catalog_with(&every(5), store.clone());
    let log = temp.path().join("tables/fake/_delta_log");
    let mut expected = Vec::new();
    for round in 0..3 {
        for version in 0..5 {
            catalog.commit_flush(&tenant(), &flush("i", round * 5 + version)).await.unwrap();
        }
        let old = SystemTime::now() - CatalogConfig::default().log_retention * 2;
        for file in std::fs::read_dir(&log).unwrap() {
            std::fs::File::open(file.unwrap().path()).unwrap().set_modified(old).unwrap();
        }
        expected.push(catalog.maintain(&tenant()).await.unwrap());
    }
    assert_eq!(expected.iter().map(|m| m.checkpoint).collect::<Vec<_>>(), [Some(4), Some(9), Some(14)]);
    assert!(expected.iter().map(|m| m.log_files_removed).sum::<usize>() >= 8, "{expected:?}");
    assert!(!log.join("00000000000000000000.json").exists());
    let fresh = catalog_on(store.clone()).snapshot(&tenant()).await.unwrap();
    assert_eq!(fresh, catalog.cached(&tenant()).unwrap());
    assert_eq!(fresh.blocks.len(), 15);
    assert_eq!(as_others_see_it(store, "fake").await, paths(&fresh));
}
