//! Sending: every upload is tried until it has an answer, with the same key and the same bytes.

use std::collections::HashSet;
use std::future::{self, Future};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode, redirect};
use tokio::time::Instant;

use crate::answer::{Answer, in_words};
use crate::retry::{self, Verdict};
use crate::settings::{Faults, Settings};
use crate::summary::{Failure, Outcome, Summary};
use crate::tls;
use crate::upload::Upload;

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
    /// An upload was brought to an end.
    Finished(&'a Outcome),
}

type Watcher<'a> = &'a (dyn Fn(Event<'_>) + Sync);

/// The client.
pub struct Phone {
    client: Client,
    /// The addresses without a slash at the end.
    gateways: Vec<String>,
    settings: Settings,
}

/// What sending one upload came to: its answer, final or permanent, or what came of the last attempt.
struct Delivery {
    attempts: u32,
    end: Result<Answer, String>,
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
            .user_agent(concat!("milepost-phone/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers(&settings)?)
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
        Ok(Self { client, gateways, settings })
    }

    /// Sends all uploads, [`Settings::concurrency`] at once, and each of them once more after it was answered
    /// if `twice`. An upload is taken when it is its turn. `watcher` is called as things happen and must not block.
    pub async fn play(
        &self,
        uploads: impl IntoIterator<Item = Upload, IntoIter: ExactSizeIterator>,
        twice: bool,
        watcher: impl Fn(Event<'_>) + Sync,
    ) -> Summary {
        self.play_until(uploads, twice, future::pending(), watcher).await
    }

    /// Like [`Phone::play`], but ends at once when `stop` does; attempts under way are abandoned (and may be
    /// stored).
    pub async fn play_until(
        &self,
        uploads: impl IntoIterator<Item = Upload, IntoIter: ExactSizeIterator>,
        twice: bool,
        stop: impl Future<Output = ()>,
        watcher: impl Fn(Event<'_>) + Sync,
    ) -> Summary {
        let watcher: Watcher<'_> = &watcher;
        let uploads = uploads.into_iter();
        let total = uploads.len();
        let mut keys = HashSet::new();
        let outcomes = stream::iter(uploads.enumerate())
            .map(|(ordinal, upload)| {
                let is_copy = !keys.insert(upload.key);
                async move {
                    let outcome = self.play_one(ordinal, &upload, twice, watcher).await;
                    // Its locations were confirmed, or will be, where it came first.
                    if is_copy { Outcome { locations: 0, ..outcome } } else { outcome }
                }
            })
            .buffer_unordered(self.settings.concurrency)
            .take_until(stop);
        let mut summary = outcomes
            .fold(Summary::default(), |mut summary, outcome| {
                watcher(Event::Finished(&outcome));
                summary.add(outcome);
                future::ready(summary)
            })
            .await;
        let finished = usize::try_from(summary.uploads).unwrap_or(usize::MAX);
        summary.unfinished = total.saturating_sub(finished);
        summary
    }

    /// Sends one upload, and its copy. Uploads take the gateways in turn; the copy goes to the one after the
    /// gateway that answered, for that is where a copy is most likely to be taken for something new.
    async fn play_one(&self, ordinal: usize, upload: &Upload, twice: bool, watcher: Watcher<'_>) -> Outcome {
        let mut outcome = Outcome { ordinal, attempts: 0, replays: 0, locations: 0, failure: None };
        let delivery = self.deliver(upload, ordinal, watcher).await;
        let first = match outcome.conclude(delivery) {
            Ok(first) => first,
            Err(failure) => return Outcome { failure: Some(failure), ..outcome },
        };
        match confirmed(upload, &first) {
            Ok(count) => outcome.locations = count,
            Err(failure) => return Outcome { failure: Some(failure), ..outcome },
        }
        if twice {
            let sent = usize::try_from(outcome.attempts).unwrap_or_default();
            let delivery = self.deliver(upload, ordinal.wrapping_add(sent), watcher).await;
            outcome.failure = outcome.conclude(delivery).and_then(|then| repeated(&first, &then)).err();
        }
        outcome
    }

    /// Tries until there is an answer, or no attempt or no time left. Each attempt goes to the gateway after
    /// the last.
    async fn deliver(&self, upload: &Upload, gateway_first: usize, watcher: Watcher<'_>) -> Delivery {
        let settings = &self.settings;
        let deadline = Instant::now() + settings.deadline;
        let mut backoff = retry::backoff(settings.backoff_min, settings.backoff_max);
        let mut gateways = self.gateways.iter().cycle().skip(gateway_first % self.gateways.len());
        let mut attempts = 0;
        loop {
            attempts += 1;
            let gateway = gateways.next().map_or("", String::as_str);
            let timeout = settings.request_timeout.min(deadline.saturating_duration_since(Instant::now()));
            let (reason, retry_after) = match self.attempt(gateway, upload, timeout).await {
                Ok(answer) if retry::verdict(answer.status) != Verdict::Retry => {
                    return Delivery { attempts, end: Ok(answer) };
                }
                Ok(answer) => (answer.in_words(), answer.retry_after),
                Err(reason) => (reason, None),
            };
            let pause = backoff.next().unwrap_or(settings.backoff_max);
            let pause = retry::pause(pause, retry_after, settings.retry_after_max);
            if attempts >= settings.attempts_max || Instant::now() + pause >= deadline {
                return Delivery { attempts, end: Err(reason) };
            }
            watcher(Event::Pausing { reason: &reason, pause });
            tokio::time::sleep(pause).await;
        }
    }

    /// One HTTP request. The error says in words why there is no answer.
    async fn attempt(&self, gateway: &str, upload: &Upload, timeout: Duration) -> Result<Answer, String> {
        let request = self
            .client
            .post(format!("{gateway}{}", upload.path))
            // A string of RFC 8941: a UUID has no character that would need a backslash.
            .header("idempotency-key", format!("\"{}\"", upload.key))
            .timeout(timeout)
            .body(Bytes::clone(&upload.body));
        Answer::read(request.send().await.map_err(in_words)?).await
    }
}

impl Outcome {
    /// Counts a delivery and hands its answer on.
    fn conclude(&mut self, delivery: Delivery) -> Result<Answer, Failure> {
        self.attempts += u64::from(delivery.attempts);
        let answer = delivery.end.map_err(|last| Failure::GaveUp { attempts: delivery.attempts, last })?;
        self.replays += u64::from(answer.replayed);
        Ok(answer)
    }
}

/// The locations that a first answer confirms: all that were sent, or it is a failure.
fn confirmed(upload: &Upload, answer: &Answer) -> Result<u64, Failure> {
    if answer.status != StatusCode::OK {
        return Err(Failure::Refused(answer.in_words()));
    }
    answer
        .processed_count()
        .filter(|count| usize::try_from(*count) == Ok(upload.locations))
        .ok_or_else(|| Failure::Unconfirmed { sent: upload.locations, answer: answer.in_words() })
}

/// The answer of a copy must be the first one again.
fn repeated(first: &Answer, then: &Answer) -> Result<(), Failure> {
    if first.is_same(then) {
        return Ok(());
    }
    Err(Failure::AnsweredDifferently { first: first.in_words(), then: then.in_words() })
}

/// The headers that all requests carry.
fn headers(settings: &Settings) -> Result<HeaderMap, Faults> {
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| Faults(vec![error.to_string()]));
    let mut api_key = value(&settings.api_key)?;
    api_key.set_sensitive(true);
    let mut headers = HeaderMap::from_iter([
        (HeaderName::from_static("x-api-key"), api_key),
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
    ]);
    if let Some(wait) = settings.wait_secs {
        headers.insert("prefer", value(&format!("wait={wait}"))?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests;
