//! Patterns: each stream's from the replica that has counted most of its lines.

use std::sync::Arc;

use skald_logql::ast::Expr;
use skald_model::{Error, Result, TimeRange};
use skald_rpc::Ingester;
use skald_rpc::patterns::{PatternSeries, PatternsQuery, PatternsRequest};

use crate::Frontend;
use crate::replicas::{Replicas, Warnings, counted_elsewhere};

pub(crate) async fn run(frontend: &Frontend, query: PatternsQuery) -> Result<Vec<PatternSeries>> {
    let limits = frontend.limits.of(&query.tenant);
    let Expr::Log(log) = Frontend::parse(&query.query, &limits)? else { return Ok(Vec::new()) };
    if query.end < query.start {
        return Err(Error::invalid("end timestamp must not be before or equal to start time"));
    }
    let request = PatternsRequest {
        tenant: query.tenant,
        selector: log.selector.to_string(),
        range: TimeRange::new(query.start, query.end),
        step: query.step,
        exclude: Vec::new(),
    };
    frontend.timed(&limits, collect(frontend, request)).await
}

async fn collect(frontend: &Frontend, request: PatternsRequest) -> Result<Vec<PatternSeries>> {
    // There is no place for warnings in the answer.
    let warnings = Warnings::default();
    let replicas = frontend.replicas(&request.tenant, frontend.topology.view(), &warnings);
    replicas.until_settled(|| attempt(&replicas, &request)).await
}

/// `None` when an ingester was lost on the way.
async fn attempt(replicas: &Replicas, request: &PatternsRequest) -> Result<Option<Vec<PatternSeries>>> {
    let ask = |i: Arc<dyn Ingester>, exclude| {
        let request = PatternsRequest { exclude, ..request.clone() };
        async move { i.patterns(request).await }
    };
    let answers = if replicas.is_single() {
        Some(replicas.ask(|i| ask(i, Vec::new())).await?)
    } else {
        let count = |i: Arc<dyn Ingester>| {
            let request = request.clone();
            async move { i.pattern_streams(request).await }
        };
        let (positions, counts): (Vec<_>, Vec<_>) = replicas.ask(count).await?.into_iter().unzip();
        let questions = positions.into_iter().zip(counted_elsewhere(&counts)).map(|(position, elsewhere)| {
            let ingester = replicas.view().ingesters()[position].service.clone();
            (position, ask(ingester, elsewhere.into_iter().collect()))
        });
        replicas.ask_these(questions).await?
    };
    Ok(answers.map(|all| PatternSeries::join(all.into_iter().flat_map(|(_, series)| series))))
}
