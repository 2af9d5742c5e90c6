//! A watcher's connection to a database that comes and goes.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

use crate::evidence::Sources;

/// Longest wait for an answer; a server may be stopped in the middle of one.
const PATIENCE: Duration = Duration::from_secs(3);

/// Made when it is needed, and again after any failure.
pub(super) struct Connection {
    options: PgConnectOptions,
    open: Option<PgConnection>,
}

impl Connection {
    pub(super) fn new(sources: &Sources) -> Self {
        let options = sources.tables.pool.connect_options();
        // Not under the name of a program, so that nobody takes it for one.
        Self { options: (*options).clone().application_name("milepost-torture"), open: None }
    }

    /// Asks once; `None` if there is no answer in time.
    pub(super) async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Option<T> {
        // Taken: a connection that is left in the middle of a question must not be used for another.
        let open = self.open.take();
        let asking = async {
            let mut connection = match open {
                Some(connection) => connection,
                None => PgConnection::connect_with(&self.options).await?,
            };
            let answer = question(&mut connection).await?;
            Ok::<_, sqlx::Error>((connection, answer))
        };
        let (connection, answer) = timeout(PATIENCE, asking).await.ok()?.ok()?;
        self.open = Some(connection);
        Some(answer)
    }
}
