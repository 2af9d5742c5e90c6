//! What phone apps send, as they are: each protocol is a pure function from a request to points.
//!
//! None of these apps knows an `Idempotency-Key`, and the body of a retry is not the body of the first attempt, so each
//! point is an upload of its own: [`decode`] makes them of a request. A bad point is set aside and spoils no other, what
//! is no point is counted by kind, and only a body that is no such protocol is refused as a whole. [`answer`] says what the
//! app takes for success, and [`credentials`] where it puts its key. [`endpoints`] puts it all together.
//!
//! Bodies may hold passwords and places: nothing here logs, and what holds parts of a body has no `Debug`.

pub mod answer;
pub mod credentials;
pub mod endpoints;
mod fields;
mod flat;
mod metric;
mod overland;
mod owntracks;
mod point;
mod problem;
mod reason;
mod record;
mod rmc;
mod units;

use std::borrow::Cow;

use milepost_shared::location::Location;

pub use self::reason::Reason;
pub use self::record::Record;

/// Whose way of sending points a request has; its route says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// OwnTracks in HTTP mode, and Overland in its OwnTracks mode.
    Owntracks,
    /// Overland, and what sends GeoJSON as it does.
    Overland,
    /// Traccar Client of all versions, transistorsoft's SDK, and what else sends to a Traccar server.
    Traccar,
    /// GPSLogger's custom URL, PhoneTrack, and what else names the fields of a point in a query, a form or JSON.
    Gpslogger,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Owntracks, Self::Overland, Self::Traccar, Self::Gpslogger];

    /// Its name in metrics, settings and routes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owntracks => "owntracks",
            Self::Overland => "overland",
            Self::Traccar => "traccar",
            Self::Gpslogger => "gpslogger",
        }
    }
}

/// What of a request matters here. Headers that are no text or absent are empty.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// By its route.
    pub protocol: Protocol,
    /// Below its route, with the leading slash if there is anything.
    pub path: &'a str,
    /// Without the question mark.
    pub query: &'a str,
    /// `User-Agent`
    pub user_agent: &'a str,
    /// `X-Limit-D`, the device's name in OwnTracks.
    pub device_header: &'a str,
    /// All of it; the caller bounds its size.
    pub body: &'a [u8],
}

/// What points are judged by.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The device that the API key is bound to: all points are of this one, whatever the request says.
    pub bound: Option<&'a str>,
    /// When the request arrived, milliseconds since 1970.
    pub arrival: i64,
    /// Greatest time of a point, milliseconds since 1970.
    pub timestamp_max: i64,
}

/// What a request held. Points, what was set aside, and records together are the items sent.
#[derive(Default)]
pub struct Decoded<'a> {
    /// In the order sent; the same one may be there twice.
    pub points: Vec<Point<'a>>,
    /// Bad points, in the order sent.
    pub set_aside: Vec<SetAside<'a>>,
    /// What is no point, in the order sent, and then what came beside the items.
    pub records: Vec<Record>,
}

/// A point that keeps all rules.
pub struct Point<'a> {
    /// The bound device, or what the request names: 1..=128 characters, none a control character; `None` if neither is there.
    pub device: Option<Cow<'a, str>>,
    /// Where and when.
    pub location: Location,
    /// Whether the app sent its time. If not it has its arrival's, and its retry will be another point.
    pub timed: bool,
}

/// A point that breaks a rule: it is kept for an operator, and the app gets its success answer, for it would send the
/// point again and nothing behind it.
pub struct SetAside<'a> {
    /// Which rule.
    pub reason: Reason,
    /// As of a [`Point`]; `None` also if the name itself breaks a rule.
    pub device: Option<Cow<'a, str>>,
    /// Its place in the batch, from 0, if there is one.
    pub index: Option<usize>,
    /// The field at fault, by the app's name for it, or empty: the whole point is.
    pub field: &'static str,
    /// Just this point as it was sent: JSON, or names and values of a form without credentials.
    pub raw: Cow<'a, str>,
}

impl SetAside<'_> {
    /// Where the fault is: `[3].geometry.coordinates[1]`, or `lat`.
    #[must_use]
    pub fn path(&self) -> String {
        match (self.index, self.field) {
            (None, field) => field.to_owned(),
            (Some(index), "") => format!("[{index}]"),
            (Some(index), field) => format!("[{index}].{field}"),
        }
    }
}

/// Nothing in it is a point or a record of this protocol: the one reason to refuse a request for what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotThisProtocol;

/// Reads a request.
///
/// # Errors
/// It is no such protocol at all.
pub fn decode<'a>(request: &Request<'a>, rules: &Rules<'a>) -> Result<Decoded<'a>, NotThisProtocol> {
    match request.protocol {
        Protocol::Owntracks => owntracks::decode(request, rules),
        Protocol::Overland => overland::decode(request, rules),
        Protocol::Traccar | Protocol::Gpslogger => flat::decode(request, rules),
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
#[path = "phones/recorded_tests.rs"]
mod recorded_tests;

#[cfg(test)]
#[path = "phones/law_tests.rs"]
mod law_tests;
