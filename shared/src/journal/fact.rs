//! The fact: an upload as persisted, as subscribers of `locations` read it (docs/topics.md is its public description).

use serde::Serialize;

use crate::journal::account::AccountId;
use crate::journal::clock::JournalTime;
use crate::location::{Location, Upload};

/// The schema of the value, also in header `schema`.
pub const SCHEMA: i64 = 1;

/// Header: offset of the journal record, decimal digits. The one integer subscribers deduplicate by.
pub const HEADER_SOURCE_OFFSET: &str = "source-offset";
/// Header: the account's UUID.
pub const HEADER_ACCOUNT: &str = "account";
/// Header: the client's name for the device.
pub const HEADER_DEVICE: &str = "device";
/// Header: schema of the value, decimal digits.
pub const HEADER_SCHEMA: &str = "schema";
/// Header, on journal records and facts: W3C Trace Context of the request that brought the upload.
pub const HEADER_TRACEPARENT: &str = "traceparent";

/// Largest value of a fact, bytes: a kibibyte of the topic's record is for the key and the headers.
pub const VALUE_BYTES_MAX: usize = (4 << 20) - 1024;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Value<'a> {
    schema: i64,
    account: AccountId,
    device_id: &'a str,
    received_at: JournalTime,
    locations: &'a [Location],
}

/// The value of a fact: `{"schema":1,"account":"…","deviceId":"…","receivedAt":…,"locations":[…]}`, `receivedAt` being
/// journal time in milliseconds.
///
/// # Panics
/// Never: an upload holds no number that JSON lacks.
#[must_use]
pub fn encode(account: AccountId, received_at: JournalTime, upload: &Upload) -> Vec<u8> {
    serde_json::to_vec(&Value {
        schema: SCHEMA,
        account,
        device_id: &upload.device,
        received_at,
        locations: &upload.locations,
    })
    .expect("an upload is made of strings and finite numbers")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_fact_reads_as_documented() {
        let upload = Upload { device: "d".to_owned(), locations: vec![Location::new(5, 48.25, -16.5)] };
        let fact = encode(AccountId(Uuid::nil()), JournalTime(7), &upload);
        assert_eq!(
            String::from_utf8(fact).unwrap(),
            r#"{"schema":1,"account":"00000000-0000-0000-0000-000000000000","deviceId":"d","receivedAt":7,"#
                .to_owned()
                + r#""locations":[{"timestamp":5,"latitude":48.25,"longitude":-16.5}]}"#
        );
    }
}
