//! The clients: persistent connections, each with one request under way at most.
//!
//! A closed load measures capacity: each connection sends as soon as it is answered. An open load measures latency: requests
//! fall due at a fixed rate, and the time they wait for a free connection counts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::arrivals::Arrivals;
use crate::requests::Requests;
use crate::tally::Tally;

/// How long after a load's time the last answer may come.
const LAST_ANSWER: Duration = Duration::from_secs(60);

type Connection = SendRequest<Full<Bytes>>;

/// Connections to one target, or to several in turn.
#[derive(Debug)]
pub struct Clients {
    requests: Arc<Requests>,
    connections: Vec<Connection>,
}

impl Clients {
    /// Opens `count` connections.
    ///
    /// # Errors
    /// A target refuses.
    pub async fn connect(targets: &[SocketAddr], count: usize, requests: Requests) -> anyhow::Result<Self> {
        let mut connections = Vec::with_capacity(count);
        for target in targets.iter().cycle().take(count) {
            let stream =
                TcpStream::connect(target).await.with_context(|| format!("no connection to {target}"))?;
            stream.set_nodelay(true)?;
            let (connection, io) = handshake(TokioIo::new(stream)).await?;
            // It ends with the connection, and whatever fails in it fails its request too.
            tokio::spawn(io);
            connections.push(connection);
        }
        Ok(Self { requests: Arc::new(requests), connections })
    }

    /// The same connections, from now on with copies of so many uploads, which they send first.
    ///
    /// # Errors
    /// An upload is not answered.
    pub async fn replaying(mut self, keys: u64) -> anyhow::Result<Self> {
        self.send(keys).await?;
        let replays = self.requests().replays(keys);
        Ok(self.with(replays))
    }

    /// The same connections, from now on with other requests.
    #[must_use]
    pub fn with(self, requests: Requests) -> Self {
        Self { requests: Arc::new(requests), ..self }
    }

    /// What they send.
    #[must_use]
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// A closed load for this long.
    ///
    /// # Errors
    /// An answer is wrong, or missing.
    pub async fn closed(&mut self, duration: Duration) -> anyhow::Result<Tally> {
        self.load(Pace::Until(Instant::now() + duration), duration).await
    }

    /// A closed load of this many requests.
    ///
    /// # Errors
    /// As [`closed`](Self::closed).
    pub async fn send(&mut self, count: u64) -> anyhow::Result<Tally> {
        self.load(Pace::Count { taken: AtomicU64::new(0), count }, LAST_ANSWER).await
    }

    /// An open load. What could not even be sent within three times its length counts with the time it has waited.
    ///
    /// # Errors
    /// As [`closed`](Self::closed).
    pub async fn open(&mut self, arrivals: Arrivals) -> anyhow::Result<Tally> {
        let length = arrivals.at(arrivals.count());
        let start = Instant::now();
        let due = Arc::new(Semaphore::new(0));
        let releasing = tokio::task::spawn_blocking({
            let (due, connections) = (Arc::clone(&due), self.connections.len());
            move || release(arrivals, start, &due, connections)
        });
        let give_up = start + length * 3;
        let pace = Pace::Open { arrivals, start, due, taken: AtomicU64::new(0), give_up };
        let tally = self.load(pace, length * 3).await;
        releasing.await?;
        tally
    }

    async fn load(&mut self, pace: Pace, length: Duration) -> anyhow::Result<Tally> {
        let load = Arc::new(Load {
            requests: Arc::clone(&self.requests),
            pace,
            tally: Mutex::default(),
            wrong: Mutex::default(),
        });
        let begun = Instant::now();
        let connections = self.connections.drain(..).map(|connection| {
            let load = Arc::clone(&load);
            async { tokio::spawn(load.run(connection)).await? }
        });
        let done = tokio::time::timeout(length + LAST_ANSWER, try_join_all(connections)).await;
        let elapsed = begun.elapsed();
        let ended = done.with_context(|| format!("no answer for {LAST_ANSWER:?}")).and_then(|ended| ended);
        let ended = ended.map(|connections| self.connections = connections);
        // A refusal says more than the end of the connection that may follow it.
        let wrong = load.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(
            wrong.count == 0,
            "{} answers were not {}; the first: {}",
            wrong.count,
            self.requests.status(),
            wrong.first
        );
        ended?;
        let tally = load.tally.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tally.clone().within(elapsed))
    }
}

/// When a connection may send.
enum Pace {
    /// At once, until this moment.
    Until(Instant),
    /// At once, until this many are taken.
    Count { taken: AtomicU64, count: u64 },
    /// When a request is due.
    Open { arrivals: Arrivals, start: Instant, due: Arc<Semaphore>, taken: AtomicU64, give_up: Instant },
}

/// What a connection does next.
enum Turn {
    /// Send; the latency counts from this moment.
    Send(Instant),
    /// It is too late to send what was due at this moment.
    TooLate(Instant),
    End,
}

impl Pace {
    async fn turn(&self) -> Turn {
        match self {
            Self::Until(end) => {
                let now = Instant::now();
                if now < *end { Turn::Send(now) } else { Turn::End }
            }
            Self::Count { taken, count } => {
                let begun = taken.fetch_add(1, Ordering::Relaxed) < *count;
                if begun { Turn::Send(Instant::now()) } else { Turn::End }
            }
            Self::Open { arrivals, start, due, taken, give_up } => {
                let Ok(permit) = due.acquire().await else { return Turn::End };
                permit.forget();
                let number = taken.fetch_add(1, Ordering::Relaxed);
                if number >= arrivals.count() {
                    return Turn::End;
                }
                let from = *start + arrivals.at(number);
                if Instant::now() < *give_up { Turn::Send(from) } else { Turn::TooLate(from) }
            }
        }
    }
}

/// Lets requests fall due, and at last lets each connection see that there are no more. Blocks; a timer of the runtime would be
/// late by up to a millisecond.
fn release(arrivals: Arrivals, start: Instant, due: &Semaphore, connections: usize) {
    let mut released = 0;
    while released < arrivals.count() {
        let now = arrivals.due(start.elapsed());
        due.add_permits(usize::try_from(now - released).unwrap_or(0));
        released = now;
        std::thread::sleep((start + arrivals.at(released)).saturating_duration_since(Instant::now()));
    }
    due.add_permits(connections);
}

/// A load in progress.
struct Load {
    requests: Arc<Requests>,
    pace: Pace,
    tally: Mutex<Tally>,
    wrong: Mutex<Wrong>,
}

#[derive(Default)]
struct Wrong {
    count: u64,
    first: String,
}

impl Load {
    async fn run(self: Arc<Self>, mut connection: Connection) -> anyhow::Result<Connection> {
        loop {
            let from = match self.pace.turn().await {
                Turn::Send(from) => from,
                Turn::TooLate(from) => {
                    self.record(from.elapsed());
                    continue;
                }
                Turn::End => return Ok(connection),
            };
            connection.ready().await.context("the connection was closed")?;
            let answer = connection.send_request(self.requests.next()).await.context("no answer")?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.context("the answer broke off")?.to_bytes();
            self.record(from.elapsed());
            if !self.requests.note(status, &body) {
                let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
                if wrong.count == 0 {
                    wrong.first = format!("{status} {}", String::from_utf8_lossy(&body));
                }
                wrong.count += 1;
            }
        }
    }

    fn record(&self, latency: Duration) {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).record(latency);
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::post;
    use milepost_shared::journal::answer;
    use tokio::net::TcpListener;

    use super::*;
    use crate::ledger::Ledger;
    use crate::uploads::Uploads;

    /// Clients of a server that answers every `every`th upload right, after a pause.
    async fn clients(count: usize, every: u64, pause: Duration) -> (Clients, Arc<Ledger>) {
        let asked = Arc::new(AtomicU64::new(0));
        let answer = move || {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(pause).await;
                if number.is_multiple_of(every) {
                    Ok(answer::body(1))
                } else {
                    Err(StatusCode::SERVICE_UNAVAILABLE)
                }
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let router = Router::new().route("/api/v1/locations", post(answer));
        tokio::spawn(async { axum::serve(listener, router).await });
        let ledger = Arc::default();
        let requests = Requests::new(&Arc::new(Uploads::singles()), "secret", &ledger);
        (Clients::connect(&[target], count, requests).await.unwrap(), ledger)
    }

    #[tokio::test]
    async fn a_load_of_so_many_requests_sends_no_more_and_can_be_repeated() {
        let (mut clients, _) = clients(4, 1, Duration::ZERO).await;
        assert_eq!(clients.send(100).await.unwrap().answers(), 100);
        assert_eq!(clients.send(7).await.unwrap().answers(), 7);
        assert_eq!(clients.requests().locations(), 1);
    }

    #[tokio::test]
    async fn a_load_with_a_wrong_answer_has_no_tally() {
        let (mut clients, _) = clients(2, 5, Duration::ZERO).await;
        let error = clients.send(10).await.unwrap_err().to_string();
        assert!(error.contains("8 answers were not 200; the first: 503"), "{error}");
    }

    #[tokio::test]
    async fn an_open_load_counts_the_wait_for_a_free_connection() {
        let (mut clients, _) = clients(1, 1, Duration::from_millis(20)).await;
        // Twice as many as one connection can take: the last waits for about as long as the load lasts.
        let tally = clients.open(Arrivals::new(100.0, Duration::from_millis(500))).await.unwrap();
        assert_eq!(tally.answers(), 50);
        assert!(tally.latency_ms(1.0) > 300.0, "{}", tally.latency_ms(1.0));
    }

    #[tokio::test]
    async fn what_an_open_load_cannot_send_counts_with_the_time_it_waited() {
        let (mut clients, _) = clients(1, 1, Duration::from_millis(100)).await;
        let tally = clients.open(Arrivals::new(500.0, Duration::from_millis(200))).await.unwrap();
        assert_eq!(tally.answers(), 100);
        // One after the other, all of them would take ten seconds.
        assert!(tally.elapsed() < Duration::from_secs(5), "{:?}", tally.elapsed());
        assert!(tally.latency_ms(1.0) > 400.0, "{}", tally.latency_ms(1.0));
    }
}
