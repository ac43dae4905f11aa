//! The querier: runs query tasks over blocks.
//!
//! It keeps nothing but caches: the ends of blocks (page tables, stream index, line filter) and compiled queries. It
//! never asks the table: a task names its blocks. Reading is async and bounded in bytes, scanning runs on blocking
//! threads and is bounded in number; a task whose caller has gone away stops at the next step.

mod blocks;
mod identities;
mod logs;
mod metric;
mod overlap;
mod pool;
mod removals;

use std::sync::Arc;

use async_trait::async_trait;
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use skald_logql::ast::{Expr, LogExpr};
use skald_logql::syntax::{ParseOptions, parse_selector, parse_with};
use skald_model::{EntryHash, Error, GroupVolume, Result, Selector, StreamId, VolumeCollector};
use skald_rpc::ingester::StreamInfo;
use skald_rpc::memory::QueryMemory;
use skald_rpc::querier::{
    BlockIdentitiesRequest, BlockStreamsRequest, BlockVolumesRequest, LogResult, LogTask, MetricResult,
    MetricTask,
};
use skald_storage::cache::CacheMetrics;
use skald_storage::table::Catalog;

use crate::blocks::Blocks;
use crate::pool::ScanPool;

/// Settings of the querier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most scans at a time; 0 means one per core. More helps when the object store is slow; less leaves cores to
    /// others.
    pub max_concurrent: usize,
    /// Bytes of block ends (page tables, stream indexes, line filters) to keep. They take about 1.5 % of the raw
    /// bytes of the lines; queries over more than fits read them again each time.
    pub block_cache_bytes: u64,
    /// Compressed bytes of blocks that may be in memory for scans at a time. Tasks beyond it wait.
    pub fetch_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_concurrent: 0, block_cache_bytes: 128 << 20, fetch_bytes_max: 128 << 20 }
    }
}

/// The service. See the crate's documentation.
pub struct Querier {
    blocks: Blocks,
    pool: ScanPool,
    memory: QueryMemory,
    removals: skald_removal::Told,
}

impl Querier {
    /// A querier over the blocks of `catalog`'s store. What its tasks hold is held against `memory`.
    pub fn new(
        config: &Config,
        memory: QueryMemory,
        catalog: Arc<Catalog>,
        caches: &CacheMetrics,
        _registry: &Registry,
    ) -> std::result::Result<Self, prometheus::Error> {
        Ok(Self {
            blocks: Blocks::new(catalog, config.block_cache_bytes, config.fetch_bytes_max, caches),
            pool: ScanPool::new(config.max_concurrent),
            memory,
            removals: skald_removal::Told::default(),
        })
    }
}

/// What reaches a querier has been accepted by a frontend, so it is parsed as widely as the language goes.
const ACCEPTED: ParseOptions = ParseOptions { loki_strict: false };

fn parse_log(query: &str) -> Result<LogExpr> {
    match parse_with(query, ACCEPTED).map_err(|e| Error::invalid(e.to_string()))? {
        Expr::Log(log) => Ok(log),
        Expr::Metric(_) => Err(Error::invalid("a metric query came as a log task")),
    }
}

/// A query has read more than its budget.
fn over_budget(bytes: u64) -> Error {
    Error::invalid(format!(
        "the query has read {bytes} bytes of lines, more than it may (limits_config.max_query_bytes_read); narrow its \
         time range or its selector"
    ))
}

fn parse_selectors(texts: &[String]) -> Result<Vec<Selector>> {
    if texts.is_empty() {
        return Ok(vec![Selector::default()]);
    }
    texts
        .iter()
        .map(|t| parse_selector(t, ACCEPTED, true).map_err(|e| Error::invalid(e.to_string())))
        .collect()
}

#[async_trait]
impl skald_rpc::Querier for Querier {
    async fn query_logs(&self, task: LogTask) -> Result<LogResult> {
        logs::run(self, task).await
    }

    async fn query_metric(&self, task: MetricTask) -> Result<MetricResult> {
        metric::run(self, task).await
    }

    async fn streams(&self, request: BlockStreamsRequest) -> Result<Vec<StreamInfo>> {
        let selectors = parse_selectors(&request.selectors)?;
        let removals = self.removals.compile(request.removals.as_ref())?;
        let mut all = Vec::new();
        for block in &request.blocks {
            let source = removals::source(block);
            let block = self.blocks.open(&request.tenant, block).await?;
            let (selectors, range, removals) = (selectors.clone(), request.range, removals.clone());
            let find =
                move |_: &pool::Cancelled| block.streams(&selectors, range, removals.as_ref(), &source);
            let (streams, _) = self.pool.run(find).await?;
            all.extend(streams);
        }
        Ok(StreamInfo::join(all))
    }

    async fn identities(&self, request: BlockIdentitiesRequest) -> Result<Vec<(StreamId, EntryHash)>> {
        identities::run(self, request).await
    }

    async fn volumes(&self, request: BlockVolumesRequest) -> Result<Vec<GroupVolume>> {
        let BlockVolumesRequest { streams, spec } = request;
        let BlockStreamsRequest { tenant, blocks, range, selectors, removals } = streams;
        let selectors = parse_selectors(&selectors)?;
        let removals = self.removals.compile(removals.as_ref())?;
        let mut all = VolumeCollector::new(spec, range);
        for block in &blocks {
            let source = removals::source(block);
            let block = self.blocks.open(&tenant, block).await?;
            let (selectors, removals) = (selectors.clone(), removals.clone());
            let count = move |cancelled: &pool::Cancelled| {
                let removals = (removals.as_ref(), &source);
                block.add_volumes(&selectors, range, removals, &mut all, cancelled).map(|()| all)
            };
            (all, _) = self.pool.run(count).await?;
        }
        Ok(all.finish())
    }
}
