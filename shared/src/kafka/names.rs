//! What every Kafka client has to know of the topics: their names, and how large a record may be.

/// Largest record, bytes. The gateway's body limit lies well below it, since JSON may grow a little on its way.
pub const RECORD_BYTES_MAX: usize = 4 << 20;

/// The names of an installation's topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicNames {
    /// The journal: gateway to consumer.
    pub uploads: String,
    /// The answers: consumer to every gateway.
    pub results: String,
    /// The facts: consumer to subscribers.
    pub locations: String,
}

impl TopicNames {
    /// The names behind a prefix.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            uploads: format!("{prefix}location-uploads"),
            results: format!("{prefix}location-results"),
            locations: format!("{prefix}locations"),
        }
    }

    /// The consumer group's name behind a prefix.
    #[must_use]
    pub fn group(prefix: &str) -> String {
        format!("{prefix}milepost-consumer")
    }
}
