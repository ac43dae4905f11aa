//! Snapshots: what they cost, how new they are, and what is refused.

use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use skald_model::{MatchOp, Matcher, Selector, TimeRange};

use super::*;
use crate::store::instrumented::Operation;

#[tokio::test]
async fn a_snapshot_without_news_costs_one_small_request() {
    let rig = rig(FaultConfig::default());
    let catalog = catalog_on(rig.store.clone());
    catalog.commit_flush(&tenant(), &flush("i", 1)).await.unwrap();
    for _ in 0..3 {
        let before = rig.metrics.requests_total();
        let gets = rig.metrics.requests(Operation::Get);
        catalog.snapshot(&tenant()).await.unwrap();
        assert_eq!(rig.metrics.requests_total() - before, 1);
        assert_eq!(rig.metrics.requests(Operation::Get) - gets, 1);
    }
    let before = rig.metrics.requests_total();
    assert_eq!(catalog.cached(&tenant()).unwrap().version, 0);
    assert_eq!(rig.metrics.requests_total(), before);
}

#[tokio::test]
async fn a_snapshot_of_no_table_costs_one_request_after_the_first() {
    let rig = rig(FaultConfig::default());
    let catalog = catalog_on(rig.store.clone());
    catalog.snapshot(&tenant()).await.unwrap();
    let before = rig.metrics.requests_total();
    assert_eq!(catalog.snapshot(&tenant()).await.unwrap().version, NO_VERSION);
    assert_eq!(rig.metrics.requests_total() - before, 1);
}

#[tokio::test]
async fn a_snapshot_with_much_news_reads_each_commit_about_once() {
    let rig = rig(FaultConfig::default());
    let (reader, writer) = (catalog_on(rig.store.clone()), catalog_on(rig.store.clone()));
    reader.snapshot(&tenant()).await.unwrap();
    for version in 0..30 {
        writer.commit_flush(&tenant(), &flush("i", version)).await.unwrap();
    }
    let before = rig.metrics.requests_total();
    assert_eq!(reader.snapshot(&tenant()).await.unwrap().version, 29);
    // Windows of 1, 2, 4, 8, 16: those of the last that follow the end were in vain.
    assert!(rig.metrics.requests_total() - before <= 31);
}

#[tokio::test(start_paused = true)]
async fn snapshots_asked_for_together_share_a_look() {
    // Slow, so that they are under way at the same time.
    let rig = rig(FaultConfig { slow: 1.0, ..Default::default() });
    let catalog = catalog_on(rig.store.clone());
    catalog.commit_flush(&tenant(), &flush("i", 1)).await.unwrap();
    let before = rig.metrics.requests_total();
    let tenant = tenant();
    let all = futures::future::join_all((0..50).map(|_| catalog.snapshot(&tenant))).await;
    assert!(all.into_iter().all(|s| s.unwrap().version == 0));
    assert!(rig.metrics.requests_total() - before <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_may_have_been_cleaned_past_is_loaded_anew() {
    let rig = rig(FaultConfig::default());
    let (writer, reader) = (catalog_on(rig.store.clone()), catalog_on(rig.store.clone()));
    writer.commit_flush(&tenant(), &flush("i", 1)).await.unwrap();
    reader.snapshot(&tenant()).await.unwrap();
    for version in 2..=4 {
        writer.commit_flush(&tenant(), &flush("i", version)).await.unwrap();
    }
    let config = CatalogConfig { checkpoint_interval: 1, ..Default::default() };
    let keeper = catalog_with(&config, rig.store.clone());
    assert_eq!(keeper.maintain(&tenant()).await.unwrap().checkpoint, Some(3));
    // As the clean-up of another process would a day later.
    for version in 0..4 {
        let path = Path::from(format!("tables/fake/_delta_log/{version:020}.json"));
        rig.memory.delete(&path).await.unwrap();
    }
    tokio::time::advance(Duration::from_secs(13 * 3600)).await;
    assert_eq!(reader.cached(&tenant()), None);
    assert_eq!(reader.snapshot(&tenant()).await.unwrap().version, 3);
    // A writer that slept as long does not take the vanished numbers for free ones.
    let committed = writer.commit_flush(&tenant(), &flush("i", 5)).await.unwrap();
    assert_eq!(committed.snapshot.version, 4);
    assert_eq!(paths(&committed.snapshot).len(), 5);
}

#[tokio::test]
async fn selection_is_by_time_and_labels() {
    let rig = rig(FaultConfig::default());
    let catalog = catalog_on(rig.store);
    let snapshot = catalog.commit_flush(&tenant(), &flush("i", 1)).await.unwrap().snapshot;
    let found = |start, end, app| {
        let selector = Selector { matchers: vec![Matcher::new("app", MatchOp::Equal, app).unwrap()] };
        snapshot.select(TimeRange { start, end }, &selector).count()
    };
    let summary = block("x").summary;
    assert_eq!(found(summary.min_ts, summary.min_ts + 1, "a"), 1);
    assert_eq!(found(summary.min_ts, summary.min_ts + 1, "z"), 0);
    assert_eq!(found(summary.min_ts - 5, summary.min_ts, "a"), 0);
    assert_eq!(found(summary.max_ts, i64::MAX, "b"), 1);
    assert_eq!(found(summary.max_ts + 1, i64::MAX, "b"), 0);
}

#[tokio::test]
async fn tenants_are_those_with_a_folder() {
    let rig = rig(FaultConfig::default());
    let catalog = catalog_on(rig.store);
    assert!(catalog.tenants().await.unwrap().is_empty());
    let names = ["!*'()-_.", "a.b", "fake"];
    for name in names {
        let tenant = TenantId::new(name).unwrap();
        catalog.commit_flush(&tenant, &flush("i", 1)).await.unwrap();
    }
    let found = catalog.tenants().await.unwrap();
    assert_eq!(found.iter().map(TenantId::as_str).collect::<Vec<_>>(), names);
}

#[tokio::test]
async fn tables_push_each_other_out_of_a_small_cache_and_come_back() {
    let rig = rig(FaultConfig::default());
    let config = CatalogConfig { snapshots_bytes_max: 8000, ..Default::default() };
    let catalog = catalog_with(&config, rig.store);
    let tenants: Vec<_> = (0..20).map(|n| TenantId::new(&format!("t{n}")).unwrap()).collect();
    for round in 0..3 {
        for tenant in &tenants {
            let committed = catalog.commit_flush(tenant, &flush("i", round)).await.unwrap();
            assert_eq!(committed.snapshot.version, round);
        }
    }
    for tenant in &tenants {
        assert_eq!(catalog.snapshot(tenant).await.unwrap().blocks.len(), 3);
    }
}

/// Puts `lines` as version 0 of the tenant's table and checks that every use of it is refused with `words`, and
/// that nothing is changed.
#[track_caller]
fn check_refused(lines: &[&str], words: &str) {
    let check = async {
        let rig = rig(FaultConfig::default());
        let path = Path::from(format!("tables/fake/_delta_log/{:020}.json", 0));
        rig.memory.put(&path, PutPayload::from(lines.join("\n"))).await.unwrap();
        let catalog = catalog_on(rig.store.clone());
        let block = block("i-1");
        for _ in 0..2 {
            let errors = [
                catalog.snapshot(&tenant()).await.unwrap_err(),
                catalog.commit_flush(&tenant(), &flush("i", 1)).await.unwrap_err(),
                catalog.put_block(&tenant(), &block.path, "x".into()).await.unwrap_err(),
                catalog.maintain(&tenant()).await.unwrap_err(),
            ];
            for error in errors {
                assert!(error.to_string().contains(words), "{error}");
                assert!(error.to_string().contains("tables/fake"), "{error}");
            }
        }
        assert_eq!(rig.metrics.requests(Operation::Upload), 0);
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(check);
}

const PROTOCOL: &str = r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#;

fn metadata(schema: &str, configuration: &str) -> String {
    let fields = serde_json::to_string(schema).unwrap();
    format!(
        r#"{{"metaData":{{"id":"1","format":{{"provider":"parquet","options":{{}}}},"schemaString":{fields},"partitionColumns":["date"],"configuration":{configuration}}}}}"#
    )
}

#[test]
fn tables_of_something_else_are_refused() {
    let schema = r#"{"type":"struct","fields":[{"name":"id","type":"long","nullable":true,"metadata":{}}]}"#;
    check_refused(&[PROTOCOL, &metadata(schema, "{}")], "it has no property skald.format");
    check_refused(&[PROTOCOL, &metadata(schema, r#"{"skald.format":"2"}"#)], "skald.format is \"2\"");
    check_refused(&[PROTOCOL, &metadata(schema, r#"{"skald.format":"1"}"#)], "its columns are (id long)");
    check_refused(&[r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7}}"#], "raised to reader 3");
    check_refused(&[PROTOCOL], "no metadata");
    check_refused(&["{\"meta"], "commit 0");
}

#[tokio::test]
async fn files_of_something_else_in_our_table_are_named() {
    let rig = rig(FaultConfig::default());
    let (writer, reader) = (catalog_on(rig.store.clone()), catalog_on(rig.store.clone()));
    writer.commit_flush(&tenant(), &flush("i", 1)).await.unwrap();
    reader.snapshot(&tenant()).await.unwrap();
    let path = Path::from(format!("tables/fake/_delta_log/{:020}.json", 1));
    let add = r#"{"add":{"path":"date=2024-10-04/part-0.parquet","partitionValues":{"date":"2024-10-04"},"size":1,"modificationTime":1,"dataChange":true}}"#;
    rig.memory.put(&path, add.into()).await.unwrap();
    let error = reader.snapshot(&tenant()).await.unwrap_err();
    assert!(error.to_string().contains("part-0.parquet was written by something else"), "{error}");
}

#[tokio::test]
async fn a_log_with_a_hole_is_called_damaged() {
    let rig = rig(FaultConfig::default());
    let writer = catalog_on(rig.store.clone());
    for version in 0..3 {
        writer.commit_flush(&tenant(), &flush("i", version)).await.unwrap();
    }
    let path = Path::from(format!("tables/fake/_delta_log/{:020}.json", 1));
    rig.memory.delete(&path).await.unwrap();
    let error = catalog_on(rig.store).snapshot(&tenant()).await.unwrap_err();
    assert!(error.to_string().contains("commit 1 is missing"), "{error}");
}
