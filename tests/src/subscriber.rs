//! A subscriber of `locations`, written from docs/topics.md alone.

use std::collections::HashMap;

use anyhow::Context as _;

use crate::kafka::Record;

/// Deduplicates facts with one integer per partition.
#[derive(Debug, Default)]
pub struct Subscriber {
    greatest: HashMap<i32, i64>,
}

impl Subscriber {
    /// Whether the fact at `partition` with this `source-offset` is seen for the first time.
    pub fn accepts(&mut self, partition: i32, source_offset: i64) -> bool {
        if self.greatest.get(&partition).is_some_and(|greatest| source_offset <= *greatest) {
            return false;
        }
        self.greatest.insert(partition, source_offset);
        true
    }
}

/// A record of `locations`, read as documented.
#[derive(Debug, Clone)]
pub struct Fact {
    /// Its partition, the same as that of the journal record.
    pub partition: i32,
    /// Header `source-offset`.
    pub source_offset: i64,
    /// Header `account`.
    pub account: String,
    /// Header `device`.
    pub device: String,
    /// The value: `schema`, `account`, `deviceId`, `receivedAt`, `locations`.
    pub value: serde_json::Value,
}

impl Fact {
    /// Reads headers and value.
    ///
    /// # Errors
    /// The record is not what subscribers are promised.
    pub fn read(record: &Record) -> anyhow::Result<Self> {
        let header = |name: &str| {
            let bytes = record.headers.get(name).with_context(|| format!("a fact has no header {name}"))?;
            String::from_utf8(bytes.clone()).with_context(|| format!("header {name} is not UTF-8"))
        };
        anyhow::ensure!(header("schema")? == "1", "a fact has another schema");
        let value = record.value.as_deref().context("a fact has no value")?;
        Ok(Self {
            partition: record.partition,
            source_offset: header("source-offset")?.parse().context("source-offset is not a number")?,
            account: header("account")?,
            device: header("device")?,
            value: serde_json::from_slice(value).context("a fact is not JSON")?,
        })
    }

    /// The upload it holds, in the form of [`exact`](crate::exact).
    #[must_use]
    pub fn upload(&self) -> String {
        serde_json::json!({"deviceId": self.value["deviceId"], "locations": self.value["locations"]})
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_not_greater_than_the_greatest_of_its_partition_is_skipped() {
        let mut subscriber = Subscriber::default();
        let seen = [(0, 5), (0, 5), (1, 4), (0, 7), (0, 6), (1, 5)];
        let accepted = seen.map(|(partition, offset)| subscriber.accepts(partition, offset));
        assert_eq!(accepted, [true, false, true, true, false, true]);
    }
}
