//! Which web pages may use this API by script, in a browser or a WebView (Cross-Origin Resource Sharing).

use std::time::Duration;

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

/// Every page.
const ANY: &str = "*";
/// How long a browser may remember the answer to a preflight.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Which web pages may use the API.
#[derive(Debug, Clone, Args)]
pub struct CorsSettings {
    /// Origins of web pages that may send uploads, comma separated, such as `https://app.example,capacitor://localhost`;
    /// * is any. Without it a browser lets none.
    #[arg(long, env, value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,
}

/// The layer for requests of these origins, which may set some headers and read others; `None` if there are none.
#[must_use]
pub fn layer(
    settings: &CorsSettings,
    of_requests: &[HeaderName],
    of_responses: &[HeaderName],
) -> Option<CorsLayer> {
    let origins = &settings.cors_origins;
    if origins.is_empty() {
        return None;
    }
    let layer = CorsLayer::new()
        .allow_methods([Method::POST, Method::GET, Method::HEAD])
        .allow_headers(of_requests.to_owned())
        .expose_headers(of_responses.to_owned())
        .max_age(MAX_AGE);
    if origins.iter().any(|origin| origin == ANY) {
        return Some(layer.allow_origin(Any));
    }
    Some(layer.allow_origin(AllowOrigin::list(origins.iter().cloned())))
}

/// A value parser: an origin as browsers write it, or `*`.
///
/// # Errors
/// It could never be equal to what a browser sends.
pub fn origin(text: &str) -> Result<HeaderValue, String> {
    let wanted = "must be an origin, such as https://app.example or capacitor://localhost, or *".to_owned();
    let is_origin = || {
        let (scheme, host) = text.split_once("://")?;
        let uri = format!("{scheme}://{host}/").parse::<Uri>().ok()?;
        let plain =
            host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b));
        (plain && ![scheme, host].contains(&"") && !scheme.bytes().any(|b| b.is_ascii_uppercase()))
            .then_some(uri)
    };
    if text == ANY || text == "null" || is_origin().is_some() {
        return HeaderValue::from_str(text).map_err(|_| wanted);
    }
    Err(wanted)
}

/// Whether a browser asks for permission (a preflight) before the request itself.
#[must_use]
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.contains_key(http::header::ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for fine in
            ["https://app.example", "http://localhost:8100", "capacitor://localhost", "ionic://localhost"]
        {
            assert_eq!(origin(fine).unwrap(), fine);
        }
        for fine in ["*", "null", "http://[::1]:80", "http://127.0.0.1"] {
            assert!(origin(fine).is_ok(), "{fine}");
        }
        for bad in [
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://app.example/a",
            "https://App.example",
            "HTTPS://app.example",
            "https://*.example",
            "https://a b",
            "https://u@a",
            "https://a?b",
            "://a",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_origins_there_is_no_layer() {
        let layer = |cors_origins| layer(&CorsSettings { cors_origins }, &[], &[]);
        assert!(layer(Vec::new()).is_none());
        assert!(layer(vec![HeaderValue::from_static("*")]).is_some());
    }
}
