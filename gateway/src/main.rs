//! `milepost-gateway`: composes the parts and serves until a signal.

use std::process::ExitCode;
use std::time::Duration;

use milepost_gateway::answer::service::Answers;
use milepost_gateway::app::App;
use milepost_gateway::http::server;
use milepost_gateway::settings::GatewaySettings;
use milepost_shared::journal::clock::Clock;
use milepost_shared::program::crash::Crash;
use milepost_shared::program::healthcheck::Command;
use milepost_shared::program::main::Program;
use milepost_shared::program::pages::{self, Readiness};
use milepost_shared::program::settings::{self, KafkaSettings};
use milepost_shared::program::start::{BadConfiguration, Checks};
use milepost_shared::store::connect::Target;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const TOPICS: &str = "topics";
/// Not required: Postgres may be down when a gateway starts.
const SCHEMA: &str = "schema";
/// Bounds each statement that looks at the schema.
const SCHEMA_STATEMENT: Duration = Duration::from_secs(5);
/// Longest pause between attempts to reach a server at the start, before jitter.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long uploads wait at start for the topics to be checked. Past it they are taken: the journal is away,
/// but answers can be replayed.
const CHECK_PATIENCE: Duration = Duration::from_secs(3);
/// What is left for the producers and the tail after the last connection. With the drain timeout it makes up
/// the time within which the program ends.
const ANSWERS_DRAIN: Duration = Duration::from_secs(3);

/// The C library's allocator came first in the profile of a replay.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let settings = settings::read::<GatewaySettings>();
    let (ops_listen, telemetry) = (settings.ops_listen, settings.telemetry.clone());
    if let Some(Command::Healthcheck(healthcheck)) = &settings.command {
        return healthcheck.run(ops_listen);
    }
    let open_files = settings.open_files();
    Program { ops_listen, telemetry, open_files, required: &[TOPICS] }
        .run(|readiness, stop| serve(settings, readiness, stop))
}

async fn serve(
    settings: GatewaySettings,
    readiness: Readiness,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    server::register(&readiness);
    readiness.register(SCHEMA, false);
    let listener = pages::bind(settings.listen).await?;

    let serving = CancellationToken::new();
    tokio::spawn(server::leave(settings.server.shutdown_delay, readiness.clone(), stop, serving.clone()));
    let database = settings.database.target("milepost-gateway")?;
    let (checked, checks) = check(&settings.kafka, &database, &readiness, &serving);
    let answers = Answers::start(
        &settings.answers,
        &settings.kafka,
        &database,
        Clock::new(settings.tests.clock_offset_ms),
        Crash::new(settings.tests.crash_at.clone()),
        &readiness,
    )?;
    let app = App::new(&settings, &database, answers.clone(), &readiness, &serving)?;
    let _ = timeout(CHECK_PATIENCE, checked.cancelled()).await;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening");
    }
    server::serve(listener, app.pipeline, app.refuser, &settings.server, &readiness, &serving).await;
    answers.drain(ANSWERS_DRAIN).await;
    Ok(checks.await??)
}

/// Starts checking topics and schema beside everything else, and goes on to watch the topics. The token is cancelled when the
/// topics are known to be good or bad; a violation also cancels `serving` and is what the task ends with.
fn check(
    kafka: &KafkaSettings,
    database: &Target,
    readiness: &Readiness,
    serving: &CancellationToken,
) -> (CancellationToken, JoinHandle<Result<(), BadConfiguration>>) {
    let (kafka, readiness, serving) = (kafka.clone(), readiness.clone(), serving.clone());
    let database = database.bounded(SCHEMA_STATEMENT);
    let checked = CancellationToken::new();
    let done = checked.clone().drop_guard();
    let checks = tokio::spawn(async move {
        let checks = Checks { readiness: &readiness, stop: &serving, backoff_max: BACKOFF_MAX };
        let topics = async {
            let checked = checks.topics(&kafka, TOPICS).await;
            drop(done);
            checked?;
            checks.watch_topics(&kafka, TOPICS).await
        };
        let checked = tokio::try_join!(topics, checks.schema(&database, None, SCHEMA));
        if checked.is_err() {
            serving.cancel();
        }
        checked.map(drop)
    });
    (checked, checks)
}
