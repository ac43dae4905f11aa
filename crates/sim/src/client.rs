//! What clients do, and the checks of what they get.

use std::collections::BTreeMap;

use skald_model::{Direction, Kind, Result, TimeRange, Timestamp};
use skald_rpc::DeleteRequests as _;
use skald_rpc::deletes::NewDelete;
use skald_rpc::frontend::{InstantQuery, MetadataRequest, QueryData, RangeQuery};
use skald_rpc::{Distributor as _, QueryFrontend as _};

use crate::cluster::Cluster;
use crate::dice;
use crate::history::{APPS, Entry, number_of, push_of};
use crate::promises::{Asked, Verdict, promise_2_counted_exactly_once, promise_2_seen_exactly_once};
use crate::table;
use crate::trace::note;

const SECOND: i64 = 1_000_000_000;
/// Queries look back so far, which is longer than a run.
const LOOK_BACK: i64 = 3600 * SECOND;
/// Entries that no query has as many of.
pub const NO_LIMIT: usize = 100_000;

impl Cluster {
    /// New entries of `app`, of now and the last seconds.
    pub fn new_entries(&self, app: usize, count: usize) -> Vec<Entry> {
        let now = self.now();
        let mut history = self.0.history.lock();
        (0..count).map(|_| history.add(app, now - dice::below(5 * SECOND as u64) as i64)).collect()
    }

    /// A new entry at `timestamp`.
    pub fn new_entry_at(&self, app: usize, timestamp: Timestamp) -> Entry {
        self.0.history.lock().add(app, timestamp)
    }

    /// One entry for each stream.
    pub fn one_for_each(&self) -> Vec<Entry> {
        (0..APPS.len()).flat_map(|app| self.new_entries(app, 1)).collect()
    }

    /// Pushes entries through a distributor, and remembers what that makes true.
    pub async fn push(&self, distributor: usize, entries: &[Entry]) -> Result<()> {
        self.0.history.lock().begin(entries, self.now());
        let outcome = self.0.distributors[distributor].push(&self.0.tenant, push_of(entries)).await;
        let numbers: Vec<u64> = entries.iter().map(|e| e.number).collect();
        match &outcome {
            Ok(()) => {
                self.0.history.lock().acknowledge(entries);
                note!(self.0.trace, "acknowledged {numbers:?}");
            }
            Err(error) => note!(self.0.trace, "not acknowledged {numbers:?}: {error}"),
        }
        outcome
    }

    /// Asks to delete what `query` selects of all times until now, and returns the name of the request.
    pub async fn delete(&self, query: &str) -> Result<String> {
        let (tenant, query, end) = (self.0.tenant.clone(), query.to_owned(), self.now());
        let outcome = self.0.deletes.add(NewDelete { tenant, query: query.clone(), start: 0, end }).await;
        note!(self.0.trace, "delete {query}: {}", if outcome.is_ok() { "accepted" } else { "refused" });
        outcome
    }

    /// Asks to delete all of one of [`APPS`], and takes note of what has to be gone from then on.
    pub async fn delete_app(&self, app: usize) -> Result<()> {
        let certain = self.0.history.lock().begin_delete(app, self.now());
        let outcome = self.delete(&format!("{{app=\"{}\"}}", APPS[app])).await;
        let gone = if outcome.is_ok() { &certain[..] } else { &[] };
        self.0.history.lock().end_delete(app, gone, self.now());
        outcome.map(drop)
    }

    /// Takes a request to delete back.
    pub async fn cancel_delete(&self, id: &str) -> Result<()> {
        note!(self.0.trace, "cancel delete {id}");
        self.0.deletes.cancel(&self.0.tenant, id, false).await
    }

    /// Asks for all entries, and checks the answer.
    pub async fn query(&self, direction: Direction, limit: usize) -> Result<Vec<Entry>> {
        let (before, gone) = self.known();
        let now = self.now();
        let query = RangeQuery {
            tenant: self.0.tenant.clone(),
            query: "{app=~\".+\"}".to_owned(),
            start: now - LOOK_BACK,
            end: now + 60 * SECOND,
            step: SECOND,
            interval: 0,
            limit,
            direction,
            tags: String::new(),
        };
        note!(self.0.trace, "query begins");
        let response = match self.0.frontend.query_range(query).await {
            Ok(response) => self.answered(response),
            Err(error) => return Err(self.failed(error)),
        };
        let mut answer = Vec::new();
        if let QueryData::Streams(entries) = response.data {
            for e in entries {
                let app = APPS.iter().position(|a| e.labels.stream.get("app") == Some(*a));
                let entry = number_of(&e.line).zip(app);
                match entry {
                    Some((number, app)) => answer.push(Entry { number, app, timestamp: e.timestamp }),
                    None => self.check(Err(format!("promise_2_seen_exactly_once: nobody pushed {e:?}"))),
                }
            }
        }
        note!(self.0.trace, "query of {direction:?} {limit} has {} entries", answer.len());
        let asked = Asked { before, gone, direction, limit };
        let verdict = promise_2_seen_exactly_once(&self.0.history.lock(), &asked, &answer);
        self.check(verdict);
        Ok(answer)
    }

    /// Counts all entries by stream, and checks the answer.
    pub async fn count(&self) -> Result<BTreeMap<String, u64>> {
        let (before, gone) = self.known();
        let time = self.now() + 60 * SECOND;
        let query = InstantQuery {
            tenant: self.0.tenant.clone(),
            query: "sum by (app) (count_over_time({app=~\".+\"}[1h]))".to_owned(),
            time,
            limit: NO_LIMIT,
            direction: Direction::Backward,
            tags: String::new(),
        };
        note!(self.0.trace, "count begins");
        let response = match self.0.frontend.query(query).await {
            Ok(response) => self.answered(response),
            Err(error) => return Err(self.failed(error)),
        };
        let mut counts = BTreeMap::new();
        if let QueryData::Vector(series) = response.data {
            for s in series {
                let app = s.labels.get("app").unwrap_or_default().to_owned();
                counts.insert(app, s.samples.first().map_or(0, |(_, value)| *value as u64));
            }
        }
        note!(self.0.trace, "count has {counts:?}");
        // A range of `count_over_time` is open at its begin.
        let range = (time - LOOK_BACK + 1, time);
        let verdict =
            promise_2_counted_exactly_once(&self.0.history.lock(), (&before, &gone), range, &counts);
        self.check(verdict);
        Ok(counts)
    }

    /// Asks which of [`APPS`] have entries.
    pub async fn apps(&self) -> Result<Vec<String>> {
        let request = MetadataRequest {
            tenant: self.0.tenant.clone(),
            // Always the same, so that an answer may be remembered.
            range: TimeRange::new(self.0.setup.start - LOOK_BACK, self.0.setup.start + 24 * LOOK_BACK),
            selectors: Vec::new(),
        };
        let streams = self.0.frontend.series(request).await?;
        let mut apps: Vec<String> =
            streams.iter().filter_map(|s| s.labels.get("app").map(str::to_owned)).collect();
        apps.sort_unstable();
        apps.dedup();
        note!(self.0.trace, "apps are {apps:?}");
        Ok(apps)
    }

    /// What was acknowledged and what is gone by now.
    fn known(&self) -> (Vec<u64>, Vec<u64>) {
        let history = self.0.history.lock();
        (history.acknowledged(), history.gone())
    }

    fn answered<T>(&self, response: T) -> T {
        self.0.queries.lock().0 += 1;
        response
    }

    /// Queries that were answered, and that failed.
    pub fn queries(&self) -> (u64, u64) {
        *self.0.queries.lock()
    }

    /// A query may fail where too many are lacking or late; what else it says is a defect.
    fn failed(&self, error: skald_model::Error) -> skald_model::Error {
        self.0.queries.lock().1 += 1;
        note!(self.0.trace, "query fails: {error}");
        if !matches!(error.kind, Kind::Unavailable | Kind::Timeout | Kind::LimitExceeded) {
            self.check(Err(format!("promise_2_seen_exactly_once: a query fails with {error}")));
        }
        error
    }

    /// What the table has now, as any reader of Parquet sees it.
    pub async fn stored(&self) -> std::result::Result<Vec<Entry>, String> {
        let snapshot = loop {
            match self.0.catalog.snapshot(&self.0.tenant).await {
                Ok(snapshot) => break snapshot,
                Err(error) => note!(self.0.trace, "the table can't be read: {error}"),
            }
        };
        table::rows(&self.0.store, &self.0.tenant, &snapshot).await
    }

    /// Takes note of what an invariant says.
    pub fn check(&self, verdict: Verdict) {
        if let Err(broken) = verdict {
            note!(self.0.trace, "BROKEN: {broken}");
            self.0.broken.lock().push(broken);
        }
    }

    /// What is broken so far.
    pub fn broken(&self) -> Vec<String> {
        self.0.broken.lock().clone()
    }

    /// What was pushed so far.
    pub fn history(&self) -> crate::history::History {
        self.0.history.lock().clone()
    }
}
