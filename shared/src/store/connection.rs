//! Connections that are kept from one query to the next, as long as they are in a known state.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::PgConnection;
use tokio::sync::Semaphore;

use super::connect::Target;

/// A few connections, made when they are needed. Cheap to clone.
///
/// Only what has answered is kept: a connection on which a query failed, or was given up in its middle, whose answer may
/// still come, is closed. No pool of sqlx's, which asks the server after each query whether the connection still works.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    target: Target,
    room: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
}

impl Connections {
    /// At most so many at a time; none is made yet.
    #[must_use]
    pub fn new(target: Target, most: usize) -> Self {
        Self(Arc::new(Inner { target, room: Semaphore::new(most), idle: Mutex::default() }))
    }

    /// Runs queries on a connection of their own. Waits for one as long as all are in use; the caller sets the deadline, and
    /// drops the future then.
    ///
    /// # Errors
    /// What the queries fail with, or that the server cannot be reached.
    pub async fn ask<T, E: From<sqlx::Error>>(
        &self,
        queries: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let _one = self.0.room.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.0.target.connect().await?,
        };
        let answer = queries(&mut connection).await;
        match &answer {
            Ok(_) => self.idle().push(connection),
            // What has broken one connection has likely broken all.
            Err(_) => self.forget(),
        }
        answer
    }

    /// Closes those that are not in use, such as after a deadline that has passed.
    pub fn forget(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::store::testing::{Role, database};

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn pid(connection: &mut PgConnection) -> sqlx::Result<i32> {
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection).await
    }

    async fn run(connection: &mut PgConnection, sql: &str) -> sqlx::Result<()> {
        sqlx::query(sql).execute(connection).await.map(drop)
    }

    #[tokio::test]
    async fn a_connection_that_answered_is_kept_and_one_that_failed_or_was_given_up_is_not() {
        let database = database().await;
        let connections = Connections::new(database.options(Role::Gateway).into(), 1);
        let first = connections.ask(pid).await.unwrap();
        assert_eq!(connections.ask(pid).await.unwrap(), first);

        let failing = connections.ask(async |connection| run(connection, "SELECT 1 / 0").await);
        failing.await.unwrap_err();
        let second = connections.ask(pid).await.unwrap();
        assert_ne!(second, first);

        let sleeping = connections.ask(async |connection| run(connection, "SELECT pg_sleep(60)").await);
        timeout(Duration::from_millis(100), sleeping).await.unwrap_err();
        let third = connections.ask(pid).await.unwrap();
        assert!(third != first && third != second);

        connections.forget();
        assert_ne!(connections.ask(pid).await.unwrap(), third);
    }

    #[tokio::test]
    async fn a_query_waits_for_a_connection_while_all_are_in_use() {
        let database = database().await;
        let connections = Connections::new(database.options(Role::Gateway).into(), 1);
        let (taken, is_taken) = tokio::sync::oneshot::channel();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let holding = tokio::spawn({
            let connections = connections.clone();
            async move {
                let hold = async |connection: &mut PgConnection| {
                    taken.send(()).unwrap();
                    gone.await.unwrap();
                    pid(connection).await
                };
                connections.ask(hold).await.unwrap()
            }
        });
        timeout(PATIENCE, is_taken).await.unwrap().unwrap();
        let mut asking = std::pin::pin!(connections.ask(pid));
        timeout(Duration::from_millis(100), asking.as_mut()).await.unwrap_err();
        go.send(()).unwrap();
        assert_eq!(timeout(PATIENCE, asking).await.unwrap().unwrap(), holding.await.unwrap());
    }
}
