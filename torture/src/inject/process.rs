//! Programs and servers that are killed, paused, restarted, that crash, or whose settings are odd.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::ensure;
use milepost_tests::{Program, Server, Signal, eventually};
use tokio::time::sleep;

use super::SIGN;
use crate::fault::{CrashKind, Target};
use crate::system::System;

/// Longest time between SIGKILL and the end.
const KILLED: Duration = Duration::from_secs(10);
/// Longest time between SIGTERM and the end: what the programs promise.
const DRAIN: Duration = Duration::from_secs(30);
/// Longest time until a program has come to its crash point.
const CRASHED: Duration = Duration::from_secs(45);

/// A setting of a program.
struct Setting<'a> {
    name: &'a str,
    value: &'a str,
}

/// What shows that a program works with its setting: a metric, or its series with a label, is above 0.
struct Sign<'a> {
    metric: &'a str,
    label: &'a str,
}

impl System {
    pub(super) async fn kill(&self, target: Target, lasts: Duration) -> anyhow::Result<String> {
        let (slot, mut program) = self.one(target).await?;
        self.keep_paths(&program).await;
        let killed = async {
            program.signal(Signal::SIGKILL)?;
            program.wait_exit(KILLED).await
        };
        let killed = killed.await;
        sleep(lasts).await;
        self.revive(slot, &mut program).await?;
        Ok(format!("{} ended: {}", slot.name, killed?))
    }

    pub(super) async fn pause(&self, target: Target, lasts: Duration) -> anyhow::Result<String> {
        let (slot, mut program) = self.one(target).await?;
        let paused = async {
            program.signal(Signal::SIGSTOP)?;
            eventually(KILLED, "the program is stopped", async || Ok(program.is_paused().then_some(())))
                .await?;
            sleep(lasts).await;
            ensure!(program.is_paused(), "somebody let it go on");
            anyhow::Ok(())
        };
        let paused = paused.await;
        // An error is that it has ended meanwhile.
        let _ = program.signal(Signal::SIGCONT);
        self.revive(slot, &mut program).await?;
        paused?;
        Ok(format!("{} stopped (T) for {:.1} s", slot.name, lasts.as_secs_f64()))
    }

    pub(super) async fn restart(&self, target: Target) -> anyhow::Result<String> {
        let (slot, mut program) = self.one(target).await?;
        let ended = self.end(&mut program).await;
        self.revive(slot, &mut program).await?;
        ended?;
        Ok(format!("{} drained and ended with 0", slot.name))
    }

    /// Stops a program as an operator does, by force if it does not react.
    async fn end(&self, program: &mut Program) -> anyhow::Result<()> {
        self.keep_paths(program).await;
        program.signal(Signal::SIGTERM)?;
        let ended = program.wait_exit(DRAIN).await;
        if ended.is_err() {
            program.kill().await?;
        }
        let status = ended?;
        ensure!(status.success(), "{} was asked to end, and ended with {status}", program.name);
        Ok(())
    }

    pub(super) async fn crash(&self, kind: CrashKind, lasts: Duration) -> anyhow::Result<String> {
        let (slot, mut program) = self.one(kind.target()).await?;
        // Not always at the first passing.
        let passing = 1 + lasts.as_millis() % 7;
        let point = kind.point().name();
        program.set("CRASH_AT", &format!("{point}:{passing}"));
        let crashed = async {
            self.end(&mut program).await?;
            // What gathers meanwhile is in the batch that it dies with.
            sleep(lasts).await;
            program.spawn()?;
            program.wait_exit(CRASHED).await
        };
        let crashed = crashed.await;
        self.revive(slot, &mut program).await?;
        let status = crashed?;
        ensure!(status.signal() == Some(Signal::SIGKILL as i32), "{} ended with {status}", slot.name);
        Ok(format!("{} died at {point}, passing {passing}: {status}", slot.name))
    }

    pub(super) async fn offset_clock(
        &self,
        target: Target,
        hours: i64,
        lasts: Duration,
    ) -> anyhow::Result<String> {
        let offset = (hours * 3_600_000).to_string();
        let metric = match target {
            Target::Gateway => "milepost_gateway_uploads_total",
            _ => "milepost_consumer_decided_total",
        };
        let setting = Setting { name: "CLOCK_OFFSET_MS", value: &offset };
        let (name, count) = self.with_setting(target, setting, Sign { metric, label: "" }, lasts).await?;
        Ok(format!("{name} brought {count} uploads on with its clock {hours:+} h"))
    }

    pub(super) async fn tiny_cache(&self, lasts: Duration) -> anyhow::Result<String> {
        let setting = Setting { name: "CACHE_ENTRIES", value: "10" };
        let sign = Sign { metric: "milepost_gateway_uploads_total", label: "source=\"table\"" };
        let (name, count) = self.with_setting(Target::Gateway, setting, sign, lasts).await?;
        Ok(format!("{name} took {count} answers from the table with a cache of 10 entries"))
    }

    /// Restarts a program with a setting and waits for its sign. Returns the program's name and the metric.
    async fn with_setting(
        &self,
        target: Target,
        setting: Setting<'_>,
        Sign { metric, label }: Sign<'_>,
        lasts: Duration,
    ) -> anyhow::Result<(&str, f64)> {
        let (slot, mut program) = self.one(target).await?;
        program.set(setting.name, setting.value);
        let worked = async {
            self.end(&mut program).await?;
            program.start().await?;
            sleep(lasts).await;
            eventually(SIGN, &format!("{} counts {metric} {label}", slot.name), async || {
                let count = program.metric_of(metric, label).await.unwrap_or_default();
                Ok((count > 0.0).then_some(count))
            })
            .await
        };
        let worked = worked.await;
        self.revive(slot, &mut program).await?;
        Ok((&slot.name, worked?))
    }

    pub(super) fn server(&self, target: Target) -> (&'static str, &Server) {
        if target == Target::Kafka { ("Kafka", &self.kafka) } else { ("Postgres", &self.postgres) }
    }

    pub(super) async fn kill_server(&self, target: Target, lasts: Duration) -> anyhow::Result<String> {
        let (name, server) = self.server(target);
        let processes = server.processes().len();
        let killed = server.kill().await.and_then(|()| {
            ensure!(processes > 0 && server.processes().is_empty(), "{name} was not there, or still is");
            Ok(())
        });
        sleep(lasts).await;
        server.start().await?;
        killed?;
        Ok(format!("{name} ended, processes: {processes}"))
    }

    pub(super) async fn pause_server(&self, target: Target, lasts: Duration) -> anyhow::Result<String> {
        let (name, server) = self.server(target);
        let paused = async {
            server.pause()?;
            eventually(KILLED, "the server is stopped", async || Ok(server.is_paused().then_some(())))
                .await?;
            sleep(lasts).await;
            ensure!(server.is_paused(), "somebody let {name} go on");
            anyhow::Ok(())
        };
        let paused = paused.await;
        server.resume();
        paused?;
        Ok(format!("{name} stopped (T) for {:.1} s", lasts.as_secs_f64()))
    }

    pub(super) async fn restart_server(&self, target: Target) -> anyhow::Result<String> {
        let (name, server) = self.server(target);
        let stopped = server.stop().await.and_then(|()| {
            ensure!(server.processes().is_empty(), "{name} still runs");
            Ok(())
        });
        server.start().await?;
        stopped?;
        Ok(format!("{name} shut down"))
    }
}
