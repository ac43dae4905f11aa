//! Who may do what: bearer tokens and users with passwords from a file, each bound to tenants and rights.
//!
//! Off unless a file is named. The check comes before every route: without valid credentials the answer is 401, without
//! the right or the tenant 403. What passes goes on with the tenant in `X-Scope-OrgID`, as behind any proxy that
//! authenticates. The file is read again when it changes; a file that is wrong changes nothing.

mod credentials;
mod secrets;
#[cfg(test)]
mod tests;
mod users;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use skald_runtime::Tasks;
use skald_runtime::reload::Reloaded;

pub use secrets::{TOKEN_BYTES_MIN, hash_password, hash_token};
pub use users::FileError;

use credentials::{Credentials, Verifier};
use users::{Account, UsersFile};

use crate::error::ApiError;

const TENANT: &str = "x-scope-orgid";

/// Settings of the built-in authentication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// The file of users and tokens; empty asks nobody who they are.
    pub file: PathBuf,
    /// How often the file is looked at for changes.
    #[serde(with = "skald_runtime::units::duration")]
    pub reload_period: Duration,
    /// Whether `/metrics` is answered without credentials.
    pub metrics_open: bool,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self { file: PathBuf::new(), reload_period: Duration::from_secs(10), metrics_open: true }
    }
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// To push.
    Write,
    /// To query.
    Read,
    /// Everything about the process itself.
    Admin,
}

/// The users of a file that is watched.
pub struct Auth {
    config: AuthConfig,
    users: Arc<Reloaded<UsersFile>>,
    verifier: Verifier,
}

impl Auth {
    /// Reads the file for the first time; `None` when none is configured.
    ///
    /// # Errors
    /// When it cannot be read or is wrong.
    pub fn load(config: &AuthConfig) -> Result<Option<Arc<Self>>, FileError> {
        if config.file.as_os_str().is_empty() {
            return Ok(None);
        }
        let users = Arc::new(Reloaded::load(UsersFile(config.file.clone()))?);
        Ok(Some(Arc::new(Self { config: config.clone(), users, verifier: Verifier::new() })))
    }

    /// Reads the file again when it has changed, as long as `tasks` live.
    pub fn watch(&self, tasks: &Tasks) {
        self.users.clone().watch(tasks, self.config.reload_period);
    }

    /// What a request needs; `None` for one that everybody may send. Unknown paths need the most.
    fn needed(&self, method: &Method, path: &str) -> Option<Right> {
        match path {
            "/ready" => return None,
            "/metrics" if self.config.metrics_open => return None,
            "/config/tenant/v1/limits" => return Some(Right::Read),
            _ => {}
        }
        const PUSHES: [&str; 3] = ["/loki/api/v1/push", "/api/prom/push", "/otlp/v1/logs"];
        if PUSHES.contains(&path) {
            return Some(Right::Write);
        }
        let of_queries = path.starts_with("/loki/api/v1/") || path.starts_with("/api/prom/");
        let changes = path.starts_with("/loki/api/v1/delete")
            || path.starts_with("/loki/api/v1/cache")
            || (path.contains("/rules") && *method != Method::GET)
            || *method == Method::PUT
            || *method == Method::DELETE;
        Some(if of_queries && !changes { Right::Read } else { Right::Admin })
    }

    /// The account of a request with `headers`.
    async fn account(&self, headers: &HeaderMap) -> Result<Arc<Account>, ApiError> {
        let users = self.users.current();
        let credentials = Credentials::of(headers);
        let account = match credentials {
            Some(Credentials::Token(token)) => users.by_token(&token),
            Some(Credentials::Basic { user, password }) => {
                self.verifier.password(&users, &user, password).await?
            }
            None => None,
        };
        account.ok_or_else(|| ApiError::new(StatusCode::UNAUTHORIZED, "authentication required"))
    }
}

/// The tenant that a request of `account` is about: the one it names, or the only one that the account has. `None` if it
/// names none and the account has several.
fn tenant(account: &Account, request: &Request) -> Result<Option<HeaderValue>, ApiError> {
    let Some(named) = request.headers().get(TENANT) else {
        let only = account.only_tenant().map(HeaderValue::from_str);
        return only.transpose().map_err(|_| ApiError::bad_request("a tenant of the account is not valid"));
    };
    // A query may name several with bars between.
    let text = named.to_str().unwrap_or_default();
    match text.split('|').find(|tenant| !account.may_act_for(tenant)) {
        None => Ok(Some(named.clone())),
        Some(other) => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("{} may not act for tenant {other:?}", account.name()),
        )),
    }
}

/// The check before every route.
pub(crate) async fn check(State(auth): State<Arc<Auth>>, mut request: Request, next: Next) -> Response {
    let Some(right) = auth.needed(request.method(), request.uri().path()) else {
        return next.run(request).await;
    };
    let checked = match auth.account(request.headers()).await {
        Ok(account) if account.has(right) => tenant(&account, &request),
        Ok(account) => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("{} has no right to {}", account.name(), right.name()),
        )),
        Err(e) => Err(e),
    };
    match checked {
        Ok(tenant) => {
            if let Some(tenant) = tenant {
                request.headers_mut().insert(TENANT, tenant);
            }
            request.headers_mut().remove(header::AUTHORIZATION);
            next.run(request).await
        }
        Err(e) => {
            let asks = e.status == StatusCode::UNAUTHORIZED;
            let mut response = e.into_response();
            if asks {
                let headers = response.headers_mut();
                for scheme in ["Basic realm=\"skald\", charset=\"UTF-8\"", "Bearer realm=\"skald\""] {
                    headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
                }
            }
            response
        }
    }
}

impl Right {
    fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Admin => "administer",
        }
    }
}
