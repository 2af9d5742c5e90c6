//! Who sends: an API key, known by the SHA-256 of its secret.
//!
//! All keys are in memory, kept as they are in the database every few seconds, so that Postgres may be away; only a key
//! that is not among them is looked up, since it may be new.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use milepost_shared::journal::clock::Clock;
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::duration;
use milepost_shared::store::api_keys;
use milepost_shared::store::connect::Target;
use milepost_shared::store::connection::Connections;
use moka::sync::Cache;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use crate::admission::known::Identity;
use crate::admission::known::{Hash, Known, KnownKeys};
use crate::admission::problem::{CREDENTIALS_UNVERIFIED, UNAUTHORIZED};
use crate::admission::refresh::{API_KEYS, Refresh};
use crate::admission::uses::Uses;
use crate::http::problem::Problem;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The header of an API key.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Connections to look up keys that are not known.
const LOOK_UPS: usize = 2;
/// How long what was looked up counts, without another look-up, and how many such keys are remembered.
const LATELY: Duration = Duration::from_secs(3);
const LATELY_MAX: u64 = 10_000;

/// How API keys are loaded.
#[derive(Debug, Clone, Args)]
pub struct ApiKeySettings {
    /// How often changed API keys are loaded; a revoked one works that much longer [100ms..=50s].
    #[arg(long, env, default_value = "10s", value_parser = duration(100 * MS, 50 * SECOND))]
    pub api_key_refresh: Duration,

    /// Longest wait for the look-up of an API key not known yet; past it 503 [10ms..=30s].
    #[arg(long, env, default_value = "1s", value_parser = duration(10 * MS, 30 * SECOND))]
    pub api_key_timeout: Duration,
}

/// The API keys this gateway knows. Cheap to clone.
#[derive(Clone)]
pub struct ApiKeys(Arc<Keys>);

struct Keys {
    known: KnownKeys,
    /// Keys looked up because they were not known; `None` for those that the database does not know either.
    lately: Cache<Hash, Option<Known>>,
    uses: Uses,
    target: Target,
    look_ups: Connections,
    settings: ApiKeySettings,
    readiness: Readiness,
    clock: Clock,
}

impl ApiKeys {
    /// Knows none yet. Connects when first asked.
    #[must_use]
    pub fn new(settings: &ApiKeySettings, target: Target, readiness: &Readiness, clock: Clock) -> Self {
        readiness.register(API_KEYS, true);
        Self(Arc::new(Keys {
            known: KnownKeys::default(),
            lately: Cache::builder().max_capacity(LATELY_MAX).time_to_live(LATELY).build(),
            uses: Uses::default(),
            look_ups: Connections::new(target.clone(), LOOK_UPS),
            target,
            settings: settings.clone(),
            readiness: readiness.clone(),
            clock,
        }))
    }

    /// Loads all keys and then what changes, and notes which were used, until `stop`. A failure keeps those known.
    pub async fn refresh(self, stop: CancellationToken) {
        let Keys { known, uses, target, settings, readiness, .. } = &*self.0;
        let refresh = Refresh::new(known, target, settings.api_key_refresh, readiness);
        let one = Connections::new(target.clone(), 1);
        let both = async { tokio::join!(Box::pin(refresh.run()), uses.note(&one)) };
        stop.run_until_cancelled(both).await;
    }

    /// Whom a request's key speaks for.
    ///
    /// # Errors
    /// [`UNAUTHORIZED`], or [`CREDENTIALS_UNVERIFIED`] where only the database knows.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Problem> {
        self.verify(secret(headers).ok_or(UNAUTHORIZED)?).await
    }

    /// Whom a key speaks for, wherever in the request it was.
    ///
    /// # Errors
    /// As of [`ApiKeys::authenticate`].
    pub async fn verify(&self, secret: &str) -> Result<Identity, Problem> {
        let keys = &*self.0;
        let hash: Hash = Sha256::digest(secret).into();
        let now = keys.clock.now_ms();
        let known = keys.known.find(&hash, now, |hash| keys.uses.take(hash));
        // Known keys are well-formed; a malformed one is not worth a look-up.
        let found = match known {
            Some(known) => Some(known),
            None if !is_well_formed(secret) => None,
            None => match keys.lately.get(&hash) {
                Some(found) => found,
                None => Box::pin(keys.look_up(hash)).await?,
            },
        };
        found.and_then(|known| known.identity(now)).ok_or(UNAUTHORIZED)
    }
}

impl Keys {
    async fn look_up(&self, hash: Hash) -> Result<Option<Known>, Problem> {
        let asking = self.look_ups.ask(async |connection| api_keys::find(connection, &hash).await);
        match timeout(self.settings.api_key_timeout, asking).await {
            Ok(Ok(found)) => {
                let found = found.as_ref().map(Known::new);
                if found.is_some() {
                    self.uses.take(hash);
                }
                self.lately.insert(hash, found.clone());
                Ok(found)
            }
            Ok(Err(_)) | Err(_) => Err(CREDENTIALS_UNVERIFIED),
        }
    }
}

/// The one secret of a request. Credentials of another scheme are ignored: proxies add them.
fn secret(headers: &HeaderMap) -> Option<&str> {
    let mut given = None;
    for value in headers.get_all(X_API_KEY) {
        let secret = value.to_str().ok()?;
        if given.replace(secret).is_some_and(|other| other != secret) {
            return None;
        }
    }
    for value in headers.get_all(AUTHORIZATION) {
        // Bytes that are not text belong to another scheme too: a bearer token is ASCII.
        let Ok(text) = value.to_str() else { continue };
        let (scheme, secret) = text.split_once(' ').unwrap_or((text, ""));
        let secret = secret.trim_start_matches(' ');
        if scheme.eq_ignore_ascii_case("bearer") && given.replace(secret).is_some_and(|other| other != secret)
        {
            return None;
        }
    }
    given
}

/// Whether it has the form of a secret: `mp_`, 8 letters or digits, `_`, 43 characters of base64url.
fn is_well_formed(secret: &str) -> bool {
    let Some((prefix, random)) = secret.strip_prefix("mp_").and_then(|rest| rest.split_once('_')) else {
        return false;
    };
    let base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    prefix.len() == 8
        && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && random.len() == 43
        && random.bytes().all(base64url)
}

#[cfg(test)]
#[path = "authenticate_tests.rs"]
mod tests;
