//! Who may send, how fast and how much, whatever the protocol.
//!
//! [`authenticate`] and [`rate`] say who may, by the keys that are [`known`], which [`refresh`] keeps as they are in the
//! database, where [`uses`] notes when they were used. [`media`] says what is understood; [`body`] reads it within bounds, [`coding`]
//! decodes what was compressed, and [`parse`] has it parsed where it holds up nobody. [`problem`] is each of their refusals.

pub mod authenticate;
pub mod body;
pub mod coding;
pub mod known;
pub mod media;
pub mod parse;
pub mod problem;
pub mod rate;
pub mod refresh;
pub mod uses;

use std::sync::Arc;

use http::HeaderMap;

use crate::admission::authenticate::{ApiKeys, Identity};
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
    /// Whom a request that uploads speaks for, if the account may upload at the moment.
    ///
    /// # Errors
    /// The credentials are not known, or the account sends too fast.
    pub async fn uploader(&self, headers: &HeaderMap) -> Result<Identity, Problem> {
        let identity = self.api_keys.authenticate(headers).await?;
        self.rates.check(identity.account)?;
        Ok(identity)
    }

    /// The same by the secret that the request has somewhere.
    ///
    /// # Errors
    /// As [`uploader`](Self::uploader).
    pub async fn uploader_by(&self, secret: Option<&str>) -> Result<Identity, Problem> {
        let identity = self.api_keys.verify(secret.ok_or(UNAUTHORIZED)?).await?;
        self.rates.check(identity.account)?;
        Ok(identity)
    }
}
