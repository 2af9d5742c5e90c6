//! Stands in for the crate of this name, so that nobody is trusted but who is named.
//!
//! sqlx trusts the public authorities of `webpki-roots` besides those of `sslrootcert`. libpq does not: with `verify-ca` whoever
//! has a certificate of any public authority could pass for the server.

use rustls_pki_types::TrustAnchor;

/// None.
pub const TLS_SERVER_ROOTS: &[TrustAnchor<'static>] = &[];

#[cfg(test)]
mod tests {
    #[test]
    fn nobody_is_trusted_by_default() {
        assert!(super::TLS_SERVER_ROOTS.is_empty());
    }
}
