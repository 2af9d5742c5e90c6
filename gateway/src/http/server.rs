//! Accepts connections and serves HTTP/1.1 on them, each within its bounds, until the gateway is to stop.
//!
//! Not `axum::serve`: that has no deadlines and no limit of connections.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use clap::Args;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::access_log::AccessLog;
use crate::http::ambiguity::HEAD_BYTES_MAX;
use crate::http::connection::{Connection, Timeouts};
use crate::http::linger::Linger;
use crate::http::refuser::Refuser;
use crate::http::router::Pipeline;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The dependency that says whether new connections are taken.
const ACCEPTING: &str = "accepting";
/// Bytes of one connection's buffer: the largest head, and the largest piece of a body.
const BUFFER_BYTES: usize = HEAD_BYTES_MAX;
/// Connections being refused at once; past it one is closed without an answer.
const REFUSALS_MAX: usize = 256;
/// Longest time to refuse a connection.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the log reports what it has left out.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which usually means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The bounds of connections.
#[derive(Debug, Clone, Args)]
pub struct ServerSettings {
    /// Most open connections; past it 503 [1..=1000000].
    #[arg(long, env, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections_max: u32,

    /// Most requests being served at once, not counting bodies on their way; past it 503 [1..=1000000].
    #[arg(long, env, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests_max: u32,

    /// Longest wait for the whole head of a request once it has begun [100ms..=5m].
    #[arg(long, env, default_value = "10s", value_parser = duration(100 * MS, 300 * SECOND))]
    pub header_timeout: Duration,

    /// Longest time a connection may be silent between requests [100ms..=1h].
    #[arg(long, env, default_value = "75s", value_parser = duration(100 * MS, 3600 * SECOND))]
    pub idle_timeout: Duration,

    /// Longest wait for a client to take its answer [100ms..=5m].
    #[arg(long, env, default_value = "10s", value_parser = duration(100 * MS, 300 * SECOND))]
    pub write_timeout: Duration,

    /// How long a gateway that is asked to stop goes on serving while it is not ready, so that balancers stop sending first
    /// [0s..=5m].
    #[arg(long, env, default_value = "0s", value_parser = duration(Duration::ZERO, 300 * SECOND))]
    pub shutdown_delay: Duration,

    /// Longest wait for requests in flight once the gateway takes no more. The program ends at most 5s later
    /// [100ms..=10m].
    #[arg(long, env, default_value = "25s", value_parser = duration(100 * MS, 600 * SECOND))]
    pub drain_timeout: Duration,
}

impl ServerSettings {
    /// Connections open at most, those being refused too.
    #[must_use]
    pub fn open_files(&self) -> u64 {
        u64::from(self.connections_max) + REFUSALS_MAX as u64
    }
}

/// Once the gateway is asked to stop it is not ready, and is taken from the balancers' lists; after the delay it stops `serving`.
pub async fn leave(
    delay: Duration,
    readiness: Readiness,
    asked: CancellationToken,
    serving: CancellationToken,
) {
    asked.cancelled().await;
    readiness.down(ACCEPTING, "stopping");
    sleep(delay).await;
    serving.cancel();
}

/// Serves until `stop`; then takes no more connections, lets the requests in flight end, and returns. What
/// has not ended by the drain timeout is cut off.
pub async fn serve(
    listener: TcpListener,
    pipeline: Arc<Pipeline>,
    refuser: Arc<Refuser>,
    settings: &ServerSettings,
    readiness: &Readiness,
    stop: &CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(usize::try_from(settings.connections_max).unwrap_or(usize::MAX)));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let refused = metrics::counter!("milepost_gateway_http_refused_connections_total");
    refused.absolute(0);
    let (connections, cut_off) = (TaskTracker::new(), CancellationToken::new());
    readiness.up(ACCEPTING);
    tokio::spawn(report_left_out(Arc::clone(&refuser.log), stop.clone()));
    let ends = Ends { stop: stop.clone(), cut_off: cut_off.clone() };
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            let (pipeline, refuser) = (Arc::clone(&pipeline), Arc::clone(&refuser));
            let serving = connection(stream, pipeline, refuser, settings, ends.clone());
            connections.spawn(async move {
                let gauge = metrics::gauge!("milepost_gateway_http_connections");
                gauge.increment(1);
                serving.await;
                gauge.decrement(1);
                drop(slot);
            });
        } else {
            refused.increment(1);
            if let Ok(turn) = Arc::clone(&refusals).try_acquire_owned() {
                let answer = refuser.connection();
                connections.spawn(async move {
                    let _ = timeout(REFUSAL_TIMEOUT, refuse(stream, &answer)).await;
                    drop(turn);
                });
            }
        }
    }
    readiness.down(ACCEPTING, "stopping");
    drop(listener);
    connections.close();
    if timeout(settings.drain_timeout, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections cut off at the end");
        cut_off.cancel();
    }
    refuser.log.report_left_out();
}

/// Reports now and then how many refusals got no log line.
async fn report_left_out(log: Arc<AccessLog>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(REPORT_EVERY)).await.is_some() {
        log.report_left_out();
    }
}

/// Registers what [`serve`] reports as down, so that the program is not ready before.
pub fn register(readiness: &Readiness) {
    readiness.register(ACCEPTING, true);
}

/// When a connection ends.
#[derive(Clone)]
struct Ends {
    /// Cancelled when no further request is to be taken.
    stop: CancellationToken,
    /// Cancelled when requests in flight are not waited for any longer.
    cut_off: CancellationToken,
}

/// Serves the requests of one connection, one after the other, until it ends or, after `stop`, is cut off.
fn connection(
    stream: TcpStream,
    pipeline: Arc<Pipeline>,
    refuser: Arc<Refuser>,
    settings: &ServerSettings,
    Ends { stop, cut_off }: Ends,
) -> impl Future<Output = ()> + use<> {
    // An answer is one small packet; it must not wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let timeouts = Timeouts {
        head: settings.header_timeout,
        idle: settings.idle_timeout,
        write: settings.write_timeout,
    };
    let stream = Connection::new(stream, refuser, timeouts);
    let has_begun = stream.has_begun();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let pipeline = Arc::clone(&pipeline);
        // What it does not answer is an error to hyper, which ends the connection without a byte.
        pipeline.answer(request)
    });
    let mut serving = Box::pin(
        http1::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            // A client that has closed its side after sending still gets its upload published.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service),
    );
    async move {
        let ended = tokio::select! {
            biased;
            ended = &mut serving => Some(ended),
            () = stop.cancelled() => {
                // hyper would close it in the middle of a head, since it does not know of one that is not whole.
                let head = poll_fn(|context| match serving.as_mut().poll(context) {
                    Poll::Pending if !has_begun.load(Ordering::Relaxed) => Poll::Ready(None),
                    serving => serving.map(Some),
                });
                match cut_off.run_until_cancelled(head).await {
                    Some(None) => {
                        serving.as_mut().graceful_shutdown();
                        cut_off.run_until_cancelled(&mut serving).await
                    }
                    ended => ended.flatten(),
                }
            }
        };
        // If a client has offered to upgrade, hyper ends with the stream open, so that another protocol can take it over.
        // Polled once more, it writes the rest of its answers and closes the stream; a closed one stays as it is.
        let ended = match ended {
            Some(Ok(())) => cut_off.run_until_cancelled(serving).await,
            other => other,
        };
        if let Some(Err(error)) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// Refuses a client, without reading what it wants.
async fn refuse(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    let mut linger = Linger::new();
    poll_fn(|context| linger.poll(&mut stream, context)).await;
    Ok(())
}
