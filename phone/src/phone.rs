//! Sending: every request is tried until it has an answer, whoever makes the request and judges the answer.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, redirect};
use tokio::time::Instant;

use crate::answer::{Answer, in_words};
use crate::request::Request;
use crate::retry::{self, Verdict};
use crate::settings::{Faults, Settings};
use crate::summary::{Failure, Outcome};
use crate::tls;

pub(crate) mod apps;
mod native;

/// A gateway that is down must not cost the whole time of an attempt: the next one is waiting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Something a watcher of a play may want to show.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// An attempt brought no final answer; the next is made after a pause.
    Pausing {
        /// What came of the attempt.
        reason: &'a str,
        /// How long the pause is.
        pause: Duration,
    },
    /// An upload, or a request of an app, was brought to an end.
    Finished(&'a Outcome),
}

type Watcher<'a> = &'a (dyn Fn(Event<'_>) + Sync);

/// The client.
pub struct Phone {
    client: Client,
    /// The addresses without a slash at the end.
    gateways: Vec<String>,
    settings: Settings,
    /// The headers that all uploads of Milepost's own clients carry.
    native: HeaderMap,
}

/// What is to be delivered, and when it is.
struct Operation<R, V> {
    /// Makes the request of the next attempt.
    request: R,
    /// Says what an answer means.
    verdict: V,
    attempts_max: u32,
    /// The place of the first gateway, counted on past the last one.
    gateway_first: usize,
}

/// What an operation came to: its answer, final or permanent, or what came of the last attempt.
struct Delivery {
    attempts: u32,
    end: Result<Answer, Last>,
}

/// An attempt that brought no answer that counts.
struct Last {
    reason: String,
    retry_after: Option<Duration>,
}

impl Delivery {
    fn answer(self) -> Result<Answer, Failure> {
        self.end.map_err(|last| Failure::GaveUp { attempts: self.attempts, last: last.reason })
    }
}

impl Phone {
    /// A phone with these settings. It connects when it first sends.
    ///
    /// # Errors
    ///
    /// All faults of the settings.
    pub fn new(settings: Settings) -> Result<Self, Faults> {
        settings.check()?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls::config(&settings)?)
            .connect_timeout(CONNECT_TIMEOUT)
            // Nothing between phone and gateway may repeat or redirect an attempt: every one is counted here.
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .build()
            .map_err(|error| Faults(vec![format!("the HTTP client cannot be built: {error}")]))?;
        let gateways =
            settings.gateways.iter().map(|url| url.as_str().trim_end_matches('/').to_owned()).collect();
        let native = native::headers(&settings)?;
        Ok(Self { client, gateways, settings, native })
    }

    /// Tries until there is an answer, or no attempt or no time left. Each attempt goes to the gateway after
    /// the last.
    async fn deliver(
        &self,
        mut operation: Operation<impl FnMut() -> Request, impl Fn(&Answer) -> Verdict>,
        watcher: Watcher<'_>,
    ) -> Delivery {
        let settings = &self.settings;
        let deadline = Instant::now() + settings.deadline;
        let mut backoff = retry::backoff(settings.backoff_min, settings.backoff_max);
        let mut gateways = self.gateways.iter().cycle().skip(operation.gateway_first % self.gateways.len());
        let mut attempts = 0;
        loop {
            attempts += 1;
            let gateway = gateways.next().map_or("", String::as_str);
            let timeout = settings.request_timeout.min(deadline.saturating_duration_since(Instant::now()));
            let last = match self.attempt(gateway, (operation.request)(), timeout).await {
                Ok(answer) if (operation.verdict)(&answer) != Verdict::Retry => {
                    return Delivery { attempts, end: Ok(answer) };
                }
                Ok(answer) => Last { reason: answer.in_words(), retry_after: answer.retry_after },
                Err(reason) => Last { reason, retry_after: None },
            };
            let pause = self.pause(&mut backoff, &last);
            if attempts >= operation.attempts_max || Instant::now() + pause >= deadline {
                return Delivery { attempts, end: Err(last) };
            }
            watcher(Event::Pausing { reason: &last.reason, pause });
            tokio::time::sleep(pause).await;
        }
    }

    /// How long to wait after an attempt.
    fn pause(&self, backoff: &mut impl Iterator<Item = Duration>, last: &Last) -> Duration {
        let pause = backoff.next().unwrap_or(self.settings.backoff_max);
        retry::pause(pause, last.retry_after, self.settings.retry_after_max)
    }

    /// One HTTP request. The error says in words why there is no answer.
    async fn attempt(&self, gateway: &str, request: Request, timeout: Duration) -> Result<Answer, String> {
        let Request { method, target, headers, body } = request;
        let request = self
            .client
            .request(method, format!("{gateway}{target}"))
            .headers(headers)
            .timeout(timeout)
            .body(body);
        Answer::read(request.send().await.map_err(in_words)?).await
    }
}

#[cfg(test)]
mod tests;
