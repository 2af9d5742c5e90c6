//! Reads the evidence when all is healed and quiet. Journal, facts and rows are streamed and reduced on the way: a long run
//! has millions of them.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use milepost_shared::journal::clock::Clock;
use milepost_shared::journal::position::Position;
use milepost_tests::{KeyRow, Stored};

use crate::evidence::{
    DeadLetter, Evidence, JournalEntry, Observed, SeenFact, Sources, StoredKey, StoredUpload,
};
use crate::operation::Marks;
use crate::original;
use crate::record::{dead_letter, journal_entry, seen_fact};

/// Longest time to read a topic.
const READ: Duration = Duration::from_secs(300);
/// Lines of one log that are reported.
const LINES_MAX: usize = 3;
/// How much of such a line, characters.
const LINE_MAX: usize = 300;

/// What a consumer says when it pauses.
const PAUSED: &str = "paused: the persister is busy";

/// Empties the tables as if nothing had ever come, so that a consumer rebuilds them from the journal. Accounts and API keys
/// stay. The group's offsets have to go too.
pub const EMPTY: &str = "TRUNCATE idempotency_keys, locations, devices, dead_letters, partition_progress";

/// Reads what journal, facts and tables hold. What the run itself knows is left to its caller: `log_faults`, `rebuilt`,
/// `recovered`, `replay_paths`, `pauses` and `unexpected`.
///
/// # Errors
/// A server cannot be read, or the journal does not begin at its beginning.
pub async fn evidence(sources: &Sources, observed: Observed) -> anyhow::Result<Evidence> {
    let (journal, facts, stored) = tokio::try_join!(journal(sources), facts(sources), stored(sources))?;
    let (keys, dead_letters) = (keys(sources).await?, dead_letters(sources).await?);
    let progress = sources.tables.progress().await?;
    let committed = sources.kafka.committed(&sources.group, &sources.topics.uploads).await?;
    Ok(Evidence {
        seed: sources.seed,
        ttl: sources.ttl,
        gathered_ms: Clock::default().now_ms(),
        journal,
        stored,
        keys,
        dead_letters,
        facts,
        progress: progress.iter().map(|progress| (progress.partition, progress.next_offset)).collect(),
        committed: (0..)
            .zip(committed)
            .filter_map(|(partition, offset)| Some((partition, offset?)))
            .collect(),
        observed,
        ..Evidence::default()
    })
}

async fn journal(sources: &Sources) -> anyhow::Result<Vec<JournalEntry>> {
    let topic = &sources.topics.uploads;
    let ends = sources.kafka.ends(topic).await?;
    ensure!(ends.iter().all(|(first, _)| *first == 0), "the journal has lost its beginning: {ends:?}");
    let reducing = sources.clone();
    let mut journal = sources
        .kafka
        .reduce(topic, READ, Vec::new(), move |mut journal, record| {
            journal.push(journal_entry(&reducing, &record));
            journal
        })
        .await?;
    journal.sort_unstable_by_key(|entry| entry.position);
    Ok(journal)
}

/// In the order of each partition.
async fn facts(sources: &Sources) -> anyhow::Result<Vec<SeenFact>> {
    let reducing = sources.clone();
    sources
        .kafka
        .reduce(&sources.topics.locations, READ, Vec::new(), move |mut facts, record| {
            facts.push(seen_fact(&reducing, &record));
            facts
        })
        .await
}

async fn stored(sources: &Sources) -> anyhow::Result<Vec<StoredUpload>> {
    let mut all = Vec::new();
    sources
        .tables
        .each_stored(|stored, ordinals| {
            all.push(reduced(sources, stored, &ordinals));
            Ok(())
        })
        .await?;
    Ok(all)
}

fn reduced(sources: &Sources, mut stored: Stored, ordinals: &[i32]) -> StoredUpload {
    let copies = copies(ordinals);
    if let Some(copies) = copies {
        stored.upload.locations = stored.upload.locations.into_iter().step_by(copies).collect();
    }
    let account = sources.account(stored.account);
    let (upload, fault) = original::compare(sources.seed, account, &stored.upload);
    StoredUpload {
        position: stored.source,
        received_at: stored.received_at,
        account,
        upload,
        fault: fault.or_else(|| copies.is_none().then(|| format!("its ordinals are {ordinals:?}"))),
        copies: copies.unwrap_or(1),
    }
}

/// How often each of the ordinals 0, 1, 2 and so on is there, which are sorted; `None` if one is there more often than
/// another, or not at all.
fn copies(ordinals: &[i32]) -> Option<usize> {
    let copies = ordinals.iter().take_while(|ordinal| **ordinal == 0).count();
    let whole = copies > 0
        && ordinals.chunks(copies).zip(0..).all(|(chunk, expected)| {
            chunk.len() == copies && chunk.iter().all(|ordinal| *ordinal == expected)
        });
    whole.then_some(copies)
}

async fn keys(sources: &Sources) -> anyhow::Result<Vec<StoredKey>> {
    let key = |row: KeyRow| StoredKey {
        key_hash: row.key_hash,
        account: sources.account(row.account),
        status: u16::try_from(row.status).unwrap_or(0),
        body: row.body,
        accepted_at: row.accepted_at,
        expires_at: row.expires_at,
        source: row.source,
    };
    Ok(sources.tables.keys().await?.into_iter().map(key).collect())
}

async fn dead_letters(sources: &Sources) -> anyhow::Result<Vec<DeadLetter>> {
    let letters = sources.tables.dead_letters().await?;
    Ok(letters.iter().map(|letter| dead_letter(sources, letter)).collect())
}

/// Compares the tables with what they held `before`, when they were emptied and built again from the journal. Keys whose
/// windows are over may be there again or not.
///
/// # Errors
/// The database cannot be read.
pub async fn rebuilt(sources: &Sources, before: &Evidence) -> anyhow::Result<Vec<String>> {
    let after = stored(sources).await?;
    let row = |stored: &StoredUpload| {
        let StoredUpload { received_at, account, upload, fault, copies, .. } = stored.clone();
        (stored.position, (received_at, account, upload, fault, copies))
    };
    let mut differences =
        differences("row", before.stored.iter().map(row).collect(), after.iter().map(row).collect());

    let now = Clock::default().now();
    let by_source = |keys: Vec<StoredKey>| keys.into_iter().map(|key| (key.source, key)).collect();
    let mut keys_before: HashMap<Position, StoredKey> = by_source(before.keys.clone());
    let mut keys_after: HashMap<Position, StoredKey> = by_source(keys(sources).await?);
    keys_before.retain(|position, key| key.expires_at > now || keys_after.contains_key(position));
    keys_after.retain(|position, key| key.expires_at > now || keys_before.contains_key(position));
    differences.extend(self::differences("key", keys_before, keys_after));

    let letters =
        |letters: Vec<DeadLetter>| letters.into_iter().map(|letter| (letter.position, letter)).collect();
    let after = letters(dead_letters(sources).await?);
    differences.extend(self::differences("dead letter", letters(before.dead_letters.clone()), after));
    Ok(differences)
}

fn differences<T: PartialEq>(
    what: &str,
    before: HashMap<Position, T>,
    mut after: HashMap<Position, T>,
) -> Vec<String> {
    let mut differences = Vec::new();
    for (Position { partition, offset }, one) in before {
        match after.remove(&Position { partition, offset }) {
            Some(other) if other == one => {}
            Some(_) => differences.push(format!("the {what} of {partition}/{offset} is another one")),
            None => differences.push(format!("the {what} of {partition}/{offset} is gone")),
        }
    }
    let added = after.into_keys();
    differences.extend(added.map(|Position { partition, offset }| {
        format!("a {what} of {partition}/{offset} was not there before")
    }));
    differences
}

/// Lines of programs' logs that must not be there: what the run planted, a secret, a panic. A few of each log are reported.
///
/// # Errors
/// A log cannot be read.
pub fn log_faults(
    logs: &[impl AsRef<Path>],
    marks: &Marks,
    secrets: &[String],
) -> anyhow::Result<Vec<String>> {
    let mut needles = vec![
        (format!(".{}", marks.digits), "a coordinate"),
        (marks.key.clone(), "a key"),
        ("panicked at".to_owned(), "a panic"),
    ];
    // The part behind the prefix, which is for display.
    needles.extend(secrets.iter().filter_map(|secret| Some((secret.get(12..32)?.to_owned(), "a secret"))));
    let mut faults = Vec::new();
    for log in logs {
        let log = log.as_ref();
        faults.extend(faults_of(log, &needles).with_context(|| format!("cannot read {}", log.display()))?);
    }
    Ok(faults)
}

/// How often consumers stopped reading since a full batch waited, by their logs: a metric would not outlive a kill.
///
/// # Errors
/// A log cannot be read.
pub fn pauses(logs: &[impl AsRef<Path>]) -> anyhow::Result<u64> {
    let mut pauses = 0;
    for log in logs {
        let log = log.as_ref();
        let reader = std::fs::File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
        for line in BufReader::new(reader).split(b'\n') {
            pauses += u64::from(String::from_utf8_lossy(&line?).contains(PAUSED));
        }
    }
    Ok(pauses)
}

fn faults_of(log: &Path, needles: &[(String, &str)]) -> anyhow::Result<Vec<String>> {
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let mut reader = BufReader::new(std::fs::File::open(log)?);
    let (mut line, mut faults) = (Vec::new(), Vec::new());
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 || faults.len() == LINES_MAX {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        if let Some((_, what)) = needles.iter().find(|(needle, _)| text.contains(needle)) {
            let text: String = text.trim_end().chars().take(LINE_MAX).collect();
            faults.push(format!("{name}:{number}: {what} in {text}"));
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation;

    #[test]
    fn rows_show_how_often_an_upload_is_there() {
        assert_eq!(copies(&[0, 1, 2]), Some(1));
        assert_eq!(copies(&[0, 0, 1, 1]), Some(2));
        for torn in [&[0, 0, 1][..], &[0, 2], &[1, 2], &[0, 1, 1], &[]] {
            assert_eq!(copies(torn), None, "{torn:?}");
        }
    }

    #[test]
    fn what_differs_between_two_states_is_listed() {
        let state =
            |rows: &[(i64, u8)]| rows.iter().map(|(offset, row)| (Position::new(0, *offset), *row)).collect();
        let mut found =
            differences("row", state(&[(1, 1), (2, 2), (3, 3)]), state(&[(1, 1), (2, 9), (4, 4)]));
        found.sort();
        let expected =
            ["a row of 0/4 was not there before", "the row of 0/2 is another one", "the row of 0/3 is gone"];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_line_with_what_must_not_be_there_is_reported() {
        let marks = operation::marks(7);
        let secret = "mp_abcdefgh_0123456789abcdefghijklmnopqrstuvwxyz".to_owned();
        let log = tempfile::NamedTempFile::new().unwrap();
        for (line, is_reported) in [
            ("all is well with mp_abcdefgh".to_owned(), false),
            (format!("at 48.{}1", marks.digits), true),
            (format!("key k-{}-3", marks.key), true),
            (format!("with {secret}"), true),
            ("thread 'main' panicked at src/main.rs:1:1".to_owned(), true),
        ] {
            std::fs::write(log.path(), format!("first\n{line}\nlast\n")).unwrap();
            let faults = log_faults(&[log.path()], &marks, std::slice::from_ref(&secret)).unwrap();
            assert_eq!(faults.len(), usize::from(is_reported), "{line}");
        }
    }
}
