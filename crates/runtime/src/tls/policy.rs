//! Which versions of TLS and which ciphers a server speaks.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};
use serde::{Deserialize, Serialize};

use super::{TlsError, provider};

static TLS13_ONLY: [&SupportedProtocolVersion; 1] = [&version::TLS13];

/// What all servers of a process speak.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsPolicy {
    /// The lowest version.
    pub min_version: MinVersion,
    /// The ciphers of TLS 1.2 by Go's names, with commas between; all if there is none.
    pub cipher_suites: String,
}

/// The lowest version of TLS that is spoken, by Go's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MinVersion {
    /// TLS 1.2. There is nothing lower here, so those who would take that get it, too.
    #[default]
    #[serde(rename = "VersionTLS12", alias = "VersionTLS10", alias = "VersionTLS11", alias = "")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "VersionTLS13")]
    Tls13,
}

impl MinVersion {
    pub(super) fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls12 => rustls::ALL_VERSIONS,
            Self::Tls13 => &TLS13_ONLY,
        }
    }
}

impl TlsPolicy {
    /// Says what is wrong with it.
    ///
    /// # Errors
    /// When a cipher is not known.
    pub fn validate(&self) -> Result<(), TlsError> {
        self.provider().map(drop)
    }

    /// The cryptography with the ciphers that are allowed. As in Go, those of TLS 1.3 are not chosen.
    pub(super) fn provider(&self) -> Result<Arc<CryptoProvider>, TlsError> {
        let wanted: Vec<&str> =
            self.cipher_suites.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
        let all = provider();
        if wanted.is_empty() {
            return Ok(all);
        }
        let known: Vec<String> = all.cipher_suites.iter().map(go_name).collect();
        if let Some(unknown) = wanted.iter().find(|name| !known.iter().any(|k| k == *name)) {
            return Err(TlsError(format!(
                "server.tls_cipher_suites: {unknown:?} is not among the ciphers there are: {}",
                known.join(", ")
            )));
        }
        let mut chosen = (*all).clone();
        chosen
            .cipher_suites
            .retain(|suite| suite.tls13().is_some() || wanted.contains(&go_name(suite).as_str()));
        Ok(Arc::new(chosen))
    }
}

/// Go and the registry write `TLS_AES_128_GCM_SHA256` where rustls writes `TLS13_AES_128_GCM_SHA256`.
fn go_name(suite: &SupportedCipherSuite) -> String {
    suite.suite().as_str().unwrap_or_default().replace("TLS13_", "TLS_")
}
