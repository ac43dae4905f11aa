//! Delete requests over HTTP: what is asked of the service, and the words of refusals.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use skald_api::Config;
use skald_model::{Error, Kind};

use crate::services::{Answer, NOW, Services, get, send, surface, surface_with};

const SECOND: i64 = 1_000_000_000;

async fn call(services: &Arc<Services>, method: &str, query: &str) -> Answer {
    let uri = format!("/loki/api/v1/delete?{query}");
    let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
    send(&surface(services), request).await
}

#[tokio::test]
async fn requests_are_taken() {
    let services = Arc::new(Services::default());
    for (method, query, expected) in [
        ("POST", "query={app%3D%22a%22}&start=0000000000&end=0000000001", (0, SECOND)),
        ("PUT", "query={app%3D%22a%22}&start=2026-01-15T05:00:00Z", (NOW - 3600 * SECOND, NOW)),
        // The day of another time zone.
        (
            "POST",
            "query={app%3D%22a%22}&start=2026-01-14T00:00:00%2B02:00&end=2026-01-15T00:00:00%2B02:00",
            (NOW - 32 * 3600 * SECOND, NOW - 8 * 3600 * SECOND),
        ),
    ] {
        let answer = call(&services, method, query).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (204, ""), "{query}");
        assert_eq!(answer.header("x-delete-request-id"), "0123");
        let (start, end) = expected;
        assert_eq!(
            services.asked(),
            [format!(r#"add tenant=fake query={{app="a"}} start={start} end={end}"#)]
        );
    }
}

#[tokio::test]
async fn requests_are_listed() {
    let services = Arc::new(Services::default());
    let answer = call(&services, "GET", "").await;
    assert_eq!(answer.header("content-type"), "application/json");
    let one = |id: &str, status: &str| {
        format!(
            r#"{{"request_id":"{id}","start_time":1768453200,"end_time":1768456799.5,"query":"{{app=\"a\"}} |= \"x\"","status":"{status}","created_at":1768456800}}"#
        )
    };
    let expected = [one("a", "received"), one("b", "42% Complete"), one("c", "processed")].join(",");
    assert_eq!(answer.text(), format!("[{expected}]"));
    let generation = get(&surface(&services), "/loki/api/v1/cache/generation_numbers").await;
    assert_eq!((generation.status.as_u16(), generation.text()), (200, "\"7\""));
}

#[tokio::test]
async fn requests_are_cancelled() {
    let services = Arc::new(Services::default());
    assert_eq!(call(&services, "DELETE", "request_id=a&force=true").await.status, 204);
    assert_eq!(call(&services, "DELETE", "request_id=b").await.status, 204);
    assert_eq!(
        services.asked(),
        ["cancel tenant=fake id=a force=true", "cancel tenant=fake id=b force=false"]
    );
    let refusal = Error::new(Kind::NotFound, "could not find delete request with given id");
    *services.refusal.lock().unwrap() = Some(refusal);
    let answer = call(&services, "DELETE", "request_id=c").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (404, "could not find delete request with given id"));
}

#[tokio::test]
async fn nonsense_is_refused_in_lokis_words() {
    let services = Arc::new(Services::default());
    let selector = "query={app%3D%22a%22}";
    let filter = "query={app%3D%22a%22}|%3D%22x%22";
    for (query, expected) in [
        (String::new(), "query not set"),
        ("query=not+a+query&start=0000000000".into(), "invalid query expression: parse error"),
        (
            "query=rate({app%3D%22a%22}[5m])&start=0000000000".into(),
            "invalid query expression: only log selector",
        ),
        (selector.into(), "start time not set"),
        (
            format!("{selector}&start=0000000000000"),
            "invalid start time: require unix seconds or RFC3339 format",
        ),
        (
            format!("{selector}&start=-000000001&end=x"),
            "invalid end time: require unix seconds or RFC3339 format",
        ),
        (format!("{selector}&start=0000000000&end=1768456801"), "deletes in the future are not allowed"),
        (format!("{selector}&start=0000000002&end=0000000001"), "start time can't be greater than end time"),
        (
            format!("{filter}&start=0000000001&end=0000000001"),
            "difference between start time and end time must be at least one second",
        ),
        (
            format!("{filter}&start=0000000000&end=0000000009&max_interval=soon"),
            "invalid max_interval: valid time units are 's', 'm', 'h'",
        ),
        (
            format!("{filter}&start=0000000000&end=0000000009&max_interval=-5s"),
            "invalid max_interval: valid time units are 's', 'm', 'h'",
        ),
        (
            format!("{filter}&start=0000000000&end=0000099999&max_interval=2h"),
            "max_interval can't be greater than 1h0m0s",
        ),
        (
            format!("{filter}&start=0000000000&end=0000000001&max_interval=30s"),
            "max_interval can't be greater than the interval to be deleted (1s)",
        ),
    ] {
        let answer = call(&services, "POST", &query).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text().starts_with(expected), "{query}: {}", answer.text());
    }
    assert_eq!(services.asked(), [] as [String; 0], "nothing of it reached the service");
    // Without a filter the same is nothing to complain about.
    let point = format!("{selector}&start=0000000001&end=0000000001&max_interval=soon");
    assert_eq!(call(&services, "POST", &point).await.status, 204);
}

#[tokio::test]
async fn who_has_no_tenant_or_no_deletes_is_turned_away() {
    let services = Arc::new(Services::default());
    let router = surface_with(&services, Config { auth_enabled: true, ..Config::default() });
    let answer = get(&router, "/loki/api/v1/delete").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (401, "no org id"));
}
