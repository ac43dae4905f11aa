//! Tails over ingesters that hand on what a test tells them to.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use skald_cluster::topology::Member;
use skald_cluster::{Topology, View};
use skald_model::ring::RingMember;
use skald_model::{EntryHash, Error, Labels, Result, StreamId, TenantId};
use skald_rpc::ingester::{
    HeldStreams, Holding, IdentitiesRequest, IngesterPush, StreamInfo, StreamsRequest,
};
use skald_rpc::patterns::{PatternSeries, PatternsRequest};
use skald_rpc::querier::{
    BlockIdentitiesRequest, BlockStreamsRequest, LogResult, LogTask, MetricResult, MetricTask,
};
use skald_rpc::tail::{Dropped, TailQuery, TailStream, TailTask, TailWriter, buffer};
use skald_rpc::{Ingester, Querier, QueryFrontend as _};

use crate::tests::{Item, entry, first, over_members, tenant};
use crate::{Config, Frontend};

/// An ingester with entries, and the writers of its tails.
#[derive(Default)]
struct Fake {
    items: Mutex<Vec<Item>>,
    tails: Mutex<Vec<TailWriter>>,
    /// Appended between the beginning of the tail and the query.
    at_the_seam: Mutex<Vec<Item>>,
    refusal: Mutex<Option<Error>>,
}

impl Fake {
    fn append(&self, items: &[Item]) {
        self.items.lock().extend(items);
        for tail in &*self.tails.lock() {
            tail.write(items.iter().map(entry));
        }
    }

    /// Loses its readers, as a crash does.
    fn crash(&self) {
        self.tails.lock().clear();
    }
}

#[async_trait]
impl Ingester for Fake {
    async fn volumes(&self, _: skald_rpc::ingester::VolumesRequest) -> Result<Vec<skald_model::GroupVolume>> {
        Ok(vec![])
    }
    async fn push(&self, _: IngesterPush) -> Result<()> {
        Ok(())
    }
    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        let at_the_seam = std::mem::take(&mut *self.at_the_seam.lock());
        self.append(&at_the_seam);
        Ok(first(&self.items.lock(), &task))
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
        if let Some(refusal) = self.refusal.lock().clone() {
            return Err(refusal);
        }
        let (writer, reader) = buffer(1 << 20);
        self.tails.lock().push(writer);
        Ok(reader.boxed())
    }
    async fn flush(&self, _: Option<TenantId>) -> Result<()> {
        Ok(())
    }
}

struct NoBlocks;

#[async_trait]
impl Querier for NoBlocks {
    async fn volumes(
        &self,
        _: skald_rpc::querier::BlockVolumesRequest,
    ) -> Result<Vec<skald_model::GroupVolume>> {
        Ok(vec![])
    }
    async fn query_logs(&self, _: LogTask) -> Result<LogResult> {
        Ok(LogResult::default())
    }
    async fn query_metric(&self, _: MetricTask) -> Result<MetricResult> {
        Ok(MetricResult::default())
    }
    async fn streams(&self, _: BlockStreamsRequest) -> Result<Vec<StreamInfo>> {
        Ok(vec![])
    }
    async fn identities(&self, _: BlockIdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        Ok(vec![])
    }
}

fn view(ingesters: &[&Arc<Fake>]) -> View {
    let members = ingesters.iter().enumerate().map(|(n, fake)| {
        let place = RingMember { name: format!("i{n}"), zone: String::new(), tokens: vec![n as u32] };
        (place, Arc::clone(fake) as Arc<dyn Ingester>)
    });
    let querier = Member { name: "q".into(), service: Arc::new(NoBlocks) as Arc<dyn Querier> };
    View::new(members.collect(), vec![querier], 1)
}

fn frontend(topology: &Arc<Topology>, duration_max: Duration) -> Frontend {
    over_members(&Config { tail_max_duration: duration_max, ..Config::default() }, topology.clone())
}

const HOUR: Duration = Duration::from_secs(3600);

fn query(limit: usize, delay: Duration) -> TailQuery {
    TailQuery { tenant: tenant(), query: r#"{app="a"}"#.into(), start: now() - 1_000_000_000, limit, delay }
}

fn now() -> i64 {
    use skald_runtime::Clock as _;
    skald_runtime::SystemClock.now()
}

/// Times of the next entries, relative to `from`.
async fn times(tail: &mut TailStream, count: usize, from: i64) -> Vec<i64> {
    let mut times = Vec::new();
    while times.len() < count {
        let batch = tail.next().await.unwrap().unwrap();
        times.extend(batch.entries.iter().map(|e| e.timestamp - from));
    }
    times
}

#[tokio::test]
async fn the_newest_entries_come_first_and_nothing_is_missing_or_double_at_the_seam() {
    let (a, b) = (Arc::new(Fake::default()), Arc::new(Fake::default()));
    let t = now();
    a.append(&[(t, 0), (t + 1, 0), (t + 2, 0)]);
    // A replica has one of them, too, and takes in another while the tail begins.
    b.append(&[(t + 2, 0)]);
    b.at_the_seam.lock().push((t + 3, 0));
    let topology = Topology::new(view(&[&a, &b]));
    let f = frontend(&topology, HOUR);
    let mut tail = f.tail(query(3, Duration::ZERO)).await.unwrap();
    assert_eq!(times(&mut tail, 3, t).await, [1, 2, 3]);
    a.append(&[(t + 3, 0), (t + 4, 0)]);
    b.append(&[(t + 4, 0), (t + 5, 0)]);
    let mut rest = times(&mut tail, 2, t).await;
    rest.sort();
    assert_eq!(rest, [4, 5]);
    assert!(tail.next().now_or_never().is_none());
    assert_eq!(f.metrics.tails.get(), 1);
    drop(tail);
    assert_eq!(f.metrics.tails.get(), 0);
}

#[tokio::test]
async fn what_three_replicas_send_in_any_portions_comes_once() {
    let fakes = [(); 3].map(|()| Arc::new(Fake::default()));
    let topology = Topology::new(view(&fakes.each_ref()));
    let f = frontend(&topology, HOUR);
    let mut tail = f.tail(query(10, Duration::ZERO)).await.unwrap();
    let t = now();
    let items: Vec<Item> = (0..60).map(|i| (t + i / 2, i as u32)).collect();
    for (fake, portion) in fakes.iter().zip([1, 7, 60]) {
        for part in items.chunks(portion) {
            fake.append(part);
        }
    }
    let mut all = times(&mut tail, 60, t).await;
    all.sort();
    assert_eq!(all, (0..60).map(|i| i / 2).collect::<Vec<_>>());
    assert!(tail.next().now_or_never().is_none());
}

#[tokio::test]
async fn ingesters_that_come_or_come_back_are_followed_and_what_they_had_is_brought() {
    let (a, b) = (Arc::new(Fake::default()), Arc::new(Fake::default()));
    let topology = Topology::new(view(&[&a]));
    let f = frontend(&topology, HOUR);
    let mut tail = f.tail(query(10, Duration::ZERO)).await.unwrap();
    let t = now();
    b.append(&[(t, 1)]);
    topology.publish(view(&[&a, &b]));
    assert_eq!(times(&mut tail, 1, t).await, [0], "by a query");
    b.append(&[(t + 1, 1)]);
    a.append(&[(t + 2, 1)]);
    let mut both = times(&mut tail, 2, t).await;
    both.sort();
    assert_eq!(both, [1, 2]);
    b.crash();
    b.append(&[(t + 3, 1)]);
    // Found missing, and followed again, without a change of the view.
    assert_eq!(times(&mut tail, 1, t).await, [3]);
    b.append(&[(t + 4, 1)]);
    assert_eq!(times(&mut tail, 1, t).await, [4]);
}

#[tokio::test]
async fn a_missing_ingester_does_not_hinder_but_a_refusal_does() {
    let (a, b) = (Arc::new(Fake::default()), Arc::new(Fake::default()));
    let topology = Topology::new(view(&[&a, &b]));
    let f = frontend(&topology, HOUR);
    *b.refusal.lock() = Some(Error::unavailable("is not there"));
    assert!(f.tail(query(10, Duration::ZERO)).await.is_ok());
    *a.refusal.lock() = Some(Error::unavailable("is not there, either"));
    let error = f.tail(query(10, Duration::ZERO)).await.err().unwrap();
    assert!(error.message.contains("no ingester can be followed"), "{error}");
    *a.refusal.lock() = None;
    *b.refusal.lock() = Some(Error::invalid("too many"));
    assert_eq!(f.tail(query(10, Duration::ZERO)).await.err().unwrap().message, "too many");
    let metric = TailQuery { query: r#"rate({app="a"}[1m])"#.into(), ..query(10, Duration::ZERO) };
    assert_eq!(f.tail(metric).await.err().unwrap().message, "only log selector is supported");
}

#[tokio::test(start_paused = true)]
async fn entries_that_come_late_are_in_order_when_they_are_held_back() {
    let a = Arc::new(Fake::default());
    let topology = Topology::new(view(&[&a]));
    let f = frontend(&topology, HOUR);
    let mut tail = f.tail(query(10, Duration::from_secs(3))).await.unwrap();
    let t = now();
    a.append(&[(t + 2, 0), (t + 1, 0)]);
    let reading = times(&mut tail, 3, t);
    let late = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        a.append(&[(t + 9, 0), (t, 0)]);
    };
    assert_eq!(futures::join!(reading, late).0, [0, 1, 2]);
    assert_eq!(times(&mut tail, 1, t).await, [9]);
}

#[tokio::test(start_paused = true)]
async fn losses_are_passed_on_and_a_tail_ends_at_its_limit() {
    let a = Arc::new(Fake::default());
    let topology = Topology::new(view(&[&a]));
    let f = frontend(&topology, Duration::from_secs(10));
    let mut tail = f.tail(query(10, Duration::ZERO)).await.unwrap();
    let mut dropped = Dropped::default();
    dropped.add(7, &Labels::empty());
    a.tails.lock()[0].lost(dropped.clone());
    assert_eq!(tail.next().await.unwrap().unwrap().dropped, dropped);
    let error = tail.next().await.unwrap().unwrap_err();
    assert_eq!(error.message, "reached tail max duration limit");
    assert!(tail.next().await.is_none());
}
