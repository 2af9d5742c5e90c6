//! `GET /api/v1/uploads/{key hash}`: what became of an upload that was answered 202.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer::{self, KeyState};
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::key::KeyHash;
use serde::Serialize;

use crate::answer::outcome::{Receipt, Status};
use crate::http::problem::{Problem, seconds};
use crate::native::problem::{STATUS_UNAVAILABLE, UNKNOWN_UPLOAD};
use crate::native::receipt;
use crate::native::respond::RETRY_PENDING;

/// Status of an upload that lost its key to another one.
const CONFLICT: u16 = 422;

#[derive(Serialize)]
#[serde(tag = "status", rename_all = "lowercase", rename_all_fields = "camelCase")]
enum Page {
    Pending,
    Final {
        http_status: u16,
        #[serde(skip_serializing_if = "Option::is_none")]
        processed_count: Option<u64>,
        accepted_at: JournalTime,
        expires_at: JournalTime,
    },
}

/// Reads which upload is asked for: the key hash from the path, the receipt from the query.
///
/// # Errors
/// [`UNKNOWN_UPLOAD`] for anything that no gateway wrote into a `Location` for this account, without saying whether it is
/// malformed, altered or another account's.
pub fn asked(
    path: &str,
    query: Option<&str>,
    account: AccountId,
) -> Result<(KeyHash, Option<Receipt>), Problem> {
    let key_hash = path.parse().map_err(|_| UNKNOWN_UPLOAD)?;
    let receipt =
        query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("receipt="));
    let Some(text) = receipt else { return Ok((key_hash, None)) };
    let receipt = receipt::decode(text, account, key_hash).ok_or(UNKNOWN_UPLOAD)?;
    Ok((key_hash, Some(receipt)))
}

/// The response to a question about an upload.
#[must_use]
pub fn respond(status: Status) -> Response {
    let page = match status {
        Status::Pending => Page::Pending,
        Status::Final { state, conflict } => final_page(&state, conflict),
        Status::Unknown => return UNKNOWN_UPLOAD.into_response(),
        Status::Unavailable => return STATUS_UNAVAILABLE.into_response(),
    };
    let mut response = axum::Json(&page).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(page, Page::Pending) {
        response.headers_mut().insert(RETRY_AFTER, seconds(RETRY_PENDING));
    }
    response
}

fn final_page(state: &KeyState, conflict: bool) -> Page {
    let processed_count = if conflict { None } else { answer::processed_count(&state.body) };
    let http_status = if conflict { CONFLICT } else { state.status };
    let (accepted_at, expires_at) = (state.accepted_at, state.expires_at);
    Page::Final { http_status, processed_count, accepted_at, expires_at }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use milepost_shared::journal::position::Position;
    use milepost_shared::location::fingerprint::Fingerprint;

    use uuid::Uuid;

    use super::*;

    const KEY: KeyHash = KeyHash([7; 32]);
    const ACCOUNT: AccountId = AccountId(Uuid::from_u128(1));
    const POSITION: Position = Position::new(1, 2);

    fn state(body: bytes::Bytes) -> KeyState {
        KeyState {
            account: ACCOUNT,
            fingerprint: Fingerprint([0; 32]),
            status: 200,
            body,
            accepted_at: JournalTime(10),
            expires_at: JournalTime(20),
            source: POSITION,
        }
    }

    async fn page(status: Status) -> (u16, String) {
        let response = respond(status);
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn each_state_has_its_page() {
        assert_eq!(page(Status::Pending).await, (200, r#"{"status":"pending"}"#.to_owned()));
        assert!(respond(Status::Pending).headers().contains_key(RETRY_AFTER));
        let page_of = |body, conflict| page(Status::Final { state: state(body), conflict });
        let text = r#"{"status":"final","httpStatus":200,"processedCount":3,"acceptedAt":10,"expiresAt":20}"#;
        assert_eq!(page_of(answer::body(3), false).await, (200, text.to_owned()));
        let text = r#"{"status":"final","httpStatus":422,"acceptedAt":10,"expiresAt":20}"#;
        assert_eq!(page_of(answer::body(3), true).await, (200, text.to_owned()));
        let text = r#"{"status":"final","httpStatus":200,"acceptedAt":10,"expiresAt":20}"#;
        assert_eq!(page_of("older".into(), false).await, (200, text.to_owned()));
        assert_eq!(page(Status::Unknown).await.0, 404);
        assert_eq!(page(Status::Unavailable).await.0, 503);
    }

    #[test]
    fn only_what_was_written_into_a_location_is_read() {
        let receipt = Receipt::new(POSITION, JournalTime(3), Fingerprint([0; 32]));
        let query = format!("receipt={}", receipt::encode(&receipt, ACCOUNT, KEY));
        let path = KEY.to_string();
        assert_eq!(asked(&path, Some(&query), ACCOUNT), Ok((KEY, Some(receipt))));
        assert_eq!(asked(&path, Some(&format!("x=y&{query}")), ACCOUNT), Ok((KEY, Some(receipt))));
        assert_eq!(asked(&path, None, ACCOUNT), Ok((KEY, None)));
        assert_eq!(asked(&path, Some("x"), ACCOUNT), Ok((KEY, None)));
        for (path, query, account) in [
            (path.as_str(), query.as_str(), AccountId(Uuid::from_u128(2))),
            (path.as_str(), "receipt=", ACCOUNT),
            (path.as_str(), "receipt=AAAA", ACCOUNT),
            (&path[1..], query.as_str(), ACCOUNT),
            (&path.to_uppercase().replace('0', "A"), query.as_str(), ACCOUNT),
        ] {
            assert_eq!(asked(path, Some(query), account), Err(UNKNOWN_UPLOAD), "{path} {query}");
        }
    }
}
