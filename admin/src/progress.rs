//! `progress`: where the consumer stands in the journal.

use anyhow::{Context as _, bail};
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::position::{NextOffset, Partition};
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::store::progress;

use crate::arguments::{ListProgress, SetProgress};
use crate::database;
use crate::table::{moment, table};

pub async fn list(command: &ListProgress) -> anyhow::Result<()> {
    let mut connection = database::open(&command.database).await?;
    let topic = TopicNames::new(&command.kafka.topic_prefix).uploads;
    let mut listed = table(["PARTITION", "NEXT OFFSET", "LOG TIME", "EMITTED OFFSET"]);
    let rows = progress::load(&mut connection, &topic).await.context("cannot read the progress")?;
    for row in rows {
        let log_time = row.log_time.map(JournalTime::to_datetime).map_or_else(|| "-".to_owned(), moment);
        let [partition, emitted] = [row.partition.to_string(), row.emitted_offset.to_string()];
        listed.add_row([partition, row.next_offset.to_string(), log_time, emitted]);
    }
    println!("{}", listed.trim_fmt());
    Ok(())
}

pub async fn set(command: &SetProgress) -> anyhow::Result<()> {
    let SetProgress { kafka, partition, offset, force, .. } = command;
    let mut connection = database::open(&command.database).await?;
    let topic = TopicNames::new(&kafka.topic_prefix).uploads;
    let existing =
        progress::place(&mut connection, &topic, Partition(*partition), NextOffset(*offset), *force)
            .await
            .context("cannot write the progress")?;
    if let Some(existing) = existing {
        bail!(
            "partition {partition} of {topic} already stands at offset {existing}; with --force it is moved, and then \
             uploads in between are never stored (forward), or those whose window is over are stored twice (backward)"
        );
    }
    println!("partition {partition} of {topic} begins at offset {offset}");
    Ok(())
}
