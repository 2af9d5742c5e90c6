//! Turns the outcome of an upload into HTTP.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::key::KeyHash;

use crate::answer::outcome::Outcome;
use crate::http::problem::seconds;
use crate::native::problem::{KEY_REUSED, unavailable};
use crate::native::receipt;

/// When to ask for an answer that is pending.
pub const RETRY_PENDING: Duration = Duration::from_secs(1);
/// Marks an answer that was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Says which preferences were honoured.
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Whose upload it was, and which preferences were honoured.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who sent it.
    pub account: AccountId,
    /// Of its key.
    pub key_hash: KeyHash,
    /// `Preference-Applied`.
    pub preference_applied: Option<HeaderValue>,
}

/// The response to an upload.
#[must_use]
pub fn respond(outcome: Outcome, asked: Asked) -> Response {
    let mut response = match outcome {
        Outcome::Final { state, replayed } => final_answer(state, replayed),
        Outcome::Conflict => return KEY_REUSED.into_response(),
        Outcome::Unavailable(why) => return unavailable(why).into_response(),
        Outcome::Pending(receipt) => {
            let receipt = receipt::encode(&receipt, asked.account, asked.key_hash);
            let location = format!("/api/v1/uploads/{}?receipt={receipt}", asked.key_hash);
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, JSON);
            headers.insert(RETRY_AFTER, seconds(RETRY_PENDING));
            headers.extend(HeaderValue::try_from(location).map(|location| (LOCATION, location)));
            (StatusCode::ACCEPTED, headers, r#"{"status":"pending"}"#).into_response()
        }
    };
    if let Some(applied) = asked.preference_applied {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    response
}

/// The stored bytes, whichever build stored them.
fn final_answer(state: KeyState, replayed: bool) -> Response {
    let mut response = Response::new(Body::from(state.body));
    // The table's type allows numbers that HTTP does not; the upload is accepted all the same.
    *response.status_mut() = StatusCode::from_u16(state.status).unwrap_or(StatusCode::OK);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::BodyExt as _;
    use milepost_shared::journal::clock::JournalTime;
    use milepost_shared::journal::position::Position;
    use milepost_shared::location::fingerprint::Fingerprint;

    use uuid::Uuid;

    use super::*;
    use crate::answer::outcome::{Receipt, Unavailable};

    const KEY: KeyHash = KeyHash([7; 32]);
    const ACCOUNT: AccountId = AccountId(Uuid::from_u128(1));
    const POSITION: Position = Position::new(1, 2);

    fn answered(outcome: Outcome) -> Response {
        let preference_applied = Some(HeaderValue::from_static("wait=3"));
        respond(outcome, Asked { account: ACCOUNT, key_hash: KEY, preference_applied })
    }

    fn state(status: u16, body: &'static [u8]) -> KeyState {
        KeyState {
            account: ACCOUNT,
            fingerprint: Fingerprint([0; 32]),
            status,
            body: Bytes::from_static(body),
            accepted_at: JournalTime(1),
            expires_at: JournalTime(2),
            source: POSITION,
        }
    }

    #[tokio::test]
    async fn a_final_answer_is_the_stored_status_and_bytes() {
        for (replayed, mark) in [(false, None), (true, Some("true"))] {
            let response = answered(Outcome::Final { state: state(201, b"{ \"old\":1}\n"), replayed });
            assert_eq!(response.status(), StatusCode::CREATED);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            let marked = response.headers().get(REPLAYED).map(|value| value.to_str().unwrap());
            assert_eq!(marked, mark);
            assert_eq!(&response.into_body().collect().await.unwrap().to_bytes()[..], b"{ \"old\":1}\n");
        }
    }

    #[tokio::test]
    async fn a_pending_answer_says_where_and_when_to_ask() {
        let receipt = Receipt::new(POSITION, JournalTime(3), Fingerprint([0; 32]));
        let response = answered(Outcome::Pending(receipt));
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.headers()[PREFERENCE_APPLIED], "wait=3");
        let location = response.headers()[LOCATION].to_str().unwrap();
        let encoded = location.strip_prefix(&format!("/api/v1/uploads/{KEY}?receipt=")).unwrap();
        assert_eq!(receipt::decode(encoded, ACCOUNT, KEY), Some(receipt));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&body[..], br#"{"status":"pending"}"#);
    }

    #[test]
    fn what_failed_is_a_problem() {
        assert_eq!(answered(Outcome::Conflict).status(), StatusCode::UNPROCESSABLE_ENTITY);
        let response = answered(Outcome::Unavailable(Unavailable::Journal));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER));
    }
}
