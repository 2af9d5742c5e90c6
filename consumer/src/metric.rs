//! The consumer's metrics, named by what it does: persist, emit, expire.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use milepost_shared::journal::set_aside::{APPS, OTHER, REASONS};

/// Records by what they turned out to be; label `decision`: new, copy, conflict, dead-letter, recalled.
pub const DECIDED: &str = "milepost_consumer_decided_total";
/// Locations persisted.
pub const LOCATIONS: &str = "milepost_consumer_locations_persisted_total";
/// Batches that the fence refused.
pub const FENCED: &str = "milepost_consumer_fenced_total";
/// Records moved to `dead_letters`, poison and points set aside.
pub const DEAD_LETTERS: &str = "milepost_consumer_dead_letters_total";
/// Points set aside that were moved to `dead_letters`; labels `app` and `reason`, of those known by name, or `other`.
pub const SET_ASIDE: &str = "milepost_consumer_set_aside_total";
/// Attempts to persist that failed and are tried again.
pub const PERSIST_RETRIES: &str = "milepost_consumer_persist_retries_total";
/// Batches that took too long and were cut in two.
pub const CUT: &str = "milepost_consumer_batches_cut_total";
/// Times that reading the journal paused, since a full batch waited to be persisted.
pub const PAUSES: &str = "milepost_consumer_pauses_total";
/// Records per batch.
pub const BATCH: &str = "milepost_consumer_batch_records";
/// Duration of a batch's transaction, seconds.
pub const PERSIST: &str = "milepost_consumer_persist_seconds";
/// From a batch's emission until it is acknowledged, seconds; label `topic`: results, locations.
pub const EMIT: &str = "milepost_consumer_emit_seconds";
/// Records emitted; label `topic`: results, locations.
pub const EMITTED: &str = "milepost_consumer_emitted_total";
/// Times the emitting producers were replaced after a failure.
pub const PRODUCER_REBUILDS: &str = "milepost_consumer_producer_rebuilds_total";
/// Partitions assigned to this consumer.
pub const ASSIGNED: &str = "milepost_consumer_assigned_partitions";
/// Table partitions of keys dropped.
pub const EXPIRED: &str = "milepost_consumer_key_partitions_dropped_total";
/// How long ago the oldest table partition of keys could have been dropped, seconds.
pub const OVERDUE: &str = "milepost_consumer_expiry_overdue_seconds";
/// Journal partitions stopped at a record, for an operator to look at.
pub const STOPPED: &str = "milepost_consumer_stopped_partitions";
/// Holes in the journal that were passed: offsets between two records that hold none.
pub const HOLES: &str = "milepost_consumer_journal_holes_total";

/// Describes every series and makes it exist with 0.
pub fn describe() {
    describe_counter!(DECIDED, "Journal records by what they turned out to be");
    for decision in ["new", "copy", "conflict", "dead-letter", "recalled"] {
        counter!(DECIDED, "decision" => decision).absolute(0);
    }
    describe_counter!(LOCATIONS, "Locations persisted");
    describe_counter!(FENCED, "Batches that the fence refused");
    describe_counter!(DEAD_LETTERS, "Records moved to dead_letters");
    describe_counter!(SET_ASIDE, "Points set aside that were moved to dead_letters, by app and reason");
    for app in APPS.into_iter().chain([OTHER]) {
        for reason in REASONS.into_iter().chain([OTHER]) {
            counter!(SET_ASIDE, "app" => app, "reason" => reason).absolute(0);
        }
    }
    describe_counter!(PERSIST_RETRIES, "Attempts to persist that failed and are tried again");
    describe_counter!(CUT, "Batches that took too long and were cut in two");
    describe_counter!(
        PAUSES,
        "Times that reading the journal paused, since a full batch waited to be persisted"
    );
    describe_counter!(PRODUCER_REBUILDS, "Times the emitting producers were replaced");
    describe_counter!(EXPIRED, "Table partitions of keys dropped");
    describe_counter!(HOLES, "Holes in the journal that were passed");
    for name in
        [LOCATIONS, FENCED, DEAD_LETTERS, PERSIST_RETRIES, CUT, PAUSES, PRODUCER_REBUILDS, EXPIRED, HOLES]
    {
        counter!(name).absolute(0);
    }
    describe_counter!(EMITTED, "Records emitted by topic");
    for topic in ["results", "locations"] {
        counter!(EMITTED, "topic" => topic).absolute(0);
    }
    describe_gauge!(ASSIGNED, "Partitions assigned to this consumer");
    describe_gauge!(STOPPED, "Journal partitions stopped at a record, for an operator to look at");
    describe_gauge!(OVERDUE, "How long ago the oldest table partition of keys could have been dropped");
    gauge!(ASSIGNED).set(0.0);
    gauge!(OVERDUE).set(0.0);
    gauge!(STOPPED).set(0.0);
    describe_histogram!(BATCH, "Records per batch");
    describe_histogram!(PERSIST, "Duration of a batch's transaction in seconds");
    describe_histogram!(EMIT, "From a batch's emission until it is acknowledged, in seconds");
    let _ = (histogram!(BATCH), histogram!(PERSIST));
    for topic in ["results", "locations"] {
        drop(histogram!(EMIT, "topic" => topic));
    }
}
