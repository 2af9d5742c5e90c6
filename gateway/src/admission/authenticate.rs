//! Who sends: an API key, known by the SHA-256 of its secret.
//!
//! All keys are loaded at start and again every few seconds, so that Postgres may be away; only a key that is
//! not among them is looked up, since it may be new.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use clap::Args;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use milepost_shared::journal::account::AccountId;
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::duration;
use milepost_shared::store::api_keys;
use milepost_shared::store::connection::Connections;
use moka::sync::Cache;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnectOptions;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::admission::problem::{CREDENTIALS_UNVERIFIED, UNAUTHORIZED};
use crate::http::problem::Problem;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const API_KEYS: &str = "api_keys";
/// The header of an API key.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// One to refresh all keys, two to look up unknown ones.
const CONNECTIONS: usize = 3;
/// Longest time to load all keys.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between attempts until the keys have been loaded for the first time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How long an unknown key is refused without another look-up, and how many such keys are remembered.
const UNKNOWN_FOR: Duration = Duration::from_secs(3);
const UNKNOWN_MAX: u64 = 10_000;

/// How API keys are loaded.
#[derive(Debug, Clone, Args)]
pub struct ApiKeySettings {
    /// How often all API keys are loaded again; a revoked one works that much longer [100ms..=50s].
    #[arg(long, env, default_value = "10s", value_parser = duration(100 * MS, 50 * SECOND))]
    pub api_key_refresh: Duration,

    /// Longest wait for the look-up of an API key not known yet; past it 503 [10ms..=30s].
    #[arg(long, env, default_value = "1s", value_parser = duration(10 * MS, 30 * SECOND))]
    pub api_key_timeout: Duration,
}

type Hash = [u8; 32];
type Known = HashMap<Hash, AccountId>;

/// The API keys this gateway knows. Cheap to clone.
#[derive(Clone)]
pub struct ApiKeys(Arc<Keys>);

struct Keys {
    /// `None` until they have been loaded once.
    known: ArcSwapOption<Known>,
    /// Keys looked up since then; `None` for those that the database does not know.
    lately: Cache<Hash, Option<AccountId>>,
    connections: Connections,
    settings: ApiKeySettings,
    readiness: Readiness,
}

impl ApiKeys {
    /// Knows none yet. Connects when first asked.
    #[must_use]
    pub fn new(settings: &ApiKeySettings, options: PgConnectOptions, readiness: &Readiness) -> Self {
        readiness.register(API_KEYS, true);
        Self(Arc::new(Keys {
            known: ArcSwapOption::empty(),
            lately: Cache::builder().max_capacity(UNKNOWN_MAX).time_to_live(UNKNOWN_FOR).build(),
            connections: Connections::new(options, CONNECTIONS),
            settings: settings.clone(),
            readiness: readiness.clone(),
        }))
    }

    /// Loads all keys, again and again until `stop`. A failure keeps those known.
    pub async fn refresh(self, stop: CancellationToken) {
        let keys = &*self.0;
        let mut failing = false;
        loop {
            let loading = timeout(REFRESH_TIMEOUT, keys.connections.ask(api_keys::active));
            let Some(loaded) = stop.run_until_cancelled(loading).await else { return };
            let failed = match loaded {
                Ok(Ok(loaded)) => {
                    keys.known.store(Some(Arc::new(loaded.into_iter().collect())));
                    keys.readiness.up(API_KEYS);
                    false
                }
                Ok(Err(error)) => {
                    let error = error.to_string();
                    if !failing {
                        tracing::warn!(error, "cannot load API keys; those known go on working");
                    }
                    true
                }
                Err(_) => true,
            };
            failing = failed;
            let first = keys.known.load().is_none();
            if first {
                keys.readiness.down(API_KEYS, "cannot load API keys from Postgres");
            }
            let pause = if first { FIRST_PAUSE } else { keys.settings.api_key_refresh };
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// The account of a request.
    ///
    /// # Errors
    /// [`UNAUTHORIZED`], or [`CREDENTIALS_UNVERIFIED`] where only the database knows.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<AccountId, Problem> {
        self.account_of(secret(headers).ok_or(UNAUTHORIZED)?).await
    }

    /// The account of a secret, wherever it was found.
    ///
    /// # Errors
    /// As [`authenticate`](Self::authenticate).
    pub async fn account_of(&self, secret: &str) -> Result<AccountId, Problem> {
        let hash: Hash = Sha256::digest(secret).into();
        let known = self.0.known.load().as_ref().and_then(|known| known.get(&hash).copied());
        if let Some(account) = known {
            return Ok(account);
        }
        // Known keys are well-formed; a malformed one is not worth a look-up.
        if !is_well_formed(secret) {
            return Err(UNAUTHORIZED);
        }
        let found = match self.0.lately.get(&hash) {
            Some(found) => found,
            None => Box::pin(self.0.look_up(hash)).await?,
        };
        found.ok_or(UNAUTHORIZED)
    }
}

impl Keys {
    async fn look_up(&self, hash: Hash) -> Result<Option<AccountId>, Problem> {
        let asking = self.connections.ask(async |connection| api_keys::find(connection, &hash).await);
        match timeout(self.settings.api_key_timeout, asking).await {
            Ok(Ok(found)) => {
                self.lately.insert(hash, found);
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
