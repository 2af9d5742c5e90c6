//! Milepost's own clients: uploads under keys, several at once, each with the same key and the same bytes every time.

use std::collections::HashSet;
use std::future::{self, Future};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Method, StatusCode};

use super::{Delivery, Event, Operation, Phone, Watcher};
use crate::answer::Answer;
use crate::request::Request;
use crate::retry;
use crate::settings::{Faults, Settings};
use crate::summary::{Failure, Outcome, Summary};
use crate::upload::Upload;

impl Phone {
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
        let mut outcome = Outcome { ordinal, ..Outcome::default() };
        let delivery = self.upload(upload, ordinal, watcher).await;
        let first = match outcome.conclude(upload, delivery) {
            Ok(first) => first,
            Err(failure) => return Outcome { failure: Some(failure), ..outcome },
        };
        match confirmed(upload, &first) {
            Ok(count) => outcome.locations = count,
            Err(failure) => return Outcome { failure: Some(failure), ..outcome },
        }
        if twice {
            let sent = usize::try_from(outcome.attempts).unwrap_or_default();
            let delivery = self.upload(upload, ordinal.wrapping_add(sent), watcher).await;
            outcome.failure =
                outcome.conclude(upload, delivery).and_then(|then| repeated(&first, &then)).err();
        }
        outcome
    }

    /// Sends one upload until it is answered, beginning at a gateway.
    async fn upload(&self, upload: &Upload, gateway_first: usize, watcher: Watcher<'_>) -> Delivery {
        let request = request(upload, &self.native);
        let operation = Operation {
            request: || request.clone(),
            verdict: |answer: &Answer| retry::verdict(answer.status),
            attempts_max: self.settings.attempts_max,
            gateway_first,
        };
        self.deliver(operation, watcher).await
    }
}

/// The request of every attempt.
fn request(upload: &Upload, common: &HeaderMap) -> Request {
    let mut headers = common.clone();
    // A string of RFC 8941: a UUID has no character that would need a backslash, or that a header could not hold.
    if let Ok(key) = HeaderValue::from_str(&format!("\"{}\"", upload.key)) {
        headers.insert("idempotency-key", key);
    }
    let target = upload.path.to_owned();
    Request { method: Method::POST, target, headers, body: Bytes::clone(&upload.body) }
}

impl Outcome {
    /// Counts a delivery and hands its answer on.
    fn conclude(&mut self, upload: &Upload, delivery: Delivery) -> Result<Answer, Failure> {
        self.attempts += u64::from(delivery.attempts);
        self.sent += u64::from(delivery.attempts) * upload.locations as u64;
        let answer = delivery.answer()?;
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
pub(super) fn headers(settings: &Settings) -> Result<HeaderMap, Faults> {
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| Faults(vec![error.to_string()]));
    let mut api_key = value(&settings.api_key)?;
    api_key.set_sensitive(true);
    let mut headers = HeaderMap::from_iter([
        (HeaderName::from_static("x-api-key"), api_key),
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (USER_AGENT, HeaderValue::from_static(concat!("milepost-phone/", env!("CARGO_PKG_VERSION")))),
    ]);
    if let Some(wait) = settings.wait_secs {
        headers.insert("prefer", value(&format!("wait={wait}"))?);
    }
    Ok(headers)
}
