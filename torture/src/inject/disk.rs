//! Disks that are full.

use std::time::Duration;

use milepost_tests::eventually;
use sqlx::Executor as _;
use tokio::time::sleep;

use super::SIGN;
use crate::fault::Target;
use crate::system::System;

/// What the kernel reports to whoever writes.
const ENOSPC: &str = "No space left on device";

impl System {
    /// Why no disk can be full here; `None` if they can.
    pub(super) fn no_disk(&self) -> Option<&str> {
        self.no_disk.as_deref()
    }

    pub(super) async fn fill_disk(&self, target: Target, lasts: Duration) -> anyhow::Result<String> {
        let (name, server) = self.server(target);
        let before = server.logged()?.len();
        let mut owner = if target == Target::Postgres { Some(self.owner().await?) } else { None };
        let full = async {
            server.fill_disk().await?;
            sleep(lasts).await;
            eventually(SIGN, &format!("{name} meets the full disk"), async || {
                // A new file of the log of writes, which has the old ones to use up before that.
                if let Some(owner) = &mut owner {
                    let _it_fails_in_the_end = owner.execute("SELECT pg_switch_wal()").await;
                }
                Ok(server.logged()?[before..].contains(ENOSPC).then_some(()))
            })
            .await
        };
        let full = full.await;
        let ended = server.processes().is_empty();
        server.free_disk().await?;
        // What met a full disk may be half alive.
        server.kill().await?;
        server.start().await?;
        full?;
        Ok(format!("{name} said '{ENOSPC}'{}", if ended { " and ended" } else { "" }))
    }
}
