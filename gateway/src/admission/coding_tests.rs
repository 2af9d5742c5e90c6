use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::header::HeaderValue;

use super::*;

const MAX: usize = 100_000;
const TEXT: &[u8] = br#"{"deviceId":"d","timestamp":1773480413000,"latitude":48.2,"longitude":16.3}"#;

type Encoder = fn(&[u8]) -> Vec<u8>;
const ENCODERS: [(Coding, Encoder); 5] = [
    (Coding::Gzip, gzip),
    (Coding::Deflate, zlib),
    (Coding::Deflate, deflate),
    (Coding::Brotli, brotli),
    (Coding::Zstd, zstd),
];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn brotli(mut bytes: &[u8]) -> Vec<u8> {
    let (mut encoded, parameters) = (Vec::new(), brotli::enc::BrotliEncoderParams::default());
    brotli::BrotliCompress(&mut bytes, &mut encoded, &parameters).unwrap();
    encoded
}

/// As a stream, which does not give its length.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}

fn codings(values: &[&str]) -> Result<Codings, Problem> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(CONTENT_ENCODING, HeaderValue::from_str(value).unwrap());
    }
    Codings::of(&headers)
}

#[test]
fn all_headers_are_one_list_in_any_case() {
    use Coding::{Brotli, Deflate, Gzip, Zstd};
    let known: [(&[&str], &[Coding]); 9] = [
        (&[], &[]),
        (&[""], &[]),
        (&["identity"], &[]),
        (&["gzip"], &[Gzip]),
        (&["X-GZip"], &[Gzip]),
        (&["GZIP"], &[Gzip]),
        (&["br, ZSTD"], &[Brotli, Zstd]),
        (&["deflate , ,identity", "br"], &[Deflate, Brotli]),
        (&["gzip", "gzip,gzip", "gzip"], &[Gzip; 4]),
    ];
    for (values, expected) in known {
        assert_eq!(codings(values), Ok(Codings(expected.to_vec())), "{values:?}");
    }
    let refused: [&[&str]; 7] = [
        &["compress"],
        &["gzip;q=1"],
        &["gzip br"],
        &["*"],
        &["gzip", "unknown"],
        &["\u{e4}"],
        &["gzip,gzip,gzip", "gzip,gzip"],
    ];
    for values in refused {
        assert_eq!(codings(values), Err(unsupported_encoding()), "{values:?}");
    }
}

#[test]
fn each_coding_is_taken_off_whole_or_is_broken() {
    for (coding, encode) in ENCODERS {
        let encoded = encode(TEXT);
        assert_eq!(coding.take_off(&encoded, MAX), Ok(TEXT.to_vec()), "{coding:?}");
        for length in 0..encoded.len() {
            let cut = coding.take_off(&encoded[..length], MAX);
            assert_eq!(cut, Err(Undecoded::Broken), "{coding:?} cut at {length}");
        }
        assert_eq!(coding.take_off(TEXT, MAX), Err(Undecoded::Broken), "{coding:?}");
        assert_eq!(coding.take_off(&encode(b""), MAX), Ok(Vec::new()), "{coding:?}");
    }
}

#[test]
fn whatever_follows_the_end_is_a_fault() {
    for (coding, encode) in ENCODERS {
        for more in
            [&b"\0"[..], b"\n", b"\0\0\0\0\0\0\0\0", b"trailing", b"\x1f", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"]
        {
            let encoded = [&encode(TEXT), more].concat();
            assert_eq!(coding.take_off(&encoded, MAX), Err(Undecoded::Broken), "{coding:?} {more:?}");
        }
    }
}

#[test]
fn all_members_count_where_a_coding_has_members() {
    for (coding, encode) in ENCODERS {
        let members = [encode(&TEXT[..20]), encode(b""), encode(&TEXT[20..])].concat();
        let expected = match coding {
            Coding::Gzip | Coding::Zstd => Ok(TEXT.to_vec()),
            Coding::Deflate | Coding::Brotli => Err(Undecoded::Broken),
        };
        assert_eq!(coding.take_off(&members, MAX), expected, "{coding:?}");
    }
    let skippable = [&b"\x50\x2a\x4d\x18\x04\0\0\0skip"[..], &zstd(TEXT)].concat();
    assert_eq!(Coding::Zstd.take_off(&skippable, MAX), Ok(TEXT.to_vec()));
}

#[test]
fn what_comes_out_is_bounded_to_the_byte() {
    for (coding, encode) in ENCODERS {
        let exact = encode(&vec![b' '; MAX]);
        assert_eq!(coding.take_off(&exact, MAX).map(|decoded| decoded.len()), Ok(MAX), "{coding:?}");
        assert_eq!(coding.take_off(&exact, MAX - 1), Err(Undecoded::TooLarge), "{coding:?}");
        let bomb = encode(&vec![0; 1_000_000]);
        assert!(bomb.len() < MAX, "{coding:?}");
        assert_eq!(coding.take_off(&bomb, MAX), Err(Undecoded::TooLarge), "{coding:?}");
    }
    let members = gzip(&vec![b' '; 60_000]).repeat(2);
    assert_eq!(Coding::Gzip.take_off(&members, MAX), Err(Undecoded::TooLarge));
    let frames = zstd(&vec![b' '; 60_000]).repeat(2);
    assert_eq!(Coding::Zstd.take_off(&frames, MAX), Err(Undecoded::TooLarge));
    let declared = zstd::bulk::compress(&vec![b' '; MAX + 1], 3).unwrap();
    assert_eq!(Coding::Zstd.take_off(&declared, MAX), Err(Undecoded::TooLarge));
}

#[test]
fn a_frame_that_holds_more_than_it_declares_is_broken_and_not_too_large() {
    let frame = |declared: u8| {
        let mut frame = zstd::zstd_safe::MAGICNUMBER.to_le_bytes().to_vec();
        // A single segment of so many bytes; then "a", and last "b", each in a block as it is.
        frame.extend([0x20, declared, 0x08, 0, 0, b'a', 0x09, 0, 0, b'b']);
        frame
    };
    assert_eq!(Coding::Zstd.take_off(&frame(2), MAX), Ok(b"ab".to_vec()));
    for declared in [0, 1, 3] {
        assert_eq!(Coding::Zstd.take_off(&frame(declared), MAX), Err(Undecoded::Broken), "{declared}");
    }
    let more = [frame(2), frame(1)].concat();
    assert_eq!(Coding::Zstd.take_off(&more, MAX), Err(Undecoded::Broken));
    assert_eq!(Coding::Zstd.take_off(&frame(2), 1), Err(Undecoded::TooLarge));
}

#[test]
fn a_checksum_that_does_not_match_is_a_fault() {
    for (coding, encode) in [(Coding::Gzip, gzip as Encoder), (Coding::Deflate, zlib)] {
        let mut encoded = encode(TEXT);
        let last = encoded.len() - if coding == Coding::Gzip { 5 } else { 1 };
        encoded[last] ^= 1;
        assert_eq!(coding.take_off(&encoded, MAX), Err(Undecoded::Broken), "{coding:?}");
    }
}

#[test]
fn several_codings_are_taken_off_from_the_last_to_the_first_and_each_is_bounded() {
    let codings = codings(&["gzip", "br, zstd"]).unwrap();
    let sent = zstd(&brotli(&gzip(TEXT)));
    assert_eq!(codings.take_off(&sent, MAX), Ok(TEXT.to_vec()));
    assert_eq!(codings.take_off(&gzip(&brotli(&zstd(TEXT))), MAX), Err(Undecoded::Broken));
    let bomb = zstd(&brotli(&vec![0; 1_000_000]));
    assert_eq!(codings.take_off(&bomb, MAX), Err(Undecoded::TooLarge));
}
