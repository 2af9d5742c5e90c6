//! `milepost-consumer`: composes the parts and runs sessions until a signal.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use milepost_consumer::emit::emitter::EmitSettings;
use milepost_consumer::expire::ExpireSettings;
use milepost_consumer::journal::poll::PollSettings;
use milepost_consumer::metric;
use milepost_consumer::persist::transaction::PersistSettings;
use milepost_consumer::session::{self, CONNECTIONS, Parts};
use milepost_consumer::settings::ConsumerSettings;
use milepost_shared::journal::clock::Clock;
use milepost_shared::kafka::topics::{TopicAdmin, TopicNames, watch_partitions};
use milepost_shared::kafka::trouble::Troubles;
use milepost_shared::program::backoff::Backoff;
use milepost_shared::program::crash::Crash;
use milepost_shared::program::pages::{self, Readiness};
use milepost_shared::program::settings::{self, EXIT_CONFIG};
use milepost_shared::program::shutdown;
use milepost_shared::program::telemetry;
use milepost_shared::store::connection::Connections;
use milepost_shared::store::{connect, migrate, partitions};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest time for one attempt to read the schema's version.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(5);

/// As the gateway's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let settings = settings::read::<ConsumerSettings>();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(run(settings)) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped by an error");
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    };
    // A blocking Kafka request may be under way; it holds nothing that matters any more.
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

async fn run(settings: ConsumerSettings) -> anyhow::Result<ExitCode> {
    let metrics = telemetry::start(&settings.telemetry)?;
    metric::describe();
    let stop = shutdown::on_signal()?;
    let readiness = Readiness::default();
    for name in ["kafka", "postgres", "emission", "journal"] {
        readiness.register(name, true);
    }
    readiness.up("emission");
    readiness.up("journal");
    tokio::spawn({
        let (stop, readiness) = (stop.clone(), readiness.clone());
        async move {
            stop.cancelled().await;
            readiness.down("journal", "stopping");
        }
    });
    let listener = pages::bind(settings.ops_listen).await?;
    let serving = CancellationToken::new();
    let pages = tokio::spawn(pages::serve(listener, readiness.clone(), metrics, serving.clone()));

    let options =
        connect::options(&settings.database.database_url, "milepost-consumer", settings.persist_timeout)?;
    let code = match check(&settings, &options, &readiness, &stop).await {
        Ok(true) => consume(&settings, &parts(&settings, options, readiness), &stop).await,
        Ok(false) => Ok(ExitCode::SUCCESS),
        Err(violation) => refused(&violation),
    };
    serving.cancel();
    pages.await.context("operator pages")??;
    code
}

/// What is configured, here or in the cluster, is not what it has to be.
fn refused(violation: &anyhow::Error) -> anyhow::Result<ExitCode> {
    tracing::error!(error = format!("{violation:#}"), "bad configuration");
    eprintln!("error: {violation:#}");
    Ok(ExitCode::from(u8::try_from(EXIT_CONFIG)?))
}

/// Runs sessions until `stop`, or until a topic has another number of partitions.
async fn consume(
    settings: &ConsumerSettings,
    parts: &Parts,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let running = stop.child_token();
    let watching = tokio::spawn({
        let (kafka, readiness, running) = (settings.kafka.clone(), parts.readiness.clone(), running.clone());
        async move {
            let _end = running.clone().drop_guard();
            let watched = watch_partitions(&kafka, &running).await;
            if let Err(violation) = &watched {
                readiness.down("journal", violation.to_string());
            }
            watched
        }
    });
    let consumed = sessions(settings, parts, &running).await;
    running.cancel();
    match watching.await? {
        Err(violation) => refused(&violation),
        Ok(()) => consumed.map(|()| ExitCode::SUCCESS),
    }
}

/// Checks schema and topics, waiting for servers that are not up yet. False if the program was stopped meanwhile.
async fn check(
    settings: &ConsumerSettings,
    options: &PgConnectOptions,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let topics = TopicAdmin::new(&settings.kafka)?;
    let mut backoff = Backoff::new(settings.backoff_max);
    loop {
        let describing = stop.run_until_cancelled(topics.describe(&settings.kafka));
        let Some(described) = describing.await else { return Ok(false) };
        match described {
            Ok(actual) => {
                milepost_shared::kafka::topics::refuse_violations(&settings.kafka, &actual)?;
                readiness.up("kafka");
                break;
            }
            Err(error) => readiness.down("kafka", format!("{error:#}")),
        }
        if !backoff.pause(stop).await {
            return Ok(false);
        }
    }
    let mut backoff = Backoff::new(settings.backoff_max);
    let check_schema = async || {
        let mut connection = options.connect().await?;
        migrate::check_version(&mut connection).await?;
        partitions::check_ttl(&mut connection, settings.kafka.idempotency_ttl).await
    };
    loop {
        match stop.run_until_cancelled(timeout(SCHEMA_TIMEOUT, check_schema())).await {
            None => return Ok(false),
            Some(Ok(Ok(()))) => {
                readiness.up("postgres");
                return Ok(true);
            }
            // Whatever the database itself says may heal.
            Some(Ok(Err(error))) if !error.chain().any(|cause| cause.is::<sqlx::Error>()) => {
                return Err(error);
            }
            Some(Ok(Err(_))) => readiness.down("postgres", "the schema's version cannot be read"),
            Some(Err(_)) => readiness.down("postgres", "does not answer"),
        }
        if !backoff.pause(stop).await {
            return Ok(false);
        }
    }
}

/// Runs sessions, one after the other.
async fn sessions(
    settings: &ConsumerSettings,
    parts: &Parts,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let partitions = usize::try_from(settings.kafka.partitions)?;
    let mut backoff = Backoff::new(settings.backoff_max);
    let mut begun = tokio::time::Instant::now();
    while !stop.is_cancelled() {
        let Err(error) = session::run(parts, partitions, stop).await else { continue };
        if !error.heals() {
            return Err(error.into());
        }
        tracing::warn!(%error, "session ended; another one starts from what is persisted");
        // A session that lasted was a good one: the next trouble is a new one.
        if begun.elapsed() > Duration::from_secs(60) {
            backoff = Backoff::new(settings.backoff_max);
        }
        begun = tokio::time::Instant::now();
        backoff.pause(stop).await;
    }
    Ok(())
}

fn parts(settings: &ConsumerSettings, options: PgConnectOptions, readiness: Readiness) -> Parts {
    let topics = TopicNames::new(&settings.kafka.topic_prefix);
    let kafka = settings.kafka.clone();
    Parts {
        poll: PollSettings {
            kafka: kafka.clone(),
            topics: topics.clone(),
            session_timeout: settings.session_timeout,
            bounds: settings.bounds(),
            dead_letter_run_max: settings.dead_letter_run_max,
        },
        persist: PersistSettings {
            topic: topics.uploads.clone(),
            ttl: settings.kafka.idempotency_ttl,
            timeout: settings.persist_timeout,
            backoff_max: settings.backoff_max,
            copy_rows_min: settings.copy_rows_min,
            dead_letter_run_max: settings.dead_letter_run_max,
            unknown_account_wait: settings.unknown_account_wait,
        },
        emit: EmitSettings {
            kafka,
            topics,
            result_linger: settings.result_linger,
            fact_linger: settings.fact_linger,
            backoff_max: settings.backoff_max,
        },
        expire: expire_settings(settings),
        offset_commit_interval: settings.offset_commit_interval,
        drain_timeout: settings.drain_timeout,
        connections: Connections::new(options, CONNECTIONS),
        readiness,
        troubles: Troubles::default(),
        crash: Crash::new(settings.test.crash_at.clone()),
    }
}

fn expire_settings(settings: &ConsumerSettings) -> ExpireSettings {
    ExpireSettings {
        kafka: settings.kafka.clone(),
        topic: TopicNames::new(&settings.kafka.topic_prefix).uploads,
        grace: settings.expiry_grace,
        clock: Clock::new(settings.test.clock_offset_ms),
        interval: settings.maintenance_interval,
        timeout: settings.persist_timeout + Duration::from_secs(30),
    }
}
