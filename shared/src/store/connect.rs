//! How programs connect: every statement and every wait on the server has a bound, whatever happens to the client.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::timeout;

use super::address::{self, Address, Encryption, Route};
use super::{passfile, trouble};

/// SQLSTATE: the server lets nobody in from here like this, such as without TLS.
const NOT_LIKE_THIS: &str = "28000";

/// The only way to Postgres: where it is, and how to get in. Cheap to clone; all clones say together, once, what keeps them
/// from connecting.
#[derive(Debug, Clone)]
pub struct Target {
    address: Arc<Address>,
    common: Arc<Common>,
}

/// What the clones share.
#[derive(Debug, Default)]
struct Common {
    /// The host to begin with: the one that worked last.
    first: AtomicUsize,
    told: Mutex<Told>,
}

/// What the log says already.
#[derive(Debug, Default)]
struct Told {
    fault: Option<String>,
    encrypted: Option<bool>,
}

/// A connection, and whether it is encrypted as far as that was in question.
struct Opened {
    connection: PgConnection,
    encrypted: Option<bool>,
}

/// Whether a URL could be connected to.
///
/// # Errors
/// What is wrong with it, in words that quote nothing of it that may be secret.
pub fn check(url: &str) -> Result<(), String> {
    address::read(url, None).map(drop)
}

impl Target {
    /// The database of a URL, whose password may be given apart from it, with plans that do not depend on how full a table is.
    ///
    /// # Errors
    /// The URL cannot be used. The error does not quote it.
    pub fn new(url: &str, password: Option<&str>, program: &str) -> anyhow::Result<Self> {
        let mut address = address::read(url, password)
            .map_err(anyhow::Error::msg)
            .context("DATABASE_URL cannot be used")?;
        for route in &mut address.routes {
            let options = route.options.clone().application_name(program);
            route.options = configured(options);
        }
        Ok(Self { address: Arc::new(address), common: Arc::default() })
    }

    /// The same with a bound for each statement and, with 5 seconds on top, for an idle transaction: a client that vanished
    /// inside one must not hold its locks.
    #[must_use]
    pub fn bounded(&self, statement: Duration) -> Self {
        let statement = statement.as_millis();
        self.with([
            ("statement_timeout", statement.to_string()),
            ("lock_timeout", statement.to_string()),
            ("idle_in_transaction_session_timeout", (statement + 5000).to_string()),
        ])
    }

    /// The same with further settings of the server.
    #[must_use]
    pub fn with<V: std::fmt::Display + Clone>(
        &self,
        settings: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Self {
        let settings: Vec<_> = settings.into_iter().collect();
        let mut address = (*self.address).clone();
        for route in &mut address.routes {
            route.options = route.options.clone().options(settings.iter().cloned());
        }
        Self { address: Arc::new(address), common: Arc::clone(&self.common) }
    }

    /// For a pool of sqlx's: the first host.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        self.address
            .routes
            .first()
            .map_or_else(PgConnectOptions::new_without_pgpass, |route| route.options.clone())
    }

    /// Connects, at most within the time to connect to each host. Says in the log, once, why it cannot.
    ///
    /// # Errors
    /// No host lets it in.
    pub async fn connect(&self) -> sqlx::Result<PgConnection> {
        let opened = Box::pin(self.any()).await;
        self.tell(opened.as_ref());
        opened.map(|opened| opened.connection)
    }

    /// The first host that lets it in.
    async fn any(&self) -> sqlx::Result<Opened> {
        let routes = &self.address.routes;
        let (begin, count) = (self.common.first.load(Ordering::Relaxed), routes.len());
        let mut faults = Vec::new();
        for index in (begin..begin + count).map(|index| index % count) {
            // Whoever gives up while this one is tried begins with the next.
            self.common.first.store((index + 1) % count, Ordering::Relaxed);
            let opening = timeout(self.address.timeout, self.open(&routes[index]));
            let error = match opening.await {
                Ok(Ok(opened)) => {
                    self.common.first.store(index, Ordering::Relaxed);
                    return Ok(opened);
                }
                Ok(Err(error)) => error,
                Err(_) => sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
            };
            faults.push((index, error));
        }
        match faults.len() {
            1 => Err(faults.remove(0).1),
            _ => {
                faults.sort_by_key(|(index, _)| *index);
                let of = |(index, error): (usize, sqlx::Error)| {
                    let route = &routes[index];
                    format!("{}:{}: {}", route.host, route.options.get_port(), trouble::in_words(&error))
                };
                let all: Vec<String> = faults.into_iter().map(of).collect();
                Err(sqlx::Error::Io(io::Error::other(all.join("; "))))
            }
        }
    }

    async fn open(&self, route: &Route) -> sqlx::Result<Opened> {
        let mut options = route.options.clone();
        if !route.has_password
            && let Some(file) = &self.address.passfile
            && let Some(password) = passfile::password(file, &route.host, &options).await
        {
            options = options.password(&password);
        }
        let encryption = if route.is_socket() { Encryption::Fixed } else { self.address.encryption };
        let plain = || options.clone().ssl_mode(PgSslMode::Disable);
        let encrypted = || options.clone().ssl_mode(PgSslMode::Require);
        let mut opened = match encryption {
            Encryption::Fixed => Opened { connection: options.connect().await?, encrypted: None },
            Encryption::Prefer => either([(true, encrypted()), (false, plain())]).await?,
            Encryption::Allow => either([(false, plain()), (true, encrypted())]).await?,
        };
        if self.address.writable && is_read_only(&mut opened.connection).await? {
            // What matters is that it is not used.
            let _ = opened.connection.close().await;
            return Err(sqlx::Error::Io(io::Error::other("takes no writes, as a standby")));
        }
        Ok(opened)
    }

    fn tell(&self, opened: Result<&Opened, &sqlx::Error>) {
        let mut told = self.common.told.lock().unwrap_or_else(PoisonError::into_inner);
        match opened {
            Ok(opened) => {
                if told.fault.take().is_some() {
                    tracing::info!("connected to Postgres again");
                }
                if let Some(encrypted) = opened.encrypted
                    && told.encrypted.replace(encrypted) != Some(encrypted)
                {
                    let how = if encrypted { "encrypted, to whom is not verified" } else { "not encrypted" };
                    tracing::info!(encryption = how, "connected to Postgres");
                }
            }
            Err(error) => {
                let fault = trouble::in_words(error);
                if told.fault.as_ref() != Some(&fault) {
                    tracing::warn!(fault, "cannot connect to Postgres");
                    told.fault = Some(fault);
                }
            }
        }
    }
}

/// For tests, whose databases come with options.
#[cfg(any(test, feature = "test-support"))]
impl From<PgConnectOptions> for Target {
    fn from(options: PgConnectOptions) -> Self {
        let host = options
            .get_socket()
            .map_or_else(|| options.get_host().to_owned(), |dir| dir.display().to_string());
        let route = Route { options, host, has_password: true };
        let address = Address {
            routes: vec![route],
            encryption: Encryption::Fixed,
            writable: false,
            timeout: Duration::from_secs(5),
            passfile: None,
        };
        Self { address: Arc::new(address), common: Arc::default() }
    }
}

/// The first way that works; the second is tried only if it could make a difference.
async fn either([first, second]: [(bool, PgConnectOptions); 2]) -> sqlx::Result<Opened> {
    let open = async |(encrypted, options): (bool, PgConnectOptions)| {
        let connection = options.connect().await?;
        Ok(Opened { connection, encrypted: Some(encrypted) })
    };
    match open(first).await {
        Err(error) if may_differ(&error) => open(second).await,
        done => done,
    }
}

fn may_differ(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        sqlx::Error::Database(error) => error.code().as_deref() == Some(NOT_LIKE_THIS),
        _ => false,
    }
}

/// Whether the server takes no writes.
async fn is_read_only(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let statement = "SELECT pg_catalog.pg_is_in_recovery() \
        OR pg_catalog.current_setting('transaction_read_only')::boolean";
    sqlx::query_scalar(statement).fetch_one(connection).await
}

fn configured(options: PgConnectOptions) -> PgConnectOptions {
    options
        .options([
            ("tcp_keepalives_idle", "15"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            ("timezone", "UTC"),
            // No table is read as a whole where an index can serve. The server keeps a statement's plan, and one made while
            // a table was empty would go on reading all of it as it grows, until the next analyze (decision 10).
            ("enable_seqscan", "off"),
            // A statement is planned once, not each time: for arrays of a few keys the server would plan each time, which
            // takes longer than the look-up itself (decision 10).
            ("plan_cache_mode", "force_generic_plan"),
        ])
        // A statement's text is always the same; how long it takes shows in spans and metrics.
        .disable_statement_logging()
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
