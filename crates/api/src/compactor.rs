//! The compactor over HTTP: the tables that it looks after, and who the compactors are.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{Html, IntoResponse as _, Response};
use http::HeaderMap;
use serde_json::{Value, json};
use skald_model::Timestamp;
use skald_runtime::Clock;

use crate::cluster::page::{HEAD, ago, escaped};
use crate::cluster::{ClusterState, page, shard, wants_json};
use crate::rfc3339;
use crate::status::json_value;

/// A tenant's table, as a compactor sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableRow {
    /// The tenant.
    pub tenant: String,
    /// Version of the table.
    pub version: i64,
    /// Blocks, flushed ones among them.
    pub blocks: u64,
    /// Blocks as they were flushed.
    pub blocks_flushed: u64,
    /// Bytes of all blocks.
    pub bytes: u64,
    /// Bytes of all lines.
    pub raw_bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Time of the oldest entry.
    pub oldest_entry: Option<Timestamp>,
    /// Merges that are due.
    pub pending_merges: u64,
    /// Bytes of the blocks that they read.
    pub pending_bytes: u64,
    /// Blocks that go, or that something goes from.
    pub pending_removals: u64,
    /// When it was looked at last.
    pub last_run: Option<Timestamp>,
    /// What went wrong then.
    pub last_error: Option<String>,
    /// Bytes that rewrites read since the process started.
    pub rewritten_bytes_read: u64,
    /// Bytes that they wrote.
    pub rewritten_bytes_written: u64,
    /// Files that were removed.
    pub files_removed: u64,
}

/// The compactor of this process.
pub trait Compaction: Send + Sync + 'static {
    /// The tables that it looks after, by tenant.
    fn tables(&self) -> Vec<TableRow>;
}

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

fn table(row: &TableRow) -> Value {
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
        },
        "last_run": row.last_run.map(rfc3339::format),
        "last_error": row.last_error,
        "rewritten": { "bytes_read": row.rewritten_bytes_read, "bytes_written": row.rewritten_bytes_written },
        "files_removed": row.files_removed,
    })
}

fn tables_page(rows: &[TableRow], now: Timestamp) -> String {
    let mut page = format!("{HEAD}<title>Skald: compactor</title></head><body>\n<h1>Tables</h1>\n");
    page.push_str(
        "<table><tr><th>Tenant</th><th>Blocks</th><th>Flushed</th><th>MB</th><th>MB of lines</th><th>Rows</th>\
         <th>Oldest entry</th><th>Merges due</th><th>MB</th><th>Removals due</th><th>Last run</th>\
         <th>Last error</th></tr>\n",
    );
    for row in rows {
        let oldest = row.oldest_entry.map(rfc3339::format).unwrap_or_default();
        let last_run = row.last_run.map(|t| ago(t, now)).unwrap_or_default();
        let number = |n: u64| format!("<td class=\"n\">{n}</td>");
        let megabytes = |n: u64| format!("<td class=\"n\">{:.1}</td>", n as f64 / 1e6);
        let _ = writeln!(
            page,
            "<tr{}><td>{}</td>{}{}{}{}{}<td>{oldest}</td>{}{}{}<td>{last_run}</td><td>{}</td></tr>",
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
        let row = TableRow {
            tenant: "a<b".into(),
            blocks: 7,
            oldest_entry: Some(1_000_000_000 * SECOND),
            last_error: Some("it & that".into()),
            pending_merges: 3,
            ..TableRow::default()
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
