//! The three topics: how they are created, and the rules their real configuration must keep.
//!
//! Both programs and `milepost-admin topics check` compare what the brokers say with [`violations`] and refuse to run on
//! any: a retention shorter than the TTL would lose uploads or forget keys too early (docs/operations.md, "Topics").

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio_util::sync::CancellationToken;

use crate::journal::clock::millis;
use crate::kafka::client;
use crate::kafka::names::{RECORD_BYTES_MAX, TopicNames};
use crate::program::settings::KafkaSettings;

/// Longest wait for the cluster to answer an administrative request.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a program that runs looks whether partitions were added, and how long one answer may take.
const WATCH_EVERY: Duration = Duration::from_secs(2);
const WATCH_TIMEOUT: Duration = Duration::from_secs(2);
/// The retention of facts when topics are created.
const LOCATIONS_RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// What the brokers say about a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActualTopic {
    /// How many partitions it has.
    pub partitions: usize,
    /// Its effective configuration.
    pub settings: BTreeMap<String, String>,
}

/// A setting of a topic that contradicts what Milepost relies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The topic's full name.
    pub topic: String,
    /// The setting, as Kafka calls it; `partitions` for their number.
    pub setting: &'static str,
    /// What it is.
    pub value: String,
    /// What it must be.
    pub bound: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {}: {} is {}, must be {}", self.topic, self.setting, self.value, self.bound)
    }
}

/// One rule about one setting.
enum Rule {
    Is(&'static str),
    /// The setting is a list that holds exactly these.
    Holds(&'static [&'static str]),
    /// Milliseconds or bytes; -1 means without limit.
    AtLeast(i64),
    Between(i64, i64),
}

/// The rules for all three topics, in the order of the design's table.
fn rules(settings: &KafkaSettings) -> [(String, Vec<(&'static str, Rule)>); 3] {
    let names = TopicNames::new(&settings.topic_prefix);
    let ttl = millis(settings.idempotency_ttl);
    let journal = ttl.saturating_add(millis(settings.consumer_outage_max));
    let record = i64::try_from(RECORD_BYTES_MAX).unwrap_or(i64::MAX);
    let common = || {
        vec![
            ("message.timestamp.type", Rule::Is("LogAppendTime")),
            ("max.message.bytes", Rule::AtLeast(record)),
            ("retention.bytes", Rule::AtLeast(i64::MAX)),
        ]
    };
    let with = |mut rules: Vec<(&'static str, Rule)>| {
        rules.extend(common());
        rules
    };
    [
        (
            names.uploads,
            with(vec![("cleanup.policy", Rule::Is("delete")), ("retention.ms", Rule::AtLeast(journal))]),
        ),
        (
            names.results,
            with(vec![
                ("cleanup.policy", Rule::Holds(&["compact", "delete"])),
                ("retention.ms", Rule::Between(ttl, ttl.saturating_mul(2))),
                ("segment.ms", Rule::Between(1, ttl)),
            ]),
        ),
        (
            names.locations,
            with(vec![("cleanup.policy", Rule::Is("delete")), ("retention.ms", Rule::AtLeast(ttl))]),
        ),
    ]
}

impl Rule {
    fn is_kept_by(&self, value: &str) -> bool {
        let number = || value.parse::<i64>().ok().map(|number| if number < 0 { i64::MAX } else { number });
        match self {
            Self::Is(wanted) => value == *wanted,
            Self::Holds(wanted) => {
                let mut parts: Vec<&str> = value.split(',').map(str::trim).collect();
                parts.sort_unstable();
                parts == *wanted
            }
            Self::AtLeast(min) => number().is_some_and(|number| number >= *min),
            Self::Between(min, max) => number().is_some_and(|number| (*min..=*max).contains(&number)),
        }
    }

    fn bound(&self) -> String {
        match self {
            Self::Is(wanted) => (*wanted).to_owned(),
            Self::Holds(wanted) => wanted.join(","),
            Self::AtLeast(i64::MAX) => "-1 (without limit)".to_owned(),
            Self::AtLeast(min) => format!("at least {min}"),
            Self::Between(min, max) => format!("between {min} and {max}"),
        }
    }
}

/// Compares what the brokers say with the rules. A topic that is missing violates `partitions`.
#[must_use]
pub fn violations(settings: &KafkaSettings, actual: &BTreeMap<String, ActualTopic>) -> Vec<Violation> {
    let mut found = Vec::new();
    let wanted = usize::try_from(settings.partitions).unwrap_or(0);
    for (topic, rules) in rules(settings) {
        let missing = ActualTopic::default();
        let actual = actual.get(&topic).unwrap_or(&missing);
        if actual.partitions != wanted {
            found.push(other_count(&topic, actual.partitions, wanted));
            if actual.partitions == 0 {
                continue;
            }
        }
        for (setting, rule) in rules {
            let value = actual.settings.get(setting).map_or("", String::as_str);
            if !rule.is_kept_by(value) {
                found.push(Violation {
                    topic: topic.clone(),
                    setting,
                    value: value.to_owned(),
                    bound: rule.bound(),
                });
            }
        }
    }
    found
}

fn other_count(topic: &str, partitions: usize, wanted: usize) -> Violation {
    let (value, bound) = (partitions.to_string(), format!("{wanted} (the setting PARTITIONS)"));
    Violation { topic: topic.to_owned(), setting: "partitions", value, bound }
}

/// Refuses topics that violate a rule.
///
/// # Errors
/// One line per violation, naming topic, setting, value and bound.
pub fn refuse_violations(
    settings: &KafkaSettings,
    actual: &BTreeMap<String, ActualTopic>,
) -> anyhow::Result<()> {
    let violations = violations(settings, actual);
    if violations.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    bail!("{}", lines.join("\n"))
}

/// The configuration that topics are created with; it keeps every rule.
#[must_use]
pub fn creation(settings: &KafkaSettings) -> [(String, Vec<(&'static str, String)>); 3] {
    let names = TopicNames::new(&settings.topic_prefix);
    let ttl = millis(settings.idempotency_ttl);
    // Small segments: retention removes whole ones, so their age is how long answers overstay.
    let results_segment = (ttl / 24).clamp(1000, 3_600_000);
    let record = RECORD_BYTES_MAX.to_string();
    let topic = |name: &str, policy: &str, retention: i64, segment: i64, segment_bytes: i64| {
        let config = vec![
            ("cleanup.policy", policy.to_owned()),
            ("retention.ms", retention.to_string()),
            ("retention.bytes", "-1".to_owned()),
            ("segment.ms", segment.to_string()),
            ("segment.bytes", segment_bytes.to_string()),
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("max.message.bytes", record.clone()),
        ];
        (name.to_owned(), config)
    };
    let journal = ttl.saturating_add(millis(settings.consumer_outage_max));
    let facts = millis(LOCATIONS_RETENTION).max(ttl);
    let mut results = topic(&names.results, "compact,delete", ttl, results_segment, 64 << 20);
    // Deleted whole before they are worth compacting: merging segments would postpone their deletion.
    results.1.push(("min.cleanable.dirty.ratio", "0.9".to_owned()));
    [
        topic(&names.uploads, "delete", journal, 6 * 3_600_000, 256 << 20),
        results,
        topic(&names.locations, "delete", facts, 24 * 3_600_000, 256 << 20),
    ]
}

/// A setting that [`TopicAdmin::configure`] gives to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The topic's full name.
    pub topic: String,
    /// The setting, as Kafka calls it.
    pub setting: &'static str,
    /// What it was.
    pub before: String,
    /// What it is to be.
    pub value: String,
}

/// What to change so that topics which exist keep the rules. What keeps them already is the operator's, such as a retention
/// that is longer than it has to be.
#[must_use]
pub fn changes(settings: &KafkaSettings, actual: &BTreeMap<String, ActualTopic>) -> Vec<Change> {
    let created = BTreeMap::from(creation(settings));
    let value = |violation: &Violation| {
        let config = created.get(&violation.topic)?;
        config.iter().find(|(setting, _)| *setting == violation.setting).map(|(_, value)| value.clone())
    };
    let existing = violations(settings, actual).into_iter().filter(|one| actual.contains_key(&one.topic));
    existing
        .filter_map(|violation| {
            let value = value(&violation)?;
            let Violation { topic, setting, value: before, .. } = violation;
            Some(Change { topic, setting, before, value })
        })
        .collect()
}

/// Talks to the cluster about topics.
pub struct TopicAdmin {
    client: AdminClient<DefaultClientContext>,
}

impl TopicAdmin {
    /// # Errors
    /// The client cannot be made from the settings.
    pub fn new(settings: &KafkaSettings) -> anyhow::Result<Self> {
        let client = client::admin(settings).create().context("cannot make a Kafka client")?;
        Ok(Self { client })
    }

    /// Creates what is missing; existing topics are left as they are (`check` judges them).
    ///
    /// # Errors
    /// The cluster cannot be reached in time or refuses.
    pub async fn create(&self, settings: &KafkaSettings, replication: i32) -> anyhow::Result<Vec<String>> {
        let topics = creation(settings);
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            .map(|(name, config)| {
                let topic = NewTopic::new(name, settings.partitions, TopicReplication::Fixed(replication));
                config.iter().fold(topic, |topic, (setting, value)| topic.set(setting, value))
            })
            .collect();
        let mut created = Vec::new();
        for result in self.client.create_topics(&new, &timeouts()).await.context("cannot create topics")? {
            match result {
                Ok(name) => created.push(name),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, error)) => bail!("cannot create topic {name}: {error}"),
            }
        }
        Ok(created)
    }

    /// Makes existing topics keep the rules, after a setting such as the TTL has changed; see [`changes`]. Returns what was
    /// changed.
    ///
    /// # Errors
    /// The cluster cannot be reached in time or refuses.
    pub async fn configure(&self, settings: &KafkaSettings) -> anyhow::Result<Vec<Change>> {
        let changes = changes(settings, &self.describe(settings).await?);
        if changes.is_empty() {
            return Ok(changes);
        }
        // The client can only replace a topic's whole configuration (rdkafka 0.39 has no incremental request), so what is
        // there is read first.
        let mut entries = self.own_settings(changes.iter().map(|change| change.topic.as_str())).await?;
        for change in &changes {
            let entry = entries.entry(change.topic.clone()).or_default();
            entry.insert(change.setting.to_owned(), change.value.clone());
        }
        let altered: Vec<AlterConfig<'_>> = entries
            .iter()
            .map(|(name, config)| {
                let topic = AlterConfig::new(ResourceSpecifier::Topic(name));
                config.iter().fold(topic, |topic, (setting, value)| topic.set(setting, value))
            })
            .collect();
        for result in
            self.client.alter_configs(&altered, &timeouts()).await.context("cannot configure topics")?
        {
            result
                .map_err(|(specifier, error)| anyhow::anyhow!("cannot configure {specifier:?}: {error}"))?;
        }
        Ok(changes)
    }

    /// The settings that were given to topics themselves, by creation or by an operator.
    async fn own_settings(
        &self,
        names: impl Iterator<Item = &str>,
    ) -> anyhow::Result<BTreeMap<String, BTreeMap<String, String>>> {
        let names: BTreeSet<&str> = names.collect();
        let resources: Vec<ResourceSpecifier<'_>> = names.into_iter().map(ResourceSpecifier::Topic).collect();
        let described = self.client.describe_configs(&resources, &timeouts()).await;
        let mut own = BTreeMap::new();
        for resource in described.context("cannot read the topics' configuration from Kafka")? {
            let resource =
                resource.map_err(|error| anyhow::anyhow!("cannot read a configuration: {error}"))?;
            if let OwnedResourceSpecifier::Topic(name) = resource.specifier {
                let entries = resource.entries.into_iter();
                let dynamic = entries.filter(|entry| entry.source == ConfigSource::DynamicTopic);
                own.insert(name, dynamic.filter_map(|entry| Some((entry.name, entry.value?))).collect());
            }
        }
        Ok(own)
    }

    /// Reads how the three topics are configured. Blocks a thread for the metadata request, at most 20 seconds.
    ///
    /// # Errors
    /// The cluster cannot be reached in time. A topic that does not exist is simply absent.
    pub async fn describe(&self, settings: &KafkaSettings) -> anyhow::Result<BTreeMap<String, ActualTopic>> {
        let names = rules(settings).map(|(name, _)| name);
        let metadata =
            tokio::task::block_in_place(|| self.client.inner().fetch_metadata(None, ADMIN_TIMEOUT))
                .context("cannot read the topics from Kafka")?;
        let mut actual: BTreeMap<String, ActualTopic> = metadata
            .topics()
            .iter()
            .filter(|topic| names.iter().any(|name| name == topic.name()))
            .map(|topic| {
                let partitions = topic.partitions().len();
                (topic.name().to_owned(), ActualTopic { partitions, settings: BTreeMap::new() })
            })
            .collect();
        let resources: Vec<ResourceSpecifier<'_>> =
            actual.keys().map(|name| ResourceSpecifier::Topic(name)).collect();
        if resources.is_empty() {
            return Ok(actual);
        }
        let described = self.client.describe_configs(&resources, &timeouts()).await;
        for resource in described.context("cannot read the topics' configuration from Kafka")? {
            let resource =
                resource.map_err(|error| anyhow::anyhow!("cannot read a configuration: {error}"))?;
            if let OwnedResourceSpecifier::Topic(name) = &resource.specifier
                && let Some(topic) = actual.get_mut(name)
            {
                let entries = resource.entries.into_iter();
                topic.settings = entries.filter_map(|entry| Some((entry.name, entry.value?))).collect();
            }
        }
        Ok(actual)
    }

    /// How many partitions each topic has that is there. Blocks up to [`WATCH_TIMEOUT`] for each.
    fn partitions(&self, settings: &KafkaSettings) -> Result<BTreeMap<String, usize>, KafkaError> {
        let mut partitions = BTreeMap::new();
        for (topic, _) in rules(settings) {
            let metadata = self.client.inner().fetch_metadata(Some(&topic), WATCH_TIMEOUT)?;
            let of_topic = metadata.topics().iter().find(|found| found.name() == topic);
            let count = of_topic.map_or(0, |found| found.partitions().len());
            partitions.extend((count > 0).then_some((topic, count)));
        }
        Ok(partitions)
    }

    /// Refuses topics that violate a rule.
    ///
    /// # Errors
    /// One line per violation, naming topic, setting, value and bound; or the cluster cannot be reached in time.
    pub async fn check(&self, settings: &KafkaSettings) -> anyhow::Result<()> {
        refuse_violations(settings, &self.describe(settings).await?)
    }
}

/// Looks every two seconds, until `stop`, whether the topics still have as many partitions as are set. Brokers that do not
/// answer, and topics that are not there, say nothing about it.
///
/// # Errors
/// A topic has another number of partitions: the program must not go on, since with keys in other partitions the order within
/// a key would be lost, on which everything rests.
pub async fn watch_partitions(settings: &KafkaSettings, stop: &CancellationToken) -> anyhow::Result<()> {
    let wanted = usize::try_from(settings.partitions).unwrap_or(0);
    let mut admin = None;
    while stop.run_until_cancelled(tokio::time::sleep(WATCH_EVERY)).await.is_some() {
        let asked = match admin.take() {
            Some(admin) => admin,
            None => Arc::new(TopicAdmin::new(settings)?),
        };
        let asking = tokio::task::spawn_blocking({
            let (asked, settings) = (Arc::clone(&asked), settings.clone());
            move || asked.partitions(&settings)
        });
        match stop.run_until_cancelled(asking).await {
            None => break,
            Some(Ok(Ok(partitions))) => {
                if let Some((topic, count)) = partitions.iter().find(|(_, count)| **count != wanted) {
                    bail!("{}", other_count(topic, *count, wanted));
                }
                admin = Some(asked);
            }
            // The next look is a new client's: this one may have forgotten every broker.
            Some(Ok(Err(_)) | Err(_)) => {}
        }
    }
    Ok(())
}

fn timeouts() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ADMIN_TIMEOUT)).operation_timeout(Some(ADMIN_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> KafkaSettings {
        KafkaSettings { topic_prefix: "t-".to_owned(), partitions: 3, ..KafkaSettings::at("") }
    }

    fn as_created(settings: &KafkaSettings) -> BTreeMap<String, ActualTopic> {
        creation(settings)
            .into_iter()
            .map(|(name, config)| {
                let settings =
                    config.into_iter().map(|(setting, value)| (setting.to_owned(), value)).collect();
                (name, ActualTopic { partitions: 3, settings })
            })
            .collect()
    }

    #[test]
    fn topics_as_created_keep_every_rule_for_any_ttl() {
        for seconds in [1, 20, 3600, 86_400, 365 * 86_400] {
            let settings = KafkaSettings { idempotency_ttl: Duration::from_secs(seconds), ..settings() };
            assert_eq!(violations(&settings, &as_created(&settings)), []);
        }
    }

    #[test]
    fn each_contradiction_is_named_with_topic_setting_value_and_bound() {
        let cases = [
            ("t-location-uploads", "cleanup.policy", "compact", "delete"),
            ("t-location-uploads", "retention.ms", "604799999", "at least 604800000"),
            ("t-location-uploads", "retention.bytes", "1000", "-1 (without limit)"),
            ("t-location-uploads", "message.timestamp.type", "CreateTime", "LogAppendTime"),
            ("t-location-uploads", "max.message.bytes", "1048588", "at least 4194304"),
            ("t-location-results", "cleanup.policy", "delete", "compact,delete"),
            ("t-location-results", "retention.ms", "86399999", "between 86400000 and 172800000"),
            ("t-location-results", "retention.ms", "-1", "between 86400000 and 172800000"),
            ("t-location-results", "segment.ms", "604800000", "between 1 and 86400000"),
            ("t-locations", "cleanup.policy", "compact,delete", "delete"),
            ("t-locations", "retention.ms", "1000", "at least 86400000"),
        ];
        for (topic, setting, value, bound) in cases {
            let mut actual = as_created(&settings());
            actual.get_mut(topic).unwrap().settings.insert(setting.to_owned(), value.to_owned());
            let found: Vec<String> =
                violations(&settings(), &actual).iter().map(ToString::to_string).collect();
            assert_eq!(found, [format!("topic {topic}: {setting} is {value}, must be {bound}")]);
        }
    }

    #[test]
    fn what_keeps_the_rules_is_left_as_it_is_and_what_breaks_them_is_raised() {
        let set = |actual: &mut BTreeMap<String, ActualTopic>, topic: &str, setting: &str, value: &str| {
            actual.get_mut(topic).unwrap().settings.insert(setting.to_owned(), value.to_owned());
        };
        let mut actual = as_created(&settings());
        assert_eq!(changes(&settings(), &actual), []);
        let kept = [
            ("t-location-uploads", "retention.ms", "-1"),
            ("t-location-uploads", "segment.bytes", "1073741824"),
            ("t-location-uploads", "max.message.bytes", "8388608"),
            ("t-location-results", "retention.ms", "172800000"),
            ("t-location-results", "segment.ms", "60000"),
            ("t-locations", "retention.ms", "31536000000"),
        ];
        for (topic, setting, value) in kept {
            set(&mut actual, topic, setting, value);
        }
        assert_eq!(changes(&settings(), &actual), []);

        // A longer TTL, and what an operator should not have done.
        let longer = KafkaSettings { idempotency_ttl: Duration::from_secs(10 * 86_400), ..settings() };
        set(&mut actual, "t-locations", "retention.bytes", "1000");
        set(&mut actual, "t-locations", "cleanup.policy", "compact");
        actual.remove("t-location-uploads");
        let changed: Vec<(String, &str, String, String)> = changes(&longer, &actual)
            .into_iter()
            .map(|change| (change.topic, change.setting, change.before, change.value))
            .collect();
        let expected = [
            ("t-location-results", "retention.ms", "172800000", "864000000"),
            ("t-locations", "cleanup.policy", "compact", "delete"),
            ("t-locations", "retention.bytes", "1000", "-1"),
        ];
        assert_eq!(
            changed,
            expected.map(|(topic, setting, before, value)| {
                (topic.to_owned(), setting, before.to_owned(), value.to_owned())
            })
        );
        for change in changes(&longer, &actual) {
            set(&mut actual, &change.topic, change.setting, &change.value);
        }
        assert!(violations(&longer, &actual).iter().all(|one| one.topic == "t-location-uploads"));
    }

    #[test]
    fn another_partition_count_or_a_missing_topic_is_a_violation() {
        let mut actual = as_created(&settings());
        actual.get_mut("t-locations").unwrap().partitions = 4;
        actual.remove("t-location-results");
        let found: Vec<String> = violations(&settings(), &actual).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "topic t-location-results: partitions is 0, must be 3 (the setting PARTITIONS)",
                "topic t-locations: partitions is 4, must be 3 (the setting PARTITIONS)",
            ]
        );
    }
}
