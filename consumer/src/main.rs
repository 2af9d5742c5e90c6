//! `milepost-consumer`: composes the parts and runs sessions until a signal.

use std::process::ExitCode;

use milepost_consumer::metric;
use milepost_consumer::session::{self, Parts};
use milepost_consumer::settings::ConsumerSettings;
use milepost_shared::program::healthcheck::Command;
use milepost_shared::program::main::Program;
use milepost_shared::program::open_files::OpenFiles;
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings;
use milepost_shared::program::start::Checks;
use tokio_util::sync::CancellationToken;

/// Files of its own, and connections to the brokers, to Postgres and of operators.
const OPEN_FILES: OpenFiles = OpenFiles { needed: 150, setting: None };

/// As the gateway's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let settings = settings::read::<ConsumerSettings>();
    let (ops_listen, telemetry) = (settings.ops_listen, settings.telemetry.clone());
    if let Some(Command::Healthcheck(healthcheck)) = &settings.command {
        return healthcheck.run(ops_listen);
    }
    Program {
        ops_listen,
        telemetry,
        open_files: OPEN_FILES,
        required: &["kafka", "postgres", "emission", "journal"],
    }
    .run(|readiness, stop| consume(settings, readiness, stop))
}

async fn consume(
    settings: ConsumerSettings,
    readiness: Readiness,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    metric::describe();
    readiness.up("emission");
    readiness.up("journal");
    tokio::spawn({
        let (stop, readiness) = (stop.clone(), readiness.clone());
        async move {
            stop.cancelled().await;
            readiness.down("journal", "stopping");
        }
    });
    let target = settings.database.target("milepost-consumer")?.bounded(settings.persist_timeout);
    let running = stop.child_token();
    let checks = Checks { readiness: &readiness, stop: &running, backoff_max: settings.backoff_max };
    let (kafka, ttl) = (&settings.kafka, settings.kafka.idempotency_ttl);
    if !checks.topics(kafka, "kafka").await? || !checks.schema(&target, Some(ttl), "postgres").await? {
        return Ok(());
    }
    let parts = Parts::new(&settings, target, readiness.clone());
    // Whichever ends first ends the other.
    let watching = async {
        let _end = running.clone().drop_guard();
        checks.watch_topics(kafka, "journal").await
    };
    let consuming = async {
        let _end = running.clone().drop_guard();
        session::run_all(&parts, settings.backoff_max, &running).await
    };
    let (watched, consumed) = tokio::join!(watching, consuming);
    watched?;
    Ok(consumed?)
}
