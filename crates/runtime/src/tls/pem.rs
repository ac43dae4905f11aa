//! Certificates and keys in files.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// The content of a file in PEM form, which may hold a secret key.
#[derive(PartialEq, Eq)]
pub struct Pem {
    /// Setting and file, for errors.
    origin: String,
    text: Vec<u8>,
}

impl Pem {
    /// Reads the file that `setting` names.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(setting: &str, path: &Path) -> Result<Self, TlsError> {
        let text = std::fs::read(path)
            .map_err(|e| TlsError(format!("{setting}: failed to read {}: {e}", path.display())))?;
        Ok(Self { origin: format!("{setting}: {}", path.display()), text })
    }

    /// The certificates, at least one.
    ///
    /// # Errors
    /// When there is none, or one that is not PEM.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let read: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&self.text).collect();
        let certificates = read.map_err(|e| self.wrong(&format!("not in PEM form: {e}")))?;
        if certificates.is_empty() {
            return Err(self.wrong("no certificate in PEM form"));
        }
        Ok(certificates)
    }

    /// The secret key.
    ///
    /// # Errors
    /// When there is none.
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        match PrivateKeyDer::from_pem_slice(&self.text) {
            Ok(key) => Ok(key),
            Err(pem::Error::NoItemsFound) if self.is_encrypted() => Err(self
                .wrong("the key is encrypted; there is nobody to ask for its password, so store it plain")),
            Err(pem::Error::NoItemsFound) => Err(self.wrong("no private key in PEM form")),
            Err(e) => Err(self.wrong(&format!("not in PEM form: {e}"))),
        }
    }

    /// Adds all certificates to those that are trusted.
    ///
    /// # Errors
    /// When there is none, or one that cannot be trusted because it is not understood.
    pub fn add_to(&self, roots: &mut RootCertStore) -> Result<(), TlsError> {
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|e| self.wrong(&format!("a certificate is not usable: {e}")))?;
        }
        Ok(())
    }

    fn is_encrypted(&self) -> bool {
        // Both forms there are, PKCS #8 and that of old OpenSSL, say so in a line of their own.
        String::from_utf8_lossy(&self.text).contains("ENCRYPTED")
    }

    /// An error about this file.
    pub(super) fn wrong(&self, reason: &str) -> TlsError {
        TlsError(format!("{}: {reason}", self.origin))
    }
}

/// The certificates that the system trusts.
pub fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Machines have certificates that rustls cannot read; a server that needs one of these is refused later.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
