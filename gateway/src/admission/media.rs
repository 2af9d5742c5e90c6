//! What the body is said to be, and what the client accepts: JSON in UTF-8, both ways.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};

use crate::admission::coding::Codings;
use crate::admission::problem::{NOT_ACCEPTABLE, UNSUPPORTED_MEDIA_TYPE};
use crate::http::problem::Problem;

/// Refuses a client that does not accept JSON, with 406.
///
/// # Errors
/// [`NOT_ACCEPTABLE`].
pub fn check_accept(headers: &HeaderMap) -> Result<(), Problem> {
    let mut best: Option<(u8, bool)> = None;
    let mut any = false;
    for value in headers.get_all(ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',').filter(|range| !range.trim().is_empty()) {
            any = true;
            let (media, parameters) = range.split_once(';').unwrap_or((range, ""));
            let precedence = match media.trim().to_ascii_lowercase().as_str() {
                "application/json" => 3,
                "application/*" => 2,
                "*/*" => 1,
                _ => continue,
            };
            let taken = !parameters.split(';').any(is_zero_quality);
            // Of ranges with equal precedence, one that accepts JSON is enough.
            best = best.max(Some((precedence, taken)));
        }
    }
    if !any || best.is_some_and(|(_, taken)| taken) { Ok(()) } else { Err(NOT_ACCEPTABLE) }
}

/// `q=0`, `q=0.0`, `q=0.000`: not acceptable (RFC 9110 section 12.4.2).
fn is_zero_quality(parameter: &str) -> bool {
    parameter.split_once('=').is_some_and(|(name, value)| {
        name.trim().eq_ignore_ascii_case("q") && value.trim().parse::<f32>().is_ok_and(|q| q == 0.0)
    })
}

/// Refuses a body that is not declared as JSON in UTF-8, or is compressed in an unknown way, with 415. Returns how it is
/// compressed.
///
/// # Errors
/// [`UNSUPPORTED_MEDIA_TYPE`] or [`unsupported_encoding`](crate::admission::problem::unsupported_encoding).
pub fn check_content(headers: &HeaderMap) -> Result<Codings, Problem> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let is_json = types.next().is_some_and(is_json) && types.next().is_none();
    if is_json { Codings::of(headers) } else { Err(UNSUPPORTED_MEDIA_TYPE) }
}

fn is_json(content_type: &HeaderValue) -> bool {
    let Ok(text) = content_type.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    media.eq_ignore_ascii_case("application/json")
        && parts.filter(|parameter| !parameter.is_empty()).all(|parameter| {
            parameter
                .split_once('=')
                .is_some_and(|(name, value)| name.eq_ignore_ascii_case("charset") && is_utf_8(value))
        })
}

/// Whether a charset is UTF-8, by its name or a usual misspelling, or a part of it.
fn is_utf_8(value: &str) -> bool {
    let quoted = value.strip_prefix('"').map(|rest| rest.strip_suffix('"').unwrap_or_default());
    let charset = quoted.unwrap_or(value);
    ["utf-8", "utf8", "us-ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &http::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn who_takes_json_is_served() {
        let taken: [&[&str]; 8] = [
            &[],
            &[""],
            &["*/*"],
            &["application/json"],
            &["text/html, Application/JSON;q=0.1"],
            &["text/html", "application/*"],
            &["*/*;q=0, application/json"],
            &["text/html, image/gif, *; q=.2, */*; q=.2"],
        ];
        for values in taken {
            assert_eq!(check_accept(&headers(&ACCEPT, values)), Ok(()), "{values:?}");
        }
        let refused: [&[&str]; 5] = [
            &["text/html"],
            &["application/problem+json"],
            &["application/json;q=0"],
            &["*/*, application/json; q=0.000"],
            &["application/*;q=0, text/*"],
        ];
        for values in refused {
            let checked = check_accept(&headers(&ACCEPT, values));
            assert_eq!(checked, Err(NOT_ACCEPTABLE), "{values:?}");
        }
    }

    #[test]
    fn only_json_in_utf_8_is_read() {
        for value in [
            "application/json",
            "Application/Json",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/json; charset=utf8",
            "application/json; charset=\"Utf8\"",
            "application/json; charset=US-ASCII",
            "application/json;",
        ] {
            assert_eq!(check_content(&headers(&CONTENT_TYPE, &[value])), Ok(Codings::default()), "{value}");
        }
        let refused: [&[&str]; 14] = [
            &["application/json; charset=\"utf-8"],
            &["application/json; charset=utf-8\""],
            &["application/json; charset=\"\"utf-8\"\""],
            &["application/json; charset=\""],
            &["application/json; charset="],
            &["application/json; charset='utf-8'"],
            &[],
            &[""],
            &["text/plain"],
            &["application/x-www-form-urlencoded"],
            &["application/jsonp"],
            &["application/json; charset=latin1"],
            &["application/json; profile=x"],
            &["application/json", "text/plain"],
        ];
        for values in refused {
            let checked = check_content(&headers(&CONTENT_TYPE, values));
            assert_eq!(checked, Err(UNSUPPORTED_MEDIA_TYPE), "{values:?}");
        }
    }
}
