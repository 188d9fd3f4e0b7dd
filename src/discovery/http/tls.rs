//! What HTTPS trusts and shows: files in PEM.
//!
//! They are checked here: ureq would panic on a key that does not fit its certificate.

use crate::small_file;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::Path;
use std::sync::Arc;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

/// The most bytes of a file: a bundle of all public authorities has a quarter of that.
const FILE_MAX: u64 = 1 << 20;

/// The files for HTTPS.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsFiles<'a> {
    /// The authorities that are trusted, instead of those of the system.
    pub ca: Option<&'a Path>,
    /// The client's certificate, with those between it and its authority.
    pub cert: Option<&'a Path>,
    /// The key of the client's certificate.
    pub key: Option<&'a Path>,
}

/// Reads the files. Fails if one can't be read or holds something else.
pub fn config(files: TlsFiles<'_>) -> Result<TlsConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let authorities = match files.ca {
        Some(path) => certificates(path)?,
        // Without any, each connection by HTTPS fails, and its error says so.
        None => rustls_native_certs::load_native_certs().certs,
    };
    let authorities = authorities.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect();
    let client = match (files.cert, files.key) {
        (Some(cert), Some(key)) => Some(client(cert, key, &provider)?),
        (None, None) => None,
        (Some(path), None) | (None, Some(path)) => {
            return Err(format!("{}: a certificate and its key are needed together", path.display()));
        }
    };
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(authorities)))
        .client_cert(client)
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    let pem = small_file::read(path, FILE_MAX).map_err(|error| wrong(error.to_string()))?;
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certs.map_err(|error| wrong(error.to_string()))? {
        certs if certs.is_empty() => Err(wrong("expected certificates in PEM, found none".to_owned())),
        certs => Ok(certs),
    }
}

fn client(cert: &Path, key: &Path, provider: &rustls::crypto::CryptoProvider) -> Result<ClientCert, String> {
    let chain = certificates(cert)?;
    let wrong = |why: String| format!("{}: {why}", key.display());
    let pem = small_file::read(key, FILE_MAX).map_err(|error| wrong(error.to_string()))?;
    let parsed = PrivateKeyDer::from_pem_slice(&pem);
    let parsed = parsed.map_err(|_| wrong("expected a private key in PEM, found none".to_owned()))?;
    let fits = CertifiedKey::from_der(chain.clone(), parsed, provider);
    fits.map_err(|error| wrong(format!("it is no key for {}: {error}", cert.display())))?;
    let chain: Vec<_> = chain.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect();
    let key = PrivateKey::from_pem(&pem).map_err(|error| wrong(error.to_string()))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}
