//! What compressed bodies cost in memory while they are decompressed and read.
//!
//! A test program of its own, since counting replaces its allocator.

use http::header::{CONTENT_ENCODING, HeaderValue};
use milepost_gateway::admission::coding::{Codings, Undecoded};
use milepost_shared::location::{Rules, Shape, decode};

const BYTES_MAX: usize = 1 << 20;
/// What the decoder itself may take, above all the window that the sender of `br` chooses.
const DECODER: usize = 17 << 20;

fn codings(name: &'static str) -> Codings {
    Codings::of(&[(CONTENT_ENCODING, HeaderValue::from_static(name))].into_iter().collect())
        .expect("a known coding")
}

/// In the largest window there is, and so that all of it is needed.
fn brotli(mut bytes: &[u8]) -> Vec<u8> {
    let parameters = brotli::enc::BrotliEncoderParams { lgwin: 24, quality: 5, ..Default::default() };
    let mut encoded = Vec::new();
    brotli::BrotliCompress(&mut bytes, &mut encoded, &parameters).expect("encoded");
    encoded
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, bytes).expect("encoded");
    encoder.finish().expect("encoded")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 19).expect("encoded")
}

type Encode = fn(&[u8]) -> Vec<u8>;

const ENCODERS: [(&str, Encode); 3] = [("gzip", gzip), ("br", brotli), ("zstd", zstd)];

fn peak<T>(run: impl FnOnce() -> T) -> usize {
    let mut result = None;
    let peak = allocation_counter::measure(|| result = Some(run())).bytes_max;
    drop(result);
    usize::try_from(peak).expect("fits")
}

#[test]
fn a_bomb_takes_no_more_than_the_largest_body() {
    let bomb = vec![b' '; 2 << 20];
    for (name, encode) in ENCODERS {
        let (codings, sent) = (codings(name), encode(&bomb));
        let peak = peak(|| assert_eq!(codings.take_off(&sent, BYTES_MAX), Err(Undecoded::TooLarge)));
        assert!(peak <= 3 * BYTES_MAX + DECODER, "{name}: {peak}");
    }
}

#[test]
fn a_thousand_times_its_size_is_read_within_eight_times_of_that() {
    let objects = vec!["{}"; (BYTES_MAX - 100) / 3].join(",");
    let body = format!(r#"{{"deviceId":"d","locations":[{objects}]}}"#);
    for (name, encode) in ENCODERS {
        let (codings, sent) = (codings(name), encode(body.as_bytes()));
        assert!(sent.len() < 2000);
        let peak = peak(|| {
            let body = codings.take_off(&sent, BYTES_MAX).expect("decoded");
            decode(&body, Shape::Batch, Rules::STORABLE)
        });
        assert!(peak <= 8 * body.len() + DECODER, "{name}: {peak}");
    }
}

#[test]
fn what_is_small_takes_little_also_from_a_large_window() {
    let body = br#"{"deviceId":"d","timestamp":1773480413000,"latitude":48.2,"longitude":16.3}"#;
    for (name, encode) in ENCODERS {
        let (codings, sent) = (codings(name), encode(body));
        let peak = peak(|| codings.take_off(&sent, BYTES_MAX).expect("decoded"));
        assert!(peak <= 512 << 10, "{name}: {peak}");
    }
}
