//! Every fault once, under a trickle of uploads, to see that each bites on this machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use comfy_table::Table;

use crate::drive::{DriveSettings, Driver};
use crate::fault::{Episode, NoBite};
use crate::history::Recorder;
use crate::operation;
use crate::plan;
use crate::schedule::{Planned, shortest};
use crate::system::{Setup, System};

/// `IDEMPOTENCY_TTL`.
const TTL: Duration = Duration::from_secs(10);
/// How long a fault lasts that needs no longer.
const LASTS: Duration = Duration::from_secs(3);
/// Longest time until all of the journal is persisted in the end, and all operations have ended.
const CAUGHT_UP: Duration = Duration::from_secs(120);

/// Injects each fault whose name holds `only` and prints by what sign it was seen to bite.
///
/// # Errors
/// The system does not start or recover, or a fault was not seen to bite. One that the machine does not allow is no error.
pub async fn faults_tour(bin_dir: PathBuf, seed: u64, only: &str) -> anyhow::Result<()> {
    let marks = operation::marks(seed);
    let setup = Setup { bin_dir, ttl: TTL, partitions: 4, consumers: 2, batch_records: 4000, marks: &marks };
    let system = System::start(&setup).await?;
    let recorder = Recorder::begin();
    let settings = DriveSettings {
        seed,
        gateways: system.gateways(),
        secrets: system.secrets(),
        ttl: TTL,
        clients: 40,
        pace: 40,
        rhythm: None,
    };
    let driver = Driver::new(settings, recorder.clone())?;
    let clients = tokio::spawn({
        let driver = driver.clone();
        async move { driver.run().await }
    });
    let mut episodes = Vec::new();
    for fault in plan::all_faults() {
        if !format!("{fault:?}").to_lowercase().contains(&only.to_lowercase()) {
            continue;
        }
        let planned = Planned { at: recorder.now(), lasts: LASTS.max(shortest(fault)), fault };
        let episode = system.inject(&planned, || recorder.now()).await;
        println!("{:6.1} s  {fault:?}: {}", episode.healed - episode.began, describe(&episode));
        episodes.push(episode);
    }
    system.heal().await.context("not ready when all is healed")?;
    driver.finish(CAUGHT_UP).await;
    clients.await?;
    system.caught_up(CAUGHT_UP).await.context("behind when all is quiet")?;

    let mut table = Table::new();
    table.set_header(["fault", "seconds", "sign"]);
    for episode in &episodes {
        let seconds = format!("{:.1}", episode.healed - episode.began);
        table.add_row([format!("{:?}", episode.fault), seconds, describe(episode)]);
    }
    println!("{table}\n{} operations, replay paths {:?}", driver.begun(), system.replay_paths().await);
    for ended in system.unexpected() {
        println!("{ended}");
    }
    system.world().check_logs()?;
    system.stop().await?;
    let unseen = episodes.iter().filter(|episode| matches!(episode.bite, Err(NoBite::Unseen(_)))).count();
    ensure!(unseen == 0, "{unseen} of {} faults were not seen to bite", episodes.len());
    Ok(())
}

fn describe(episode: &Episode) -> String {
    match &episode.bite {
        Ok(sign) => sign.clone(),
        Err(NoBite::Skipped(reason)) => format!("skipped: {reason}"),
        Err(NoBite::Unseen(reason)) => format!("NOT SEEN: {reason}"),
    }
}
