//! Who may send, how fast and how much, whatever the protocol.
//!
//! [`authenticate`] and [`rate`] say who may, [`media`] what is understood; [`body`] reads it within bounds, [`coding`]
//! decodes what was compressed, and [`parse`] has it parsed where it holds up nobody. [`problem`] is each of their refusals.

pub mod authenticate;
pub mod body;
pub mod coding;
pub mod media;
pub mod parse;
pub mod problem;
pub mod rate;

use std::sync::Arc;

use http::HeaderMap;
use milepost_shared::journal::account::AccountId;

use crate::admission::authenticate::ApiKeys;
use crate::admission::body::Bodies;
use crate::admission::parse::Parsers;
use crate::admission::problem::UNAUTHORIZED;
use crate::admission::rate::Rates;
use crate::http::problem::Problem;
use crate::http::slots::Slots;

/// What every protocol asks before it serves a request. Cheap to clone.
#[derive(Clone)]
pub struct Admission {
    /// Who may.
    pub api_keys: ApiKeys,
    /// How fast.
    pub rates: Arc<Rates>,
    /// How much.
    pub bodies: Bodies,
    /// By whom it is read.
    pub parsers: Parsers,
    /// How many at once.
    pub slots: Arc<Slots>,
}

impl Admission {
    /// The account of a request that uploads, if it may at the moment.
    ///
    /// # Errors
    /// The credentials are not known, or the account sends too fast.
    pub async fn uploader(&self, headers: &HeaderMap) -> Result<AccountId, Problem> {
        let account = self.api_keys.authenticate(headers).await?;
        self.rates.check(account)?;
        Ok(account)
    }

    /// The same by the secret that the request has somewhere.
    ///
    /// # Errors
    /// As [`uploader`](Self::uploader).
    pub async fn uploader_by(&self, secret: Option<&str>) -> Result<AccountId, Problem> {
        let account = self.api_keys.account_of(secret.ok_or(UNAUTHORIZED)?).await?;
        self.rates.check(account)?;
        Ok(account)
    }
}
