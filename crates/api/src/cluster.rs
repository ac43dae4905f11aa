//! The cluster over HTTP: who is on the ring and who is a member, and how this process goes.

pub(crate) mod page;

use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::{Request, State};
use axum::response::{Html, IntoResponse as _, Response};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};
use skald_model::{Result, Timestamp};
use skald_runtime::Clock;

use crate::error::ApiError;
use crate::query::params::Params;
use crate::rfc3339;
use crate::status::json_value;

/// A process of the cluster, as pages show it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemberRow {
    /// Its name.
    pub name: String,
    /// What it does.
    pub roles: Vec<String>,
    /// How far it is, such as `ACTIVE`; `Unhealthy` when it should be there and is not heard.
    pub state: String,
    /// Whether it is heard.
    pub is_alive: bool,
    /// Its availability zone, empty when zones are not used.
    pub zone: String,
    /// Where its services are called.
    pub grpc: String,
    /// Where its pages are.
    pub http: String,
    /// Its places on the ring; none when it takes no writes.
    pub tokens: Vec<u32>,
    /// The part of the streams, from 0 to 1, that it is the first on the ring for.
    pub ownership: f64,
    /// When it was heard last; 0 if never.
    pub last_heartbeat: Timestamp,
    /// When it was entered in the register of those that may hold what no table has; 0 if it is not in it.
    pub registered_at: Timestamp,
}

/// The members of the cluster.
#[async_trait]
pub trait Members: Send + Sync + 'static {
    /// All that are known, by name, also those that failed or left.
    fn members(&self) -> Vec<MemberRow>;

    /// Takes a dead ingester out of the register: what only it held is given up.
    ///
    /// `Kind::NotFound` if there is none of that name, `Kind::InvalidArgument` if it is alive.
    async fn forget(&self, name: &str) -> Result<()>;
}

/// How the ingester of this process goes.
#[async_trait]
pub trait Lifecycle: Send + Sync + 'static {
    /// Whether the next end of the process is for good.
    fn is_shutdown_prepared(&self) -> bool;

    /// Sets or takes back that the next end of the process is for good: all that the ingester holds is written then, and
    /// the cluster forgets it. Kept over restarts.
    async fn prepare_shutdown(&self, prepared: bool) -> Result<()>;

    /// Takes the ingester out of service, after writing what it holds if `flush`, and then ends the process if `terminate`.
    async fn shutdown(&self, flush: bool, terminate: bool) -> Result<()>;
}

/// What the pages work with.
#[derive(Clone)]
pub(crate) struct ClusterState {
    pub(crate) members: Arc<dyn Members>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// `GET /ring`: the ingesters on the ring. `POST /ring` with `forget=NAME` in its form takes a dead one out.
pub(crate) async fn ring(
    State(state): State<ClusterState>,
    request: Request,
) -> std::result::Result<Response, ApiError> {
    let path = request.uri().path().to_owned();
    let (parts, params) = Params::read(request).await?;
    if parts.method == Method::POST {
        let name = params.first("forget");
        if name.is_empty() {
            return Err(ApiError::bad_request(
                "the form has no field \"forget\" with the name of an ingester",
            ));
        }
        state.members.forget(name).await?;
        return Ok((StatusCode::FOUND, [(header::LOCATION, path)]).into_response());
    }
    let mut rows = state.members.members();
    rows.retain(|m| m.registered_at != 0 || m.roles.iter().any(|r| r == "ingester"));
    let now = state.clock.now();
    if !wants_json(&parts.headers) {
        return Ok(Html(page::ring(&rows, now)).into_response());
    }
    let shards: Vec<Value> = rows.iter().map(shard).collect();
    Ok(json_value(&json!({ "shards": shards, "now": rfc3339::format(now) })))
}

/// `GET /memberlist`: the processes of the cluster.
pub(crate) async fn memberlist(State(state): State<ClusterState>, headers: HeaderMap) -> Response {
    let rows = state.members.members();
    let now = state.clock.now();
    if !wants_json(&headers) {
        return Html(page::members(&rows, now)).into_response();
    }
    let members: Vec<Value> = rows.iter().map(member).collect();
    json_value(&json!({ "members": members, "now": rfc3339::format(now) }))
}

/// What the handlers of an ingester's end work with.
#[derive(Clone)]
pub(crate) struct LifecycleState {
    pub(crate) lifecycle: Arc<dyn Lifecycle>,
}

/// `/ingester/prepare_shutdown`: `POST` sets, `DELETE` takes back, `GET` tells.
pub(crate) async fn prepare_shutdown(
    State(state): State<LifecycleState>,
    method: Method,
) -> std::result::Result<Response, ApiError> {
    if method == Method::GET {
        let told = if state.lifecycle.is_shutdown_prepared() { "set" } else { "unset" };
        return Ok(format!("{told}\n").into_response());
    }
    state.lifecycle.prepare_shutdown(method == Method::POST).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET` and `POST /ingester/shutdown`: 204 when the ingester is out of service. A place on the ring is a function of the
/// name, so `delete_ring_tokens` has nothing to delete.
pub(crate) async fn shutdown(
    State(state): State<LifecycleState>,
    request: Request,
) -> std::result::Result<Response, ApiError> {
    let (_, params) = Params::read(request).await?;
    let [flush, _, terminate] = ["flush", "delete_ring_tokens", "terminate"]
        .map(|name| boolean(&params, name, name != "delete_ring_tokens"));
    state.lifecycle.shutdown(flush?, terminate?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn boolean(params: &Params, name: &str, default: bool) -> std::result::Result<bool, ApiError> {
    match params.first(name) {
        "" => Ok(default),
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(ApiError::bad_request(format!("{name} is {other:?}; it is true or false"))),
    }
}

pub(crate) fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    accept.is_some_and(|a| a.contains("application/json"))
}

/// An entry of `/ring` with Loki's names, and what Loki's page only shows to people.
pub(crate) fn shard(row: &MemberRow) -> Value {
    json!({
        "id": row.name,
        "state": row.state,
        "address": row.grpc,
        "timestamp": rfc3339::format(row.last_heartbeat),
        "registered_timestamp": rfc3339::format(row.registered_at),
        "read_only": false,
        "zone": row.zone,
        "tokens": row.tokens,
        "ownership": row.ownership,
    })
}

fn member(row: &MemberRow) -> Value {
    json!({
        "name": row.name,
        "roles": row.roles,
        "state": row.state,
        "alive": row.is_alive,
        "zone": row.zone,
        "grpc": row.grpc,
        "http": row.http,
        "tokens": row.tokens.len(),
        "ownership": row.ownership,
        "last_heartbeat": rfc3339::format(row.last_heartbeat),
    })
}
