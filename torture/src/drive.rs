//! The clients: each operation is a task that sends its uploads, retries as a phone would, and writes down what it saw.

mod apps;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use milepost_tests::{Post, Raw};
use rand::RngExt as _;
use reqwest::header::LOCATION;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::history::{Ask, Attempt, Complaint, Outcome, Recorder};
use crate::operation::{self, HOT_COPIES, Kind, Operation, UploadId, Variant};

/// How long a gateway is asked to wait for the final answer, seconds.
const WAIT_SECONDS: u32 = 4;
/// Longest time a client waits for an answer; after that the outcome is unknown.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(12);
/// Pause before a retry, longest; the shortest is a tenth of it.
const PAUSE_MAX: Duration = Duration::from_millis(800);
/// How long after its window a key is used again: two clocks, and the time a gateway needs to see a newer journal time.
const REUSE_MARGIN: Duration = Duration::from_secs(3);
/// Operations at most that wait for the end of a window.
const REUSE_WAITING: usize = 4000;

/// Whom the clients talk to, and how fast.
#[derive(Debug, Clone)]
pub struct DriveSettings {
    /// The run's seed.
    pub seed: u64,
    /// Addresses of the two gateways.
    pub gateways: [SocketAddr; 2],
    /// API keys of the two accounts.
    pub secrets: [String; 2],
    /// `IDEMPOTENCY_TTL`.
    pub ttl: Duration,
    /// Operations under way at once, at most.
    pub clients: usize,
    /// Operations begun per second, at most.
    pub pace: u32,
    /// How long load comes and then rests, again and again; `None` if it never rests.
    pub rhythm: Option<(Duration, Duration)>,
}

/// All clients of a run.
#[derive(Debug, Clone)]
pub struct Driver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: DriveSettings,
    recorder: Recorder,
    http: reqwest::Client,
    next: AtomicU64,
    requests: AtomicU64,
    clients: Arc<Semaphore>,
    reuses: Arc<Semaphore>,
    under_way: std::sync::Mutex<BTreeSet<u64>>,
    /// No operation is begun any more.
    enough: CancellationToken,
    /// Clients give up.
    end: CancellationToken,
    tasks: TaskTracker,
}

impl Driver {
    /// Clients that have not begun.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(settings: DriveSettings, recorder: Recorder) -> anyhow::Result<Self> {
        let http = milepost_tests::http()
            .timeout(ATTEMPT_TIMEOUT)
            .connect_timeout(Duration::from_secs(2))
            .pool_max_idle_per_host(settings.clients)
            .build()
            .context("no HTTP client")?;
        Ok(Self(Arc::new(Shared {
            clients: Arc::new(Semaphore::new(settings.clients)),
            reuses: Arc::new(Semaphore::new(REUSE_WAITING)),
            settings,
            recorder,
            http,
            next: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            under_way: std::sync::Mutex::default(),
            enough: CancellationToken::new(),
            end: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })))
    }

    /// Begins operations, one after the other, until [`enough`](Self::enough).
    pub async fn run(&self) {
        let shared = &self.0;
        let mut pace = interval(Duration::from_secs(1) / shared.settings.pace);
        // After an outage the clients catch up, in bursts of what is free.
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let begin = async {
            loop {
                pace.tick().await;
                if let Some(rest) = rest_at(shared.settings.rhythm, shared.recorder.now()) {
                    sleep(rest).await;
                    pace.reset();
                }
                let Ok(permit) = Arc::clone(&shared.clients).acquire_owned().await else { return };
                let index = shared.next.fetch_add(1, Ordering::Relaxed);
                let operation = operation::operation(shared.settings.seed, index);
                shared.recorder.write(|history| history.operations = index + 1);
                shared.lock().insert(index);
                shared.tasks.spawn(Arc::clone(shared).run(operation, permit));
            }
        };
        shared.enough.run_until_cancelled(begin).await;
    }

    /// Operations begun so far.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.0.next.load(Ordering::Relaxed)
    }

    /// Begins no more operations; those under way go on.
    pub fn enough(&self) {
        self.0.enough.cancel();
    }

    /// Waits until all operations have ended, at most `deadline`; then the clients give up, and those operations are unended.
    pub async fn finish(&self, deadline: Duration) {
        let shared = &self.0;
        shared.enough.cancel();
        shared.tasks.close();
        if timeout(deadline, shared.tasks.wait()).await.is_err() {
            let unended: Vec<u64> = shared.lock().iter().copied().collect();
            shared.recorder.write(|history| history.unended.extend(unended));
            shared.end.cancel();
            shared.tasks.wait().await;
        }
    }
}

/// An attempt's answer with what the history does not keep.
struct Answered {
    status: u16,
    replayed: bool,
    location: Option<String>,
    body: Arc<[u8]>,
}

/// Whether the upload need not be sent again.
fn is_final(status: u16) -> bool {
    !matches!(status, 202 | 408 | 429 | 500..)
}

/// How one upload of an operation ended.
struct Final {
    status: u16,
    replayed: bool,
    /// Whether no attempt was left in doubt: what they published was in the journal before this answer.
    without_doubt: bool,
    /// Whether the first attempt brought it.
    at_once: bool,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.under_way.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, operation: Operation, permit: OwnedSemaphorePermit) {
        if self.end.run_until_cancelled(self.operation(&operation, permit)).await.is_some() {
            self.lock().remove(&operation.index);
        }
    }

    async fn operation(&self, operation: &Operation, permit: OwnedSemaphorePermit) {
        let a = UploadId { operation: operation.index, variant: Variant::A };
        let b = UploadId { operation: operation.index, variant: Variant::B };
        let (account, stranger) = (operation.account, 1 - operation.account);
        match operation.kind {
            Kind::Plain => {
                self.post_until_final(operation, a, account, operation.gateway).await;
                if rand::random_bool(0.3) {
                    self.post_until_final(operation, a, account, 1 - operation.gateway).await;
                }
            }
            Kind::Keyless => drop(self.attempt(operation, a, account, operation.gateway, false).await),
            Kind::Conflict => {
                self.post_until_final(operation, a, account, operation.gateway).await;
                self.post_until_final(operation, b, account, 1 - operation.gateway).await;
            }
            Kind::Race => {
                let first = self.post_until_final(operation, a, account, operation.gateway);
                let second = self.post_until_final(operation, b, account, 1 - operation.gateway);
                tokio::join!(first, second);
            }
            Kind::Strangers => {
                let one = self.post_until_final(operation, a, account, operation.gateway);
                let other = self.post_until_final(operation, b, stranger, operation.gateway);
                tokio::join!(one, other);
            }
            Kind::HangUp => {
                // If it was all sent, it must get into the journal without a retry.
                if !self.hang_up(operation, a, account).await || rand::random() {
                    self.post_until_final(operation, a, account, operation.gateway).await;
                }
            }
            Kind::Reuse => self.reuse(operation, a, permit).await,
            Kind::Status => self.status(operation, a, stranger).await,
            Kind::Hot => {
                let copies =
                    (0..HOT_COPIES).map(|copy| self.post_until_final(operation, a, account, copy % 2));
                join_all(copies).await;
            }
            Kind::Malformed => self.malformed(operation, a).await,
            Kind::Superset | Kind::Shared | Kind::WholeFile | Kind::Renewed | Kind::Twins => {
                self.app(operation, permit).await;
            }
        }
    }

    /// Sends an upload until its answer is final, half of the retries to the other gateway.
    async fn post_until_final(
        &self,
        operation: &Operation,
        upload: UploadId,
        account: usize,
        first: usize,
    ) -> Final {
        let mut gateway = first;
        let (mut without_doubt, mut at_once) = (true, true);
        loop {
            let answered = self.attempt(operation, upload, account, gateway, false).await;
            match answered {
                Some(Answered { status, replayed, .. }) if is_final(status) => {
                    return Final { status, replayed, without_doubt, at_once };
                }
                Some(Answered { status: 202, .. }) => {}
                _ => without_doubt = false,
            }
            at_once = false;
            pause().await;
            gateway = rand::random_range(0..2);
        }
    }

    /// After its window a key is free: the same upload is stored again, once, and its first answer is no replay.
    async fn reuse(&self, operation: &Operation, upload: UploadId, permit: OwnedSemaphorePermit) {
        let first = self.post_until_final(operation, upload, operation.account, operation.gateway).await;
        let Ok(_waiting) = Arc::clone(&self.reuses).try_acquire_owned() else { return };
        drop(permit);
        sleep(self.settings.ttl + REUSE_MARGIN).await;
        let Ok(_permit) = Arc::clone(&self.clients).acquire_owned().await else { return };
        let again = self.post_until_final(operation, upload, operation.account, operation.gateway).await;
        // A record that was in doubt may have come late, and have claimed the key first; and after a 202 the answer is a replay.
        if first.without_doubt && again.at_once && (again.status, again.replayed) == (200, true) {
            let text = "its window was over, and the key was not free".to_owned();
            self.recorder.write(|history| history.complaints.push(Complaint { upload, text }));
        }
    }

    /// Asks for an answer at once, follows the `Location` until it has the final one, and has a stranger ask too.
    async fn status(&self, operation: &Operation, upload: UploadId, stranger: usize) {
        let location = loop {
            match self.attempt(operation, upload, operation.account, operation.gateway, true).await {
                Some(answered) if answered.status == 202 => break answered.location,
                // Somebody may have finalized it before: an attempt in doubt.
                Some(answered) if is_final(answered.status) => return,
                _ => pause().await,
            }
        };
        let Some(location) = location else {
            let text = "a 202 has no Location".to_owned();
            return self.recorder.write(|history| history.complaints.push(Complaint { upload, text }));
        };
        self.get(upload, Ask::GetByStranger, stranger, operation.gateway, &location).await;
        // The window may end while everything is down: then the Location is unknown, and that ends the operation too.
        loop {
            let gateway = rand::random_range(0..2);
            if let Some(answered) = self.get(upload, Ask::Get, operation.account, gateway, &location).await {
                let page = serde_json::from_slice(&answered.body).unwrap_or(serde_json::Value::Null);
                if answered.status == 404 || page["status"] == "final" {
                    return;
                }
            }
            pause().await;
        }
    }

    /// Sends a body with a fault until the fault is reported.
    async fn malformed(&self, operation: &Operation, upload: UploadId) {
        let mut broken = operation::upload(self.settings.seed, upload);
        if let Some(last) = broken.locations.last_mut() {
            last.latitude = 91.0;
        }
        let post = Post::batch(&broken).key(operation.key.as_deref().unwrap_or_default());
        while self
            .post(upload, Ask::PostMalformed, operation.account, operation.gateway, &post)
            .await
            .is_none_or(|answered| !is_final(answered.status))
        {
            pause().await;
        }
    }

    /// Sends the request up to some byte, half of the time the last one, and hangs up. Returns whether all was sent.
    async fn hang_up(&self, operation: &Operation, upload: UploadId, account: usize) -> bool {
        let post = self.request(operation, upload, false);
        let bytes = Raw::request(&post, &self.settings.secrets[account], None);
        let sent = if rand::random() { bytes.len() } else { rand::random_range(1..bytes.len()) };
        let began = self.recorder.now();
        let whole = self.send_bytes(operation.gateway, &bytes[..sent]).await && sent == bytes.len();
        self.write(upload, Ask::Post, account, operation.gateway, began, Outcome::HungUp { whole });
        whole
    }

    /// Sends bytes on a connection of its own, and closes it. Returns whether they were sent.
    async fn send_bytes(&self, gateway: usize, bytes: &[u8]) -> bool {
        let send = async {
            let mut raw = Raw::connect(self.settings.gateways[gateway]).await?;
            raw.send(bytes).await
        };
        send.await.is_ok()
    }

    /// The request of an upload. Copies are written differently: as a single or a batch, dense or indented.
    fn request(&self, operation: &Operation, id: UploadId, respond_async: bool) -> Post {
        let upload = operation::upload(self.settings.seed, id);
        let single = upload.locations.len() == 1 && rand::random();
        let mut post = if single { Post::single(&upload) } else { Post::batch(&upload) };
        if !single && rand::random_bool(0.1) {
            post.body = serde_json::to_vec_pretty(&upload).expect("an upload is JSON");
        }
        if let Some(key) = &operation.key {
            post = post.key(key);
        }
        if respond_async { post.respond_async() } else { post.wait(WAIT_SECONDS) }
    }

    async fn attempt(
        &self,
        operation: &Operation,
        upload: UploadId,
        account: usize,
        gateway: usize,
        respond_async: bool,
    ) -> Option<Answered> {
        let post = self.request(operation, upload, respond_async);
        self.post(upload, Ask::Post, account, gateway, &post).await
    }

    async fn post(
        &self,
        upload: UploadId,
        ask: Ask,
        account: usize,
        gateway: usize,
        post: &Post,
    ) -> Option<Answered> {
        let url = format!("http://{}{}", self.settings.gateways[gateway], post.path);
        let mut request = self.http.post(url).body(post.body.clone());
        for (name, value) in &post.headers {
            request = request.header(name, value);
        }
        self.send(upload, ask, account, gateway, request).await
    }

    async fn get(
        &self,
        upload: UploadId,
        ask: Ask,
        account: usize,
        gateway: usize,
        location: &str,
    ) -> Option<Answered> {
        let request = self.http.get(format!("http://{}{location}", self.settings.gateways[gateway]));
        self.send(upload, ask, account, gateway, request).await
    }

    async fn send(
        &self,
        upload: UploadId,
        ask: Ask,
        account: usize,
        gateway: usize,
        request: reqwest::RequestBuilder,
    ) -> Option<Answered> {
        let began = self.recorder.now();
        let answered = answered(request.header("X-API-Key", &self.settings.secrets[account])).await;
        self.write(upload, ask, account, gateway, began, outcome(answered.as_ref()));
        answered
    }

    fn write(
        &self,
        upload: UploadId,
        ask: Ask,
        account: usize,
        gateway: usize,
        began: Duration,
        outcome: Outcome,
    ) {
        let (request, ended) = (self.number(), self.recorder.now());
        let attempt = Attempt { request, upload, ask, account, gateway, began, ended, outcome };
        self.recorder.write(|history| history.attempts.push(attempt));
    }

    /// Of a request.
    fn number(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }
}

/// Sends a request; `None` if no whole answer comes.
async fn answered(request: reqwest::RequestBuilder) -> Option<Answered> {
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    let header = |name| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    let location = header(LOCATION);
    let replayed = response.headers().get("Idempotency-Replayed").is_some_and(|value| value == "true");
    let body = response.bytes().await.ok()?;
    Some(Answered { status, replayed, location, body: Arc::from(&body[..]) })
}

fn outcome(answered: Option<&Answered>) -> Outcome {
    answered.map_or(Outcome::Unknown, |Answered { status, replayed, body, .. }| Outcome::Answer {
        status: *status,
        body: Arc::clone(body),
        replayed: *replayed,
    })
}

/// How long the load has to rest at this moment of the run.
fn rest_at(rhythm: Option<(Duration, Duration)>, now: Duration) -> Option<Duration> {
    let (load, rest) = rhythm?;
    let beat = load + rest;
    let at = Duration::from_secs_f64(now.as_secs_f64() % beat.as_secs_f64());
    (at >= load).then(|| beat.saturating_sub(at))
}

async fn pause() {
    let pause = PAUSE_MAX.mul_f64(rand::rng().random_range(0.1..1.0));
    sleep(pause).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_comes_and_rests_in_turn() {
        let seconds = Duration::from_secs;
        let rest = |now| rest_at(Some((seconds(4), seconds(6))), seconds(now));
        assert_eq!(
            [0, 3, 4, 9, 10, 25].map(rest),
            [None, None, Some(seconds(6)), Some(seconds(1)), None, Some(seconds(5))]
        );
        assert_eq!(rest_at(None, seconds(5)), None);
    }
}
