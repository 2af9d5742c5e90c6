//! The brokers that a Kafka client knows, and how it can come to forget all of them.
//!
//! A broker that shuts down, or has just begun, may answer a request for metadata with topics and without a single broker.
//! librdkafka (2.10 and later, confluentinc/librdkafka#5301) then drops every broker it knows, the bootstrap servers among
//! them, and never connects again: for a producer every record times out, a consumer hears nothing any more. Only a new
//! client helps, so each long-lived one looks at its own statistics.

use rdkafka::Statistics;

/// `statistics.interval.ms` of a client that looks.
pub const STATISTICS_INTERVAL_MS: &str = "1000";

/// Whether a client knows no broker any more, by its statistics.
#[must_use]
pub fn are_forgotten(statistics: &Statistics) -> bool {
    // The others are librdkafka's own place-holders.
    let is_real = |source: &str| matches!(source, "configured" | "learned");
    !statistics.brokers.values().any(|broker| is_real(&broker.source))
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    #[test]
    fn place_holders_are_no_brokers() {
        let with = |sources: &[&str]| {
            let broker = |source: &&str| {
                let broker = Broker { source: (*source).to_owned(), ..Broker::default() };
                ((*source).to_owned(), broker)
            };
            Statistics { brokers: sources.iter().map(broker).collect(), ..Statistics::default() }
        };
        assert!(are_forgotten(&with(&[])));
        assert!(are_forgotten(&with(&["logical", "internal"])));
        assert!(!are_forgotten(&with(&["logical", "learned"])));
        assert!(!are_forgotten(&with(&["configured"])));
    }
}
