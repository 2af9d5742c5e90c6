//! Test support: a database of its own for each test, on a server that many test processes use at once. Store tests get a
//! migrated one on the server that `MILEPOST_TEST_DATABASE_URL` names (as a superuser).

use std::thread;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};
use url::Url;
use uuid::Uuid;

use super::connect::Target;
use super::migrate;

const VARIABLE: &str = "MILEPOST_TEST_DATABASE_URL";
/// Bounds each statement, the wait for another process that makes the template included.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time to drop a database.
const DROPPED: Duration = Duration::from_secs(10);
/// Held while the template is made. An advisory lock counts within one database: the one the variable names.
const TEMPLATE_LOCK: i64 = 0x6d69_6c65_706f_7374;

/// Who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The user of `MILEPOST_TEST_DATABASE_URL`, who made the tables.
    Owner,
    /// `milepost_gateway`.
    Gateway,
    /// `milepost_consumer`.
    Consumer,
}

impl Role {
    /// Its name in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "milepost",
            Self::Gateway => "milepost_gateway",
            Self::Consumer => "milepost_consumer",
        }
    }
}

/// A database that nobody else uses. Dropping it drops the database and those named after it, as far as that succeeds, and
/// cuts their connections.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    url: Url,
    server: PgConnectOptions,
}

/// Makes a migrated database.
///
/// # Panics
/// `MILEPOST_TEST_DATABASE_URL` is not set, or its server cannot be used: a missing service fails the test.
pub async fn database() -> TestDatabase {
    #[expect(clippy::disallowed_methods, reason = "tests have no settings struct")]
    let url = std::env::var(VARIABLE).unwrap_or_else(|_| {
        panic!(
            "{VARIABLE} is not set; it names a Postgres for store tests, such as one started by \
             'services/postgres start DIR PORT': postgres://milepost@127.0.0.1:PORT/milepost"
        )
    });
    let server = Target::new(&url, None, "milepost-test")
        .unwrap_or_else(|_| panic!("{VARIABLE} is not a PostgreSQL URL"))
        .bounded(STATEMENT_TIMEOUT)
        .options();
    let url = url.parse().expect("it was read");
    let mut connection = open(&server).await;
    let template = template(&mut connection, &server).await;
    TestDatabase::create(&mut connection, url, server, &format!("TEMPLATE {template}"))
        .await
        .expect("a database")
}

impl TestDatabase {
    /// Makes an empty one on the server of the owner's URL.
    ///
    /// # Errors
    /// The server is not there, or refuses.
    pub async fn empty(owner_url: &str) -> sqlx::Result<Self> {
        let wrong = |error: String| sqlx::Error::Configuration(error.into());
        let target =
            Target::new(owner_url, None, "milepost-test").map_err(|error| wrong(format!("{error:#}")))?;
        let url = owner_url.parse().map_err(|_| wrong("not a URL".to_owned()))?;
        Self::create(&mut target.connect().await?, url, target.options(), "").await
    }

    async fn create(
        connection: &mut PgConnection,
        url: Url,
        server: PgConnectOptions,
        options: &str,
    ) -> sqlx::Result<Self> {
        let name = format!("t{}", Uuid::new_v4().simple());
        connection.execute(format!("CREATE DATABASE {name} {options}").as_str()).await?;
        Ok(Self { name, url, server })
    }

    /// Its name, fit for SQL without quotes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its owner connects to the server, but not to it.
    #[must_use]
    pub fn server(&self) -> &PgConnectOptions {
        &self.server
    }

    /// A URL for a program under test.
    #[must_use]
    pub fn url(&self, role: Role) -> String {
        let mut url = self.url.clone();
        url.set_path(&self.name);
        if role != Role::Owner {
            // Only a URL without a host has no user.
            let _ = url.set_username(role.name());
        }
        url.into()
    }

    /// How to connect, for a pool.
    #[must_use]
    pub fn options(&self, role: Role) -> PgConnectOptions {
        let options = self.server.clone().database(&self.name);
        if role == Role::Owner { options } else { options.username(role.name()) }
    }

    /// Connects.
    ///
    /// # Panics
    /// The server does not let the role in.
    pub async fn connect(&self, role: Role) -> PgConnection {
        open(&self.options(role)).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A thread of its own, since the test's runtime cannot be waited for from inside. What fails is left to whoever
        // removes the server.
        let dropping = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            let dropped = async {
                let mut connection = PgConnection::connect_with(&server).await?;
                for name in [name.clone(), format!("{name}_copy"), format!("{name}_lost")] {
                    let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                    connection.execute(drop.as_str()).await?;
                }
                sqlx::Result::<()>::Ok(())
            };
            let _ = runtime.block_on(async { tokio::time::timeout(DROPPED, dropped).await });
        });
        let _ = dropping.join();
    }
}

/// Makes the template of this build's migrations unless it exists. Half a template never has its name: it is renamed when
/// it is done.
async fn template(connection: &mut PgConnection, server: &PgConnectOptions) -> String {
    let template = format!("milepost_template_{:016x}", migrations_digest());
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *connection)
        .await
        .expect("the template must be free in time");
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&template)
        .fetch_one(&mut *connection)
        .await
        .expect("the server must list its databases");
    if !exists {
        let unfinished = format!("{template}_unfinished");
        execute(connection, &format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await;
        execute(connection, &format!("CREATE DATABASE {unfinished}")).await;
        let mut migrated = open(&server.clone().database(&unfinished)).await;
        migrate::migrate(&mut migrated, |_| ())
            .await
            .expect("the migrations must apply to an empty database");
        migrated.close().await.expect("the template must be left before it is renamed");
        execute(connection, &format!("ALTER DATABASE {unfinished} RENAME TO {template}")).await;
    }
    sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(connection)
        .await
        .expect("the lock is held");
    template
}

/// FNV-1a over the migrations' checksums: other migrations, another template.
fn migrations_digest() -> u64 {
    let bytes = migrate::MIGRATOR.iter().flat_map(|migration| migration.checksum.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

async fn open(options: &PgConnectOptions) -> PgConnection {
    PgConnection::connect_with(options)
        .await
        .unwrap_or_else(|error| panic!("cannot connect to the Postgres of {VARIABLE}: {error}"))
}

async fn execute(connection: &mut PgConnection, statement: &str) {
    connection.execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
}
