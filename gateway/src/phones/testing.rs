//! Requests for tests.

use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::location::Location;
use uuid::Uuid;

use super::{Decoded, Point, Protocol, Reason, Request, Rules, decode};

/// In December 2026.
pub const ARRIVAL: i64 = 1_796_083_200_000;
pub const RULES: Rules<'_> = Rules { bound: None, arrival: ARRIVAL, timestamp_max: ARRIVAL + 300_000 };

pub fn request<'a>(protocol: Protocol, query: &'a str, body: &'a str) -> Request<'a> {
    Request { protocol, path: "", query, user_agent: "", device_header: "", body: body.as_bytes() }
}

/// What is decoded of a request that is of its protocol.
pub fn decoded<'a>(request: &Request<'a>) -> Decoded<'a> {
    decode(request, &RULES).expect("of the protocol")
}

/// The one point of a request.
pub fn one<'a>(request: &Request<'a>) -> Point<'a> {
    let mut decoded = decoded(request);
    assert!(decoded.points.len() == 1 && decoded.set_aside.is_empty() && decoded.records.is_empty());
    decoded.points.remove(0)
}

/// Why the one point of a request is set aside, and where.
pub fn fault(request: &Request<'_>) -> (Reason, String) {
    let decoded = decoded(request);
    assert!(decoded.points.is_empty() && decoded.set_aside.len() == 1 && decoded.records.is_empty());
    (decoded.set_aside[0].reason, decoded.set_aside[0].path())
}

pub fn key(point: &Point<'_>) -> KeyHash {
    let Location { timestamp, latitude, longitude, .. } = point.location;
    KeyHash::of_point(
        AccountId(Uuid::nil()),
        point.device.as_deref().unwrap_or("phone"),
        timestamp,
        latitude,
        longitude,
    )
}

pub fn keys(decoded: &Decoded<'_>) -> Vec<KeyHash> {
    decoded.points.iter().map(key).collect()
}
