//! The `Idempotency-Key` header: a string of RFC 9651 in quotes, as the IETF draft has it, or the bare value,
//! as most clients send it. Both forms of one value are one key. `X-Idempotency-Key` is another name of it.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Item, Parser};

/// The header's name.
pub const NAME: HeaderName = HeaderName::from_static("idempotency-key");
/// The name that many clients and libraries use.
pub const ALIAS: HeaderName = HeaderName::from_static("x-idempotency-key");
/// Longest key, characters.
pub const CHARS_MAX: usize = 255;

/// Reads the key of a request; `None` if there is none. A value is 1 to 255 visible ASCII characters (0x21 to
/// 0x7E) in both forms, so no space either; a bare one has no comma, because proxies and `fetch` join two
/// headers of one name by a comma.
///
/// # Errors
/// What is wrong with it. A key that cannot be read is never taken for absent: the client relies on it.
pub fn parse(headers: &HeaderMap) -> Result<Option<String>, String> {
    let of_alias = |fault: String| fault.replace("Idempotency-Key", "X-Idempotency-Key");
    match (one(headers, &NAME)?, one(headers, &ALIAS).map_err(of_alias)?) {
        (Some(key), Some(other)) if key != other => {
            Err("Idempotency-Key and X-Idempotency-Key have different values.".to_owned())
        }
        (key, other) => Ok(key.or(other)),
    }
}

/// The key in the one header of this name. A fault names `Idempotency-Key`.
fn one(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, String> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err("Idempotency-Key is given more than once.".to_owned());
    }
    let invisible = || "Idempotency-Key may hold visible ASCII characters only.".to_owned();
    let text = value.to_str().map_err(|_| invisible())?;
    let is_quoted = text.starts_with('"');
    let key = if is_quoted { unquote(text)? } else { text.to_owned() };
    if key.is_empty() {
        Err("Idempotency-Key is empty.".to_owned())
    } else if key.len() > CHARS_MAX {
        Err("Idempotency-Key has more than 255 characters.".to_owned())
    } else if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err(invisible())
    } else if !is_quoted && key.contains(',') {
        Err("An Idempotency-Key with a comma must be in double quotes.".to_owned())
    } else {
        Ok(Some(key))
    }
}

/// A string of RFC 9651 (section 3.3.3), without parameters, which have no meaning here.
fn unquote(text: &str) -> Result<String, String> {
    match Parser::new(text).parse::<Item>() {
        Ok(Item { bare_item: BareItem::String(key), params }) if params.is_empty() => Ok(key.into()),
        Ok(_) => Err("Nothing may follow the closing quote of Idempotency-Key.".to_owned()),
        Err(error) => Err(format!("Idempotency-Key is not a quoted string: {error}.")),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn parsed(values: &[&[u8]]) -> Result<Option<String>, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(NAME, HeaderValue::from_bytes(value).unwrap());
        }
        parse(&headers)
    }

    fn quote(key: &str) -> String {
        format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""))
    }

    #[test]
    fn a_request_may_have_no_key() {
        assert_eq!(parsed(&[]), Ok(None));
    }

    #[test]
    fn both_forms_are_read() {
        for (header, key) in [
            ("a", "a"),
            ("\"a\"", "a"),
            ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r#"a"b\c"#, r#"a"b\c"#),
            ("\"k,k\"", "k,k"),
        ] {
            assert_eq!(parsed(&[header.as_bytes()]), Ok(Some(key.to_owned())), "{header}");
        }
        let longest = "k".repeat(CHARS_MAX);
        assert_eq!(parsed(&[longest.as_bytes()]), Ok(Some(longest.clone())));
        assert_eq!(parsed(&[quote(&longest).as_bytes()]), Ok(Some(longest)));
    }

    #[test]
    fn a_bad_key_is_named_and_never_taken_for_absent() {
        let too_long = "k".repeat(CHARS_MAX + 1);
        let too_long_quoted = quote(&too_long);
        let cases: [(&[&[u8]], &str); 21] = [
            (&[b"a", b"a"], "more than once"),
            (&[b""], "empty"),
            (&[b"\"\""], "empty"),
            (&[too_long.as_bytes()], "more than 255"),
            (&[too_long_quoted.as_bytes()], "more than 255"),
            (&[b"a b"], "visible ASCII"),
            (&[b"\"a b\""], "visible ASCII"),
            (&[b"a\tb"], "visible ASCII"),
            (&["schlüssel".as_bytes()], "visible ASCII"),
            (&[b"\"\xff\""], "visible ASCII"),
            (&[b"a, b"], "visible ASCII"),
            (&[b"\"a"], "unterminated string"),
            (&[b"\""], "unterminated string"),
            (&[b"\"a\";p=1"], "Nothing may follow"),
            (&[b"\"a\"\"b\""], "trailing characters"),
            (&[br#""a\b""#], "escape"),
            // Two headers that a proxy or `fetch` has joined.
            (&[b"k,k"], "comma"),
            (&[b"k,"], "comma"),
            (&[b",k"], "comma"),
            (&[b"k, k"], "visible ASCII"),
            (&[b"\"k\", \"k\""], "trailing characters"),
        ];
        for (values, message) in cases {
            let error = parsed(values).unwrap_err();
            assert!(error.contains(message), "{values:?}: {error}");
        }
    }

    #[test]
    fn the_alias_is_the_same_header_and_both_have_to_agree() {
        let read = |pairs: &[(HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            parse(&headers)
        };
        let key = Ok(Some("k".to_owned()));
        assert_eq!(read(&[(ALIAS, "k")]), key);
        assert_eq!(read(&[(ALIAS, "\"k\"")]), key);
        assert_eq!(read(&[(NAME, "k"), (ALIAS, "\"k\"")]), key);
        for (pairs, message) in [
            ([(NAME, "k"), (ALIAS, "l")], "different values"),
            ([(ALIAS, "l"), (NAME, "k")], "different values"),
            ([(ALIAS, "k"), (ALIAS, "k")], "more than once"),
            ([(NAME, "k"), (ALIAS, "")], "empty"),
            ([(NAME, "k"), (ALIAS, "k,k")], "comma"),
            ([(NAME, "\"k"), (ALIAS, "k")], "unterminated string"),
        ] {
            let error = read(&pairs).unwrap_err();
            assert!(error.contains(message), "{pairs:?}: {error}");
        }
    }

    #[test]
    fn a_fault_names_the_header_that_has_it() {
        for value in ["", "\"\"", "a b", "a,b", "\"a", "\"a\"b", "\"a\\b\"", &"k".repeat(CHARS_MAX + 1)] {
            let error = |name: &HeaderName| {
                let mut headers = HeaderMap::new();
                headers.append(name, HeaderValue::from_str(value).unwrap());
                parse(&headers).unwrap_err()
            };
            let named = error(&NAME);
            assert!(named.contains("Idempotency-Key") && !named.contains("X-"), "{named}");
            assert_eq!(error(&ALIAS), named.replace("Idempotency-Key", "X-Idempotency-Key"));
        }
    }

    proptest! {
        #[test]
        fn quoted_and_bare_are_one_key(key in "[!-+\\--~]{1,255}") {
            prop_assume!(!key.starts_with('"'));
            prop_assert_eq!(parsed(&[key.as_bytes()]), Ok(Some(key.clone())));
            prop_assert_eq!(parsed(&[quote(&key).as_bytes()]), Ok(Some(key)));
        }

        #[test]
        fn what_is_read_is_always_a_key(value in proptest::collection::vec(0x20..=0xffu8, 0..300)) {
            if let Ok(header) = HeaderValue::from_bytes(&value) {
                let mut headers = HeaderMap::new();
                headers.insert(NAME, header);
                if let Ok(key) = parse(&headers) {
                    let key = key.unwrap();
                    prop_assert!((1..=CHARS_MAX).contains(&key.len()));
                    prop_assert!(key.bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
                }
            }
        }
    }
}
