//! An API key's secret: `mp_<8 lower-case letters and digits>_<32 random bytes in base64url>`.
//!
//! Everything before the second underscore is the prefix, which distinguishes keys in lists; the 256 bits behind it are
//! what cannot be guessed. So a plain SHA-256 is enough to store: there is no dictionary to slow down.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::{CryptoRng, RngExt as _};
use sha2::{Digest as _, Sha256};

const PREFIX_CHARS: usize = 8;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A secret. Has no `Debug`, so that it cannot slip into a message.
pub struct Secret {
    text: String,
}

impl Secret {
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        let name: String =
            (0..PREFIX_CHARS).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect();
        let bytes: [u8; 32] = random.random();
        Self { text: format!("mp_{name}_{}", URL_SAFE_NO_PAD.encode(bytes)) }
    }

    /// What the client sends.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What lists show.
    pub fn prefix(&self) -> &str {
        &self.text[.."mp_".len() + PREFIX_CHARS]
    }

    /// What the database stores: of the whole text.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.text).into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_secret_has_the_promised_form() {
        let secret = Secret::generate(&mut rand::rng());
        let parts: Vec<&str> = secret.text().splitn(3, '_').collect();
        assert_eq!((parts[0], parts[1].len(), parts[2].len()), ("mp", 8, 43));
        assert!(parts[1].bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_eq!(URL_SAFE_NO_PAD.decode(parts[2]).unwrap().len(), 32);
        assert_eq!(secret.prefix(), format!("mp_{}", parts[1]));
    }

    #[test]
    fn no_two_secrets_or_prefixes_are_alike() {
        let secrets: Vec<Secret> = (0..1000).map(|_| Secret::generate(&mut rand::rng())).collect();
        assert_eq!(secrets.iter().map(Secret::text).collect::<HashSet<_>>().len(), 1000);
        assert_eq!(secrets.iter().map(Secret::prefix).collect::<HashSet<_>>().len(), 1000);
    }

    #[test]
    fn the_hash_is_of_the_whole_text() {
        let secret = Secret { text: "mp_abcdefgh_x".to_owned() };
        // By sha256sum.
        assert_eq!(
            hex::encode(secret.sha256()),
            "d45f12cf16f4d2b75ff45a6b7033862dfc8442a1929f5d824feb82c4d05dd71e"
        );
    }
}
