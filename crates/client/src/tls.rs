//! One TLS configuration for requests and for WebSockets.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rustls::ClientConfig;
use skald_runtime::tls::{Identity, Pem, Trust, client_config, system_roots};

use crate::connection::of_family;

/// Flags about TLS. Each can stand in the environment as `SKALD_…` or, as for logcli, `LOKI_…`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TlsFlags {
    /// Certificates (PEM) to trust besides those of the system [env: SKALD_CA_CERT_PATH, LOKI_CA_CERT_PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_cert: Option<PathBuf>,
    /// The certificate (PEM) to show to the server [env: SKALD_CLIENT_CERT_PATH, LOKI_CLIENT_CERT_PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// The secret key (PEM) of that certificate [env: SKALD_CLIENT_KEY_PATH, LOKI_CLIENT_KEY_PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Take any certificate of the server. Whoever is in between can read everything
    #[arg(long)]
    pub(crate) tls_skip_verify: bool,
}

impl TlsFlags {
    /// What the flags and the environment come to.
    ///
    /// # Errors
    /// When a file is missing or wrong, or names a certificate without a key.
    pub fn config(&self, environment: impl Fn(&str) -> Option<String>) -> Result<ClientConfig> {
        self.or(environment).into_config()
    }

    /// Takes what no flag says from the environment.
    pub(crate) fn or(&self, environment: impl Fn(&str) -> Option<String>) -> Self {
        let path = |flag: &Option<PathBuf>, name: &str| {
            flag.clone().or_else(|| of_family(&environment, name).map(PathBuf::from))
        };
        let skip = of_family(&environment, "TLS_SKIP_VERIFY");
        Self {
            ca_cert: path(&self.ca_cert, "CA_CERT_PATH"),
            cert: path(&self.cert, "CLIENT_CERT_PATH"),
            key: path(&self.key, "CLIENT_KEY_PATH"),
            tls_skip_verify: self.tls_skip_verify
                || skip.is_some_and(|text| matches!(text.as_str(), "true" | "1")),
        }
    }

    /// Trusts the system's certificates and those in `ca_cert`, or with `tls_skip_verify` everybody.
    pub(crate) fn into_config(self) -> Result<ClientConfig> {
        let Self { ca_cert, cert, key, tls_skip_verify } = self;
        let identity = match (&cert, &key) {
            (Some(cert), Some(key)) => Some(Identity::new(&read("--cert", cert)?, &read("--key", key)?)?),
            (None, None) => None,
            (Some(_), None) => bail!("--cert needs --key, the secret key of the certificate"),
            (None, Some(_)) => bail!("--key needs --cert, the certificate of the key"),
        };
        if tls_skip_verify {
            return Ok(client_config(Trust::Anybody, identity)?);
        }
        let mut roots = system_roots();
        if let Some(path) = &ca_cert {
            read("--ca-cert", path)?.add_to(&mut roots)?;
        }
        Ok(client_config(Trust::SignedBy(roots), identity)?)
    }
}

fn read(flag: &str, path: &Path) -> Result<Pem> {
    Ok(Pem::read(flag, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no certificate").unwrap();
        let flags = |path: &Path| TlsFlags { ca_cert: Some(path.to_owned()), ..TlsFlags::default() };
        let error = flags(file.path()).into_config().unwrap_err().to_string();
        assert!(error.contains("--ca-cert") && error.contains("no certificate in PEM form"), "{error}");
        assert!(flags(Path::new("/nowhere/ca.pem")).into_config().is_err());
    }

    #[test]
    fn the_system_and_nobody_can_be_trusted() {
        let skip = TlsFlags { tls_skip_verify: true, ..TlsFlags::default() };
        assert!(TlsFlags::default().into_config().is_ok() && skip.into_config().is_ok());
    }

    #[test]
    fn a_certificate_and_its_key_go_together_and_may_stand_in_the_environment() {
        let flags = TlsFlags { cert: Some("c.pem".into()), ..TlsFlags::default() };
        assert!(flags.clone().into_config().unwrap_err().to_string().contains("--key"));
        let both = flags.or(|name| (name == "LOKI_CLIENT_KEY_PATH").then(|| "k.pem".into()));
        assert_eq!((both.cert, both.key), (Some("c.pem".into()), Some("k.pem".into())));
    }
}
