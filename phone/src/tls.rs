//! Whom a phone trusts when it speaks `https`.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::settings::{Faults, Settings};

/// TLS 1.2 and 1.3, trusting the authorities of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR` replace them) and those
/// of [`Settings::ca_file`]. Without an `https` gateway none is looked for.
///
/// # Errors
///
/// The file holds no certificate, or there is none at all to trust.
pub fn config(settings: &Settings) -> Result<ClientConfig, Faults> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &settings.ca_file {
        add_file(&mut roots, file)?;
    }
    if settings.gateways.iter().any(|url| url.scheme() == "https") {
        // What of the system's store cannot be read is left out, as it is everywhere.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(fault(
                "--url is https, but the system knows no certificate to trust: give one as --ca-file",
            ));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fault(&format!("TLS cannot be set up: {error}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn add_file(roots: &mut RootCertStore, file: &Path) -> Result<(), Faults> {
    let in_words = |error: &dyn std::fmt::Display| fault(&format!("--ca-file: {}: {error}", file.display()));
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| in_words(&error))? {
        let certificate = certificate.map_err(|error| in_words(&error))?;
        roots.add(certificate).map_err(|error| in_words(&error))?;
    }
    if roots.is_empty() { Err(in_words(&"holds no certificate in PEM")) } else { Ok(()) }
}

fn fault(text: &str) -> Faults {
    Faults(vec![text.to_owned()])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn faults(ca_file: &Path) -> String {
        let settings =
            Settings { ca_file: Some(ca_file.to_owned()), ..Settings::new(vec![], "secret".to_owned()) };
        config(&settings).expect_err("there is no certificate").to_string()
    }

    #[test]
    fn a_file_without_a_certificate_is_refused_by_its_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ca.pem");
        assert!(faults(&file).starts_with("--ca-file: "), "{}", faults(&file));
        for (content, fault) in [
            ("", "holds no certificate in PEM"),
            ("no PEM", "holds no certificate in PEM"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "invalid peer certificate"),
        ] {
            fs::write(&file, content).expect("the file is written");
            let message = faults(&file);
            assert!(message.contains("ca.pem") && message.contains(fault), "{message}");
        }
    }

    #[test]
    fn a_certificate_in_a_file_is_trusted() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ca.pem");
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        fs::write(&file, signed.cert.pem()).expect("the file is written");
        let settings = Settings { ca_file: Some(file), ..Settings::new(vec![], "secret".to_owned()) };
        assert!(config(&settings).is_ok());
    }
}
