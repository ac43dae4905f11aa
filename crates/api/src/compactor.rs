//! The compactor over HTTP: the tables that it looks after, and who the compactors are.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{Html, IntoResponse as _, Response};
use http::HeaderMap;
use serde_json::{Value, json};
use skald_model::Timestamp;
use skald_rpc::Compaction;
use skald_rpc::compaction::TableStatus;
use skald_runtime::Clock;

use crate::cluster::page::{HEAD, ago, escaped};
use crate::cluster::{ClusterState, page, shard, wants_json};
use crate::rfc3339;
use crate::status::json_value;

/// What the page works with.
#[derive(Clone)]
pub(crate) struct CompactionState {
    pub(crate) compaction: Arc<dyn Compaction>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// `GET /compactor/status`: the tables that the compactor of this process looks after.
pub(crate) async fn status(State(state): State<CompactionState>, headers: HeaderMap) -> Response {
    let (rows, now) = (state.compaction.tables(), state.clock.now());
    if !wants_json(&headers) {
        return Html(tables_page(&rows, now)).into_response();
    }
    let tables: Vec<Value> = rows.iter().map(table).collect();
    json_value(&json!({ "tables": tables, "now": rfc3339::format(now) }))
}

/// `GET /compactor/ring`: the compactors of the cluster.
pub(crate) async fn ring(State(state): State<ClusterState>, headers: HeaderMap) -> Response {
    let mut rows = state.members.members();
    rows.retain(|m| m.roles.iter().any(|r| r == "compactor"));
    let now = state.clock.now();
    if !wants_json(&headers) {
        return Html(page::members(&rows, now)).into_response();
    }
    let shards: Vec<Value> = rows.iter().map(shard).collect();
    json_value(&json!({ "shards": shards, "now": rfc3339::format(now) }))
}

fn table(row: &TableStatus) -> Value {
    json!({
        "tenant": row.tenant,
        "version": row.version,
        "blocks": row.blocks,
        "blocks_flushed": row.blocks_flushed,
        "bytes": row.bytes,
        "raw_bytes": row.raw_bytes,
        "rows": row.rows,
        "oldest_entry": row.oldest_entry.map(rfc3339::format),
        "pending": {
            "merges": row.pending_merges,
            "bytes": row.pending_bytes,
            "removals": row.pending_removals,
            "delete_requests": row.open_requests,
        },
        "last_run": row.last_run.map(rfc3339::format),
        "last_error": row.last_error,
        "rewritten": { "bytes_read": row.rewritten_bytes_read, "bytes_written": row.rewritten_bytes_written },
        "rows_removed": row.rows_removed,
        "files_removed": row.files_removed,
        "files_waiting": row.files_waiting,
        "files_waiting_since": row.waiting_since.map(rfc3339::format),
    })
}

fn tables_page(rows: &[TableStatus], now: Timestamp) -> String {
    let mut page = format!("{HEAD}<title>Skald: compactor</title></head><body>\n<h1>Tables</h1>\n");
    page.push_str(
        "<table><tr><th>Tenant</th><th>Blocks</th><th>Flushed</th><th>MB</th><th>MB of lines</th><th>Rows</th>\
         <th>Oldest entry</th><th>Merges due</th><th>MB</th><th>Removals due</th><th>Deletes open</th><th>Last run</th>\
         <th>Last error</th></tr>\n",
    );
    for row in rows {
        let oldest = row.oldest_entry.map(rfc3339::format).unwrap_or_default();
        let last_run = row.last_run.map(|t| ago(t, now)).unwrap_or_default();
        let number = |n: u64| format!("<td class=\"n\">{n}</td>");
        let megabytes = |n: u64| format!("<td class=\"n\">{:.1}</td>", n as f64 / 1e6);
        let _ = writeln!(
            page,
            "<tr{}><td>{}</td>{}{}{}{}{}<td>{oldest}</td>{}{}{}{}<td>{last_run}</td><td>{}</td></tr>",
            if row.last_error.is_some() { " class=\"bad\"" } else { "" },
            escaped(&row.tenant),
            number(row.blocks),
            number(row.blocks_flushed),
            megabytes(row.bytes),
            megabytes(row.raw_bytes),
            number(row.rows),
            number(row.pending_merges),
            megabytes(row.pending_bytes),
            number(row.pending_removals),
            number(row.open_requests),
            escaped(row.last_error.as_deref().unwrap_or_default()),
        );
    }
    page.push_str(
        "</table>\n<p>Each table is looked after by one compactor; <a href=\"ring\">here</a> they are all.</p>\n\
         </body></html>\n",
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_model::time::SECOND;

    #[test]
    fn a_table_is_shown_to_people_and_to_programs() {
        let row = TableStatus {
            tenant: "a<b".into(),
            blocks: 7,
            oldest_entry: Some(1_000_000_000 * SECOND),
            last_error: Some("it & that".into()),
            pending_merges: 3,
            ..TableStatus::default()
        };
        let page = tables_page(std::slice::from_ref(&row), 5 * SECOND);
        for part in
            ["a&lt;b", "<td class=\"n\">7</td>", "2001-09-09T01:46:40", "it &amp; that", "class=\"bad\""]
        {
            assert!(page.contains(part), "{part} in {page}");
        }
        let value = table(&row);
        assert_eq!((&value["tenant"], &value["pending"]["merges"]), (&json!("a<b"), &json!(3)));
        assert_eq!(value["last_run"], Value::Null);
    }
}
