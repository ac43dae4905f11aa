//! Logs, their level, and traces.
//!
//! Log lines go to standard error as logfmt (`ts=… level=… msg="…" key=value`) or JSON; fields of the spans around an
//! event (tenant, query) and the trace id follow its own. Traces go out over OTLP when an endpoint is configured.

mod gate;
mod line;
mod otlp;
pub mod propagation;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::{IntCounterVec, Opts, Registry};
use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer as _, util::SubscriberInitExt as _};

pub use gate::LogLevel;
pub use line::{Format, Sink};
pub use otlp::Config as TracingConfig;

use crate::Instruments;

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// The least level that is written: `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// How a line looks.
    pub format: Format,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: Format::Logfmt }
    }
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is none of the four.
    #[error("unknown log level {0:?}; expected debug, info, warn or error")]
    Level(String),
    /// The OTLP exporter could not be made.
    #[error("cannot export traces to {endpoint} (tracing.endpoint): {reason}")]
    Otlp {
        /// Where to.
        endpoint: String,
        /// What the exporter said.
        reason: String,
    },
    /// Metrics of the same name exist, or another subscriber is installed.
    #[error("telemetry is already running: {0}")]
    Twice(String),
}

/// The process's telemetry. Dropping it keeps logging; [`Telemetry::shutdown`] flushes traces.
pub struct Telemetry {
    level: LogLevel,
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Installs logging and, if configured, tracing for the whole process; call it once, inside the async runtime.
    ///
    /// # Errors
    /// On an unknown level, an endpoint that is no address, or a second call.
    pub fn start(log: &LogConfig, tracing: &TracingConfig, registry: &Registry) -> Result<Self, Error> {
        let level = LogLevel::new(&log.level)?;
        let messages = Instruments(registry)
            .counters("loki_internal_log_messages_total", "Log lines that this process wrote.", &["level"])
            .map_err(|e| Error::Twice(e.to_string()))?;
        let traces = otlp::provider(tracing)?;
        let lines = line::LineLayer::new(log.format, line::stderr(), &messages).with_filter(level.gate());
        tracing_subscriber::registry()
            .with(traces.as_ref().map(otlp::layer))
            .with(lines)
            .try_init()
            .map_err(|e| Error::Twice(e.to_string()))?;
        log_panics();
        Ok(Self { level, traces })
    }

    /// The level, to be read and changed while the process runs.
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }

    /// Sends what traces are left, for at most `deadline`.
    pub async fn shutdown(self, deadline: Duration) {
        let Some(traces) = self.traces else { return };
        let flushed = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(deadline)).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Writes panics as log lines, with their place, instead of the default text.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("no message");
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(panic = message, location, "panic");
    }));
}

/// A dispatcher that writes lines to `sink`, for tests of what is logged.
///
/// # Errors
/// On an unknown level.
pub fn lines_to(sink: Sink, log: &LogConfig) -> Result<(tracing::Dispatch, LogLevel), Error> {
    let level = LogLevel::new(&log.level)?;
    let messages = IntCounterVec::new(Opts::new("messages", "messages"), &["level"])
        .map_err(|e| Error::Twice(e.to_string()))?;
    let lines = line::LineLayer::new(log.format, sink, &messages).with_filter(level.gate());
    Ok((tracing::Dispatch::new(tracing_subscriber::registry().with(lines)), level))
}

/// A sink that collects lines in memory, with the lines so far.
pub fn memory_sink() -> (Sink, Arc<parking_lot::Mutex<String>>) {
    let lines = Arc::new(parking_lot::Mutex::new(String::new()));
    let sink = lines.clone();
    (Box::new(move |line| sink.lock().push_str(line)), lines)
}
