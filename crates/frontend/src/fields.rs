//! Fields of entries: a log query, and what its entries have beside their stream's labels.

use skald_logql::fields::{self, Field};
use skald_model::{Direction, Error, LogEntry, Result};
use skald_rpc::QueryFrontend as _;
use skald_rpc::frontend::{DetectedField, DetectedFieldsQuery, QueryData, RangeQuery};

use crate::Frontend;

pub(crate) async fn detected_fields(
    frontend: &Frontend,
    query: DetectedFieldsQuery,
) -> Result<Vec<DetectedField>> {
    let limit = query.limit;
    let found = on_entries(frontend, query, move |entries| fields::detect(&entries, limit)).await?;
    let field = |f: Field| DetectedField {
        name: f.name,
        kind: f.kind.name().to_owned(),
        cardinality: f.cardinality,
        parsers: f.parsers.into_iter().map(String::from).collect(),
        json_path: f.json_path,
    };
    Ok(found.into_iter().map(field).collect())
}

pub(crate) async fn values(
    frontend: &Frontend,
    query: DetectedFieldsQuery,
    name: &str,
) -> Result<Vec<String>> {
    let (limit, name) = (query.limit, name.to_owned());
    on_entries(frontend, query, move |entries| fields::values(&entries, &name, limit)).await
}

/// Hands the entries of a log query to `look`, which may take its time.
async fn on_entries<T: Send + 'static>(
    frontend: &Frontend,
    query: DetectedFieldsQuery,
    look: impl FnOnce(Vec<LogEntry>) -> T + Send + 'static,
) -> Result<T> {
    let query = RangeQuery {
        tenant: query.tenant,
        query: query.query,
        start: query.start,
        end: query.end,
        step: 1,
        interval: 0,
        limit: query.line_limit,
        direction: Direction::Backward,
        tags: String::new(),
    };
    let response = frontend.query_range(query).await?;
    let memory = response.memory;
    let look = |entries| {
        let found = look(entries);
        drop(memory);
        found
    };
    match response.data {
        QueryData::Streams(entries) => tokio::task::spawn_blocking(move || look(entries))
            .await
            .map_err(|_| Error::internal("looking for fields panicked; the log has the details")),
        _ => Err(Error::invalid("fields are detected in the entries of a log query, not in a metric query")),
    }
}
