//! A development server of a test's own, run by the scripts in `services/`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::process::Command;

/// A Kafka or a Postgres that a test may stop. It is killed when dropped, and its data removed.
#[derive(Debug)]
pub struct Server {
    script: PathBuf,
    dir: TempDir,
    port: u16,
}

impl Server {
    /// Starts a Kafka, which takes some seconds.
    ///
    /// # Errors
    /// It does not start.
    pub async fn kafka() -> anyhow::Result<Self> {
        Self::started("kafka").await
    }

    /// Starts a Postgres.
    ///
    /// # Errors
    /// It does not start.
    pub async fn postgres() -> anyhow::Result<Self> {
        Self::started("postgres").await
    }

    async fn started(name: &str) -> anyhow::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services").join(name);
        let server = Self { script, dir: tempfile::tempdir()?, port: free_port()? };
        server.start().await?;
        Ok(server)
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it (again), and returns when it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn start(&self) -> anyhow::Result<()> {
        self.run("start").await
    }

    /// Stops it gracefully.
    ///
    /// # Errors
    /// It does not stop.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.run("stop").await
    }

    /// Kills it, as a power cut would.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.run("kill").await
    }

    async fn run(&self, verb: &str) -> anyhow::Result<()> {
        let output = Command::new(&self.script)
            .arg(verb)
            .arg(self.dir.path())
            .arg(self.port.to_string())
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| format!("cannot run {}", self.script.display()))?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {verb}: {told}", self.script.display());
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut command = std::process::Command::new(&self.script);
        command.arg("kill").arg(self.dir.path()).arg(self.port.to_string());
        let _ended_with_the_test = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A port nobody listens on, below the range that the kernel gives to outgoing connections. Random, so that tests running
/// side by side do not meet.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    for _ in 0..1000 {
        let port = rand::random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port among 20000 to 31999")
}
