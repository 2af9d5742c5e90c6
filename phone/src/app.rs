//! Phone apps as they are: what each of them sends of a track, takes for success, and sends again.
//!
//! An app is a way to make requests of points, pure code in a file of its own, and the rules here. Who sends them is
//! [`Phone::play_app`](crate::Phone::play_app). What is known of the apps is told in `docs/phones.md`.
//!
//! Coordinates are those of the file, bit for bit. Where an app counts whole seconds, so does what it sends.

mod gpslogger;
mod overland;
mod owntracks;
mod traccar;
mod written;

use std::str::FromStr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::answer::Answer;
use crate::point::Point;
use crate::request::Request;
use crate::retry::Verdict;

/// An app, in the version that is imitated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum App {
    /// OwnTracks 2.5.9 on Android in HTTP mode: one message of JSON a point.
    Owntracks,
    /// Overland 1.4 on iOS: batches of GeoJSON.
    Overland,
    /// Traccar Client 10: a form for each point.
    Traccar,
    /// Traccar Client 9: JSON for each point, as transistorsoft's SDK makes it.
    Traccar9,
    /// Traccar Client up to 8, on Android: a query for each point.
    Traccar8,
    /// GPSLogger with a custom URL: a query for each point, or for each line of the day's file.
    Gpslogger,
}

/// Whether points are sent as they come, or once more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Round {
    /// Each as it comes.
    First,
    /// All of them again, though they were answered, as the app does when it believes that they were not.
    Again,
}

/// One message: what an app puts into a request, fixed when it is made.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// The API key.
    pub key: &'a str,
    /// What the app calls its device.
    pub device: &'a str,
    /// The points, at least one.
    pub points: &'a [Point],
    /// Whether they are sent as they come.
    pub round: Round,
    /// The phone's clock when the message was made, in seconds since 1970.
    pub made_at: i64,
    /// A random number of the message.
    pub id: u32,
}

impl App {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Owntracks, Self::Overland, Self::Traccar, Self::Traccar9, Self::Traccar8, Self::Gpslogger];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owntracks => "owntracks",
            Self::Overland => "overland",
            Self::Traccar => "traccar",
            Self::Traccar9 => "traccar-9",
            Self::Traccar8 => "traccar-8",
            Self::Gpslogger => "gpslogger",
        }
    }

    /// Its request for a message. The same message makes the same request.
    #[must_use]
    pub fn request(self, message: &Message<'_>) -> Request {
        match self {
            Self::Owntracks => owntracks::request(message),
            Self::Overland => overland::request(message),
            Self::Traccar => traccar::form(message),
            Self::Traccar9 => traccar::json(message),
            Self::Traccar8 => traccar::query(message),
            Self::Gpslogger => gpslogger::request(message),
        }
    }

    /// What it makes of an answer: it has success, or tries again, whatever the answer is.
    #[must_use]
    pub fn verdict(self, answer: &Answer) -> Verdict {
        let status = answer.status;
        let is_success = match self {
            Self::Owntracks => status.is_success() && is_json(&answer.body),
            Self::Overland => status.is_success() && answer.is_json && says_ok(&answer.body),
            Self::Traccar | Self::Gpslogger => status.is_success(),
            Self::Traccar9 => [200, 201, 204].contains(&status.as_u16()),
            Self::Traccar8 => status.as_u16() < 400,
        };
        if is_success { Verdict::Final } else { Verdict::Retry }
    }

    /// The most points of a request, where so many gather between two of them.
    #[must_use]
    pub fn points_max(self, gathering: usize) -> usize {
        match self {
            Self::Overland => gathering.max(overland::POINTS_MAX),
            _ => 1,
        }
    }

    /// What it does where a request has no success.
    #[must_use]
    pub const fn gives_up(self, round: Round) -> GivesUp {
        match (self, round) {
            (Self::Gpslogger, Round::First) => GivesUp::Point { attempts: gpslogger::ATTEMPTS },
            (Self::Gpslogger, Round::Again) => GivesUp::File,
            _ => GivesUp::Never,
        }
    }
}

/// What an app gives up when a request has no success.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GivesUp {
    /// Nothing: it sends the same again, and nothing else before.
    Never,
    /// The point, after so many attempts.
    Point {
        /// How many.
        attempts: u32,
    },
    /// The rest of the file, at once: it begins again at the first line.
    File,
}

impl FromStr for App {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|app| app.name() == name);
        named.ok_or_else(|| format!("no such app; {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Whether a body is JSON, which an empty one is not.
fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

/// Whether a body is an object with the `result` that is `ok`.
fn says_ok(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Said {
        result: String,
    }
    serde_json::from_slice(body).is_ok_and(|Said { result }| result == "ok")
}

/// The address of an app that has its key in the path.
fn with_key(endpoint: &str, key: &str) -> String {
    const RAW: &percent_encoding::AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    format!("{endpoint}/{}", utf8_percent_encode(key, RAW))
}

/// Headers, of which those that cannot be written are left out: a header holds any text but control characters.
fn headers<const N: usize>(headers: [(&'static str, &str); N]) -> HeaderMap {
    let written = headers.map(|(name, text)| {
        let mut value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
        value.set_sensitive(name == "authorization");
        Some((HeaderName::from_static(name), value))
    });
    written.into_iter().flatten().collect()
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use reqwest::StatusCode;

    use super::*;

    #[test]
    fn every_app_is_named_as_it_is_read() {
        for app in App::ALL {
            assert_eq!(app.name().parse(), Ok(app));
        }
        assert!("traccar-7".parse::<App>().is_err_and(|message| message.contains("traccar-8")));
    }

    #[test]
    fn each_app_takes_for_success_what_it_does_and_tries_again_at_all_else() {
        use App::{Gpslogger, Overland, Owntracks, Traccar, Traccar8, Traccar9};
        let json = |status, body| (status, body, true);
        let plain = |status, body| (status, body, false);
        for (apps, (status, body, is_json), is_success) in [
            (&[Owntracks, Traccar, Traccar9, Traccar8, Gpslogger][..], json(200, "[]"), true),
            (&[Overland], json(200, "[]"), false),
            (&App::ALL, json(200, r#"{"result":"ok"}"#), true),
            (&[Overland], json(200, r#"{"result":"error"}"#), false),
            (&[Overland], plain(200, r#"{"result":"ok"}"#), false),
            (&[Overland, Owntracks], plain(200, ""), false),
            (&[Traccar, Traccar9, Traccar8, Gpslogger], plain(200, ""), true),
            (&[Owntracks, Traccar, Traccar8, Gpslogger], json(202, "{}"), true),
            (&[Traccar9, Overland], json(202, "{}"), false),
            (&[Traccar8], plain(307, ""), true),
            (&[Owntracks, Overland, Traccar, Traccar9, Gpslogger], json(307, r#"{"result":"ok"}"#), false),
            (&App::ALL, json(401, r#"{"result":"ok"}"#), false),
            (&App::ALL, json(503, r#"{"result":"ok"}"#), false),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let body = Bytes::from_static(body.as_bytes());
            let answer = Answer { status, replayed: false, retry_after: None, is_json, body };
            for app in apps {
                let verdict = if is_success { Verdict::Final } else { Verdict::Retry };
                assert_eq!(app.verdict(&answer), verdict, "{app:?} {}", answer.in_words());
            }
        }
    }

    #[test]
    fn a_key_that_could_end_a_path_is_escaped_and_none_is_shown_with_its_headers() {
        assert_eq!(with_key("/traccar", "mp_a-B9"), "/traccar/mp_a-B9");
        assert_eq!(with_key("/traccar", "a/b?c#d"), "/traccar/a%2Fb%3Fc%23d");
        let headers = headers([("authorization", "Bearer secret"), ("x-limit-d", "Zoë")]);
        assert!(!format!("{headers:?}").contains("secret"));
        assert_eq!(headers["x-limit-d"].as_bytes(), "Zoë".as_bytes());
    }
}
