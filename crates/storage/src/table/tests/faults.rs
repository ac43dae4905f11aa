//! Commits on a store that fails: what was acknowledged is there once, and what is there was asked for.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::*;
use crate::store::fault::{Fault, Request};

/// How often each path was added over the whole log, read from the files themselves.
async fn adds_in_log(store: &InMemory) -> BTreeMap<String, usize> {
    let mut adds = BTreeMap::new();
    let folder = Path::from("tables/fake/_delta_log");
    let files: Vec<_> = store.list(Some(&folder)).try_collect().await.unwrap();
    for file in files.iter().filter(|f| f.location.as_ref().ends_with(".json")) {
        let bytes = store.get(&file.location).await.unwrap().bytes().await.unwrap();
        for line in serde_json::Deserializer::from_slice(&bytes).into_iter::<serde_json::Value>() {
            if let Some(path) = line.unwrap().pointer("/add/path").and_then(|p| p.as_str()) {
                *adds.entry(path.to_owned()).or_default() += 1;
            }
        }
    }
    adds
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_has_happened_once() {
    for first in [true, false] {
        let rig = rig(FaultConfig::default());
        let catalog = catalog_on(rig.store.clone());
        if !first {
            catalog.commit_flush(&tenant(), &flush("i", 0)).await.unwrap();
        }
        rig.faults.arm(Request::Put, "_delta_log", Fault::Lost);
        let committed = catalog.commit_flush(&tenant(), &flush("i", 1)).await.unwrap();
        assert_eq!(committed.snapshot.version, if first { 0 } else { 1 });
        assert_eq!(adds_in_log(&rig.memory).await[&block("i-1").path], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_given_up_can_be_asked_for_again() {
    for fault in [Fault::Error, Fault::Lost] {
        let rig = rig(FaultConfig::default());
        let catalog = catalog_on(rig.store.clone());
        catalog.snapshot(&tenant()).await.unwrap();
        for request in [Request::Put, Request::Get] {
            (0..10_000).for_each(|_| rig.faults.arm(request, "fake/_delta_log", fault));
        }
        let given_up = catalog.commit_flush(&tenant(), &flush("i", 1)).await.unwrap_err();
        assert!(matches!(given_up, Error::Unconfirmed { .. }), "{given_up}");
        assert!(given_up.to_string().contains("commit_timeout"), "{given_up}");
        let later = catalog_on(rig.memory.clone());
        let committed = later.commit_flush(&tenant(), &flush("i", 1)).await.unwrap();
        assert_eq!(committed.already, fault == Fault::Lost);
        assert_eq!(adds_in_log(&rig.memory).await[&block("i-1").path], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_dropped_half_way_can_be_asked_for_again() {
    let slow = FaultConfig { slow: 1.0, slow_max: Duration::from_secs(10), ..Default::default() };
    for millis in [0, 1, 100, 1000, 5000, 9000, 15_000] {
        let rig = rig(slow.clone());
        let catalog = catalog_on(rig.store.clone());
        let (tenant, commit) = (tenant(), flush("i", 1));
        let dropped = catalog.commit_flush(&tenant, &commit);
        let _ = tokio::time::timeout(Duration::from_millis(millis), dropped).await;
        catalog.commit_flush(&tenant, &commit).await.unwrap();
        assert_eq!(adds_in_log(&rig.memory).await[&block("i-1").path], 1);
    }
}

/// Three processes flush and one rewrites, all on a store that fails often. Whoever is told of an error comes
/// again, as the real ones do.
async fn weather(seed: u64) {
    let config = FaultConfig {
        seed,
        error: 0.15,
        lost: 0.15,
        torn: 0.05,
        slow: 0.2,
        slow_max: Duration::from_millis(50),
    };
    let rig = rig(config);
    let flushers = (0..3).map(|w| {
        let catalog = catalog_on(rig.store.clone());
        async move {
            for version in 0..15 {
                let commit = flush(&format!("i-{w}"), version);
                while catalog.commit_flush(&tenant(), &commit).await.is_err() {}
                let known = catalog.cached(&tenant()).unwrap();
                assert!(known.txn(&format!("i-{w}")) >= Some(version));
            }
        }
    });
    let rewriter = async {
        let catalog = catalog_on(rig.store.clone());
        let mut gone = Vec::new();
        for n in 0..10 {
            loop {
                let Ok(base) = catalog.snapshot(&tenant()).await else { continue };
                let removes: Vec<_> = base.blocks.iter().take(3).map(|b| b.path.clone()).collect();
                if removes.len() < 3 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                let adds = vec![block(&format!("z-{n}"))];
                let commit =
                    RewriteCommit { base, removes: removes.clone(), adds, data_change: false, note: None };
                // The same rewrite until it is told what became of it.
                let settled = loop {
                    match catalog.commit_rewrite(&tenant(), &commit).await {
                        Ok(_) => break true,
                        Err(Error::Conflict { .. }) => break false,
                        Err(_) => {}
                    }
                };
                assert!(settled, "nobody else rewrites");
                gone.extend(removes);
                break;
            }
        }
        gone
    };
    let (_, gone) = tokio::join!(futures::future::join_all(flushers), rewriter);
    let counts = rig.faults.counts();
    assert!(counts.error > 0 && counts.lost > 0, "{counts:?}");

    let adds = adds_in_log(&rig.memory).await;
    assert!(adds.values().all(|n| *n == 1), "seed {seed}: {adds:?}");
    let asked: usize = 3 * 15 + 10;
    assert_eq!(adds.len(), asked, "seed {seed}");
    let snapshot = catalog_on(rig.memory.clone()).snapshot(&tenant()).await.unwrap();
    let mut expected: Vec<_> = adds.into_keys().filter(|path| !gone.contains(path)).collect();
    expected.sort();
    assert_eq!(paths(&snapshot), expected, "seed {seed}");
    assert_eq!(snapshot.version as usize, asked - 1);
}

#[tokio::test(start_paused = true)]
async fn acknowledged_commits_are_there_once_in_any_weather() {
    for seed in 0..25 {
        weather(seed).await;
    }
}
