//! `dead-letters`: what the consumer could not persist.

use anyhow::Context as _;
use milepost_shared::store::dead_letters;

use crate::arguments::ListDeadLetters;
use crate::database;
use crate::table::{moment, table};

pub async fn list(command: &ListDeadLetters) -> anyhow::Result<()> {
    let mut connection = database::open(&command.database).await?;
    let letters =
        dead_letters::newest(&mut connection, command.limit).await.context("cannot list the dead letters")?;
    let mut listed = table(["TOPIC", "PARTITION", "OFFSET", "TIME", "REASON"]);
    for letter in letters {
        let [partition, offset] = [letter.partition.to_string(), letter.offset.to_string()];
        listed.add_row([letter.topic, partition, offset, moment(letter.journal_time), letter.reason]);
    }
    println!("{}", listed.trim_fmt());
    Ok(())
}
