//! Live tails over WebSocket.
//!
//! What is wrong with the parameters or the query's syntax is answered before the upgrade, as plain text; everything else
//! closes the socket with code 1011 and the reason, which is what Grafana shows. Any code other than "gone without a
//! word" makes Grafana give up, so a shutdown just ends the connection, and Grafana comes back by itself.
//!
//! Pages of any origin may connect, as with Loki: who may read is the proxy's decision.

mod frame;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::response::Response;
use futures::{SinkExt as _, StreamExt as _};
use skald_logql::{ParseOptions, parse_with};
use skald_model::{Error, TenantLimits};
use skald_rpc::QueryFrontend;
use skald_rpc::tail::{TailBatch, TailQuery, TailStream};
use skald_runtime::{CancellationToken, Clock, Tasks};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use self::frame::Frames;
use crate::config::Config;
use crate::error::ApiError;
use crate::query::params::Params;
use crate::query::streams::Flags;
use crate::query::{request, time};
use crate::tenant::tenant;

/// Longest `delay_for`, in seconds, as in Loki.
const DELAY_MAX: i64 = 5;
/// How often a silent connection is pinged, so that proxies keep it and dead ones are found.
const PING_PERIOD: Duration = Duration::from_secs(1);
/// Batches that come one after the other are sent together after this time: a frame for each line of a busy tail is more
/// than a browser can take.
const PACE: Duration = Duration::from_millis(20);
/// How long a reader may take nothing before its connection is given up.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long the closing handshake may take.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// Longest message of a client that is read; clients have nothing to say.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Longest reason that fits into a close frame.
const REASON_BYTES_MAX: usize = 123;

/// What the handlers of tails work with.
#[derive(Clone)]
pub(crate) struct TailState {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Arc<dyn TenantLimits>,
    pub(crate) frontend: Arc<dyn QueryFrontend>,
    pub(crate) tasks: Tasks,
}

/// `/loki/api/v1/tail`
pub(crate) async fn tail(State(state): State<TailState>, request: Request) -> Result<Response, ApiError> {
    upgrade(state, request, false).await
}

/// `/api/prom/tail`
pub(crate) async fn legacy_tail(
    State(state): State<TailState>,
    request: Request,
) -> Result<Response, ApiError> {
    upgrade(state, request, true).await
}

async fn upgrade(state: TailState, request: Request, legacy: bool) -> Result<Response, ApiError> {
    let tenant = tenant(request.headers(), &state.config)?;
    let (mut parts, params) = Params::read(request).await?;
    let loki_strict = state.limits.of(&tenant).loki_strict;
    let query = TailQuery {
        query: query_of(&params, ParseOptions { loki_strict })?,
        limit: request::limit(&params)?,
        start: request::bounds(&params, state.clock.now())?.0,
        delay: delay(&params)?,
        tenant,
    };
    let frames = Frames { flags: Flags::of(&parts.headers), legacy };
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|e| refuse(&e))?;
    Ok(upgrade.max_message_size(MESSAGE_BYTES_MAX).on_upgrade(async move |socket| {
        let TailState { frontend, tasks, .. } = state;
        tasks.spawn("tail", move |token| serve(Connection { socket, token }, frontend, query, frames));
    }))
}

fn refuse(rejection: &WebSocketUpgradeRejection) -> ApiError {
    ApiError::bad_request(format!("Bad Request: a tail is asked for by WebSocket: {}", rejection.body_text()))
}

/// The query with the line filter `regexp` beside it; an error where it does not parse.
fn query_of(params: &Params, options: ParseOptions) -> Result<String, ApiError> {
    let mut query = params.first("query").to_owned();
    let regexp = params.first("regexp");
    if !regexp.is_empty() {
        query = format!("{query} |~ {}", time::go_quoted(regexp));
    }
    parse_with(&query, options).map_err(|e| ApiError::bad_request(e.to_string()))?;
    Ok(query)
}

fn delay(params: &Params) -> Result<Duration, ApiError> {
    let text = params.first("delay_for");
    if text.is_empty() {
        return Ok(Duration::ZERO);
    }
    let seconds = time::integer(text, "Atoi").map_err(ApiError::bad_request)?;
    if !(0..=DELAY_MAX).contains(&seconds) {
        return Err(ApiError::bad_request(format!("delay_for can't be greater than {DELAY_MAX}")));
    }
    Ok(Duration::from_secs(seconds.unsigned_abs()))
}

/// An open socket and the process's wish to end it.
struct Connection {
    socket: WebSocket,
    token: CancellationToken,
}

/// Something that a tail has to do next.
enum Next {
    Ping,
    Batch(Option<Result<TailBatch, Error>>),
}

/// The connection is over: the reader has gone, or the process ends.
type Step<T> = ControlFlow<(), T>;

async fn serve(mut to: Connection, frontend: Arc<dyn QueryFrontend>, query: TailQuery, frames: Frames) {
    let opened = to.unless_gone(frontend.tail(query)).await;
    let stream = match opened {
        ControlFlow::Continue(Ok(stream)) => stream,
        ControlFlow::Continue(Err(error)) => return to.close(&error.message).await,
        ControlFlow::Break(()) => return,
    };
    // Either way the connection is over, and dropping the stream frees what stands behind it.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = to.follow(stream, &frames).await;
}

impl Connection {
    async fn follow(&mut self, mut stream: TailStream, frames: &Frames) -> Step<()> {
        let mut pings = interval(PING_PERIOD);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut not_before = Instant::now();
        loop {
            let next = async {
                let batch = async {
                    sleep_until(not_before).await;
                    stream.next().await
                };
                tokio::select! {
                    _ = pings.tick() => Next::Ping,
                    batch = batch => Next::Batch(batch),
                }
            };
            match self.unless_gone(next).await? {
                Next::Ping => self.send(Message::Ping(Default::default())).await?,
                Next::Batch(Some(Ok(batch))) => {
                    for text in frames.of(batch) {
                        self.send(Message::Text(text)).await?;
                    }
                    not_before = Instant::now() + PACE;
                }
                Next::Batch(Some(Err(error))) => {
                    self.close(&error.message).await;
                    return ControlFlow::Break(());
                }
                Next::Batch(None) => {
                    self.close("the tail has ended").await;
                    return ControlFlow::Break(());
                }
            }
        }
    }

    /// Awaits `work`, and reads what the client sends meanwhile.
    async fn unless_gone<T>(&mut self, work: impl Future<Output = T>) -> Step<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let message = tokio::select! {
                () = self.token.cancelled() => return ControlFlow::Break(()),
                done = &mut work => return ControlFlow::Continue(done),
                message = self.socket.recv() => message,
            };
            match message {
                Some(Ok(Message::Close(_))) => {
                    // The answer to it is written; whether it arrives no longer matters.
                    let _ = timeout(CLOSE_MAX, self.socket.flush()).await;
                    return ControlFlow::Break(());
                }
                // Pings are answered by the socket itself.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return ControlFlow::Break(()),
            }
        }
    }

    /// Sends a message; gives a reader up that takes nothing for too long.
    async fn send(&mut self, message: Message) -> Step<()> {
        let sent = tokio::select! {
            () = self.token.cancelled() => return ControlFlow::Break(()),
            sent = timeout(STALL_MAX, self.socket.send(message)) => sent,
        };
        match sent {
            Ok(Ok(())) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    /// Closes the socket as Loki does when a tail fails.
    async fn close(&mut self, reason: &str) {
        let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
        let frame = CloseFrame { code: close_code::ERROR, reason: Utf8Bytes::from(reason.to_owned()) };
        if self.send(Message::Close(Some(frame))).await.is_continue() {
            // The client's answer, so that the connection is not reset before it has read the reason.
            let _ = timeout(CLOSE_MAX, self.socket.recv()).await;
        }
    }
}
