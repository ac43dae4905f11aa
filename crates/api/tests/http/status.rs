use std::sync::Arc;

use axum::body::Body;
use http::Request;
use prometheus::Registry;
use serde_json::Value;
use skald_api::{ApiDeps, Config, router};
use skald_model::{Error, Limits};
use skald_runtime::clock::ManualClock;

use crate::services::{Services, get, send, surface, surface_with};

#[tokio::test]
async fn ready_or_why_not() {
    let services = Arc::new(Services::default());
    let router = surface(&services);
    let answer = get(&router, "/ready").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "ready"));
    *services.unready.lock().unwrap() = Some("replaying the write-ahead log".to_owned());
    let answer = get(&router, "/ready").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (503, "replaying the write-ahead log"));
}

#[tokio::test]
async fn build_services_config_and_limits() {
    let services = Arc::new(Services::default());
    let router = surface(&services);
    let build: Value =
        serde_json::from_slice(&get(&router, "/loki/api/v1/status/buildinfo").await.body).unwrap();
    for key in ["version", "revision", "branch", "buildUser", "buildDate", "goVersion"] {
        assert!(build[key].is_string(), "{key}");
    }
    assert_eq!(build["version"], "3.5.0");
    assert_eq!(get(&router, "/services").await.text(), "ingester => Running");
    assert_eq!(get(&router, "/config").await.text(), "view: Effective");
    assert_eq!(get(&router, "/config?mode=diff").await.text(), "view: Diff");
    assert_eq!(get(&router, "/config?mode=defaults").await.text(), "view: Defaults");
    let limits = get(&router, "/config/tenant/v1/limits").await;
    assert_eq!(limits.text(), "of: fake");
    assert_eq!(get(&router, "/runtime_config").await.text(), "overrides: {}\nown: false");
    assert_eq!(get(&router, "/runtime_config?mode=diff").await.text(), "overrides: {}\nown: true");
}

#[tokio::test]
async fn the_log_level_can_be_seen_and_set() {
    let services = Arc::new(Services::default());
    *services.level.lock().unwrap() = "info".to_owned();
    let router = surface(&services);
    assert_eq!(get(&router, "/log_level").await.text(), r#"{"message":"Current log level is info"}"#);
    let set =
        |level: &str| Request::post(format!("/log_level?log_level={level}")).body(Body::empty()).unwrap();
    let answer = send(&router, set("debug")).await;
    assert_eq!(answer.text(), r#"{"message":"Log level set to debug","status":"success"}"#);
    assert_eq!(*services.level.lock().unwrap(), "debug");
    let answer = send(&router, set("loud")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.text()),
        (400, r#"{"message":"unrecognized log level \"loud\"","status":"failed"}"#)
    );
}

#[tokio::test]
async fn flush_waits_and_tells_failures() {
    let services = Arc::new(Services::default());
    let router = surface_with(&services, Config::default());
    let post = |uri: &str, tenant: Option<&str>| {
        let mut request = Request::post(uri);
        if let Some(tenant) = tenant {
            request = request.header("x-scope-orgid", tenant);
        }
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(send(&router, post("/flush", None)).await.status, 204);
    assert_eq!(services.asked(), ["flush None"]);
    assert_eq!(send(&router, post("/flush/tenant", None)).await.status, 401);
    assert_eq!(send(&router, post("/flush/tenant", Some("t"))).await.status, 204);
    assert_eq!(services.asked(), ["flush Some(t)"]);
    *services.refusal.lock().unwrap() = Some(Error::unavailable("the bucket does not answer"));
    let answer = get(&router, "/flush").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (503, "the bucket does not answer"));
    assert_eq!(get(&router, "/flush?wait=false").await.status, 204);
}

#[tokio::test]
async fn unknown_routes_and_methods_answer_in_text() {
    let router = surface(&Arc::new(Services::default()));
    let answer = get(&router, "/loki/api/v1/nonsense").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (404, "404 page not found"));
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    let answer = get(&router, "/loki/api/v1/push").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (405, "method not allowed"));
}

#[tokio::test]
async fn requests_are_counted_by_route() {
    let services = Arc::new(Services::default());
    let router = surface(&services);
    get(&router, "/loki/api/v1/label/some-name/values").await;
    get(&router, "/loki/api/v1/query?limit=0").await;
    let text = String::from_utf8(get(&router, "/metrics").await.body).unwrap();
    for line in [
        r#"loki_request_duration_seconds_count{method="GET",route="loki_api_v1_label_name_values",status_code="200",ws="false"} 1"#,
        r#"loki_request_duration_seconds_count{method="GET",route="loki_api_v1_query",status_code="400",ws="false"} 1"#,
        r#"loki_inflight_requests{method="GET",route="loki_api_v1_query"} 0"#,
        r#"loki_inflight_requests{method="GET",route="metrics"} 1"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn roles_that_do_not_run_have_no_routes() {
    let services = Arc::new(Services::default());
    let router = router(ApiDeps {
        config: Config { auth_enabled: false, ..Config::default() },
        clock: Arc::new(ManualClock::default()),
        registry: Registry::new(),
        node: services.clone(),
        limits: Arc::new(Arc::new(Limits::default())),
        distributor: None,
        frontend: Some(services),
        deletes: None,
        flush: None,
        members: None,
        lifecycle: None,
        compaction: None,
        auth: None,
        tasks: skald_runtime::Tasks::new(),
    })
    .unwrap();
    assert_eq!(get(&router, "/loki/api/v1/labels").await.status, 200);
    assert_eq!(get(&router, "/loki/api/v1/push").await.status, 404);
    assert_eq!(get(&router, "/flush").await.status, 404);
}
