//! Records of journal and facts, reduced to what the checkers need. The facts are read as docs/topics.md describes them to
//! subscribers, and by nothing else.

use anyhow::{Context as _, ensure};
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::position::Position;
use milepost_shared::journal::record::{JournalRecord, Payload};
use milepost_tests::Record;
use serde::Deserialize;

use crate::evidence::{DeadLetter, JournalEntry, SeenFact, Sources};
use crate::operation::UploadId;
use crate::original::{self, JsonUpload};

/// What a record of the journal is. All that is not, bit for bit, what an operation sent is poison, or a point set aside that is
/// no operation's.
#[must_use]
pub fn journal_entry(sources: &Sources, record: &Record) -> JournalEntry {
    let sent = sent(sources, record.key.as_deref(), record.value.as_deref());
    let Sent { key_hash, account, upload, is_set_aside } = sent.unwrap_or_default();
    JournalEntry {
        position: Position::new(record.partition, record.offset),
        time: JournalTime(record.time),
        key_hash,
        account,
        upload,
        is_set_aside,
    }
}

/// Which bad point a dead letter is: poison is none.
#[must_use]
pub fn dead_letter(sources: &Sources, letter: &milepost_tests::DeadLetter) -> DeadLetter {
    let raw = letter.value.as_deref().unwrap_or_default();
    DeadLetter {
        position: letter.position,
        upload: original::set_aside(sources.seed, None, &letter.reason, raw),
    }
}

/// What a record holds; by default poison.
#[derive(Default)]
struct Sent {
    key_hash: String,
    account: Option<usize>,
    upload: Option<UploadId>,
    is_set_aside: bool,
}

/// `None` of poison.
fn sent(sources: &Sources, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<Sent> {
    let JournalRecord { key_hash, account, payload, .. } = JournalRecord::decode(key, value).ok()?;
    let account = sources.account(account)?;
    let (upload, is_set_aside) = match &payload {
        Payload::Upload(upload) => match original::compare(sources.seed, Some(account), upload) {
            (Some(upload), None) => (Some(upload), false),
            _ => return None,
        },
        Payload::SetAside(point) => {
            (original::set_aside(sources.seed, Some(account), &point.to_string(), &point.raw), true)
        }
    };
    Some(Sent { key_hash: key_hash.to_string(), account: Some(account), upload, is_set_aside })
}

/// The key of a record, if it is 64 lower-case hex digits.
fn key_hash(record: &Record) -> Option<String> {
    let key = std::str::from_utf8(record.key.as_deref()?).ok()?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (key.len() == 64 && key.bytes().all(is_digit)).then(|| key.to_owned())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FactHead {
    schema: i64,
    account: AccountId,
    received_at: i64,
}

/// What a subscriber sees in a record of the facts.
#[must_use]
pub fn seen_fact(sources: &Sources, record: &Record) -> SeenFact {
    let source_offset = header(record, "source-offset").ok().and_then(|text| text.parse().ok());
    let mut fact = SeenFact {
        partition: record.partition,
        source_offset: source_offset.unwrap_or(-1),
        account: None,
        upload: None,
        received_at: JournalTime(-1),
        fault: None,
    };
    if let Err(error) = read(sources, record, &mut fact) {
        fact.fault = Some(format!("{error:#}"));
    }
    fact
}

fn read(sources: &Sources, record: &Record, fact: &mut SeenFact) -> anyhow::Result<()> {
    ensure!(fact.source_offset >= 0, "source-offset is no offset");
    let account: AccountId = header(record, "account")?.parse().context("account is no UUID")?;
    fact.account = sources.account(account);
    ensure!(header(record, "schema")? == "1", "another schema in its header");
    ensure!(key_hash(record).is_some(), "the key is not 64 hex digits");
    let value = record.value.as_deref().context("no value")?;
    let head: FactHead = serde_json::from_slice(value).context("not the JSON promised")?;
    ensure!(head.schema == 1, "schema {}", head.schema);
    ensure!(head.account == account, "account {} in its value", head.account);
    fact.received_at = JournalTime(head.received_at);
    let upload: JsonUpload = serde_json::from_slice(value).context("not the JSON promised")?;
    let upload = upload.into();
    let (id, fault) = original::compare(sources.seed, fact.account, &upload);
    fact.upload = id;
    ensure!(header(record, "device")? == upload.device, "header device differs");
    match fault {
        Some(fault) => anyhow::bail!("{fault}"),
        None => Ok(()),
    }
}

fn header<'a>(record: &'a Record, name: &str) -> anyhow::Result<&'a str> {
    let bytes = record.headers.get(name).with_context(|| format!("no header {name}"))?;
    std::str::from_utf8(bytes).with_context(|| format!("header {name} is not UTF-8"))
}
