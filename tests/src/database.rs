//! A database of a test's own, on a server it may share with others.

use anyhow::Context as _;
use reqwest::Url;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, PgPool};

/// A database, managed from its owner's other one.
#[derive(Debug)]
pub struct Database {
    /// Its name, fit for SQL without quotes.
    pub name: String,
    owner_url: String,
}

impl Database {
    /// Creates an empty one on the server of `owner_url`.
    ///
    /// # Errors
    /// The server is not there, or refuses.
    pub async fn create(owner_url: &str) -> anyhow::Result<Self> {
        let name = format!("t{:016x}", rand::random::<u64>());
        let database = Self { name, owner_url: owner_url.to_owned() };
        database.execute(&format!("CREATE DATABASE {}", database.name)).await?;
        Ok(database)
    }

    /// Its URL for a role.
    ///
    /// # Errors
    /// The owner's URL is none.
    pub fn url(&self, role: &str) -> anyhow::Result<String> {
        let mut url: Url = self.owner_url.parse()?;
        url.set_path(&self.name);
        url.set_username(role).ok().context("the URL has no place for a user")?;
        Ok(url.into())
    }

    /// The owner's connections to it, made when they are needed.
    ///
    /// # Errors
    /// The owner's URL is none.
    pub fn pool(&self) -> anyhow::Result<PgPool> {
        let options: PgConnectOptions = self.owner_url.parse()?;
        Ok(PgPoolOptions::new().max_connections(3).connect_lazy_with(options.database(&self.name)))
    }

    /// Ends every connection to it and lets nobody in, until [`open`](Self::open).
    ///
    /// # Errors
    /// The server refuses.
    pub async fn close(&self) -> anyhow::Result<()> {
        self.execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", self.name)).await?;
        let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity";
        self.execute(&format!("{end} WHERE datname = '{}'", self.name)).await
    }

    /// Lets connections in again.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn open(&self) -> anyhow::Result<()> {
        self.execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", self.name)).await
    }

    /// Takes a copy; everybody's connections are ended for that.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn copy(&self) -> anyhow::Result<()> {
        self.execute(&format!("DROP DATABASE IF EXISTS {}_copy WITH (FORCE)", self.name)).await?;
        self.close().await?;
        self.execute(&format!("CREATE DATABASE {0}_copy TEMPLATE {0}", self.name)).await?;
        self.open().await
    }

    /// Puts the copy in its place: what was committed since is lost.
    ///
    /// # Errors
    /// There is no copy.
    pub async fn put_back(&self) -> anyhow::Result<()> {
        self.close().await?;
        self.execute(&format!("ALTER DATABASE {0} RENAME TO {0}_lost", self.name)).await?;
        self.execute(&format!("ALTER DATABASE {0}_copy RENAME TO {0}", self.name)).await?;
        self.execute(&format!("DROP DATABASE {}_lost WITH (FORCE)", self.name)).await
    }

    /// Lets nothing be written, by whoever connects from now on; everybody has to connect anew.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn set_read_only(&self, read_only: bool) -> anyhow::Result<()> {
        let name = &self.name;
        self.execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = {read_only}"))
            .await?;
        self.close().await?;
        self.open().await
    }

    /// Removes it and what is left of copies.
    ///
    /// # Errors
    /// The server is not there.
    pub async fn remove(&self) -> anyhow::Result<()> {
        for suffix in ["", "_copy", "_lost"] {
            let drop = format!("DROP DATABASE IF EXISTS {}{suffix} WITH (FORCE)", self.name);
            self.execute(&drop).await?;
        }
        Ok(())
    }

    async fn execute(&self, statement: &str) -> anyhow::Result<()> {
        let mut owner = PgConnection::connect(&self.owner_url).await.context("Postgres is not there")?;
        owner.execute(statement).await.with_context(|| statement.to_owned())?;
        Ok(())
    }
}
