//! A development server of a test's own, run by the scripts in `services/`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::Command;

use crate::disk::Disk;
use crate::eventually;

/// A Kafka or a Postgres that a test may stop. It is killed when dropped, and its data removed.
#[derive(Debug)]
pub struct Server {
    script: PathBuf,
    // Unmounted after the server's end, and before its directory is removed.
    disk: Option<Disk>,
    dir: TempDir,
    port: u16,
    environment: Vec<(&'static str, String)>,
}

/// A way to a Kafka through a proxy.
#[derive(Debug, Clone, Copy)]
pub struct Via {
    /// The listener's name, upper case.
    pub name: &'static str,
    /// Where Kafka listens for the proxy.
    pub listens: u16,
    /// Where its clients are sent: the proxy's port.
    pub advertised: u16,
}

impl Server {
    /// Starts a Kafka, which takes some seconds.
    ///
    /// # Errors
    /// It does not start.
    pub async fn kafka() -> anyhow::Result<Self> {
        Self::started("kafka", Vec::new()).await
    }

    /// Starts a Kafka that is also reached through proxies: whoever comes by one of these ways stays on it.
    ///
    /// # Errors
    /// It does not start.
    pub async fn kafka_via(ways: &[Via]) -> anyhow::Result<Self> {
        let via: Vec<String> =
            ways.iter().map(|way| format!("{}:{}:{}", way.name, way.listens, way.advertised)).collect();
        Self::started("kafka", vec![("KAFKA_VIA", via.join(" "))]).await
    }

    /// Starts a Postgres.
    ///
    /// # Errors
    /// It does not start.
    pub async fn postgres() -> anyhow::Result<Self> {
        Self::started("postgres", Vec::new()).await
    }

    /// Starts a Postgres with further variables for its script.
    ///
    /// # Errors
    /// It does not start.
    pub async fn postgres_with(environment: Vec<(&'static str, String)>) -> anyhow::Result<Self> {
        Self::started("postgres", environment).await
    }

    async fn started(name: &str, environment: Vec<(&'static str, String)>) -> anyhow::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services").join(name);
        let server = Self { script, disk: None, dir: tempfile::tempdir()?, port: free_port()?, environment };
        server.start().await?;
        Ok(server)
    }

    /// Its port on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Moves its data to a disk that can be full; it is restarted for that.
    ///
    /// # Errors
    /// The machine does not allow it, and it runs as before; or it does not start.
    pub async fn limit_disk(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        let mounted = Disk::mount(&self.dir.path().join("data")).await;
        self.start().await?;
        self.disk = Some(mounted?);
        Ok(())
    }

    /// Leaves next to nothing free on its disk.
    ///
    /// # Errors
    /// Its disk is not [limited](Self::limit_disk).
    pub async fn fill_disk(&self) -> anyhow::Result<()> {
        self.disk.as_ref().context("the disk is not limited")?.fill().await
    }

    /// Makes room on its disk again; nothing happens if it was not full.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn free_disk(&self) -> anyhow::Result<()> {
        match &self.disk {
            Some(disk) => disk.free().await,
            None => Ok(()),
        }
    }

    /// What it has logged in all its runs.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn logged(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.dir.path().join("log"))?).into_owned())
    }

    /// Its processes, the parent first; none if it does not run.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).ok();
        let Some(first) = pid.and_then(|pid| pid.trim().parse().ok()).filter(|pid| parent(*pid).is_some())
        else {
            return Vec::new();
        };
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let children = pids.filter(|pid| parent(*pid) == Some(first));
        std::iter::once(first).chain(children).collect()
    }

    /// Stops it where it is (SIGSTOP), with all its processes.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        let processes = self.processes();
        ensure!(!processes.is_empty(), "{} does not run", self.script.display());
        // The parent first, so that it starts no other meanwhile.
        signal(&processes[..1], Signal::SIGSTOP);
        signal(&self.processes(), Signal::SIGSTOP);
        Ok(())
    }

    /// Lets it go on (SIGCONT); nothing happens if it was not paused.
    pub fn resume(&self) {
        let mut processes = self.processes();
        processes.reverse();
        signal(&processes, Signal::SIGCONT);
    }

    /// Whether all its processes are stopped.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        let processes = self.processes();
        !processes.is_empty() && processes.iter().all(|pid| state(*pid) == Some('T'))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It has not within `deadline`.
    pub async fn wait_end(&self, deadline: Duration) -> anyhow::Result<()> {
        eventually(deadline, "the server ends", async || Ok(self.processes().is_empty().then_some(()))).await
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its data are, and `pid` of its process.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
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
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| format!("cannot run {}", self.script.display()))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {verb}: {stderr}", self.script.display());
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

fn signal(pids: &[i32], signal: Signal) {
    for pid in pids {
        let _it_has_ended_meanwhile = kill(Pid::from_raw(*pid), signal);
    }
}

/// The state of a process, such as `T` for stopped; `None` if there is no such process.
pub(crate) fn state(pid: i32) -> Option<char> {
    stat(pid)?.chars().next()
}

/// Who started a process; `None` if it has ended.
fn parent(pid: i32) -> Option<i32> {
    let stat = stat(pid)?;
    let mut fields = stat.split(' ');
    if fields.next()? == "Z" { None } else { fields.next()?.parse().ok() }
}

/// What the kernel says about a process behind its name, which may hold anything.
fn stat(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.to_owned())
}

/// A port nobody listens on, below the range that the kernel gives to outgoing connections. Random, so that tests running
/// side by side do not meet.
///
/// # Errors
/// A thousand guesses were wrong.
pub fn free_port() -> anyhow::Result<u16> {
    for _ in 0..1000 {
        let port = rand::random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port among 20000 to 31999")
}
