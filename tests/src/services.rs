//! Where the servers and the programs are.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::server::Server;

/// A Kafka, a Postgres, and the directory of the programs.
#[derive(Debug, Clone)]
pub struct Services {
    /// Bootstrap server, `host:port`.
    pub kafka: String,
    /// URL of the owner's database.
    pub database_url: String,
    /// Where `milepost-gateway` and the others are.
    pub bin_dir: PathBuf,
}

impl Services {
    /// The servers that all tests share.
    ///
    /// # Errors
    /// The environment does not name them.
    pub fn shared() -> anyhow::Result<Self> {
        let needed = |name: &str| {
            environment(name).with_context(|| format!("{name} is not set: run the tests with 'make test'"))
        };
        Ok(Self {
            kafka: needed("MILEPOST_TEST_KAFKA")?,
            database_url: needed("MILEPOST_TEST_DATABASE_URL")?,
            bin_dir: match environment("MILEPOST_BIN_DIR") {
                Some(dir) => dir.into(),
                None => beside_this_test()?,
            },
        })
    }

    /// The same, with a Postgres that may be stopped.
    #[must_use]
    pub fn with_postgres(self, postgres: &Server) -> Self {
        Self { database_url: format!("postgres://milepost@{}/milepost", postgres.address()), ..self }
    }

    /// The same, with a Kafka that may be stopped.
    #[must_use]
    pub fn with_kafka(self, kafka: &Server) -> Self {
        Self { kafka: kafka.address(), ..self }
    }

    /// A Kafka and a Postgres of the test's own, both of which may be stopped, with the shared programs. The servers end
    /// when they are dropped.
    ///
    /// # Errors
    /// A server does not start.
    pub async fn dedicated() -> anyhow::Result<(Self, Server, Server)> {
        let (kafka, postgres) = tokio::try_join!(Server::kafka(), Server::postgres())?;
        let services = Self::shared()?.with_kafka(&kafka).with_postgres(&postgres);
        Ok((services, kafka, postgres))
    }
}

fn environment(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place where the tests read the environment")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Cargo puts a test into `target/PROFILE/deps` and the programs into `target/PROFILE`.
fn beside_this_test() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let dir = test.parent().and_then(|deps| deps.parent());
    Ok(dir.context("the test lies in no directory of cargo's: set MILEPOST_BIN_DIR")?.to_owned())
}
