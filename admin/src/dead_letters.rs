//! `dead-letters`: what the consumer could not persist, and the points of apps that were set aside.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::store::dead_letters::{self, DeadLetter};

use crate::arguments::{ListDeadLetters, ShowDeadLetter};
use crate::database;
use crate::table::{moment, table};

/// Stands where a letter does not say whose it is.
const NONE: &str = "-";

pub async fn list(command: &ListDeadLetters) -> anyhow::Result<()> {
    let mut connection = database::open(&command.database).await?;
    let letters =
        dead_letters::newest(&mut connection, command.limit).await.context("cannot list the dead letters")?;
    let mut listed = table(["TOPIC", "PARTITION", "OFFSET", "TIME", "ACCOUNT", "DEVICE", "REASON"]);
    for letter in letters {
        let DeadLetter { topic, partition, offset, journal_time, account_id, device, reason } = letter;
        let [partition, offset] = [partition.to_string(), offset.to_string()];
        let account = account_id.map_or_else(|| NONE.to_owned(), |account| account.to_string());
        let device = device.unwrap_or_else(|| NONE.to_owned());
        listed.add_row([topic, partition, offset, moment(journal_time), account, device, reason]);
    }
    println!("{}", listed.trim_fmt());
    Ok(())
}

pub async fn show(command: &ShowDeadLetter) -> anyhow::Result<()> {
    let ShowDeadLetter { database, kafka, partition, offset } = command;
    let mut connection = database::open(database).await?;
    let topic = TopicNames::new(&kafka.topic_prefix).uploads;
    let value = dead_letters::value(&mut connection, &topic, *partition, *offset)
        .await
        .context("cannot read the dead letter")?;
    let Some(value) = value else {
        bail!("record {offset} of partition {partition} of {topic} is no dead letter")
    };
    let Some(value) = value else {
        bail!("record {offset} of partition {partition} of {topic} has no value")
    };
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        writeln!(out, "{}", harmless(&value))?;
    } else {
        out.write_all(&value)?;
    }
    out.flush()?;
    Ok(())
}

/// As a terminal may show it: somebody else chose the bytes, and must not steer it.
fn harmless(value: &[u8]) -> String {
    let shown =
        |char: char| if char.is_control() && char != '\n' && char != '\t' { '\u{fffd}' } else { char };
    String::from_utf8_lossy(value).chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_is_shown_does_not_steer_it() {
        assert_eq!(
            harmless("{\"a\":\n\t\"\u{1b}[2Jü\u{9b}\"}".as_bytes()),
            "{\"a\":\n\t\"\u{fffd}[2Jü\u{fffd}\"}"
        );
        assert_eq!(harmless(b"\xff\0"), "\u{fffd}\u{fffd}");
    }
}
