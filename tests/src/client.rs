//! A client of the gateway that hides nothing: what is sent is a value, and what comes back is bytes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use milepost_shared::location::{Location, Upload};
use reqwest::header::HeaderMap;
use serde::Serialize;

use crate::eventually;

/// Longer than any gateway waits before it answers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

/// An upload as it is sent. Sent again, it is a retry.
#[derive(Debug, Clone)]
pub struct Post {
    /// Path of the URL.
    pub path: &'static str,
    /// Headers besides the credentials.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Post {
    /// `POST /api/v1/locations/batch`.
    ///
    /// # Panics
    /// Never: an upload is JSON.
    #[must_use]
    pub fn batch(upload: &Upload) -> Self {
        Self::to("/api/v1/locations/batch", serde_json::to_vec(upload).expect("an upload is JSON"))
    }

    /// `POST /api/v1/locations`, with the first location of the upload.
    ///
    /// # Panics
    /// If the upload has no location.
    #[must_use]
    pub fn single(upload: &Upload) -> Self {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Single<'a> {
            device_id: &'a str,
            #[serde(flatten)]
            location: &'a Location,
        }
        let single = Single { device_id: &upload.device, location: &upload.locations[0] };
        Self::to("/api/v1/locations", serde_json::to_vec(&single).expect("an upload is JSON"))
    }

    /// JSON, or what claims to be JSON, to a path.
    #[must_use]
    pub fn to(path: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Self { path, headers, body: body.into() }
    }

    /// With an idempotency key, in quotes.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.header("Idempotency-Key", &format!("\"{key}\""))
    }

    /// With one more header, which may be there already.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Asks to wait this long for the final answer, and no longer.
    #[must_use]
    pub fn wait(self, seconds: u32) -> Self {
        self.prefer(&format!("wait={seconds}"))
    }

    /// Asks not to wait.
    #[must_use]
    pub fn respond_async(self) -> Self {
        self.prefer("respond-async")
    }

    fn prefer(mut self, preference: &str) -> Self {
        self.headers.retain(|(name, _)| name != "Prefer");
        self.header("Prefer", preference)
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The bytes of the body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value; `None` if it is absent or given twice.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next().and_then(|value| value.to_str().ok());
        if values.next().is_some() { None } else { value }
    }

    /// Whether it is marked as a replay.
    #[must_use]
    pub fn replayed(&self) -> bool {
        self.header("Idempotency-Replayed") == Some("true")
    }

    /// The body as JSON; `null` if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Status and body, for messages and comparisons.
    #[must_use]
    pub fn status_and_body(&self) -> (u16, String) {
        (self.status, String::from_utf8_lossy(&self.body).into_owned())
    }
}

/// One account's client of one gateway.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    gateway: SocketAddr,
    secret: String,
}

/// Begins an HTTP client for servers of this machine. None of them speaks TLS, but in a build with the phone's client `reqwest`
/// makes no client before it knows whose TLS it would use.
pub fn http() -> reqwest::ClientBuilder {
    // An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

impl Client {
    /// A client with connections of its own.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(gateway: SocketAddr, secret: &str) -> anyhow::Result<Self> {
        let http = http().timeout(REQUEST_TIMEOUT).build()?;
        Ok(Self { http, gateway, secret: secret.to_owned() })
    }

    /// Where it sends.
    #[must_use]
    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// Sends an upload once.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn post(&self, post: &Post) -> anyhow::Result<Answer> {
        let mut request = self.http.post(format!("http://{}{}", self.gateway, post.path));
        if !self.secret.is_empty() {
            request = request.header("X-API-Key", &self.secret);
        }
        for (name, value) in &post.headers {
            request = request.header(name, value);
        }
        answer(request.body(post.body.clone())).await
    }

    /// Asks what became of an upload; `location` is what a 202 said.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn get(&self, location: &str) -> anyhow::Result<Answer> {
        let request = self.http.get(format!("http://{}{location}", self.gateway));
        answer(request.header("X-API-Key", &self.secret)).await
    }

    /// Sends an upload until its answer is final, as a phone does: again after a lost connection, 202, 408, 429 and 5xx.
    ///
    /// # Errors
    /// There is no final answer within `deadline`, with the last one.
    pub async fn post_until_final(&self, post: &Post, deadline: Duration) -> anyhow::Result<Answer> {
        let mut last = "none".to_owned();
        let final_answer = eventually(deadline, "a final answer", async || {
            match self.post(post).await {
                Ok(answer) if !matches!(answer.status, 202 | 408 | 429 | 500..) => {
                    return Ok(Some(answer));
                }
                Ok(answer) => last = format!("{:?}", answer.status_and_body()),
                Err(error) => last = error.to_string(),
            }
            Ok(None)
        });
        let final_answer = final_answer.await;
        final_answer.with_context(|| format!("the last answer of {} was {last}", self.gateway))
    }
}

async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
    let response = request.send().await.context("no answer")?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.context("the answer broke off")?.to_vec();
    Ok(Answer { status, headers, body })
}
