//! What an app takes for success, and what it makes of refusals.

use http::StatusCode;

use super::{Protocol, Request};

/// An answer of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Success {
    /// Not 202, which several apps take for a failure.
    pub status: StatusCode,
    /// `Content-Type`; `None` without a body.
    pub content_type: Option<&'static str>,
    /// Exactly that.
    pub body: &'static str,
}

impl Success {
    const EMPTY: Self = Self { status: StatusCode::OK, content_type: None, body: "" };

    const fn json(body: &'static str) -> Self {
        Self { status: StatusCode::OK, content_type: Some("application/json"), body }
    }
}

/// Whether it is Overland, which has an OwnTracks mode of its own.
pub(super) fn is_overland(user_agent: &str) -> bool {
    user_agent.starts_with("Overland/")
}

/// The answer to a request whose points are all safe, whatever else was in it.
#[must_use]
pub fn success(request: &Request<'_>) -> Success {
    const OVERLAND: Success = Success::json(r#"{"result":"ok"}"#);
    match request.protocol {
        Protocol::Overland => OVERLAND,
        Protocol::Owntracks if is_overland(request.user_agent) => OVERLAND,
        Protocol::Owntracks => Success::json("[]"),
        Protocol::Traccar => Success::EMPTY,
        // µlogger calls one page; PhoneTrack wants to hear what it did, and GPSLogger nothing.
        Protocol::Gpslogger if request.path.ends_with("/client/index.php") => {
            Success::json(r#"{"error":false,"trackid":1}"#)
        }
        Protocol::Gpslogger if request.path.contains("/log") => Success::json(r#"{"done":1,"friends":[]}"#),
        Protocol::Gpslogger => Success::EMPTY,
    }
}

/// At which answers an app deletes what it has sent, besides success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgets {
    /// At none: it sends again until it has success, or gives up after some time whatever is answered.
    Never,
    /// At 400 to 499: OwnTracks on iOS.
    Refused,
    /// At any answer at all: Traccar Client up to 8 on iOS. Only a connection closed without one makes it send again, so where
    /// [`refusal`] is 503 that is what it gets.
    Answered,
}

impl Forgets {
    /// Of the app that sent a request.
    #[must_use]
    pub fn of(protocol: Protocol, user_agent: &str) -> Self {
        match protocol {
            Protocol::Owntracks if user_agent.starts_with("OwnTracks/") => Self::Refused,
            Protocol::Traccar if user_agent.starts_with("TraccarClient/") => Self::Answered,
            _ => Self::Never,
        }
    }
}

/// The status of a refusal: where the app would delete its points for a reason that passes, 503 in place of a 4xx.
///
/// What never gets better keeps its status: a body that is no such protocol or too large would be sent for ever, and
/// nothing behind it.
#[must_use]
pub fn refusal(protocol: Protocol, user_agent: &str, status: StatusCode) -> StatusCode {
    const PASSING: [StatusCode; 4] = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    let forgets = Forgets::of(protocol, user_agent) != Forgets::Never;
    if forgets && PASSING.contains(&status) { StatusCode::SERVICE_UNAVAILABLE } else { status }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOS: &str = "OwnTracks/26.1.1 CFNetwork/3860.400.51 Darwin/25.3.0";
    const ANDROID: &str = "Owntracks-Android/gms/420509001";

    fn request<'a>(protocol: Protocol, path: &'a str, user_agent: &'a str) -> Request<'a> {
        Request { protocol, path, query: "", user_agent, device_header: "", body: b"" }
    }

    #[test]
    fn each_app_gets_what_it_takes_for_success() {
        for (protocol, path, user_agent, body) in [
            (Protocol::Owntracks, "", IOS, "[]"),
            (Protocol::Owntracks, "/pub", ANDROID, "[]"),
            (Protocol::Owntracks, "", "Overland/1.4 (iPhone; iOS 18.6; Scale/3.00)", r#"{"result":"ok"}"#),
            (Protocol::Overland, "", "okhttp/3.14.9", r#"{"result":"ok"}"#),
            (Protocol::Traccar, "/k", "ktor-client", ""),
            (Protocol::Gpslogger, "/k", "", ""),
            (Protocol::Gpslogger, "/k/logPostMultiple/t/jane", "", r#"{"done":1,"friends":[]}"#),
            (
                Protocol::Gpslogger,
                "/k/log/ulogger/t/jane/client/index.php",
                "",
                r#"{"error":false,"trackid":1}"#,
            ),
        ] {
            let success = success(&request(protocol, path, user_agent));
            assert_eq!((success.status, success.body), (StatusCode::OK, body), "{path} {user_agent}");
            let json = (!body.is_empty()).then_some("application/json");
            assert_eq!(success.content_type, json, "{path} {user_agent}");
        }
    }

    #[test]
    fn an_app_that_deletes_what_was_refused_is_told_to_wait() {
        for status in [401, 403, 408, 429] {
            let status = StatusCode::from_u16(status).unwrap();
            let busy = StatusCode::SERVICE_UNAVAILABLE;
            assert_eq!(refusal(Protocol::Owntracks, IOS, status), busy);
            assert_eq!(
                refusal(Protocol::Traccar, "TraccarClient/8 CFNetwork/1410.1 Darwin/22.6.0", status),
                busy
            );
            assert_eq!(refusal(Protocol::Owntracks, ANDROID, status), status);
            assert_eq!(refusal(Protocol::Traccar, "ktor-client", status), status);
            assert_eq!(refusal(Protocol::Overland, "Overland/1.4", status), status);
        }
    }

    #[test]
    fn what_never_gets_better_is_refused_for_good() {
        for status in [400, 404, 413] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(refusal(Protocol::Owntracks, IOS, status), status);
        }
    }
}
