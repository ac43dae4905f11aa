//! What a request shows, and whether it is right.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, StatusCode, header};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::secrets::PasswordHash;
use super::users::{Account, Users};
use crate::error::ApiError;

/// How long a password that was verified is taken for right without verifying it again.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// How many verified passwords are remembered, by their hashes.
const REMEMBERED_MAX: u64 = 10_000;
/// Passwords that may wait to be verified; further requests get 429.
const WAITING_MAX: usize = 256;
/// The hash of nobody's password: a user who does not exist takes as long as one who does.
pub(super) const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c2thbGQtbm9ib2R5$GD9pfBKRzXYDfgjBHtGNXCWSTnpWhlzmEV1G1sbQ7gs";

/// What a request shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    /// `Authorization: Bearer …`
    Token(String),
    /// `Authorization: Basic …`
    Basic { user: String, password: String },
}

impl Credentials {
    /// Those of a request; `None` if there are none, or not well formed ones.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, value) = text.split_once(' ')?;
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Token(value.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(BASE64_STANDARD.decode(value).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some(Self::Basic { user: user.to_owned(), password: password.to_owned() })
    }
}

/// Verifies passwords, which is slow on purpose: a few at a time, and not those that were right a moment ago.
pub(super) struct Verifier {
    /// By the hash of name, password and the hash in the file, so that a change of the file forgets.
    right: moka::sync::Cache<[u8; 32], ()>,
    running: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Verifier {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            right: moka::sync::Cache::builder()
                .max_capacity(REMEMBERED_MAX)
                .time_to_live(REMEMBERED_FOR)
                .build(),
            running: Arc::new(Semaphore::new(cores)),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }

    /// The account of `user`, if `password` is theirs.
    pub(super) async fn password(
        &self,
        users: &Users,
        user: &str,
        password: String,
    ) -> Result<Option<Arc<Account>>, ApiError> {
        let known = users.by_name(user);
        let key = known.as_ref().map(|(hash, _)| fingerprint(user, &password, hash));
        if let (Some((_, account)), Some(key)) = (&known, &key)
            && self.right.contains_key(key)
        {
            return Ok(Some(account.clone()));
        }
        let (hash, account) = match known {
            Some((hash, account)) => (Some(hash), Some(account)),
            None => (PasswordHash::parse(NOBODY).ok(), None),
        };
        let Some(hash) = hash else { return Ok(None) };
        let busy = || ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too many passwords wait to be verified");
        let _waiting = self.waiting.try_acquire().map_err(|_| busy())?;
        let running = self.running.clone().acquire_owned().await.map_err(|_| busy())?;
        let verified = tokio::task::spawn_blocking(move || {
            let _running = running;
            hash.matches(&password)
        });
        if !verified.await.unwrap_or(false) {
            return Ok(None);
        }
        if let (Some(_), Some(key)) = (&account, key) {
            self.right.insert(key, ());
        }
        Ok(account)
    }
}

fn fingerprint(user: &str, password: &str, hash: &PasswordHash) -> [u8; 32] {
    let mut all = Sha256::new();
    for part in [user, password, hash.as_str()] {
        all.update((part.len() as u64).to_le_bytes());
        all.update(part.as_bytes());
    }
    all.finalize().into()
}
