//! What Milepost is compared with over HTTP, as a process of its own like the gateway: *noop* and *plain*.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::serve::ListenerExt as _;
use milepost_tests::{Role, World};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::clients::Clients;
use crate::ledger::Ledger;
use crate::plain;
use crate::requests::{Requests, Sent};
use crate::setup::Setup;

/// Longest time until one listens.
const READY: Duration = Duration::from_secs(30);

/// An opponent that runs. Killed when dropped.
#[derive(Debug)]
pub struct Opponent {
    address: SocketAddr,
    process: Child,
    /// Where *plain* stores.
    world: Option<World>,
    secret: String,
    ledger: Arc<Ledger>,
}

impl Opponent {
    /// Starts *noop*.
    ///
    /// # Errors
    /// It does not start.
    pub async fn noop() -> anyhow::Result<Self> {
        Self::start(&["noop"], None).await
    }

    /// Starts *plain* on a database of its own with Milepost's tables.
    ///
    /// # Errors
    /// It does not start, or the database cannot be made.
    pub async fn plain(setup: &Setup) -> anyhow::Result<Self> {
        let world = World::without_topics(setup.services.clone(), setup.world_settings()).await?;
        let url = world.database.url(Role::Owner);
        let connections = setup.plain_connections.to_string();
        Self::start(&["plain", "--database-url", &url, "--connections", &connections], Some(world)).await
    }

    async fn start(arguments: &[&str], world: Option<World>) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut output = BufReader::new(process.stdout.take().context("no output")?);
        let mut line = String::new();
        let read = tokio::time::timeout(READY, output.read_line(&mut line)).await;
        read.with_context(|| format!("{arguments:?} does not listen"))??;
        let address = line.trim().parse().with_context(|| format!("{arguments:?} did not start"))?;
        // Noop does not look at it, but some have it in their path.
        let secret = world.as_ref().map_or_else(|| "secret".to_owned(), |world| world.account.secret.clone());
        Ok(Self { address, process, world, secret, ledger: Arc::default() })
    }

    /// What sends these, each with a key or points of its own.
    #[must_use]
    pub fn requests(&self, sent: impl Into<Sent>) -> Requests {
        Requests::new(sent, &self.secret, &self.ledger)
    }

    /// Connections to it that send these.
    ///
    /// # Errors
    /// It refuses.
    pub async fn clients(&self, count: usize, sent: impl Into<Sent>) -> anyhow::Result<Clients> {
        self.connect(count, self.requests(sent)).await
    }

    /// Connections to it that send these requests.
    ///
    /// # Errors
    /// It refuses.
    pub async fn connect(&self, count: usize, requests: Requests) -> anyhow::Result<Clients> {
        Clients::connect(&[self.address], count, requests).await
    }

    /// Its process.
    ///
    /// # Errors
    /// It has ended.
    pub fn pid(&self) -> anyhow::Result<i32> {
        Ok(i32::try_from(self.process.id().context("the opponent has ended")?)?)
    }

    /// Where *plain* stores.
    ///
    /// # Errors
    /// It is *noop*, which stores nothing.
    pub fn world(&self) -> anyhow::Result<&World> {
        self.world.as_ref().context("noop stores nothing")
    }

    /// Ends it. What *plain* has stored must be what it answered.
    ///
    /// # Errors
    /// It is not.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.process.kill().await?;
        if let Some(world) = self.world {
            let points = plain::points::count(&world.tables).await?;
            self.ledger.check_with(points, &world.tables).await.context("plain")?;
            world.leave();
        }
        Ok(())
    }
}

/// The opponent's own side: prints where it listens and serves until it is killed.
///
/// # Errors
/// There is no free port.
pub async fn serve(router: Router) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("no TCP_NODELAY: {error}");
        }
    });
    Ok(axum::serve(listener, router).await?)
}
