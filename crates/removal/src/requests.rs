//! The delete requests of a tenant, and how they change: pure functions from one list to the next.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use skald_model::removal::DeleteRule;
use skald_model::time::SECOND;
use skald_model::{Error, Kind, Result, TimeRange, Timestamp};

/// How long requests are remembered after they have been carried out. What an ingester has in its log may be as old.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(35 * 24 * 3600);
/// Most requests of a tenant that are not carried out yet: each query has to obey all of them.
pub const OPEN_MAX: usize = 1000;
/// The longest query of a request, in bytes.
pub const QUERY_BYTES_MAX: usize = 16 << 10;

/// The form of the list, in case it ever changes.
const FORMAT: u32 = 1;

/// A delete request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRequest {
    /// Its name.
    pub id: String,
    /// Which entries, as it was given.
    pub query: String,
    /// The first nanosecond.
    pub start: Timestamp,
    /// The last nanosecond, inclusive.
    pub end: Timestamp,
    /// When it was accepted, nanoseconds.
    pub created: Timestamp,
    /// The generation that it came with.
    pub generation: u64,
    /// When it had been carried out, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processed: Option<Timestamp>,
}

/// All requests of a tenant at one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteList {
    /// The form of this list.
    format: u32,
    /// The generation; 0 before there was any request.
    pub generation: u64,
    /// In order of their generation.
    pub requests: Vec<DeleteRequest>,
    /// The second of the newest request that was forgotten; 0 when none was.
    #[serde(default)]
    pub forgotten: i64,
}

impl Default for DeleteList {
    fn default() -> Self {
        Self { format: FORMAT, generation: 0, requests: Vec::new(), forgotten: 0 }
    }
}

impl DeleteRequest {
    /// The request as queries apply it.
    pub fn rule(&self) -> DeleteRule {
        DeleteRule {
            generation: self.generation,
            accepted: self.accepted(),
            range: TimeRange::new(self.start, self.end.saturating_add(1)),
            query: self.query.as_str().into(),
        }
    }

    /// The second in which it was accepted.
    pub fn accepted(&self) -> i64 {
        self.created.div_euclid(SECOND)
    }

    /// Whether it can no longer be taken back at `now`, so that it may be carried out.
    pub fn is_final(&self, now: Timestamp, cancel_period: Duration) -> bool {
        self.processed.is_some() || now >= self.final_at(cancel_period)
    }

    /// From when on it can no longer be taken back.
    pub fn final_at(&self, cancel_period: Duration) -> Timestamp {
        self.created.saturating_add(nanos(cancel_period))
    }
}

impl DeleteList {
    /// Reads a list.
    ///
    /// # Errors
    /// Says why it cannot be read.
    pub fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let list: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        match list.format {
            FORMAT => Ok(list),
            other => Err(format!("it has format {other}, and this version reads format {FORMAT}")),
        }
    }

    /// The request called `id`.
    pub fn find(&self, id: &str) -> Option<&DeleteRequest> {
        self.requests.iter().find(|r| r.id == id)
    }

    /// With one more request; `None` if it is there already.
    ///
    /// # Errors
    /// When too many are open.
    pub fn with(&self, request: DeleteRequest, now: Timestamp) -> Result<Option<Self>> {
        if self.find(&request.id).is_some() {
            return Ok(None);
        }
        let open = self.requests.iter().filter(|r| r.processed.is_none()).count();
        if open >= OPEN_MAX {
            let text = format!(
                "too many delete requests are waiting to be carried out ({open}, limit {OPEN_MAX}); cancel some, or use \
                 fewer requests with wider selectors"
            );
            return Err(Error::limit(text, Duration::from_secs(60)));
        }
        let mut next = self.next(now);
        next.requests.push(DeleteRequest { generation: next.generation, ..request });
        Ok(Some(next))
    }

    /// Without the request called `id`, of which `done` tells whether some of it has been carried out.
    ///
    /// # Errors
    /// When it is not there, or has been carried out: in Loki's words.
    pub fn without(
        &self,
        id: &str,
        force: bool,
        now: Timestamp,
        done: impl FnOnce(&DeleteRequest) -> bool,
    ) -> Result<Self> {
        let request = self
            .find(id)
            .ok_or_else(|| Error::new(Kind::NotFound, "could not find delete request with given id"))?;
        if request.processed.is_some() {
            return Err(Error::invalid(
                "deletion of request which is in process or already processed is not allowed",
            ));
        }
        if !force && done(request) {
            return Err(Error::invalid(
                "Unable to cancel partially completed delete request. To force, use the ?force query parameter",
            ));
        }
        let mut next = self.next(now);
        next.requests.retain(|r| r.id != id);
        Ok(next)
    }

    /// With the requests called `ids` as carried out; `None` if they all are already, or gone.
    pub fn with_processed(&self, ids: &[String], now: Timestamp) -> Option<Self> {
        let open = |r: &DeleteRequest| r.processed.is_none() && ids.contains(&r.id);
        if !self.requests.iter().any(open) {
            return None;
        }
        let mut next = self.next(now);
        for request in next.requests.iter_mut().filter(|r| open(r)) {
            request.processed = Some(now);
        }
        Some(next)
    }

    /// The requests that may be carried out at `now`, and the generation up to which these are all there are.
    pub fn ready(&self, now: Timestamp, cancel_period: Duration) -> (&[DeleteRequest], u64) {
        // Only up to the first that may still be taken back: blocks tell one number, up to which all are done.
        match self.requests.iter().position(|r| !r.is_final(now, cancel_period)) {
            Some(first) => (&self.requests[..first], self.requests[first].generation - 1),
            None => (&self.requests, self.generation),
        }
    }

    /// A list with the next number, without what need no longer be remembered.
    fn next(&self, now: Timestamp) -> Self {
        let mut next = self.clone();
        next.generation += 1;
        let oldest = now.saturating_sub(nanos(REMEMBERED_FOR));
        next.requests.retain(|r| {
            let kept = r.processed.is_none_or(|at| at >= oldest);
            if !kept {
                next.forgotten = next.forgotten.max(r.accepted());
            }
            kept
        });
        next
    }
}

pub(crate) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
