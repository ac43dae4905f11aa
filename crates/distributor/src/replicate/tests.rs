use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;
use skald_model::batch::{BatchStream, EntryRef};
use skald_model::ring::{RingMember, tokens_of};
use skald_model::{EntryHash, GroupVolume, Labels, StreamId};
use skald_rpc::Ingester;
use skald_rpc::ingester::{HeldStreams, Holding, IdentitiesRequest, StreamsRequest, VolumesRequest};
use skald_rpc::patterns::{PatternSeries, PatternsRequest};
use skald_rpc::querier::{LogResult, LogTask, MetricResult, MetricTask};
use skald_rpc::tail::{TailStream, TailTask};

use super::*;

/// Keeps the lines it is given, or answers with an error.
#[derive(Default)]
struct Fake {
    lines: Mutex<Vec<String>>,
    error: Option<Error>,
}

#[async_trait]
impl Ingester for Fake {
    async fn push(&self, push: IngesterPush) -> Result<()> {
        if let Some(e) = &self.error {
            return Err(e.clone());
        }
        let entries = &push.batch.entries;
        let lines = push.batch.streams.iter().flat_map(|s| push.batch.of(s));
        let lines = lines.map(|e| String::from_utf8_lossy(entries.line(e)).into_owned());
        self.lines.lock().extend(lines);
        Ok(())
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

async fn run(errors: &[Option<Error>], streams: usize) -> (Result<()>, BTreeMap<String, usize>) {
    let fakes: Vec<_> =
        errors.iter().map(|e| Arc::new(Fake { error: e.clone(), ..Fake::default() })).collect();
    let members = fakes.iter().enumerate().map(|(i, f)| {
        let name = format!("ingester-{i}");
        let tokens = tokens_of(&name, 64);
        (RingMember { name, zone: String::new(), tokens }, f.clone() as Arc<dyn Ingester>)
    });
    let view = Arc::new(View::new(members.collect(), vec![], 3));
    let outcome = replicate(&view, &TenantId::new("t").unwrap(), PushStamp::default(), batch(streams)).await;
    let mut copies = BTreeMap::new();
    for f in &fakes {
        for l in f.lines.lock().iter() {
            *copies.entry(l.clone()).or_default() += 1;
        }
    }
    (outcome, copies)
}

fn down() -> Option<Error> {
    Some(Error::unavailable("down"))
}

#[tokio::test]
async fn every_stream_goes_to_its_replicas() {
    let (outcome, copies) = run(&[None, None, None, None, None], 40).await;
    outcome.unwrap();
    assert_eq!(copies.len(), 40);
    assert!(copies.values().all(|n| *n == 3));
}

#[tokio::test]
async fn a_quorum_is_enough_and_less_is_an_error_that_names_the_ingester() {
    run(&[None, None, down()], 4).await.0.unwrap();
    let e = run(&[None, down(), down()], 4).await.0.unwrap_err();
    assert_eq!(e.kind, Kind::Unavailable);
    assert!(e.message.starts_with("ingester-"), "{e}");
}

#[tokio::test]
async fn a_refusal_of_entries_reaches_the_pusher_as_such() {
    let refused = Some(Error::invalid("entry too far behind"));
    let e = run(&[refused.clone(), refused.clone(), refused], 1).await.0.unwrap_err();
    assert_eq!(e.message, "entry too far behind");
}
