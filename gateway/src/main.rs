//! `milepost-gateway`: composes the parts and serves until a signal.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use milepost_gateway::admission::authenticate::ApiKeys;
use milepost_gateway::admission::rate::Rates;
use milepost_gateway::answer::service::Answers;
use milepost_gateway::http::router::Front;
use milepost_gateway::http::server;
use milepost_gateway::settings::GatewaySettings;
use milepost_gateway::start;
use milepost_shared::journal::clock::Clock;
use milepost_shared::program::crash::Crash;
use milepost_shared::program::pages::{self, Readiness};
use milepost_shared::program::settings::{self, EXIT_CONFIG};
use milepost_shared::program::shutdown;
use milepost_shared::program::telemetry;
use milepost_shared::store::connect;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long uploads wait at start for the topics to be checked. Past it they are taken: the journal is away,
/// but answers can be replayed.
const CHECK_PATIENCE: Duration = Duration::from_secs(3);
/// What is left for the producers and the tail after the last connection. With the drain timeout it makes up
/// the time within which the program ends.
const ANSWERS_DRAIN: Duration = Duration::from_secs(3);
/// A blocking Kafka request may be under way; it holds nothing that matters any more.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

/// The C library's allocator came first in the profile of a replay.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let settings = settings::read::<GatewaySettings>();
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
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    code
}

async fn run(settings: GatewaySettings) -> anyhow::Result<ExitCode> {
    let metrics = telemetry::start(&settings.telemetry)?;
    let stop = shutdown::on_signal()?;
    let readiness = Readiness::default();
    server::register(&readiness);
    start::register(&readiness);
    let listener = pages::bind(settings.listen).await?;
    let operators = pages::bind(settings.ops_listen).await?;
    let pages_end = CancellationToken::new();
    let pages = tokio::spawn(pages::serve(operators, readiness.clone(), metrics, pages_end.clone()));

    let serving = stop.child_token();
    let (checked, checks) = check(&settings, &readiness, &serving)?;
    let answers = Answers::start(
        &settings.middle,
        &settings.kafka,
        &settings.database,
        Clock::new(settings.tests.clock_offset_ms),
        Crash::new(settings.tests.crash_at.clone()),
        &readiness,
    )?;
    let front = front(&settings, answers.clone(), &readiness, &serving)?;
    let _ = timeout(CHECK_PATIENCE, checked.cancelled()).await;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening");
    }
    server::serve(listener, front, &settings.server, &readiness, &serving).await;
    answers.drain(ANSWERS_DRAIN).await;
    pages_end.cancel();
    pages.await.context("operator pages")??;
    match checks.await? {
        Ok(()) => {
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        Err(violation) => {
            tracing::error!(error = format!("{violation:#}"), "bad configuration");
            eprintln!("error: {violation:#}");
            Ok(ExitCode::from(u8::try_from(EXIT_CONFIG)?))
        }
    }
}

type Checks = tokio::task::JoinHandle<anyhow::Result<()>>;

/// Starts checking topics and schema beside everything else, and goes on to watch the topics. The token is cancelled when the
/// topics are known to be good or bad; a violation also cancels `serving` and is what the task ends with.
fn check(
    settings: &GatewaySettings,
    readiness: &Readiness,
    serving: &CancellationToken,
) -> anyhow::Result<(CancellationToken, Checks)> {
    let options =
        connect::options(&settings.database.database_url, "milepost-gateway", Duration::from_secs(5))?;
    let (kafka, readiness, serving) = (settings.kafka.clone(), readiness.clone(), serving.clone());
    let checked = CancellationToken::new();
    let done = checked.clone().drop_guard();
    let checks = tokio::spawn(async move {
        let topics = async {
            let checked = start::check_topics(&kafka, &readiness, &serving).await;
            drop(done);
            checked?;
            start::watch_topics(&kafka, &readiness, &serving).await
        };
        let schema = start::check_schema(&options, &readiness, &serving);
        let checked = tokio::try_join!(topics, schema);
        if checked.is_err() {
            serving.cancel();
        }
        checked.map(|_| ())
    });
    Ok((checked, checks))
}

fn front(
    settings: &GatewaySettings,
    answers: Answers,
    readiness: &Readiness,
    serving: &CancellationToken,
) -> anyhow::Result<Arc<Front>> {
    let timeout = settings.api_keys.api_key_timeout.max(Duration::from_secs(5));
    let options = connect::options(&settings.database.database_url, "milepost-gateway", timeout)?;
    let api_keys = ApiKeys::new(&settings.api_keys, options, readiness);
    tokio::spawn(api_keys.clone().refresh(serving.clone()));
    let rates = Arc::new(Rates::new(&settings.uploads));
    tokio::spawn({
        let (rates, serving) = (Arc::clone(&rates), serving.clone());
        async move { rates.forget(&serving).await }
    });
    let clock = Clock::new(settings.tests.clock_offset_ms);
    let parts = (api_keys, rates, answers);
    Ok(Arc::new(Front::new(&settings.uploads, parts, clock, serving.clone())))
}
