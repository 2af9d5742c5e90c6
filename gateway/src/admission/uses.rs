//! When keys were last used: noted to the hour, in batches and off the requests' path. Nothing waits for it, and nothing but
//! the note is lost when it fails.

use std::time::Duration;

use milepost_shared::store::api_keys::{self, USES_MAX};
use milepost_shared::store::connection::Connections;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::admission::known::Hash;

/// Most uses that wait; those past it are taken at the key's next request.
const WAITING_MAX: usize = 100_000;
const PAUSE: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Keys whose use is to be noted.
#[derive(Default)]
pub struct Uses(Mutex<Vec<Hash>>);

impl Uses {
    /// Takes one, unless too many wait.
    pub fn take(&self, hash: Hash) -> bool {
        let mut waiting = self.0.lock();
        let room = waiting.len() < WAITING_MAX;
        if room {
            waiting.push(hash);
        }
        room
    }

    /// Notes what waits in the database, for ever. What fails is tried again.
    pub async fn note(&self, connections: &Connections) {
        let (mut batch, mut failing) = (Vec::new(), false);
        loop {
            if batch.is_empty() {
                batch = self.batch();
            }
            if batch.is_empty() {
                sleep(PAUSE).await;
                continue;
            }
            let asking = connections.ask(async |connection| api_keys::note_uses(connection, &batch).await);
            let error = match timeout(TIMEOUT, asking).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("Postgres does not answer in time".to_owned()),
            };
            if let Some(error) = &error {
                if !failing {
                    tracing::warn!(error, "cannot note when API keys were used; it is tried again");
                }
                sleep(PAUSE).await;
            } else {
                batch.clear();
            }
            failing = error.is_some();
        }
    }

    fn batch(&self) -> Vec<Hash> {
        let mut waiting = self.0.lock();
        let rest = waiting.len().saturating_sub(USES_MAX);
        let batch = waiting.split_off(rest);
        if waiting.is_empty() {
            waiting.shrink_to(USES_MAX);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_there_is_room_for_and_all_of_them_come_in_batches() {
        let uses = Uses::default();
        let taken = (0..=WAITING_MAX).filter(|_| uses.take([1; 32])).count();
        assert_eq!(taken, WAITING_MAX);
        let batches = std::iter::repeat_with(|| uses.batch().len()).take_while(|size| *size > 0);
        assert_eq!(batches.collect::<Vec<_>>(), [USES_MAX; WAITING_MAX / USES_MAX]);
        assert!(uses.take([1; 32]));
    }
}
