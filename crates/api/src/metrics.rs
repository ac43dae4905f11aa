//! Metrics of requests, under the names that Loki's dashboards and alerts read.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus::{HistogramVec, IntGaugeVec, Registry};
use skald_runtime::Instruments;
use tracing::Instrument as _;

use crate::config::Config;
use crate::tenant::tenant_name;

/// Bounds of the durations of requests, in seconds.
const BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0];

/// The instruments of this crate.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    duration: HistogramVec,
    inflight: IntGaugeVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let r = Instruments(registry);
        Ok(Self {
            duration: r.histograms(
                "loki_request_duration_seconds",
                "Time until the response of a request began, in seconds.",
                &["method", "route", "status_code", "ws"],
                BUCKETS,
            )?,
            inflight: r.gauges(
                "loki_inflight_requests",
                "Requests that are being worked on.",
                &["method", "route"],
            )?,
        })
    }
}

/// What the observer of one route knows.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) metrics: Metrics,
    pub(crate) config: Arc<Config>,
    /// Loki's name of the route.
    pub(crate) name: &'static str,
}

/// Measures a request and gives it a span with its route, tenant and trace.
pub(crate) async fn observe(State(route): State<Route>, request: Request, next: Next) -> Response {
    let method = method_name(request.method());
    let inflight = Inflight::new(route.metrics.inflight.with_label_values(&[method, route.name]));
    let span = tracing::info_span!(
        "request",
        method,
        route = route.name,
        tenant = %tenant_name(request.headers(), &route.config),
        trace_id = %trace_id(&request),
        status = tracing::field::Empty,
    );
    let start = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    drop(inflight);
    let status = response.status();
    span.record("status", status.as_u16());
    let ws = if status == http::StatusCode::SWITCHING_PROTOCOLS { "true" } else { "false" };
    let labels = [method, route.name, status.as_str(), ws];
    route.metrics.duration.with_label_values(&labels).observe(start.elapsed().as_secs_f64());
    response
}

/// Counts down also when the client goes away and the request is dropped.
struct Inflight(prometheus::IntGauge);

impl Inflight {
    fn new(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Anybody may send any method; only known ones become label values.
fn method_name(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The trace of a W3C `traceparent` header, `00-<trace>-<span>-<flags>`; empty without one.
fn trace_id(request: &Request) -> &str {
    let parent = request.headers().get("traceparent").and_then(|v| v.to_str().ok()).unwrap_or("");
    let trace = parent.split('-').nth(1).unwrap_or("");
    if trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit()) { trace } else { "" }
}
