//! Goal: spans reach a collector over OTLP, with their parent, and the log names their trace. Method: a real collector
//! service on a loopback socket. Telemetry is one per process, so this file has one test.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use parking_lot::Mutex;
use prometheus::Registry;
use skald_runtime::CancellationToken;
use skald_runtime::http::{ConnectionLimits, Server, ServerMetrics};
use skald_runtime::telemetry::propagation::current_traceparent;
use skald_runtime::telemetry::{LogConfig, Telemetry, TracingConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Serves `router` as long as the process lives.
async fn serve(router: Router) -> std::net::SocketAddr {
    let server = Server::bind("http", "127.0.0.1", 0, "x").await.unwrap();
    let address = server.address();
    let metrics = ServerMetrics::new(&Registry::new()).unwrap();
    let (limits, stop) = (ConnectionLimits::default(), CancellationToken::new());
    tokio::spawn(server.serve(router, limits, metrics, stop, Duration::ZERO));
    address
}

async fn handler() -> String {
    let span = tracing::info_span!(target: "skald_test", "request", tenant = "team-a");
    async { current_traceparent().unwrap_or_default() }.instrument(span).await
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_reach_a_collector_with_their_parent() {
    let collector = Collector::default();
    let routes = tonic::service::Routes::new(TraceServiceServer::new(collector.clone()));
    let endpoint = format!("http://{}", serve(skald_runtime::grpc::router(routes)).await);
    let config = TracingConfig { endpoint, ..TracingConfig::default() };
    let telemetry = Telemetry::start(&LogConfig::default(), &config, &Registry::new()).unwrap();

    let address = serve(Router::new().route("/", get(handler))).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntraceparent: {parent}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("00-0af7651916cd43dd8448eb211c80319c-"), "{answer}");
    telemetry.shutdown(Duration::from_secs(30)).await;

    let received = collector.0.lock();
    let resource = received.iter().flat_map(|r| &r.resource_spans).next().unwrap();
    let attributes = &resource.resource.as_ref().unwrap().attributes;
    assert!(attributes.iter().any(|a| a.key == "service.name" && format!("{:?}", a.value).contains("skald")));
    let spans: Vec<_> = resource.scope_spans.iter().flat_map(|s| &s.spans).collect();
    let span = spans.iter().find(|s| s.name == "request").unwrap();
    assert_eq!(span.parent_span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    assert!(span.attributes.iter().any(|a| a.key == "tenant"));
}
