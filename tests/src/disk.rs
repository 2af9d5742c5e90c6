//! A disk that can be full: a file system in memory, over the data of a server.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use nix::sys::statvfs::statvfs;
use tokio::process::Command;

/// What is free on a full disk, bytes: less than anything of use.
const SLACK: u64 = 128 << 10;
/// Its size when it is not full.
const ROOMY: &str = "size=50%";

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    place: PathBuf,
}

impl Disk {
    /// Mounts one over `data`, with everything in it; nobody may be using it.
    ///
    /// # Errors
    /// The machine does not allow it, and everything is as it was.
    pub(crate) async fn mount(data: &Path) -> anyhow::Result<Self> {
        let place = data.canonicalize()?;
        let copy = place.with_extension("copy");
        // With its owner, who is not root where a server refuses to run as root. What is mounted over stays below.
        run("cp", &[OsStr::new("-a"), place.as_os_str(), copy.as_os_str()]).await?;
        let options = format!("{ROOMY},mode=700");
        let args = ["-t", "tmpfs", "-o", &options, "tmpfs"].map(OsStr::new);
        let all = copy.join(".");
        let filled = async {
            run("mount", &[&args[..], &[place.as_os_str()]].concat()).await?;
            // Unmounted again if there is no room.
            let disk = Self { place };
            run("cp", &[OsStr::new("-a"), all.as_os_str(), disk.place.as_os_str()]).await?;
            Ok(disk)
        };
        let filled = filled.await;
        std::fs::remove_dir_all(&copy)?;
        filled
    }

    /// Leaves next to nothing free.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) async fn fill(&self) -> anyhow::Result<()> {
        let stat = statvfs(&self.place)?;
        let used = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
        self.resize(&format!("size={}", used + SLACK)).await
    }

    /// Makes room again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) async fn free(&self) -> anyhow::Result<()> {
        self.resize(ROOMY).await
    }

    async fn resize(&self, size: &str) -> anyhow::Result<()> {
        let options = format!("remount,{size}");
        run("mount", &[OsStr::new("-o"), OsStr::new(&options), self.place.as_os_str()]).await
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut command = std::process::Command::new("umount");
        let _left_mounted = command.arg("--lazy").arg(&self.place).status();
    }
}

async fn run(command: &str, args: &[&OsStr]) -> anyhow::Result<()> {
    let output = Command::new(command).args(args).output().await;
    let output = output.with_context(|| format!("there is no {command}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command}: {}", stderr.trim());
    Ok(())
}
