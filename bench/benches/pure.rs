//! The pure parts of an upload's way, each for itself: decode and validate, fingerprint, decide, encode for COPY.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use milepost_bench::uploads::Uploads;
use milepost_consumer::persist::decide::{Claim, Windows};
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

criterion_group!(pure, accepting, persisting);
criterion_main!(pure);
