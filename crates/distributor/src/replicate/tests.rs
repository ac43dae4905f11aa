use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use parking_lot::Mutex;
use proptest::prelude::*;
use skald_model::batch::{BatchStream, EntryRef};
use skald_model::ring::{RingMember, tokens_of};
use skald_model::{EntryHash, GroupVolume, Kind, Labels, StreamId};
use skald_rpc::Ingester;
use skald_rpc::ingester::{HeldStreams, Holding, IdentitiesRequest, StreamsRequest, VolumesRequest};
use skald_rpc::patterns::{PatternSeries, PatternsRequest};
use skald_rpc::querier::{LogResult, LogTask, MetricResult, MetricTask};
use skald_rpc::tail::{TailStream, TailTask};

use tokio::sync::Semaphore;

use super::*;

/// What a fake does with a push.
#[derive(Clone, Debug, Default)]
enum Does {
    #[default]
    Stores,
    /// Stores it, and answers with an error.
    Refuses(Error),
    Fails(Error),
    /// Fails so many times.
    Recovers(usize),
    /// Stores it once there is a permit.
    Waits,
}

/// Keeps the lines it is given, each push once.
struct Fake {
    does: Does,
    pushes: Mutex<usize>,
    gate: Semaphore,
    lines: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl Ingester for Fake {
    async fn push(&self, push: IngesterPush) -> Result<()> {
        let count = {
            let mut pushes = self.pushes.lock();
            *pushes += 1;
            *pushes
        };
        let mut outcome = Ok(());
        match &self.does {
            Does::Stores => {}
            Does::Refuses(e) => outcome = Err(e.clone()),
            Does::Fails(e) => return Err(e.clone()),
            Does::Recovers(times) if count <= *times => return Err(Error::unavailable("starting")),
            Does::Recovers(_) => {}
            Does::Waits => self.gate.acquire().await.unwrap().forget(),
        }
        let entries = &push.batch.entries;
        let lines = push.batch.streams.iter().flat_map(|s| push.batch.of(s));
        let lines = lines.map(|e| String::from_utf8_lossy(entries.line(e)).into_owned());
        self.lines.lock().extend(lines);
        outcome
    }
    async fn query_logs(&self, _: LogTask) -> Result<LogResult> {
        Ok(LogResult::default())
    }
    async fn query_metric(&self, _: MetricTask) -> Result<MetricResult> {
        Ok(MetricResult::default())
    }
    async fn streams(&self, _: StreamsRequest) -> Result<HeldStreams> {
        Ok(HeldStreams::default())
    }
    async fn identities(&self, _: IdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        Err(Error::internal("not asked for"))
    }
    async fn holding(&self) -> Result<Holding> {
        Err(Error::internal("not asked for"))
    }
    async fn pattern_streams(&self, _: PatternsRequest) -> Result<Vec<(StreamId, u64)>> {
        Err(Error::internal("not asked for"))
    }
    async fn patterns(&self, _: PatternsRequest) -> Result<Vec<PatternSeries>> {
        Err(Error::internal("not asked for"))
    }
    async fn tail(&self, _: TailTask) -> Result<TailStream> {
        Err(Error::internal("not asked for"))
    }
    async fn volumes(&self, _: VolumesRequest) -> Result<Vec<GroupVolume>> {
        Ok(vec![])
    }
    async fn flush(&self, _: Option<TenantId>) -> Result<()> {
        Ok(())
    }
}

fn batch(streams: usize) -> Batch {
    let tenant = TenantId::new("t").unwrap();
    let mut out = Batch::default();
    let mut body = Vec::new();
    for i in 0..streams {
        let line = format!("line {i}");
        let labels = Labels::from_pairs([("app", line.as_str())]);
        let id = StreamId::of(&tenant, labels.as_ref());
        out.streams.push(BatchStream { id, labels, entries: i as u32..i as u32 + 1 });
        out.entries.refs.push(EntryRef {
            timestamp: i as i64,
            line_start: body.len() as u32,
            line_len: line.len() as u32,
            metadata_start: 0,
            metadata_len: 0,
        });
        body.extend_from_slice(line.as_bytes());
    }
    out.entries.body = body.into();
    out
}

struct Cluster {
    fakes: Vec<Arc<Fake>>,
    view: Arc<View>,
    replicator: Replicator,
}

impl Cluster {
    /// Ingesters that do this; in so many zones, if any.
    fn new(all: &[Does], zones: usize) -> Self {
        let fake = |does: &Does| Fake {
            does: does.clone(),
            pushes: Mutex::new(0),
            gate: Semaphore::new(0),
            lines: Mutex::default(),
        };
        let fakes: Vec<_> = all.iter().map(|does| Arc::new(fake(does))).collect();
        let members = fakes.iter().enumerate().map(|(i, f)| {
            let name = format!("ingester-{i}");
            let zone = if zones > 0 { format!("zone-{}", i % zones) } else { String::new() };
            let tokens = tokens_of(&name, 64);
            (RingMember { name, zone, tokens }, f.clone() as Arc<dyn Ingester>)
        });
        let view = Arc::new(View::new(members.collect(), vec![], 3));
        let spares = IntCounter::new("spares", "Spares.").unwrap();
        Self { fakes, view, replicator: Replicator::new(Duration::from_secs(1), 1 << 20, spares) }
    }

    async fn push(&self, streams: usize) -> Result<()> {
        self.push_within(streams, 0).await
    }

    async fn push_within(&self, streams: usize, shard_size: usize) -> Result<()> {
        let tenant = TenantId::new("t").unwrap();
        self.replicator.replicate(&self.view, &tenant, PushStamp::default(), batch(streams), shard_size).await
    }

    /// On how many ingesters each line is.
    fn copies(&self) -> BTreeMap<String, usize> {
        let mut copies = BTreeMap::new();
        for line in self.fakes.iter().flat_map(|f| f.lines.lock().clone()) {
            *copies.entry(line).or_default() += 1;
        }
        copies
    }

    fn pushes(&self) -> Vec<usize> {
        self.fakes.iter().map(|f| *f.pushes.lock()).collect()
    }
}

fn down() -> Does {
    Does::Fails(Error::unavailable("down"))
}

fn refuses() -> Does {
    Does::Refuses(Error::invalid("entry too far behind"))
}

#[tokio::test]
async fn every_stream_goes_to_its_replicas() {
    let cluster = Cluster::new(&[(); 5].map(|()| Does::Stores), 0);
    cluster.push(40).await.unwrap();
    cluster.replicator.shutdown().await;
    let copies = cluster.copies();
    assert_eq!(copies.len(), 40);
    assert!(copies.values().all(|n| *n == 3));
}

#[tokio::test(start_paused = true)]
async fn a_quorum_is_enough_and_less_is_an_error_that_names_the_ingester() {
    Cluster::new(&[Does::Stores, Does::Stores, down()], 0).push(4).await.unwrap();
    let cluster = Cluster::new(&[Does::Stores, down(), down()], 0);
    let e = cluster.push(4).await.unwrap_err();
    assert_eq!(e.kind, Kind::Unavailable);
    assert!(e.message.starts_with("ingester-"), "{e}");
    assert!(cluster.pushes()[1..].iter().all(|n| (3..=6).contains(n)), "tried again: {:?}", cluster.pushes());
}

#[tokio::test(start_paused = true)]
async fn the_answer_does_not_wait_for_the_last_replica_which_gets_its_part_nevertheless() {
    let cluster = Cluster::new(&[Does::Stores, Does::Waits, Does::Stores], 0);
    let begin = tokio::time::Instant::now();
    cluster.push(2).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(cluster.copies().values().copied().collect::<Vec<_>>(), [2, 2]);
    assert!(cluster.replicator.background.bytes.load(Ordering::Relaxed) > 0);
    cluster.fakes[1].gate.add_permits(1);
    cluster.replicator.shutdown().await;
    assert_eq!(cluster.copies().values().copied().collect::<Vec<_>>(), [3, 3]);
    assert_eq!(cluster.replicator.background.bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn without_room_for_the_rest_the_answer_waits() {
    let mut cluster = Cluster::new(&[Does::Stores, Does::Waits, Does::Stores], 0);
    cluster.replicator = Replicator::new(Duration::from_secs(1), 10, IntCounter::new("s", "S.").unwrap());
    let mut push = Box::pin(cluster.push(2));
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut push).await.is_err());
    cluster.fakes[1].gate.add_permits(1);
    push.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_push_whose_client_goes_away_is_stored_everywhere() {
    let cluster = Cluster::new(&[(); 3].map(|()| Does::Waits), 0);
    assert!(tokio::time::timeout(Duration::from_millis(10), cluster.push(1)).await.is_err());
    for f in &cluster.fakes {
        f.gate.add_permits(1);
    }
    cluster.replicator.shutdown().await;
    assert_eq!(cluster.copies().values().copied().collect::<Vec<_>>(), [3]);
}

#[tokio::test(start_paused = true)]
async fn spares_take_the_place_of_replicas_that_fail_or_hang() {
    for broken in [down(), Does::Waits] {
        let all = [Does::Stores, Does::Stores, broken.clone(), broken, Does::Stores];
        let cluster = Cluster::new(&all, 0);
        cluster.push(60).await.unwrap();
        let copies = cluster.copies();
        assert_eq!(copies.len(), 60);
        assert!(copies.values().all(|n| (2..=3).contains(n)), "{copies:?}");
        assert!(cluster.replicator.spares.get() > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_spare_lies_in_a_zone_that_has_no_copy() {
    // Both of zone-0 and zone-1's second are down.
    let all = [down(), Does::Stores, Does::Stores, down(), down(), Does::Stores];
    let cluster = Cluster::new(&all, 3);
    cluster.push(60).await.unwrap();
    cluster.replicator.shutdown().await;
    for line in cluster.copies().keys() {
        let has = |f: &&Arc<Fake>| f.lines.lock().contains(line);
        let zones = (0..6).filter(|i| has(&&cluster.fakes[*i])).map(|i| i % 3).collect::<BTreeSet<_>>();
        assert_eq!(zones, BTreeSet::from([1, 2]), "{line}");
    }
    // Two copies in one zone are no quorum.
    let all = [down(), down(), Does::Stores, down(), down(), Does::Stores];
    assert_eq!(Cluster::new(&all, 3).push(9).await.unwrap_err().kind, Kind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn an_ingester_that_starts_again_gets_its_part_when_there_is_no_spare() {
    let cluster = Cluster::new(&[Does::Stores, Does::Recovers(1), down()], 0);
    cluster.push(3).await.unwrap();
    assert!(cluster.copies().values().all(|n| *n == 2));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_entries_reaches_the_pusher_if_a_quorum_does_not_take_them() {
    let e = Cluster::new(&[refuses(), refuses(), refuses()], 0).push(1).await.unwrap_err();
    assert_eq!(e.message, "entry too far behind");
    // Known as soon as two have refused.
    let e = Cluster::new(&[refuses(), Does::Waits, refuses()], 0).push(1).await.unwrap_err();
    assert_eq!(e.message, "entry too far behind");
    // One of three: the entries are on a quorum.
    Cluster::new(&[Does::Stores, Does::Stores, refuses()], 0).push(1).await.unwrap();
    let e = Cluster::new(&[Does::Stores, down(), refuses()], 0).push(1).await.unwrap_err();
    assert_eq!(e.message, "entry too far behind");
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_answered_in_its_own_words_and_not_evaded() {
    let limited = Does::Fails(Error::limit("Per stream rate limit exceeded", Duration::from_secs(1)));
    let cluster = Cluster::new(&[limited.clone(), limited.clone(), limited, Does::Stores], 0);
    let e = cluster.push(1).await.unwrap_err();
    assert_eq!((e.kind, &*e.message), (Kind::LimitExceeded, "Per stream rate limit exceeded"));
    assert_eq!(cluster.pushes().iter().sum::<usize>(), 3);
}

#[tokio::test]
async fn a_tenants_streams_stay_on_its_ingesters() {
    let cluster = Cluster::new(&[(); 8].map(|()| Does::Stores), 0);
    cluster.push_within(100, 4).await.unwrap();
    cluster.replicator.shutdown().await;
    assert_eq!(cluster.pushes().iter().filter(|n| **n > 0).count(), 4);
    assert!(cluster.copies().values().all(|n| *n == 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever becomes of the ingesters: `Ok` means that each entry is on two of them at least.
    #[test]
    fn an_acknowledged_push_is_on_a_quorum(
        all in prop::collection::vec(
            prop_oneof![3 => Just(Does::Stores), 1 => Just(down()), 1 => Just(Does::Waits), 1 => Just(Does::Recovers(1))], 3..8,
        ),
        zones in prop_oneof![Just(0usize), Just(3)], streams in 1usize..12,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::new(&all, zones);
            let push = tokio::time::timeout(Duration::from_secs(60), cluster.push(streams)).await;
            if let Ok(Ok(())) = push {
                for line in (0..streams).map(|i| format!("line {i}")) {
                    let holders = (0..all.len()).filter(|i| cluster.fakes[*i].lines.lock().contains(&line));
                    let places: BTreeSet<_> = holders.map(|i| if zones > 0 { i % zones } else { i }).collect();
                    prop_assert!(places.len() >= 2, "{line} is at {places:?}");
                }
            }
            let good = all.iter().filter(|d| matches!(d, Does::Stores | Does::Recovers(_))).count();
            if zones == 0 && good >= 2 {
                prop_assert!(matches!(push, Ok(Ok(()))), "two could take it: {push:?}");
            }
            Ok(())
        })?;
    }
}
