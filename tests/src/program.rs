//! One of the programs, as a process: started, ended and questioned from outside only.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::client::http;
use crate::eventually;
use crate::server::state;

/// Longest time a program may take until it is ready.
const READY: Duration = Duration::from_secs(45);
/// Longest time a program may take to drain and end: what the programs promise.
const DRAIN: Duration = Duration::from_secs(30);

/// A program with its settings, running or not. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    /// For messages and the name of the log.
    pub name: String,
    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub ops: SocketAddr,
    /// Where a gateway listens.
    pub listen: Option<SocketAddr>,
    /// Standard output and error of all its runs.
    pub log: PathBuf,
    binary: PathBuf,
    environment: BTreeMap<String, String>,
    child: Option<Child>,
    http: reqwest::Client,
}

impl Program {
    pub(crate) fn new(
        name: String,
        binary: PathBuf,
        log: PathBuf,
        ops: SocketAddr,
        listen: Option<SocketAddr>,
        mut environment: BTreeMap<String, String>,
    ) -> anyhow::Result<Self> {
        environment.insert("OPS_LISTEN".to_owned(), ops.to_string());
        if let Some(listen) = listen {
            environment.insert("LISTEN".to_owned(), listen.to_string());
        }
        let http = http().timeout(Duration::from_secs(2)).build()?;
        Ok(Self { name, ops, listen, log, binary, environment, child: None, http })
    }

    /// Has it be the program of the same name in another directory, from the next start on.
    ///
    /// # Errors
    /// There is none.
    pub fn set_build(&mut self, directory: &Path) -> anyhow::Result<()> {
        let name = self.binary.file_name().context("a program has a name")?;
        let binary = directory.join(name);
        ensure!(binary.is_file(), "no {}", binary.display());
        self.binary = binary;
        Ok(())
    }

    /// Changes a setting for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// How it would be started: the binary and its settings.
    #[must_use]
    pub fn command_line(&self) -> (&Path, &BTreeMap<String, String>) {
        (&self.binary, &self.environment)
    }

    /// Takes a setting back, for the next start. Whether it was set.
    pub fn unset(&mut self, name: &str) -> bool {
        self.environment.remove(name).is_some()
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready within 45 seconds.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.await_ready(READY).await
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.binary)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}: is it built?", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until `/readyz` says that it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready within `deadline`.
    pub async fn await_ready(&mut self, deadline: Duration) -> anyhow::Result<()> {
        let what = format!("{} is ready", self.name);
        eventually(deadline, &what, async || {
            if let Some(status) = self.child.as_mut().context("it was not started")?.try_wait()? {
                bail!("{} ended while starting: {status}", self.name);
            }
            Ok(self.ready().await.then_some(()))
        })
        .await
    }

    /// Whether `/readyz` says that it is ready now.
    pub async fn ready(&self) -> bool {
        let page = self.http.get(format!("http://{}/readyz", self.ops)).send().await;
        page.is_ok_and(|page| page.status().is_success())
    }

    /// Whether `/readyz` says that it is ready now, and that nothing is down that it can do without.
    pub async fn is_whole(&self) -> bool {
        let page = self.page("/readyz").await.and_then(|page| serde_json::from_str(&page).ok());
        page.is_some_and(|page: serde_json::Value| {
            page["ready"] == true && page["degraded"].as_array().is_some_and(Vec::is_empty)
        })
    }

    /// Whether `/readyz` says that a dependency is up now.
    pub async fn has_up(&self, dependency: &str) -> bool {
        let page = self.page("/readyz").await.and_then(|page| serde_json::from_str(&page).ok());
        page.is_some_and(|page: serde_json::Value| page["dependencies"][dependency]["up"] == true)
    }

    /// A page of the operators' listener; `None` if it does not answer.
    pub async fn page(&self, path: &str) -> Option<String> {
        self.http.get(format!("http://{}{path}", self.ops)).send().await.ok()?.text().await.ok()
    }

    /// The sum of a metric over its labels; 0 if there is none.
    ///
    /// # Errors
    /// The program does not answer.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        self.metric_of(name, "").await
    }

    /// The same, of the series with a label such as `result="ok"` only.
    ///
    /// # Errors
    /// The program does not answer.
    pub async fn metric_of(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let page = self.page("/metrics").await.with_context(|| format!("{} shows no metrics", self.name))?;
        let of_name = page.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        });
        Ok(of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Resident memory, bytes.
    ///
    /// # Errors
    /// It does not run.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(self.pid()?), signal)?)
    }

    /// Open files.
    ///
    /// # Errors
    /// It does not run.
    pub fn open_files(&self) -> anyhow::Result<u64> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()?))?.count() as u64)
    }

    /// Whether it is stopped (SIGSTOP).
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.pid().is_ok_and(|pid| state(pid) == Some('T'))
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// The system does not say.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.ended()?.is_none() && self.child.is_some())
    }

    /// How it ended, if it has ended by itself since the last call.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// The process, for whoever measures it.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> anyhow::Result<i32> {
        let pid = self.child.as_ref().and_then(Child::id);
        Ok(i32::try_from(pid.with_context(|| format!("{} does not run", self.name))?)?)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It has not ended within `deadline`, or was never started.
    pub async fn wait_exit(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        match tokio::time::timeout(deadline, child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                self.child = Some(child);
                bail!("{} has not ended within {deadline:?}", self.name)
            }
        }
    }

    /// Kills it, as a power cut would.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_exit(DRAIN).await.map(drop)
    }

    /// Stops it as an operator does.
    ///
    /// # Errors
    /// It does not end with status 0 within 30 seconds.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait_exit(DRAIN).await?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Stops and starts it.
    ///
    /// # Errors
    /// It does not end or does not become ready.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// Everything it has written.
    ///
    /// # Errors
    /// There is no log.
    pub fn logged(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }
}
