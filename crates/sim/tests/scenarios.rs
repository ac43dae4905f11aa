//! One scenario for each rule that keeps the promises. Those that say how their rule was taken out were seen to fail so.

use std::time::Duration;

use skald_model::{Direction, Kind, TimeRange};
use skald_rpc::Ingester as _;
use skald_rpc::querier::LogTask;
use skald_sim::compaction::settle_after;
use skald_sim::history::Entry;
use skald_sim::promises::{
    promise_1_acknowledged_is_never_lost, promise_3_what_is_stored_is_open, steady_state_stores_one_copy,
};
use skald_sim::{Cluster, NO_LIMIT, Setup, Weather, simulate};
use skald_storage::store::fault::{Fault, Request};

const SECOND: i64 = 1_000_000_000;

/// Runs a scenario; one that does not end in a simulated hour hangs.
fn scenario<F: Future<Output = ()>>(seed: u64, work: impl FnOnce() -> F) {
    let ended = simulate(seed, || tokio::time::timeout(Duration::from_secs(3600), Box::pin(work())));
    assert!(ended.is_ok(), "the scenario hangs");
}

async fn start() -> Cluster {
    Box::pin(Cluster::start(Setup::default())).await
}

async fn sleep(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// Asks for everything; the answer must be right.
async fn see_all(cluster: &Cluster) -> usize {
    let seen = cluster.query(Direction::Forward, NO_LIMIT).await.expect("an answer").len();
    cluster.count().await.expect("an answer");
    assert_eq!(cluster.broken(), [""; 0]);
    seen
}

async fn flush_all(cluster: &Cluster) {
    let names = cluster.running();
    let flushes = names.iter().map(|name| cluster.flush(name));
    for flushed in futures::future::join_all(flushes).await {
        flushed.expect("a flush");
    }
}

/// Everything is in the table, in good order.
async fn all_is_stored(cluster: &Cluster) -> Vec<Entry> {
    let (history, stored) = (cluster.history(), cluster.stored().await);
    cluster.check(promise_3_what_is_stored_is_open(&history, &stored));
    let stored = stored.expect("blocks that can be read");
    cluster.check(promise_1_acknowledged_is_never_lost(&history, &stored));
    assert_eq!(cluster.broken(), [""; 0]);
    stored
}

async fn all_is_stored_once(cluster: &Cluster) {
    let stored = all_is_stored(cluster).await;
    cluster.check(steady_state_stores_one_copy(&cluster.history(), &stored));
    assert_eq!(cluster.broken(), [""; 0]);
}

/// Rule 2. Taken out by using the snapshot known before the failed try (`!tried` in `commit_in_turn` of
/// `storage/src/table/commit.rs`).
#[test]
fn rule_2_a_failed_commit_may_have_happened() {
    scenario(2, || async {
        let cluster = start().await;
        cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
        for faults in cluster.fault_handles() {
            faults.arm(Request::Put, "_delta_log/", Fault::Lost);
        }
        let flushed = tokio::time::timeout(Duration::from_secs(12), flush_all(&cluster)).await;
        assert!(flushed.is_ok(), "whoever reads the log knows that its commit has happened");
        all_is_stored_once(&cluster).await;
        see_all(&cluster).await;
    });
}

/// Rule 3. Taken out by leaving those without tokens out of the view (`View::new` of `cluster/src/topology.rs`): the query
/// lacked all six entries.
#[test]
fn rule_3_reads_ask_whoever_may_hold_what_the_table_lacks() {
    scenario(3, || async {
        let cluster = start().await;
        cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
        for name in ["d", "e", "f"] {
            cluster.join(name).await;
        }
        for name in ["a", "b", "c"] {
            cluster.give_up_place(name);
        }
        sleep(5.0).await;
        assert_eq!(see_all(&cluster).await, 6);
    });
}

/// Rule 3. Taken out by counting no absent ingester as lacking (in `Replicas::is_sure` of
/// `frontend/src/replicas/mod.rs`).
#[test]
fn rule_3_reads_are_refused_when_too_many_are_lacking() {
    scenario(4, || async {
        let cluster = start().await;
        cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
        cluster.cut("distributor-0", "c");
        cluster.push(0, &cluster.one_for_each()).await.expect("a quorum has it");
        cluster.crash("a").await;
        sleep(7.0).await;
        assert_eq!(see_all(&cluster).await, 12, "one of those who have it is left");
        cluster.crash("b").await;
        sleep(7.0).await;
        let refused =
            cluster.query(Direction::Forward, NO_LIMIT).await.expect_err("c alone does not know all");
        assert_eq!(refused.kind, Kind::Unavailable);
        cluster.restart("b").await;
        sleep(7.0).await;
        assert_eq!(see_all(&cluster).await, 12);
    });
}

/// Rule 4. Taken out by answering whatever version is asked for (`version < released` in `State::cut` of
/// `ingester/src/tenant/mod.rs`).
#[test]
fn rule_4_snapshots_too_old_are_refused() {
    scenario(5, || async {
        let cluster = start().await;
        cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
        flush_all(&cluster).await;
        let task = LogTask {
            tenant: skald_model::TenantId::new("t").expect("a good name"),
            query: "{app=~\".+\"}".into(),
            range: TimeRange::ALL,
            direction: Direction::Forward,
            limit: NO_LIMIT,
            version: -1,
            blocks: Vec::new(),
            max_bytes: u64::MAX,
            removals: None,
        };
        for name in cluster.running() {
            let answer = cluster.ingester(&name).expect("it runs").query_logs(task.clone()).await;
            assert_eq!(answer.expect_err("these have left memory").kind, Kind::SnapshotTooOld);
        }
        // A query that is overtaken by flushes starts over and is right.
        cluster.set_weather(Weather { slow: 1.0, ..Weather::default() });
        for _ in 0..5 {
            cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
            let (seen, ()) =
                futures::join!(cluster.query(Direction::Backward, NO_LIMIT), flush_all(&cluster));
            assert!(seen.is_ok());
            assert_eq!(cluster.broken(), [""; 0]);
        }
    });
}

/// Rule 5. Taken out by taking any stamp in (`check_stamp` in `ingester/src/service.rs`).
#[test]
fn rule_5_stamps_of_clocks_that_lie_are_refused() {
    scenario(6, || async {
        let cluster = start().await;
        cluster.distributor_clock().deviate(-40 * SECOND);
        let entries = cluster.one_for_each();
        let refused = cluster.push(0, &entries).await.expect_err("an epoch that has long ended");
        assert_eq!(refused.kind, Kind::Unavailable, "to be tried again");
        assert_eq!(see_all(&cluster).await, 0);
        // Within an epoch clocks may differ.
        cluster.distributor_clock().deviate(-20 * SECOND);
        cluster.push(0, &entries).await.expect("an acknowledgement");
        flush_all(&cluster).await;
        cluster.check(steady_state_stores_one_copy(&cluster.history(), &all_is_stored(&cluster).await));
        assert_eq!((see_all(&cluster).await, cluster.stored().await.expect("the table").len()), (6, 6));
    });
}

/// The numbers of the entries that a query sees, whatever the promises about entries that nobody deleted say.
async fn seen(cluster: &Cluster) -> Vec<u64> {
    let mut seen: Vec<u64> = cluster
        .query(Direction::Forward, NO_LIMIT)
        .await
        .expect("an answer")
        .iter()
        .map(|e| e.number)
        .collect();
    seen.sort_unstable();
    let counted = cluster.count().await.expect("an answer").values().sum::<u64>();
    assert_eq!(counted, seen.len() as u64, "what is counted is what is seen");
    seen
}

fn numbers(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|e| e.number).collect()
}

/// Rule 6. In the table, in memory, on two of three ingesters, over crashes and flushes: what is deleted stays deleted, and
/// what comes later stays. Taken out by telling ingesters nothing of it (`spec` in `frontend/src/removals.rs`).
#[test]
fn rule_6_deletes_stay_deleted() {
    scenario(12, || async {
        let cluster = start().await;
        cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
        flush_all(&cluster).await;
        cluster.cut("distributor-0", "c");
        cluster.push(0, &cluster.one_for_each()).await.expect("a quorum has it");
        cluster.heal();
        cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
        assert_eq!(seen(&cluster).await.len(), 18);

        cluster.delete(r#"{app=~".+"}"#).await.expect("an acceptance");
        assert_eq!(seen(&cluster).await, [] as [u64; 0]);
        for name in ["a", "b", "c"] {
            cluster.crash(name).await;
            cluster.restart(name).await;
        }
        sleep(7.0).await;
        assert_eq!(seen(&cluster).await, [] as [u64; 0], "nothing comes back from the logs");
        let later = cluster.one_for_each();
        cluster.push(0, &later).await.expect("an acknowledgement");
        assert_eq!(seen(&cluster).await, numbers(&later));
        flush_all(&cluster).await;
        assert_eq!(seen(&cluster).await, numbers(&later));

        // Once it cannot be taken back, what is still in memory is not even written.
        cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
        cluster.delete(r#"{app=~".+"}"#).await.expect("an acceptance");
        sleep(31.0).await;
        flush_all(&cluster).await;
        assert_eq!(seen(&cluster).await, [] as [u64; 0]);
        for name in ["a", "b", "c"] {
            cluster.crash(name).await;
            cluster.restart(name).await;
        }
        sleep(7.0).await;
        assert_eq!(seen(&cluster).await, [] as [u64; 0]);
    });
}

/// Rule 6. A compactor takes it out of the table, and nothing of what came later. Taken out by letting everything stay
/// (`stream` of `Ruled` in `compactor/src/rules.rs`): queries showed all of it again.
#[test]
fn rule_6_what_is_deleted_leaves_the_table() {
    scenario(15, || async {
        let cluster = start().await;
        for _ in 0..3 {
            cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
            flush_all(&cluster).await;
        }
        // Not just whole blocks: their rows have to be looked at.
        cluster.delete(r#"{app=~".+"} |~ ".""#).await.expect("an acceptance");
        sleep(2.0).await;
        let later = cluster.one_for_each();
        cluster.push(0, &later).await.expect("an acknowledgement");
        flush_all(&cluster).await;
        assert_eq!(seen(&cluster).await, numbers(&later));
        sleep(30.0 + settle_after().as_secs_f64()).await;
        for _ in 0..2 {
            assert!(cluster.compact("compactor-0", settle_after(), Duration::from_secs(600)).await);
            assert_eq!(seen(&cluster).await, numbers(&later));
        }
        let stored = cluster.stored().await.expect("blocks that can be read");
        assert_eq!(stored.len(), later.len(), "nothing else is left");
        for name in ["a", "b", "c"] {
            cluster.crash(name).await;
            cluster.restart(name).await;
        }
        sleep(100.0).await;
        assert_eq!(seen(&cluster).await, numbers(&later));
    });
}

/// Rule 6, and written once. A delete is carried out on blocks whose lists of pushes a replica still needs, and it finds them
/// afterwards. Taken out by rewriting without the list (`keeps_list` of `storage/src/rewrite/mod.rs`): the replica wrote
/// its copies again.
#[test]
fn rule_6_deletes_do_not_wait_for_lists() {
    scenario(17, || async {
        let cluster = start().await;
        cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
        cluster.freeze("c", true);
        let flushes = ["a", "b"].map(|name| cluster.flush(name));
        let _ = tokio::time::timeout(Duration::from_secs(8), futures::future::join_all(flushes)).await;
        cluster.delete_app(1).await.expect("an acceptance");
        sleep(31.0).await;
        assert!(cluster.compact("compactor-0", settle_after(), Duration::from_secs(600)).await);
        let stored = cluster.stored().await.expect("blocks that can be read");
        assert!(stored.iter().all(|e| e.app != 1), "{stored:?}");
        cluster.freeze("c", false);
        flush_all(&cluster).await;
        all_is_stored_once(&cluster).await;
        assert_eq!(see_all(&cluster).await, 5);
    });
}

/// Rule 6. What is taken back in time was never gone. Taken out as `rule_6_deletes_stay_deleted`.
#[test]
fn rule_6_a_delete_that_is_taken_back_leaves_everything() {
    scenario(13, || async {
        let cluster = start().await;
        cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
        let id = cluster.delete(r#"{app=~".+"}"#).await.expect("an acceptance");
        assert_eq!(seen(&cluster).await, [] as [u64; 0]);
        flush_all(&cluster).await;
        cluster.cancel_delete(&id).await.expect("a cancellation");
        assert_eq!(seen(&cluster).await.len(), 6);
        all_is_stored_after_a_delete(&cluster).await;
    });
}

/// Rule 10. What is remembered of the table names the version, what is deleted, and what has expired. Taken out by leaving
/// each of them out (`Key` of `frontend/src/remembered.rs`): without the version what was flushed later was lacking, without
/// the others what had expired was shown.
#[test]
fn rule_10_what_is_remembered_names_what_it_depends_on() {
    scenario(16, || async {
        // An hour after midnight, so that all is of one day.
        let start = Setup::default().start + 3600 * SECOND;
        let setup = Setup { start, retention: Duration::from_secs(300), ..Setup::default() };
        let cluster = Box::pin(Cluster::start(setup)).await;
        // Blocks of the same times, so that questions do not differ by those.
        let (old, new) = (cluster.now() - 200 * SECOND, cluster.now());
        let rounds: [(&[usize], &[usize], &[&str]); 2] = [
            (&[0, 2], &[3, 4, 5], &["a", "c", "d", "e", "f"]),
            (&[1], &[5], &["a", "b", "c", "d", "e", "f"]),
        ];
        for (olds, news, known) in rounds {
            let at = |apps: &[usize], time| apps.iter().map(|app| cluster.new_entry_at(*app, time)).collect();
            let entries: [Vec<Entry>; 2] = [at(olds, old), at(news, new)];
            cluster.push(0, &entries.concat()).await.expect("an acknowledgement");
            flush_all(&cluster).await;
            for _ in 0..2 {
                assert_eq!(cluster.apps().await.expect("an answer"), known);
            }
        }
        let id = cluster.delete(r#"{app="b"}"#).await.expect("an acceptance");
        assert_eq!(cluster.apps().await.expect("an answer"), ["a", "c", "d", "e", "f"]);
        cluster.cancel_delete(&id).await.expect("a cancellation");
        assert_eq!(cluster.apps().await.expect("an answer"), ["a", "b", "c", "d", "e", "f"]);
        // Nothing is written any more, and the table stays at its version.
        sleep(200.0).await;
        assert_eq!(cluster.apps().await.expect("an answer"), ["d", "e", "f"]);
    });
}

/// Everything is in the table; queries may have been right not to show it.
async fn all_is_stored_after_a_delete(cluster: &Cluster) {
    let stored = cluster.stored().await.expect("blocks that can be read");
    promise_1_acknowledged_is_never_lost(&cluster.history(), &stored).expect("nothing is lost");
}

/// Written once. Taken out by taking over at once (`Patience::after` of `ingester/src/replicas/mod.rs` gives 0).
#[test]
fn a_slow_writer_is_waited_for() {
    scenario(7, || async {
        let cluster = start().await;
        for _ in 0..5 {
            cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
            sleep(4.0).await;
        }
        // The epoch ends by itself, and takes the longest of its time.
        cluster.set_weather(Weather { slow: 0.3, ..Weather::default() });
        sleep(90.0).await;
        all_is_stored_once(&cluster).await;
        see_all(&cluster).await;
    });
}

/// Written at all. Taken out by letting only the writer write (`due` in `State::next_copies` of
/// `ingester/src/tenant/mod.rs` holds for rank 0 alone).
#[test]
fn what_its_writer_never_got_others_write() {
    scenario(12, || async {
        let cluster = start().await;
        for missing in ["a", "b", "c"] {
            cluster.cut("distributor-0", missing);
            cluster.push(0, &cluster.one_for_each()).await.expect("a quorum has it");
            cluster.heal();
        }
        sleep(200.0).await;
        all_is_stored_once(&cluster).await;
        assert_eq!(see_all(&cluster).await, 18);
    });
}

/// The ring goes on without the dead, and the next one is the writer.
#[test]
fn what_a_dead_writer_did_not_write_others_do() {
    scenario(8, || async {
        let cluster = start().await;
        cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
        cluster.crash("b").await;
        sleep(120.0).await;
        all_is_stored_once(&cluster).await;
        cluster.restart("b").await;
        sleep(120.0).await;
        all_is_stored_once(&cluster).await;
        see_all(&cluster).await;
    });
}

/// Nothing is let go on trust. Taken out by covering all of a stream when a block has some of it (`cover` in
/// `ingester/src/replicas/pending.rs`).
#[test]
fn a_replica_does_not_let_go_of_what_the_writer_did_not_have() {
    scenario(9, || async {
        let cluster = start().await;
        for missing in ["a", "b", "c"] {
            cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
            cluster.cut("distributor-0", missing);
            cluster.push(0, &cluster.one_for_each()).await.expect("a quorum has it");
            cluster.heal();
        }
        sleep(5.0).await;
        flush_all(&cluster).await;
        all_is_stored(&cluster).await;
        assert_eq!(see_all(&cluster).await, 36);
    });
}

/// Coverage. Taken out by telling the table that everything up to the last written entry is covered (`covered` in
/// `advance` of `ingester/src/replicas/mod.rs`).
#[test]
fn what_is_not_covered_is_replayed() {
    scenario(10, || async {
        let cluster = start().await;
        cluster.cut("distributor-0", "c");
        cluster.push(0, &cluster.one_for_each()).await.expect("a quorum has it");
        cluster.heal();
        // It writes what it is the writer of, and nothing else yet.
        let flushed = tokio::time::timeout(Duration::from_secs(1), cluster.flush("a")).await;
        assert!(flushed.is_err(), "others have not written theirs");
        cluster.crash("a").await;
        cluster.restart("a").await;
        cluster.lose("b").await;
        sleep(7.0).await;
        assert_eq!(see_all(&cluster).await, 6);
        flush_all(&cluster).await;
        all_is_stored(&cluster).await;
    });
}

/// A disk that is lost takes nothing with it that was acknowledged.
#[test]
fn a_lost_disk_loses_nothing() {
    scenario(11, || async {
        let cluster = start().await;
        cluster.join("d").await;
        cluster.push(1, &cluster.one_for_each()).await.expect("an acknowledgement");
        cluster.lose("a").await;
        cluster.push(1, &cluster.one_for_each()).await.expect("a spare takes its place");
        sleep(200.0).await;
        assert_eq!(cluster.dead(), [""; 0], "its record has gone");
        all_is_stored(&cluster).await;
        assert_eq!(see_all(&cluster).await, 12);
    });
}

/// Rule 1. Two compactors that believe the same, while entries are flushed and asked for. Taken out by letting rewrites
/// commit whatever has changed since the snapshot that they began with (`Standing::Conflict` in `RewriteCommit::standing` of
/// `storage/src/table/commit.rs`): the table had entries twice.
#[test]
fn rule_1_compactors_exclude_each_other() {
    scenario(12, || async {
        let cluster = start().await;
        for _ in 0..4 {
            cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
            flush_all(&cluster).await;
        }
        sleep(settle_after().as_secs_f64() + 1.0).await;
        let newer = async {
            cluster.push(1, &cluster.one_for_each()).await.expect("an acknowledgement");
            flush_all(&cluster).await;
        };
        let compact = |name| cluster.compact(name, settle_after(), Duration::from_secs(600));
        let (first, second, seen, ()) =
            futures::join!(compact("compactor-0"), compact("compactor-1"), see_all(&cluster), newer);
        assert!(first && second && seen >= 24);
        all_is_stored_once(&cluster).await;
        assert_eq!(see_all(&cluster).await, 30);
    });
}

/// Rule 2. Taken out by deleting what was written after any failed commit (`matches!(error, table::Error::Conflict { .. })`
/// in `carry_out` of `compactor/src/work.rs`): the table then names files that are gone.
#[test]
fn rule_2_a_rewrite_whose_answers_are_lost_may_have_happened() {
    scenario(13, || async {
        let cluster = start().await;
        for _ in 0..3 {
            cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
            flush_all(&cluster).await;
        }
        sleep(settle_after().as_secs_f64() + 1.0).await;
        let (done, ()) =
            futures::join!(cluster.compact("compactor-0", settle_after(), Duration::from_secs(600)), async {
                // Its way to the store is the newest.
                let faults = cluster.fault_handles().pop().expect("ways to the store");
                (0..1000).for_each(|_| faults.arm(Request::Put, "_delta_log/", Fault::Lost));
                while faults.counts().lost == 0 {
                    sleep(0.005).await;
                }
                (0..1000).for_each(|_| faults.arm(Request::Get, "_delta_log/", Fault::Error));
            });
        assert!(!done, "it could not know what became of its commit");
        all_is_stored_once(&cluster).await;
        assert_eq!(see_all(&cluster).await, 18);
        assert!(cluster.compact("compactor-1", settle_after(), Duration::from_secs(600)).await);
        all_is_stored_once(&cluster).await;
    });
}

/// Written once. A replica that is slow finds the list of what it has as long as the compactor leaves it alone. Taken out
/// by a compactor that does not wait (`Duration::ZERO` instead of `settle_after()`): the replicas write their copies.
#[test]
fn lists_stay_as_long_as_a_replica_may_need_them() {
    scenario(14, || async {
        let cluster = start().await;
        for _ in 0..3 {
            cluster.push(0, &cluster.one_for_each()).await.expect("an acknowledgement");
            // One replica after the other, as if the others slept.
            cluster.freeze("c", true);
            let flushes = ["a", "b"].map(|name| cluster.flush(name));
            let _ = tokio::time::timeout(Duration::from_secs(8), futures::future::join_all(flushes)).await;
            cluster.compact("compactor-0", settle_after(), Duration::from_secs(600)).await;
            cluster.freeze("c", false);
            flush_all(&cluster).await;
            all_is_stored_once(&cluster).await;
        }
        see_all(&cluster).await;
        sleep(settle_after().as_secs_f64() + 1.0).await;
        assert!(cluster.compact("compactor-0", settle_after(), Duration::from_secs(600)).await);
        all_is_stored(&cluster).await;
        assert_eq!(see_all(&cluster).await, 18);
    });
}
