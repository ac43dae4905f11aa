//! TLS by rustls for servers and clients: made from the files that a section of the configuration names, and made
//! again when these change.
//!
//! A section that cannot be used is an error at start, which names key and file. Later a file that is wrong is logged,
//! and the last good ones stay. Connections that are open keep what they began with.

#[cfg(test)]
mod authority;
mod client;
mod pem;
mod policy;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use client::{ClientTls, ClientTlsConfig, Identity, Trust, client_config};
pub use pem::{Pem, system_roots};
pub use policy::{MinVersion, TlsPolicy};
pub use server::{ClientAuth, ServerTls, ServerTlsConfig};

/// Why TLS cannot be set up. Names the setting and the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// The cryptography of the whole process.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
