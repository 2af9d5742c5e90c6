//! Where an app puts its API key.
//!
//! | protocol | taken from |
//! |---|---|
//! | OwnTracks | `Authorization: Basic`, the password; or `Bearer` |
//! | Overland | `Authorization: Bearer`; or `token` in the query |
//! | Traccar, GPSLogger | the first part of the path; or `Authorization` as of OwnTracks, where the app can set it |
//!
//! A bearer's token counts before all else, since it can be meant for nothing else, and a password after all else.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Protocol;

/// The key in a request: `path` is below its route, `query` without the question mark, `authorization` the header or
/// empty. A key is only looked for: whether it is one is for others to say.
#[must_use]
pub fn find<'a>(
    protocol: Protocol,
    path: &'a str,
    query: &'a str,
    authorization: &'a str,
) -> Option<Cow<'a, str>> {
    let elsewhere = || match protocol {
        Protocol::Owntracks => None,
        Protocol::Overland => token(query),
        Protocol::Traccar | Protocol::Gpslogger => first_part(path),
    };
    let (scheme, value) = authorization.split_once(' ').unwrap_or_default();
    let of_scheme = |name: &str| scheme.eq_ignore_ascii_case(name).then_some(value.trim_ascii());
    let bearer = of_scheme("bearer").map(Cow::Borrowed);
    let basic = || of_scheme("basic").filter(|_| protocol != Protocol::Overland).and_then(of_basic);
    bearer.or_else(elsewhere).or_else(basic).filter(|key| !key.is_empty())
}

/// Whether a name in a query or a form may be that of a key or a password.
pub(super) fn may_be_in(name: &str) -> bool {
    const NAMES: [&str; 8] =
        ["token", "api_key", "key", "apikey", "auth_token", "password", "pass", "notificationtoken"];
    NAMES.iter().any(|of| of.eq_ignore_ascii_case(name))
}

fn token(query: &str) -> Option<Cow<'_, str>> {
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "token").map(|(_, token)| token)
}

fn first_part(path: &str) -> Option<Cow<'_, str>> {
    path.split('/').find(|part| !part.is_empty()).map(Cow::Borrowed)
}

/// The password, or where it is empty, the user. Overland's OwnTracks mode sends `token:` without encoding it.
fn of_basic(value: &str) -> Option<Cow<'_, str>> {
    if let Some((token, "")) = value.split_once(':') {
        return Some(Cow::Borrowed(token));
    }
    let text = String::from_utf8(STANDARD.decode(value).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    let key = if password.is_empty() { user } else { password };
    Some(Cow::Owned(key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_app_has_its_place_for_the_key() {
        use Protocol::{Gpslogger, Overland, Owntracks, Traccar};
        for (protocol, path, query, authorization, key) in [
            (Owntracks, "", "", "Basic dXNlcjpwYXNz", Some("pass")),
            (Owntracks, "", "", "basic dXNlcjo=", Some("user")),
            (Owntracks, "", "", "Basic dXNlcjphOmI=", Some("a:b")),
            (Owntracks, "", "", "Basic 1234abcd:", Some("1234abcd")),
            (Owntracks, "", "", "Bearer k", Some("k")),
            (Owntracks, "/k", "token=k", "", None),
            (Owntracks, "", "", "Basic 123984234=", None),
            (Overland, "", "", "Bearer  k ", Some("k")),
            (Overland, "", "u=1&token=a%2Db", "", Some("a-b")),
            (Overland, "", "token=", "Bearer ", None),
            (Overland, "", "token=a", "Bearer k", Some("k")),
            (Overland, "", "", "Basic dXNlcjpwYXNz", None),
            (Traccar, "/k", "id=1", "", Some("k")),
            (Traccar, "/k/", "id=1", "", Some("k")),
            (Traccar, "", "id=1", "Bearer k", Some("k")),
            (Traccar, "/a", "id=1", "Bearer k", Some("k")),
            (Traccar, "/k", "id=1", "Basic dXNlcjpwYXNz", Some("k")),
            (Traccar, "/", "", "", None),
            (Gpslogger, "/k/log/gpslogger/t/jane", "", "", Some("k")),
            (Gpslogger, "", "", "Basic dXNlcjpwYXNz", Some("pass")),
            (Gpslogger, "", "", "Digest x", None),
        ] {
            let found = find(protocol, path, query, authorization);
            assert_eq!(found.as_deref(), key, "{protocol:?} {path} {query} {authorization}");
        }
    }
}
