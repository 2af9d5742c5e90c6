//! A partition of keys expires while uploads come at half of the capacity.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use milepost_shared::journal::clock::{Clock, JournalTime};
use milepost_tests::Role;
use sqlx::{Connection as _, PgConnection};

use crate::arrivals::Arrivals;
use crate::figure::{Bound, Figure};
use crate::installation::Installation;
use crate::keys;
use crate::scenario::Report;
use crate::setup::{CONNECTIONS, Setup};
use crate::warm_up::warm_up;

/// The drop has to fall into the time that is measured.
const PROMPT: [(&str, &str); 1] = [("MAINTENANCE_INTERVAL", "1s")];
const DAY_MS: i64 = 86_400_000;
/// How long ago the keys were accepted, in days: their windows are over, and the table partitions of today are others.
const AGO_DAYS: i64 = 3;
/// Until the scenario itself says that it is over.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Between two looks at the partition.
const LOOK: Duration = Duration::from_millis(5);
/// Longest time from the end of the last window until the drop.
const DROPPED: Duration = Duration::from_secs(60);

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let size = setup.size;
    let mut milepost = Installation::start(setup, 1, &[]).await?;
    milepost.add_consumer(&PROMPT).await?;
    let mut clients = milepost.clients(CONNECTIONS, &setup.singles).await?;
    warm_up(&mut clients, size.warm_up()).await?.report();
    let rate = clients.closed(size.slice()).await?.rate() / 2.0;
    let arrivals = Arrivals::new(rate, size.expiry());
    let (mut latencies, mut drops, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size.long_rounds() {
        let accepted_at = JournalTime(Clock::default().now_ms() - AGO_DAYS * DAY_MS);
        keys::fill(&milepost.world, size.keys_expired(), accepted_at, KEPT).await?;
        let mut owner = PgConnection::connect(&milepost.world.database.url(Role::Owner)).await?;
        let part = keys::part_of(&mut owner, accepted_at).await?;
        // The gateway has closed those that were silent for so long.
        clients = milepost.clients(CONNECTIONS, &setup.singles).await?;
        let before = clients.open(arrivals).await?.latency_ms(0.99);
        let expiry = tokio::spawn(expire(owner, part));
        let during = clients.open(arrivals).await?.latency_ms(0.99);
        drops.push(expiry.await??.as_secs_f64());
        latencies.push(during / before);
        beside.push(format!("{during:.1} ms against {before:.1} ms"));
    }
    milepost.end().await?;
    let millions = size.keys_expired() as f64 / 1e6;
    let p99 =
        Figure::new(&format!("p99 while {millions} million keys expire"), "of the time before", latencies);
    let drop = Figure::new(&format!("drop of {millions} million keys"), "s", drops);
    Ok(Report {
        notes: vec![format!("The load was {rate:.0} uploads a second.")],
        ..Report::of(vec![
            p99.must(Bound::AtMost(2.0)).beside(beside.join(", ")),
            drop.must(Bound::AtMost(1.0)),
        ])
    })
}

/// Says that the partition is needed no longer, and waits until the consumer has dropped it. Returns how long that took from the
/// moment it was detached.
async fn expire(mut owner: PgConnection, part: String) -> anyhow::Result<Duration> {
    let over = sqlx::query("UPDATE table_partitions SET keep_until = upper_bound WHERE name = $1");
    over.bind(&part).execute(&mut owner).await?;
    let begun = Instant::now();
    let mut detached = None;
    while begun.elapsed() < DROPPED {
        let state: Option<bool> = sqlx::query_scalar("SELECT detached FROM table_partitions WHERE name = $1")
            .bind(&part)
            .fetch_optional(&mut owner)
            .await
            .context("cannot look at the partition")?;
        match state {
            Some(true) => drop(detached.get_or_insert_with(Instant::now)),
            Some(false) => {}
            // Dropped between two looks: less than one of them.
            None => return Ok(detached.map_or(LOOK, |since| since.elapsed())),
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("{part} is not dropped within {DROPPED:?}")
}
