//! The memory of the queries of one process: one budget for all of them, and the most that a part of one may hold.
//!
//! A part of a query is what one service does of it: the frontend's merge, a querier's task, an ingester's task. Each
//! holds a [`QueryShare`], which says what the part has in memory. Whoever finds the budget used up waits in line where
//! that blocks nobody, for as long as the configuration says, and is then refused with 429.

use std::sync::Arc;
use std::time::Duration;

use skald_model::{Error, Result};
use skald_runtime::memory::{Memory, Reservation};
use skald_runtime::units::format_bytes;

/// What a step of a scan may take before it has to ask whether there is more.
pub const STEP_BYTES: usize = 1 << 20;

/// The settings, which the section `querier` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryMemoryConfig {
    /// Bytes of all queries together (`querier.query_memory_budget`).
    pub budget: u64,
    /// Bytes of one part of a query (`querier.query_memory_max`).
    pub query_max: u64,
    /// How long a query waits for memory (`querier.query_memory_wait`).
    pub wait: Duration,
}

impl Default for QueryMemoryConfig {
    fn default() -> Self {
        Self { budget: 256 << 20, query_max: 128 << 20, wait: Duration::from_secs(2) }
    }
}

/// The memory of all queries. Clones share it.
#[derive(Clone, Debug)]
pub struct QueryMemory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    budget: Memory,
    query_max: usize,
    wait: Duration,
}

/// What one part of a query holds; given back when it is dropped.
#[derive(Debug)]
pub struct QueryShare {
    memory: QueryMemory,
    held: Option<Reservation>,
}

impl Default for QueryMemory {
    fn default() -> Self {
        Self::new(&QueryMemoryConfig::default())
    }
}

impl QueryMemory {
    /// The memory that the settings allow.
    pub fn new(config: &QueryMemoryConfig) -> Self {
        let budget = Memory::new(config.budget as usize);
        let query_max = (config.query_max as usize).min(budget.total());
        Self(Arc::new(Inner { budget, query_max, wait: config.wait }))
    }

    /// A share, still of nothing.
    pub fn share(&self) -> QueryShare {
        QueryShare { memory: self.clone(), held: None }
    }

    /// Bytes held by all queries.
    pub fn used(&self) -> usize {
        self.0.budget.used()
    }
}

impl QueryShare {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, Reservation::bytes)
    }

    /// Holds at least `bytes` from now on, if they are free.
    ///
    /// # Errors
    /// `InvalidArgument` for more than one query may hold, `LimitExceeded` while others hold too much.
    pub fn grow_to(&mut self, bytes: usize) -> Result<()> {
        let Some(more) = self.missing(bytes)? else { return Ok(()) };
        let reservation = self.memory.0.budget.try_reserve(more);
        self.add(reservation)
    }

    /// Holds exactly `bytes` from now on, and waits in line for what is not free. Not for threads that others wait for.
    ///
    /// # Errors
    /// Those of [`Self::grow_to`], once the wait is over.
    pub async fn resize(&mut self, bytes: usize) -> Result<()> {
        let Some(more) = self.missing(bytes)? else {
            if let Some(held) = &mut self.held {
                held.shrink_to(bytes);
            }
            return Ok(());
        };
        let Inner { budget, wait, .. } = &*self.memory.0;
        let reservation = budget.reserve(more, *wait).await;
        self.add(reservation)
    }

    /// How much more it takes to hold `bytes`; `None` if that much is held.
    fn missing(&self, bytes: usize) -> Result<Option<usize>> {
        let query_max = self.memory.0.query_max;
        if bytes > query_max {
            return Err(Error::invalid(format!(
                "the query needs {bytes} bytes of memory, more than the {query_max} that one query may hold (settings \
                 querier.query_memory_max, querier.query_memory_budget); narrow its time range or its selector, or group \
                 by fewer labels"
            )));
        }
        Ok(bytes.checked_sub(self.bytes()).filter(|more| *more > 0))
    }

    fn add(&mut self, reservation: Option<Reservation>) -> Result<()> {
        let Some(reservation) = reservation else {
            let Inner { budget, wait, .. } = &*self.memory.0;
            return Err(Error::limit(
                format!(
                    "queries are out of memory: {} of {} bytes are in use; try again (settings querier.query_memory_budget, \
                     querier.query_memory_wait)",
                    budget.used(),
                    format_bytes(budget.total() as u64)
                ),
                (*wait).max(Duration::from_secs(1)),
            ));
        };
        match &mut self.held {
            Some(held) => held.merge(reservation),
            None => self.held = Some(reservation),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_model::Kind;

    fn memory(budget: u64, query_max: u64) -> QueryMemory {
        QueryMemory::new(&QueryMemoryConfig { budget, query_max, wait: Duration::from_secs(3) })
    }

    #[tokio::test(start_paused = true)]
    async fn waits_in_line_and_is_then_refused_naming_the_setting() {
        let memory = memory(6400, 6400);
        let (mut a, mut b) = (memory.share(), memory.share());
        a.grow_to(6000).unwrap();
        assert_eq!(b.grow_to(1000).unwrap_err().kind, Kind::LimitExceeded);
        let refusal = b.resize(1000).await.unwrap_err();
        assert_eq!((refusal.kind, refusal.retry_after), (Kind::LimitExceeded, Some(Duration::from_secs(3))));
        assert!(refusal.message.contains("querier.query_memory_budget"), "{refusal}");
        let waiting = tokio::spawn(async move { b.resize(1000).await });
        tokio::task::yield_now().await;
        a.resize(100).await.unwrap();
        waiting.await.unwrap().unwrap();
        drop(a);
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn more_than_one_query_may_hold_fails_at_once_naming_limit_and_setting() {
        let memory = memory(6400, 1000);
        let mut share = memory.share();
        share.grow_to(900).unwrap();
        let error = share.grow_to(1001).unwrap_err();
        assert_eq!(error.kind, Kind::InvalidArgument);
        for part in ["1001", "1000", "querier.query_memory_max"] {
            assert!(error.message.contains(part), "{error}");
        }
        assert_eq!(share.bytes(), 900);
    }
}
