//! Heads of HTTP/1 requests, judged by their bytes before hyper reads them: what different servers would read
//! differently is refused, not guessed.
//!
//! hyper keeps to itself much of what matters here: a `Content-Length` beside a `Transfer-Encoding` reaches no
//! service, nor does the position of a head in the bytes; and it answers what it refuses itself without a page.
//! What passes here hyper takes as well, since it parses with httparse too.

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use http::{Method, Uri};
use httparse::{Header, ParserConfig, Request, Status};

use crate::http::framing::Framing;
use crate::http::problem::{HEAD_TOO_LARGE, MALFORMED_REQUEST, Problem, ambiguous_request};

/// Longest head, bytes, with the empty line at its end.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// Most fields of a head.
pub const FIELDS_MAX: usize = 100;

/// A whole head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes.
    pub bytes: usize,
    /// What follows it.
    pub body: Framing,
}

/// A head that gets its answer without being served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedHead {
    /// The answer; the connection is closed after it.
    pub problem: Problem,
    /// The method is HEAD, so that the answer has no body.
    pub to_head: bool,
}

/// Reads the head at the beginning of `bytes`; `None` if it is not whole yet.
///
/// # Errors
/// The request is refused: it is not HTTP/1, has no host or more than one, gives the length of its body in a
/// way that servers read differently, or has too large a head.
pub fn read(bytes: &[u8]) -> Result<Option<Head>, RefusedHead> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut request, bytes, &mut fields);
    let judged = match parsed {
        Ok(Status::Complete(length)) if length <= HEAD_BYTES_MAX => {
            judge(&request).map(|body| Some(Head { bytes: length, body }))
        }
        Ok(Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Err(HEAD_TOO_LARGE),
        Err(_) => Err(MALFORMED_REQUEST),
    };
    judged.map_err(|problem| RefusedHead { problem, to_head: request.method == Some("HEAD") })
}

/// Whether bytes that follow `before` others may have made a head whole.
#[must_use]
pub fn may_be_whole(bytes: &[u8], before: usize) -> bool {
    let news = &bytes[before.saturating_sub(3)..];
    news.windows(2).any(|two| two == b"\n\n") || news.windows(3).any(|three| three == b"\n\r\n")
}

fn judge(request: &Request<'_, '_>) -> Result<Framing, Problem> {
    check_line(request)?;
    let (mut host, mut length, mut is_chunked) = (None, None, false);
    for Header { name, value } in request.headers.iter() {
        // Most names are of another length.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") && host.replace(value).is_some() => {
                return Err(ambiguous_request("The Host header is given more than once."));
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                let given =
                    digits(value).ok_or(ambiguous_request("The Content-Length header is not a length."))?;
                if length.replace(given).is_some_and(|other| other != given) {
                    return Err(ambiguous_request("The Content-Length headers differ."));
                }
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if is_chunked || !value.eq_ignore_ascii_case(b"chunked") || request.version != Some(1) {
                    return Err(ambiguous_request("The Transfer-Encoding header is not chunked."));
                }
                is_chunked = true;
            }
            _ => {}
        }
    }
    check_host(host.copied(), request.version)?;
    match (length, is_chunked) {
        (Some(_), true) => Err(ambiguous_request("Both Content-Length and Transfer-Encoding are given.")),
        (_, true) => Ok(Framing::CHUNKED),
        (length, false) => Ok(Framing::Length(length.unwrap_or_default())),
    }
}

/// Refuses a request line that httparse takes and hyper does not, or that is invalid (RFC 9112 section 3.2).
fn check_line(request: &Request<'_, '_>) -> Result<(), Problem> {
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    if is_plain_path(target) || is_target(target, method == "CONNECT") {
        Method::from_bytes(method.as_bytes()).map(drop).map_err(|_| MALFORMED_REQUEST)
    } else {
        Err(MALFORMED_REQUEST)
    }
}

/// Saves nearly all requests the parsing.
fn is_plain_path(target: &str) -> bool {
    target.starts_with('/') && target.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~?=&%".contains(&b))
}

/// A path, a whole URI, or `*`; to CONNECT a host and a port.
fn is_target(target: &str, is_connect: bool) -> bool {
    Uri::try_from(target)
        .is_ok_and(|uri| target.starts_with('/') || target == "*" || uri.scheme().is_some() || is_connect)
}

/// A length: digits and nothing else, also no sign.
fn digits(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    // hyper reserves the greatest numbers.
    text.parse().ok().filter(|length| *length <= u64::MAX / 2)
}

/// Refuses a request without a valid host (RFC 9112 section 3.2).
fn check_host(host: Option<&[u8]>, version: Option<u8>) -> Result<(), Problem> {
    match host {
        Some(host) if is_host(host) => Ok(()),
        Some(_) => Err(ambiguous_request("The Host header is not a valid host.")),
        None if version == Some(0) => Ok(()),
        None => Err(ambiguous_request("The Host header is missing.")),
    }
}

/// A name or an address, and a port (RFC 3986 section 3.2). Empty is allowed. A comma is not, though the
/// grammar allows it in a name: it would be two headers joined.
fn is_host(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.parse::<Ipv6Addr>().is_err() {
                return false;
            }
            ("", port)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(port) => {
            port.is_empty() || port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
        }
    };
    is_port && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&b))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;

    fn framing(fields: &str) -> Result<Framing, Cow<'static, str>> {
        match read(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()) {
            Ok(head) => Ok(head.expect("a whole head").body),
            Err(RefusedHead { problem, to_head: false }) if problem.code == "ambiguous-request" => {
                Err(problem.detail)
            }
            Err(refused) => panic!("{refused:?}"),
        }
    }

    fn refused(head: &str) -> Problem {
        read(head.as_bytes()).unwrap_err().problem
    }

    #[test]
    fn a_request_names_one_host() {
        let heads = |version: u8, hosts: &str| format!("GET / HTTP/1.{version}\r\n{hosts}\r\n");
        for (version, hosts, fine) in [
            (0, "", true),
            (1, "", false),
            (0, "Host: a\r\n", true),
            (1, "Host: a\r\n", true),
            (1, "hOST:\r\n", true),
            (0, "Host: a\r\nHost: a\r\n", false),
            (1, "Host: a\r\nHost: a\r\n", false),
        ] {
            assert_eq!(read(heads(version, hosts).as_bytes()).is_ok(), fine, "{version} {hosts}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port_and_nothing_else() {
        for host in [
            "",
            "a",
            "A-1.example.",
            "a_b",
            "a:80",
            "a:",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "xn--a",
            ":80",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "a b",
            "a\tb",
            "a/b",
            "/",
            "u@a",
            "u:p@a",
            "a,b",
            "a, b",
            "http://a",
            "a:b",
            "a:1:2",
            "a:65536",
            "a:+1",
            "::1",
            "[::1",
            "[::1]x",
            "[a]",
            "[::1]:x",
            "a?b",
            "a#b",
            "a\\b",
            "<a>",
            "\u{fc}",
            "[fe80::1%25eth0]",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn a_body_has_one_length_or_is_chunked() {
        assert_eq!(framing(""), Ok(Framing::Length(0)));
        assert_eq!(framing("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("Content-Length: 5\r\ncontent-length: 05\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Framing::CHUNKED));
        for length in ["", "+5", "-5", "5 5", "5,5", "0x5", "five", "5.0", "18446744073709551616", "\u{665}"]
        {
            for rest in ["", "Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\n"] {
                let length = format!("Content-Length: {length}\r\n");
                assert!(framing(&format!("{length}{rest}")).is_err(), "{length}{rest}");
                assert!(framing(&format!("{rest}{length}")).is_err(), "{rest}{length}");
            }
        }
        for coding in [
            "",
            "gzip",
            "identity",
            "gzip, chunked",
            "chunked, gzip",
            "chunked, chunked",
            "chunked,",
            "xchunked",
            "chunked;a=b",
            "\"chunked\"",
            "chunked\r\nTransfer-Encoding: chunked",
            "chunked\r\nTransfer-Encoding: gzip",
        ] {
            for rest in ["", "Content-Length: 5\r\n", "Content-Length: 5\r\nContent-Length: 6\r\n"] {
                let coding = format!("Transfer-Encoding: {coding}\r\n");
                assert!(framing(&format!("{coding}{rest}")).is_err(), "{coding}{rest}");
                assert!(framing(&format!("{rest}{coding}")).is_err(), "{rest}{coding}");
            }
        }
        assert!(framing("Content-Length: 5\r\nContent-Length: 6\r\n").is_err());
        assert!(framing("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n").is_err());
        assert!(framing("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n").is_err());
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(refused(old).code, "ambiguous-request");
    }

    #[test]
    fn a_head_has_a_bound_of_bytes_and_one_of_fields() {
        let of = |bytes: usize| {
            let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(bytes - frame))
        };
        let whole = Head { bytes: HEAD_BYTES_MAX, body: Framing::Length(0) };
        assert_eq!(read(of(HEAD_BYTES_MAX).as_bytes()), Ok(Some(whole)));
        assert_eq!(refused(&of(HEAD_BYTES_MAX + 1)), HEAD_TOO_LARGE);
        assert_eq!(read(&of(HEAD_BYTES_MAX).as_bytes()[..HEAD_BYTES_MAX - 1]), Ok(None));
        assert_eq!(refused(&of(HEAD_BYTES_MAX + 1)[..HEAD_BYTES_MAX]), HEAD_TOO_LARGE);
        let fields =
            |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        assert!(read(fields(FIELDS_MAX).as_bytes()).is_ok());
        assert_eq!(refused(&fields(FIELDS_MAX + 1)), HEAD_TOO_LARGE);
    }

    #[test]
    fn what_is_no_http_1_is_refused_as_soon_as_that_shows() {
        for bytes in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "PRI * HTTP/2.0\r\n",
            "\u{16}\u{3}\u{1}",
            "GET / HTTP/1.2\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n",
            "GET a HTTP/1.1\r\n\r\n",
            "G<T / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(refused(bytes), MALFORMED_REQUEST, "{bytes:?}");
        }
        assert!(read(b"HEAD / HTTP/1.1\r\n\r\n").unwrap_err().to_head);
    }

    proptest! {
        #[test]
        fn a_head_in_two_parts_is_read_as_in_one(
            end in "(\r?\n\r?\n|\r\n)", cut in 0..40usize, rest in "(|x|\n|GET)",
        ) {
            let head = format!("GET / HTTP/1.1\r\nHost: a{end}");
            let bytes = format!("{head}{rest}");
            let cut = cut.min(bytes.len());
            let whole = read(bytes.as_bytes());
            if read(&bytes.as_bytes()[..cut]) == Ok(None) && matches!(whole, Ok(Some(_))) {
                prop_assert!(may_be_whole(bytes.as_bytes(), cut));
            }
        }
    }
}
