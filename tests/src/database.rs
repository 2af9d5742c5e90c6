//! What tests do to a database: they take it away, put it back, and make it read-only.

use anyhow::Context as _;
use milepost_shared::store::testing::{Role, TestDatabase};
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, PgPool};

/// A database, managed from its owner's other one. Removed when dropped, with what is left of copies.
#[derive(Debug)]
pub struct Database(TestDatabase);

impl Database {
    /// Creates an empty one on the server of `owner_url`.
    ///
    /// # Errors
    /// The server is not there, or refuses.
    pub async fn create(owner_url: &str) -> anyhow::Result<Self> {
        Ok(Self(TestDatabase::empty(owner_url).await.context("Postgres makes no database")?))
    }

    /// Its name, fit for SQL without quotes.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Its URL for a role.
    #[must_use]
    pub fn url(&self, role: Role) -> String {
        self.0.url(role)
    }

    /// The owner's connections to it, made when they are needed.
    #[must_use]
    pub fn pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(3).connect_lazy_with(self.0.options(Role::Owner))
    }

    /// Closes every connection to it and lets nobody in, until [`open`](Self::open).
    ///
    /// # Errors
    /// The server refuses.
    pub async fn close(&self) -> anyhow::Result<()> {
        self.execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", self.name())).await?;
        let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity";
        self.execute(&format!("{end} WHERE datname = '{}'", self.name())).await
    }

    /// Lets connections in again.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn open(&self) -> anyhow::Result<()> {
        self.execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", self.name())).await
    }

    /// Takes a copy, which closes everybody's connections.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn copy(&self) -> anyhow::Result<()> {
        self.execute(&format!("DROP DATABASE IF EXISTS {}_copy WITH (FORCE)", self.name())).await?;
        self.close().await?;
        self.execute(&format!("CREATE DATABASE {0}_copy TEMPLATE {0}", self.name())).await?;
        self.open().await
    }

    /// Puts the copy in its place: what was committed since is lost.
    ///
    /// # Errors
    /// There is no copy.
    pub async fn put_back(&self) -> anyhow::Result<()> {
        self.close().await?;
        self.execute(&format!("ALTER DATABASE {0} RENAME TO {0}_lost", self.name())).await?;
        self.execute(&format!("ALTER DATABASE {0}_copy RENAME TO {0}", self.name())).await?;
        self.execute(&format!("DROP DATABASE {}_lost WITH (FORCE)", self.name())).await
    }

    /// Makes it read-only, or writable again, for new connections; everybody has to reconnect.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn set_read_only(&self, read_only: bool) -> anyhow::Result<()> {
        let name = self.name();
        self.execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = {read_only}"))
            .await?;
        self.close().await?;
        self.open().await
    }

    async fn execute(&self, statement: &str) -> anyhow::Result<()> {
        let mut owner = PgConnection::connect_with(self.0.server()).await.context("Postgres is not there")?;
        owner.execute(statement).await.with_context(|| statement.to_owned())?;
        Ok(())
    }
}
