//! The pure parts of an upload's way, each for itself: decode and validate, fingerprint, read what apps send, decide, encode for
//! COPY.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures::executor::block_on;
use http_body_util::BodyExt as _;
use milepost_bench::points::Points;
use milepost_bench::uploads::Uploads;
use milepost_consumer::persist::decide::{Claim, Windows};
use milepost_gateway::phones::endpoints::read;
use milepost_gateway::phones::{self, Protocol, Request};
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::Position;
use milepost_shared::journal::record::{self, JournalRecord};
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::location::{Rules, decode};
use milepost_shared::store::batch::LocationRow;
use milepost_shared::store::copy::encode_locations;
use uuid::Uuid;

const ACCOUNT: AccountId = AccountId(Uuid::from_u128(1));
const TTL: Duration = Duration::from_secs(86_400);
const NOW: JournalTime = JournalTime(1_700_000_000_000);
/// Records of one batch of the consumer.
const RECORDS: u32 = 1000;

fn uploads() -> [(&'static str, Uploads); 2] {
    [("single", Uploads::singles()), ("batch of 50", Uploads::batches(50))]
}

fn accepting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("accept");
    for (name, uploads) in uploads() {
        let (body, upload) = (uploads.body(7), uploads.upload(7));
        let fingerprint = Fingerprint::of(&upload);
        group.throughput(Throughput::Elements(uploads.locations));
        group.bench_function(format!("decode and validate, {name}"), |bencher| {
            bencher.iter(|| decode(black_box(&body), uploads.shape, Rules::STORABLE));
        });
        group.bench_function(format!("fingerprint, {name}"), |bencher| {
            bencher.iter(|| Fingerprint::of(black_box(&upload)));
        });
        group.bench_function(format!("encode for the journal, {name}"), |bencher| {
            bencher.iter(|| record::encode(ACCOUNT, fingerprint, black_box(&upload)));
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("key hash", |bencher| {
        bencher.iter(|| KeyHash::new(ACCOUNT, black_box("0123456789abcdef0123456789abcdef")));
    });
    group.finish();
}

/// Requests of apps: their protocol, query and body.
fn requests() -> [(&'static str, u64, Protocol, String, Bytes); 3] {
    let request = |name, protocol, points: &Points| {
        let (parts, body) = points.request(7, "secret").into_parts();
        let body = block_on(body.collect()).expect("it is in memory").to_bytes();
        (name, points.new, protocol, parts.uri.query().unwrap_or_default().to_owned(), body)
    };
    [
        request("Overland batch of 50", Protocol::Overland, &Points::overland(8)),
        request("Traccar single", Protocol::Traccar, &Points::traccar()),
        request("GPSLogger line", Protocol::Gpslogger, &Points::gpslogger(8)),
    ]
}

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    let rules = phones::Rules { bound: None, arrival: NOW.0, timestamp_max: NOW.0 + 86_400_000 };
    for (name, points, protocol, query, body) in requests() {
        let (path, user_agent, device_header) = ("/key", "", "");
        let request = Request { protocol, path, query: &query, user_agent, device_header, body: &body };
        group.throughput(Throughput::Elements(points));
        group.bench_function(format!("decode and validate, {name}"), |bencher| {
            bencher.iter(|| phones::decode(black_box(&request), &rules).map(drop));
        });
        group.bench_function(format!("decode, validate and hash, {name}"), |bencher| {
            bencher.iter(|| read(black_box(&request), &rules, ACCOUNT).map(drop));
        });
    }
    group.finish();
}

fn persisting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("persist");
    for (name, uploads) in uploads() {
        let upload = uploads.upload(7);
        let key_hash = KeyHash::new(ACCOUNT, "key");
        let value = record::encode(ACCOUNT, Fingerprint::of(&upload), &upload);
        let key = key_hash.to_string();
        let source = Position::new(0, 7);
        let row =
            |(ordinal, location)| LocationRow { device_id: 7, location, received_at: NOW, source, ordinal };
        let rows: Vec<LocationRow<'_>> = (0..).zip(&upload.locations).map(row).collect();
        group.throughput(Throughput::Elements(uploads.locations));
        group.bench_function(format!("decode from the journal, {name}"), |bencher| {
            bencher.iter(|| JournalRecord::decode(Some(black_box(key.as_bytes())), Some(black_box(&value))));
        });
        group.bench_function(format!("encode for COPY, {name}"), |bencher| {
            bencher.iter(|| encode_locations(black_box(&rows)));
        });
    }
    group.throughput(Throughput::Elements(u64::from(RECORDS)));
    group.bench_function("decide, 1000 new records", |bencher| {
        let claims = claims();
        let decide = |mut windows: Windows| {
            for claim in &claims {
                black_box(windows.resolve(claim, TTL));
            }
            windows
        };
        bencher.iter_batched(Windows::default, decide, BatchSize::SmallInput);
    });
    group.finish();
}

fn claims() -> Vec<Claim> {
    let claim = |number: u32| Claim {
        key_hash: KeyHash::new(ACCOUNT, &number.to_string()),
        account: ACCOUNT,
        fingerprint: Fingerprint([1; 32]),
        locations: 1,
        position: Position::new(0, i64::from(number)),
        time: NOW,
    };
    (0..RECORDS).map(claim).collect()
}

criterion_group!(pure, accepting, reading, persisting);
criterion_main!(pure);
