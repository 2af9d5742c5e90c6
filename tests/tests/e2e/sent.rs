//! Requests as phone apps send them.

use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use milepost_shared::journal::account::AccountId;
use milepost_tests::{Answer, Program, World, http};
use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

/// Longer than a gateway may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What OwnTracks on iOS calls itself.
pub const OWNTRACKS_IOS: &str = "OwnTracks/26.1.1 CFNetwork/3860.400.51 Darwin/25.3.0";
/// What Traccar Client 8 on iOS calls itself.
pub const TRACCAR_IOS: &str = "TraccarClient/8 CFNetwork/1410.1 Darwin/22.6.0";
/// What Overland takes for success.
pub const OVERLAND_OK: &str = r#"{"result":"ok"}"#;

/// A request as an app sends it. Sent again, it is a retry.
#[derive(Debug, Clone)]
pub struct Sent {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// What an app hears.
#[derive(Debug, Clone)]
pub enum Told {
    Answer(Answer),
    /// The connection was closed without an answer.
    Closed,
}

impl Sent {
    /// With the key as the password, which is how OwnTracks has it.
    pub fn owntracks(secret: &str, body: &Value) -> Self {
        let sent = Self::post("/owntracks", body.to_string());
        sent.header("authorization", &basic(secret))
    }

    pub fn overland(secret: &str, body: &Value) -> Self {
        let sent = Self::post("/overland", body.to_string());
        sent.header("authorization", &format!("Bearer {secret}"))
    }

    pub fn get(target: impl Into<String>) -> Self {
        Self { method: Method::GET, target: target.into(), headers: Vec::new(), body: String::new() }
    }

    pub fn post(target: impl Into<String>, body: impl Into<String>) -> Self {
        Self { method: Method::POST, body: body.into(), ..Self::get(target) }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn with_body(self, body: impl Into<String>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// On a connection of its own.
    pub async fn to(&self, gateway: &Program) -> anyhow::Result<Answer> {
        self.by(&client()?, gateway).await
    }

    /// On a connection that the client keeps.
    pub async fn by(&self, client: &reqwest::Client, gateway: &Program) -> anyhow::Result<Answer> {
        match self.told(client, gateway).await? {
            Told::Answer(answer) => Ok(answer),
            Told::Closed => anyhow::bail!("the connection was closed without an answer"),
        }
    }

    /// Whatever the app gets to hear.
    pub async fn told(&self, client: &reqwest::Client, gateway: &Program) -> anyhow::Result<Told> {
        let address = gateway.listen.context("not a gateway")?;
        let mut request = client.request(self.method.clone(), format!("http://{address}{}", self.target));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = match request.body(self.body.clone()).send().await {
            Ok(response) => response,
            Err(error) if error.is_request() && !error.is_connect() && !error.is_timeout() => {
                return Ok(Told::Closed);
            }
            Err(error) => return Err(error.into()),
        };
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Told::Answer(Answer { status, headers, body: response.bytes().await?.to_vec() }))
    }
}

/// The header of a user with a password.
pub fn basic(secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("jane:{secret}")))
}

/// A client that follows no redirect, as no gateway must send one.
pub fn client() -> anyhow::Result<reqwest::Client> {
    Ok(http().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE).build()?)
}

/// Checks that an answer is a success with this body.
pub fn ok(answer: &Answer, body: &str) {
    assert_eq!(answer.status_and_body(), (200, body.to_owned()));
    let json = (!body.is_empty()).then_some("application/json");
    assert_eq!(answer.header("Content-Type"), json);
}

/// One more account with a key, of which `number` is the part that is shown.
pub async fn account(world: &World, number: usize) -> anyhow::Result<(AccountId, String)> {
    let (id, prefix) = (AccountId(Uuid::new_v4()), format!("mp_{number:08}"));
    let secret = format!("{prefix}_{}", "x".repeat(43));
    let statement = format!(
        "INSERT INTO accounts (id, name) VALUES ('{id}', '{prefix}'); \
         INSERT INTO api_keys (account_id, secret_sha256, prefix) \
         VALUES ('{id}', sha256(convert_to('{secret}', 'UTF8')), '{prefix}')"
    );
    world.tables.execute(&statement).await?;
    Ok((id, secret))
}
