//! Faults, injected one at a time per part of the system: each is done, lasts, is healed, and shows a sign that it bit.
//!
//! A sign is always something seen: an exit, a state in `/proc`, a count of the proxy, a row of the database's own tables, a
//! metric that rose. That a fault was requested is not a sign.

mod database;
mod disk;
mod group;
mod link;
mod process;

use std::time::Duration;

use crate::fault::{Episode, Fault, NoBite, Target};
use crate::schedule::Planned;
use crate::system::System;

/// How long a sign is waited for after the fault itself.
const SIGN: Duration = Duration::from_secs(20);

impl System {
    /// Does one fault and heals it. `now` is the run's time. Several may be under way at once: one that does not agree with
    /// another waits for its end.
    pub async fn inject(&self, planned: &Planned, now: impl Fn() -> Duration) -> Episode {
        let _claimed = self.claim(planned.fault).await;
        let began = now().as_secs_f64();
        let bite = self.bite(planned.fault, planned.lasts).await;
        Episode { fault: planned.fault, began, healed: now().as_secs_f64(), bite }
    }

    async fn bite(&self, fault: Fault, lasts: Duration) -> Result<String, NoBite> {
        let seen = match fault {
            Fault::Kill(target @ (Target::Gateway | Target::Consumer)) => self.kill(target, lasts).await,
            Fault::Kill(target) => self.kill_server(target, lasts).await,
            Fault::Pause(target @ (Target::Gateway | Target::Consumer)) => self.pause(target, lasts).await,
            Fault::Pause(target) => self.pause_server(target, lasts).await,
            Fault::Restart(target @ (Target::Gateway | Target::Consumer)) => self.restart(target).await,
            Fault::Restart(target) => self.restart_server(target).await,
            Fault::Crash(kind) => self.crash(kind, lasts).await,
            Fault::ClockAhead(target) => self.offset_clock(target, 25, lasts).await,
            Fault::ClockBehind(target) => self.offset_clock(target, -1, lasts).await,
            Fault::TinyCache => self.tiny_cache(lasts).await,
            Fault::Link(link, trouble) => self.trouble(link, trouble, lasts).await,
            Fault::TerminateBackends => self.terminate_backends(lasts).await,
            Fault::ReadOnly => self.read_only(lasts).await,
            Fault::TableLock => self.lock_table(lasts).await,
            Fault::ConnectionsExhausted => self.exhaust_connections(lasts).await,
            Fault::PutBack => self.put_back(lasts).await,
            Fault::OffsetsDeleted => self.delete_offsets(lasts).await,
            Fault::Rebalances => self.rebalance(lasts).await,
            Fault::Poison => self.poison(lasts).await,
            Fault::DiskFull(_) if self.no_disk().is_some() => {
                return Err(NoBite::Skipped(self.no_disk().unwrap_or_default().to_owned()));
            }
            Fault::DiskFull(target) => self.fill_disk(target, lasts).await,
        };
        seen.map_err(|error| NoBite::Unseen(format!("{error:#}")))
    }
}
