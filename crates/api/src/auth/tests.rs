use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::users::Users;
use super::*;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn file() -> String {
    let (password, token) = (hash_password("s3cret:with colon").unwrap(), hash_token(TOKEN).unwrap());
    format!(
        "users:\n\
         - {{name: grafana, password: '{password}', tenants: [a, b], rights: [read]}}\n\
         tokens:\n\
         - {{name: agent, sha256: {token}, tenants: [a], rights: [write]}}\n"
    )
}

/// Who may do what by a file; it may change while the directory lives.
fn auth(text: &str) -> (tempfile::TempDir, Arc<Auth>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.yaml");
    std::fs::write(&file, text).unwrap();
    let auth = Auth::load(&AuthConfig { file, ..AuthConfig::default() }).unwrap().unwrap();
    (dir, auth)
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// Status and body; the body of what passed is the tenant.
async fn ask(auth: &Arc<Auth>, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let shown = |request: Request| async move {
        assert!(!request.headers().contains_key("authorization"), "secrets go no further");
        request.headers().get(TENANT).map_or(String::new(), |v| v.to_str().unwrap().to_owned())
    };
    let router = Router::new().fallback(shown).layer(from_fn_with_state(auth.clone(), check));
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let asks = response.headers().contains_key(header::WWW_AUTHENTICATE);
    assert_eq!(asks, status == 401);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap().trim_end().to_owned())
}

#[tokio::test]
async fn credentials_decide_who_may_do_what_for_whom() {
    let (_dir, auth) = auth(&file());
    let (token, user) = (format!("Bearer {TOKEN}"), basic("grafana", "s3cret:with colon"));
    const PUSH: &str = "/loki/api/v1/push";
    const LABELS: &str = "/loki/api/v1/labels";
    let refused = "authentication required";
    for (path, credentials, tenant, expected) in [
        ("/ready", "", "", (200, "")),
        ("/metrics", "", "", (200, "")),
        (LABELS, "", "a", (401, refused)),
        (LABELS, "Bearer nothing", "a", (401, refused)),
        (LABELS, "Basic !!!", "a", (401, refused)),
        (LABELS, &basic("grafana", "wrong"), "a", (401, refused)),
        (LABELS, &basic("nobody", "s3cret:with colon"), "a", (401, refused)),
        // The only tenant need not be named; others are refused.
        (PUSH, &token, "", (200, "a")),
        (PUSH, &token, "a", (200, "a")),
        (PUSH, &token, "b", (403, "agent may not act for tenant \"b\"")),
        (LABELS, &token, "", (403, "agent has no right to read")),
        (LABELS, &user, "b", (200, "b")),
        (LABELS, &user, "a|b", (200, "a|b")),
        (LABELS, &user, "a|c", (403, "grafana may not act for tenant \"c\"")),
        (LABELS, &user, "", (200, "")),
        (PUSH, &user, "a", (403, "grafana has no right to write")),
        ("/flush", &user, "a", (403, "grafana has no right to administer")),
        ("/anything/else", &token, "a", (403, "agent has no right to administer")),
    ] {
        let mut headers = vec![];
        if !credentials.is_empty() {
            headers.push(("authorization", credentials));
        }
        if !tenant.is_empty() {
            headers.push((TENANT, tenant));
        }
        let (status, body) = ask(&auth, path, &headers).await;
        assert_eq!((status, body.as_str()), expected, "{path} {credentials} {tenant}");
    }
}

#[tokio::test]
async fn a_verified_password_is_remembered_until_the_file_says_otherwise() {
    let (_dir, auth) = auth(&file());
    let user = basic("grafana", "s3cret:with colon");
    let headers = [("authorization", user.as_str()), (TENANT, "a")];
    for _ in 0..50 {
        assert_eq!(ask(&auth, "/loki/api/v1/labels", &headers).await.0, 200);
    }
    let other = format!(
        "users: [{{name: grafana, password: '{}', tenants: ['*'], rights: [read]}}]",
        hash_password("new").unwrap()
    );
    std::fs::write(&auth.config.file, other).unwrap();
    assert!(auth.users.look().unwrap().is_none() && auth.users.look().unwrap().is_some());
    assert_eq!(ask(&auth, "/loki/api/v1/labels", &headers).await.0, 401);
    let user = basic("grafana", "new");
    let headers = [("authorization", user.as_str()), (TENANT, "any")];
    assert_eq!(ask(&auth, "/loki/api/v1/labels", &headers).await, (200, "any".to_owned()));
}

#[test]
fn a_wrong_file_is_refused_with_the_entry() {
    let (password, token) = (hash_password("x").unwrap(), hash_token(TOKEN).unwrap());
    for (text, part) in [
        ("users: [{name: a, password: plain, tenants: [t], rights: [read]}]".to_owned(), "the password of a"),
        (
            format!("users: [{{name: a, password: '{password}', tenants: [], rights: [read]}}]"),
            "a has no tenants",
        ),
        (format!("users: [{{name: a, password: '{password}', tenants: [a/b], rights: [read]}}]"), "a/b"),
        (format!("users: [{{name: a, password: '{password}', tenants: [t], rights: [fly]}}]"), "fly"),
        ("tokens: [{name: a, sha256: abc, tenants: [t], rights: [read]}]".to_owned(), "sha256 of a"),
        (
            format!("tokens: [&x {{name: a, sha256: {token}, tenants: [t], rights: [read]}}, *x]"),
            "a is there twice",
        ),
        ("user: []".to_owned(), "user"),
    ] {
        let error = Users::parse(&text).err().unwrap_or_default();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!(hash_token("short").unwrap_err().contains("32"));
    assert!(hash_password("").is_err());
}

#[test]
fn the_file_is_named_in_errors_and_may_be_left_out() {
    assert!(Auth::load(&AuthConfig::default()).unwrap().is_none());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.yaml");
    let load = || Auth::load(&AuthConfig { file: path.clone(), ..AuthConfig::default() });
    let error = || load().err().unwrap().to_string();
    assert!(error().contains("users.yaml: failed to read it"), "{}", error());
    std::fs::write(&path, "nonsense").unwrap();
    assert!(error().contains("users.yaml: invalid type"), "{}", error());
    std::fs::write(&path, file()).unwrap();
    assert_eq!(load().unwrap().unwrap().users.current().len(), 2);
}

#[test]
fn nobody_has_a_hash_like_everybody_else() {
    let hash = secrets::PasswordHash::parse(credentials::NOBODY).unwrap();
    assert!(!hash.matches("") && !hash.matches("nobody"));
}
