//! Traces over OTLP.

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::Error;

/// The `tracing` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Whether traces are exported when there is an endpoint.
    pub enabled: bool,
    /// Where to send them by gRPC, for example `http://localhost:4317`. When empty, the environment variables
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and `OTEL_EXPORTER_OTLP_ENDPOINT` say; when they are not there, nothing
    /// is traced, which costs nothing.
    pub endpoint: String,
    /// The share of traces begun here that is kept, 0 to 1. Traces begun by a caller follow the caller's choice.
    pub sample_ratio: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { enabled: true, endpoint: String::new(), sample_ratio: 1.0 }
    }
}

impl Config {
    fn endpoint(&self) -> Option<String> {
        if !self.enabled {
            return None;
        }
        let from_environment = || {
            ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
                .into_iter()
                .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
        };
        if self.endpoint.is_empty() { from_environment() } else { Some(self.endpoint.clone()) }
    }
}

pub(super) fn provider(config: &Config) -> Result<Option<SdkTracerProvider>, Error> {
    let Some(endpoint) = config.endpoint() else { return Ok(None) };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&endpoint)
        .build()
        .map_err(|e| Error::Otlp { endpoint, reason: e.to_string() })?;
    let name = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| "skald".into());
    let resource = Resource::builder()
        .with_service_name(name)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
    Ok(Some(
        SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .with_sampler(sampler)
            .build(),
    ))
}

/// Hands spans of Skald's own crates to the exporter. Spans of libraries, the exporter's own connection among them,
/// stay out.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let ours = |m: &Metadata<'_>| m.target().starts_with("skald") && *m.level() <= LevelFilter::INFO;
    tracing_opentelemetry::layer().with_tracer(provider.tracer("skald")).with_filter(filter_fn(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_endpoint_means_no_traces() {
        let off = Config { enabled: false, endpoint: "http://localhost:4317".into(), ..Config::default() };
        assert!(provider(&off).unwrap().is_none());
    }
}
