//! TLS to the server, as libpq means it: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`.
//!
//! `require` encrypts and believes any server, unless `sslrootcert` is given; `verify-ca` believes
//! a server whose certificate an authority of `sslrootcert` has signed; `verify-full` one whose
//! certificate is for the host of the address too. `sslrootcert=system` are the authorities that
//! the operating system trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Result;
use super::address::{Check, TlsWish};
use crate::StoreError;

/// What makes encrypted connections.
pub(super) fn connector(wish: &TlsWish) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|it| denied(&it))?;
    let verifier: Arc<dyn ServerCertVerifier> = match (wish.check, &wish.root) {
        (Check::Nothing, None) => Arc::new(Anybody(provider)),
        (check, root) => {
            let roots = Arc::new(roots(root.as_deref())?);
            let chain = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
            let chain = chain.map_err(|error| denied(&error))?;
            if check == Check::Host { chain } else { Arc::new(AnyHost(chain)) }
        }
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match (&wish.certificate, &wish.key) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|it| unreadable(key, &it))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, key)
                .map_err(|it| denied(&it))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(denied(&"sslcert and sslkey belong together; give both, or none")),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn denied(why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Denied { why: format!("TLS: {why}") }
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> StoreError {
    denied(&format!("{} has no certificate or key in PEM form: {why}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(path, &error))?;
    read.map(|it| it.map_err(|error| unreadable(path, &error))).collect()
}

fn roots(file: Option<&Path>) -> Result<RootCertStore> {
    let Some(file) = file else {
        let why = "sslmode=verify-ca and verify-full need sslrootcert=FILE, the certificate of the \
                   authority that signed the server's, or sslrootcert=system";
        return Err(denied(&why));
    };
    let found = if file == Path::new("system") {
        rustls_native_certs::load_native_certs().certs
    } else {
        certificates(file)?
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found);
    if roots.is_empty() {
        return Err(unreadable(file, &"it holds none"));
    }
    Ok(roots)
}

/// What a failed handshake means, if it was one, and what to do about it.
pub(super) fn explain(error: &tokio_postgres::Error, root: Option<&PathBuf>) -> Option<StoreError> {
    let text = || root.map_or_else(String::new, |it| it.display().to_string());
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(it) = cause {
        if it.to_string() == "server does not support TLS" {
            let why = "the server does not do TLS, which sslmode asks for; turn `ssl` on there";
            return Some(denied(&why));
        }
        let inner = it.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(tls) = inner.and_then(|it| it.downcast_ref::<Error>()) {
            let cure = match tls {
                // The second: one of that name has, with another key.
                Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature,
                ) => {
                    format!("; no authority of sslrootcert={} has signed it", text())
                }
                Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                ) => "; name the host as its certificate does, or use sslmode=verify-ca".into(),
                _ => String::new(),
            };
            return Some(denied(&format!("{tls}{cure}")));
        }
        cause = it.source();
    }
    None
}

/// Believes any server: the connection is encrypted, and that is all.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Believes a server whose certificate is signed, for whatever host.
#[derive(Debug)]
struct AnyHost(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        let verified =
            self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last, after the signatures.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
