//! Test support: the one way in which tests of all crates, the torture harness and the benchmark wait for a condition.

use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` yields a value, looking again and again.
///
/// # Errors
/// It has not within `deadline`, with `what` was waited for; or the condition itself fails.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("not within {deadline:?}: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}
