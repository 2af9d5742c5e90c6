//! The phone against a real HTTP server that follows a script.

use std::collections::VecDeque;
use std::future;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, Uri};
use bytes::Bytes;
use futures::stream;
use reqwest::Url;
use reqwest::header::HeaderMap;
use tempfile::NamedTempFile;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Notify};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::point::Point;
use crate::summary::Summary;
use crate::upload::Upload;

mod apps;

/// What the server does to one request.
enum Reply {
    /// Answers with this status, `Retry-After: 0` and this body.
    Say(u16, &'static str),
    /// Answers with this status, `Retry-After: 0` and this body, which is said to be JSON.
    Json(u16, &'static str),
    /// Answers with this status and `Retry-After` in seconds.
    AskBack(u16, &'static str),
    /// Answers 200 with this body, marked as a replay.
    Replay(&'static str),
    /// Sends the head of a 200 and breaks the connection off.
    HangUp,
    /// Says nothing, until the phone gives up.
    Silence,
}

use Reply::{AskBack, HangUp, Json, Replay, Say, Silence};

const ONE: &str = r#"{"success":true,"processedCount":1}"#;
const TWO: &str = r#"{"success":true,"processedCount":2}"#;

/// One request as the server saw it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    /// With the query, if there is one.
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Default)]
struct Script {
    replies: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<Seen>>,
}

impl Script {
    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test thread panics with the lock").clone()
    }
}

async fn follow(
    State(script): State<Arc<Script>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    script.seen.lock().expect("unpoisoned").push(Seen { path: uri.to_string(), headers, body });
    let reply = script.replies.lock().expect("unpoisoned").pop_front();
    let response = |status: u16| Response::builder().status(status).header("retry-after", "0");
    let response = match reply.unwrap_or(Say(400, "the script is over")) {
        Say(status, body) => response(status).body(body.into()),
        Json(status, body) => {
            response(status).header("content-type", "application/json; charset=utf-8").body(body.into())
        }
        AskBack(status, seconds) => {
            Response::builder().status(status).header("retry-after", seconds).body(Body::empty())
        }
        Replay(body) => response(200).header("idempotency-replayed", "true").body(body.into()),
        HangUp => {
            let broken = stream::iter([Ok("{"), Err(io::Error::other("hang-up"))]);
            response(200).body(Body::from_stream(broken))
        }
        Silence => future::pending().await,
    };
    response.expect("the response is valid")
}

async fn serve(router: Router) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    Url::parse(&format!("http://{address}")).expect("an address")
}

async fn gateway(replies: impl IntoIterator<Item = Reply>) -> (Url, Arc<Script>) {
    let replies = Mutex::new(replies.into_iter().collect());
    let script = Arc::new(Script { replies, seen: Mutex::default() });
    (serve(Router::new().fallback(follow).with_state(Arc::clone(&script))).await, script)
}

fn settings(gateways: impl IntoIterator<Item = Url>) -> Settings {
    Settings {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(2),
        attempts_max: 8,
        ..Settings::new(gateways.into_iter().collect(), "secret".to_owned())
    }
}

fn phone(settings: Settings) -> Phone {
    Phone::new(settings).expect("the settings are valid")
}

/// Uploads of so many locations each, no two of them alike.
fn uploads<const N: usize>(lengths: [usize; N]) -> Vec<Upload> {
    let mut timestamp = 1_773_480_413_000;
    let mut point = || {
        timestamp += 1000;
        Point {
            timestamp,
            latitude: 48.2081743,
            longitude: 16.3738189,
            accuracy: None,
            altitude: None,
            bearing: None,
            speed: None,
            provider: "gps",
        }
    };
    let mut points = |length| (0..length).map(|_| point()).collect::<Vec<Point>>();
    lengths.map(|length| Upload::new("phone", &points(length))).into()
}

/// Far beyond what any play here takes: a phone that waits for nothing fails its test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(20);

async fn play(phone: &Phone, uploads: &[Upload], twice: bool) -> Summary {
    let play = phone.play(uploads.to_vec(), twice, |_| ());
    tokio::time::timeout(PATIENCE, play).await.expect("the play ends in time")
}

fn only_failure(summary: &Summary) -> String {
    assert_eq!(summary.failures.len(), 1, "{summary:?}");
    summary.failures[0].1.to_string()
}

#[tokio::test]
async fn an_upload_is_tried_with_the_same_key_and_the_same_bytes_until_it_is_answered() {
    let (url, script) = gateway([
        Say(503, ""),
        Say(202, "{}"),
        Say(429, ""),
        HangUp,
        Say(408, ""),
        Say(500, ""),
        Replay(TWO),
    ])
    .await;
    let uploads = uploads([2]);
    let summary = play(&phone(settings([url])), &uploads, false).await;

    let expected =
        Summary { uploads: 1, attempts: 7, sent: 14, replays: 1, locations: 2, ..Summary::default() };
    assert_eq!(summary, expected);
    let seen = script.seen();
    assert_eq!(seen.len(), 7);
    assert!(seen.iter().all(|request| *request == seen[0]), "{seen:?}");
    assert_eq!(seen[0].path, "/api/v1/locations/batch");
    assert_eq!(seen[0].body, uploads[0].body);
    assert_eq!(seen[0].headers["idempotency-key"], format!("\"{}\"", uploads[0].key));
    assert_eq!(seen[0].headers["x-api-key"], "secret");
    assert_eq!(seen[0].headers["content-type"], "application/json");
    assert!(!seen[0].headers.contains_key("prefer"));
}

#[tokio::test]
async fn a_silent_gateway_is_timed_out_and_tried_again() {
    let (url, script) = gateway([Silence, Say(200, ONE)]).await;
    let hasty = Settings { request_timeout: Duration::from_millis(200), ..settings([url]) };
    let summary = play(&phone(hasty), &uploads([1]), false).await;
    assert_eq!((summary.attempts, summary.locations), (2, 1));
    assert_eq!(script.seen()[0], script.seen()[1]);
    assert_eq!(script.seen()[0].path, "/api/v1/locations");
}

#[tokio::test]
async fn a_retry_goes_to_the_next_gateway() {
    // The first refuses connections, the second hangs up on them.
    let refusing = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let hanging_up = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let [first, second] = [&refusing, &hanging_up].map(|listener| {
        let address = listener.local_addr().expect("a bound listener has an address");
        Url::parse(&format!("http://{address}/")).expect("an address")
    });
    drop(refusing);
    tokio::spawn(async move { while hanging_up.accept().await.is_ok() {} });
    let (third, script) = gateway([Say(503, ""), Say(200, ONE)]).await;

    let reasons = Mutex::new(Vec::new());
    let phone = phone(settings([first, second, third]));
    let summary = phone
        .play(uploads([1]), false, |event| {
            if let Event::Pausing { reason, .. } = event {
                reasons.lock().expect("unpoisoned").push(reason.to_owned());
            }
        })
        .await;
    assert_eq!((summary.attempts, summary.locations), (6, 1));
    assert_eq!(script.seen().len(), 2);
    let round = ["cannot connect", "the connection was lost"];
    assert_eq!(*reasons.lock().expect("unpoisoned"), [&round[..], &["503"], &round[..]].concat());
}

#[tokio::test]
async fn a_pause_is_as_long_as_the_answer_asks_within_its_bound() {
    let (url, _) = gateway([AskBack(503, "1"), AskBack(202, "1"), AskBack(429, "0"), Say(200, ONE)]).await;
    let bound = Duration::from_millis(100);
    let pauses = Mutex::new(Vec::new());
    let begun = Instant::now();
    let summary = phone(Settings { retry_after_max: bound, ..settings([url]) })
        .play(uploads([1]), false, |event| {
            if let Event::Pausing { pause, .. } = event {
                pauses.lock().expect("unpoisoned").push(pause);
            }
        })
        .await;
    assert_eq!((summary.attempts, summary.locations), (4, 1));
    let pauses = pauses.into_inner().expect("unpoisoned");
    assert_eq!(pauses[..2], [bound; 2]);
    assert!(pauses[2] < bound, "{pauses:?}");
    assert!(begun.elapsed() >= 2 * bound);
}

#[tokio::test]
async fn a_pause_is_as_long_as_a_date_asks() {
    async fn answer(State(count): State<Arc<Mutex<u32>>>) -> Response<Body> {
        let mut count = count.lock().expect("unpoisoned");
        *count += 1;
        let response = Response::builder().header("date", "Wed, 21 Oct 2026 07:28:00 GMT");
        let response = match *count {
            1 => response
                .status(503)
                .header("retry-after", "Wed, 21 Oct 2026 07:28:01 GMT")
                .body(Body::empty()),
            2 => response
                .status(503)
                .header("retry-after", "Wed, 21 Oct 2026 07:27:00 GMT")
                .body(Body::empty()),
            _ => response.body(ONE.into()),
        };
        response.expect("the response is valid")
    }
    let url = serve(Router::new().fallback(answer).with_state(Arc::default())).await;
    let pauses = Mutex::new(Vec::new());
    let summary = phone(settings([url]))
        .play(uploads([1]), false, |event| {
            if let Event::Pausing { pause, .. } = event {
                pauses.lock().expect("unpoisoned").push(pause);
            }
        })
        .await;
    assert_eq!((summary.attempts, summary.locations), (3, 1));
    let pauses = pauses.into_inner().expect("unpoisoned");
    assert_eq!(pauses[0], Duration::from_secs(1));
    assert!(pauses[1] < Duration::from_millis(10), "{pauses:?}");
}

#[tokio::test]
async fn a_permanent_answer_is_not_tried_again_and_shown_with_code_and_detail() {
    for (status, body, shown) in [
        (
            401,
            r#"{"code":"unauthorized","detail":"no valid API key"}"#,
            "refused: 401 unauthorized: no valid API key",
        ),
        (422, "", "refused: 422"),
        (307, "", "refused: 307"),
    ] {
        let (url, script) = gateway([Say(status, body)]).await;
        let summary = play(&phone(settings([url])), &uploads([1]), true).await;
        assert_eq!(only_failure(&summary), shown);
        assert_eq!((summary.attempts, summary.locations, script.seen().len()), (1, 0, 1));
    }
}

#[tokio::test]
async fn an_upload_is_given_up_after_the_most_attempts() {
    let (url, script) = gateway((0..9).map(|_| Say(503, ""))).await;
    let summary = play(&phone(settings([url])), &uploads([1]), false).await;
    assert_eq!(only_failure(&summary), "gave up after 8 attempts; the last: 503");
    assert_eq!(script.seen().len(), 8);
}

#[tokio::test]
async fn an_upload_is_given_up_at_once_when_the_next_attempt_would_come_after_the_deadline() {
    let (url, script) = gateway([Say(503, ""), Say(200, ONE)]).await;
    let hour = Duration::from_secs(3600);
    let patient = Settings { backoff_min: hour, backoff_max: hour, ..settings([url]) };
    let summary = play(&phone(patient), &uploads([1]), false).await;
    assert_eq!(only_failure(&summary), "gave up after 1 attempts; the last: 503");
    assert_eq!(script.seen().len(), 1);
}

#[tokio::test]
async fn a_success_that_does_not_confirm_all_locations_is_a_failure() {
    for body in [ONE, "", "{}", r#"{"success":false,"processedCount":2}"#] {
        let (url, _) = gateway([Say(200, body)]).await;
        let summary = play(&phone(settings([url])), &uploads([2]), false).await;
        assert!(only_failure(&summary).starts_with("sent 2 locations, but the answer is: 200"));
        assert_eq!(summary.locations, 0);
    }
}

#[tokio::test]
async fn twice_sends_a_copy_to_the_gateway_after_the_one_that_answered_and_counts_its_replay() {
    let (first, first_script) = gateway([Say(202, "")]).await;
    let (second, second_script) = gateway([Say(200, TWO)]).await;
    let (third, third_script) = gateway([Replay(TWO)]).await;
    let summary = play(&phone(settings([first, second, third])), &uploads([2]), true).await;

    let expected =
        Summary { uploads: 1, attempts: 3, sent: 6, replays: 1, locations: 2, ..Summary::default() };
    assert_eq!(summary, expected);
    let seen = [first_script, second_script, third_script].map(|script| script.seen());
    for request in &seen {
        assert_eq!(request.len(), 1);
        assert_eq!(request[0].body, seen[0][0].body);
        assert_eq!(request[0].headers["idempotency-key"], seen[0][0].headers["idempotency-key"]);
    }
}

#[tokio::test]
async fn a_copy_that_is_answered_differently_is_a_failure() {
    let other = r#"{"success":true,"processedCount":1 }"#;
    for (reply, shown) in [
        (Replay(other), format!("answered differently: first 200 {ONE}, then 200 {other}")),
        (Say(422, "used"), format!("answered differently: first 200 {ONE}, then 422 used")),
    ] {
        let (url, _) = gateway([Say(200, ONE), reply]).await;
        let summary = play(&phone(settings([url])), &uploads([1]), true).await;
        assert_eq!(only_failure(&summary), shown);
        assert_eq!((summary.attempts, summary.locations), (2, 1));
    }
}

#[tokio::test]
async fn the_wait_is_asked_for_when_it_is_set() {
    let (url, script) = gateway([Say(200, ONE)]).await;
    play(&phone(Settings { wait_secs: Some(7), ..settings([url]) }), &uploads([1]), false).await;
    assert_eq!(script.seen()[0].headers["prefer"], "wait=7");
}

#[tokio::test]
async fn as_many_uploads_as_allowed_are_under_way_at_once() {
    /// Lets nobody pass before three have come, and counts those inside: now, and at most.
    struct Gate {
        barrier: Barrier,
        inside: Mutex<(usize, usize)>,
    }
    async fn pass(State(gate): State<Arc<Gate>>) -> &'static str {
        {
            let mut inside = gate.inside.lock().expect("unpoisoned");
            inside.0 += 1;
            inside.1 = inside.1.max(inside.0);
        }
        gate.barrier.wait().await;
        gate.inside.lock().expect("unpoisoned").0 -= 1;
        ONE
    }
    let gate = Arc::new(Gate { barrier: Barrier::new(3), inside: Mutex::default() });
    let url = serve(Router::new().fallback(pass).with_state(Arc::clone(&gate))).await;
    let three = Settings { concurrency: 3, ..settings([url]) };
    let summary = play(&phone(three), &uploads([1; 12]), false).await;
    assert_eq!((summary.uploads, summary.attempts, summary.locations), (12, 12, 12));
    assert_eq!(gate.inside.lock().expect("unpoisoned").1, 3);
}

#[tokio::test]
async fn a_stopped_play_ends_at_once_with_what_it_has() {
    let (url, _) = gateway([Say(200, TWO), Silence]).await;
    let finished = Notify::new();
    let one_by_one = Settings { concurrency: 1, ..settings([url]) };
    let summary = phone(one_by_one)
        .play_until(uploads([2, 2, 2]), false, finished.notified(), |event| {
            if let Event::Finished(_) = event {
                finished.notify_one();
            }
        })
        .await;
    let expected =
        Summary { uploads: 1, attempts: 1, sent: 2, locations: 2, unfinished: 2, ..Summary::default() };
    assert_eq!(summary, expected);
}

#[tokio::test]
async fn a_play_can_run_in_a_task_of_its_own() {
    let (url, _) = gateway([Say(200, ONE)]).await;
    let play = tokio::spawn(async move { phone(settings([url])).play(uploads([1]), false, |_| ()).await });
    assert_eq!(play.await.expect("the task ends well").locations, 1);
}

#[tokio::test]
async fn an_upload_that_a_file_holds_twice_is_answered_twice_and_counted_once() {
    let (url, script) = gateway([Say(200, TWO), Replay(TWO)]).await;
    let upload = uploads([2]).remove(0);
    let one_by_one = Settings { concurrency: 1, ..settings([url]) };
    let summary = play(&phone(one_by_one), &[upload.clone(), upload], false).await;
    let expected =
        Summary { uploads: 2, attempts: 2, sent: 4, replays: 1, locations: 2, ..Summary::default() };
    assert_eq!(summary, expected);
    assert_eq!(script.seen()[0], script.seen()[1]);
}

/// A server on loopback that speaks TLS, and the certificate it has to be trusted by, as a file.
async fn gateway_with_tls(script: Arc<Script>, name: &str) -> (Url, NamedTempFile) {
    let signed = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(signed.cert.pem().as_bytes()).expect("the file is written");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            config.with_no_client_auth().with_single_cert(vec![signed.cert.der().clone()], key)
        })
        .expect("the test's certificate is valid");

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("a bound listener has an address").port();
    let listener = Tls { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
    let router = Router::new().fallback(follow).with_state(script);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Url::parse(&format!("https://localhost:{port}")).expect("an address"), file)
}

struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

fn script(replies: impl IntoIterator<Item = Reply>) -> Arc<Script> {
    Arc::new(Script { replies: Mutex::new(replies.into_iter().collect()), seen: Mutex::default() })
}

/// The reasons for which nothing came of two attempts.
async fn reasons(settings: Settings) -> Vec<String> {
    let reasons = Mutex::new(Vec::new());
    let summary = phone(Settings { attempts_max: 2, ..settings })
        .play(uploads([1]), false, |event| {
            if let Event::Pausing { reason, .. } = event {
                reasons.lock().expect("unpoisoned").push(reason.to_owned());
            }
        })
        .await;
    let mut reasons = reasons.into_inner().expect("unpoisoned");
    reasons.push(only_failure(&summary));
    reasons
}

#[tokio::test]
async fn a_gateway_with_tls_is_spoken_to_when_its_certificate_is_trusted() {
    let script = script([Say(503, ""), Say(200, TWO)]);
    let (url, certificate) = gateway_with_tls(Arc::clone(&script), "localhost").await;
    let trusting = Settings { ca_file: Some(certificate.path().to_owned()), ..settings([url]) };
    let summary = play(&phone(trusting), &uploads([2]), false).await;
    assert_eq!((summary.attempts, summary.locations), (2, 2));
    assert_eq!(script.seen()[0].headers["x-api-key"], "secret");
}

#[tokio::test]
async fn a_gateway_whose_certificate_is_not_trusted_is_sent_nothing() {
    let seen = script([]);
    let (url, _) = gateway_with_tls(Arc::clone(&seen), "localhost").await;
    let (_, of_another) = gateway_with_tls(script([]), "localhost").await;
    let (misnamed, its_own) = gateway_with_tls(Arc::clone(&seen), "elsewhere.example").await;
    for (url, trusted) in [(url, of_another), (misnamed, its_own)] {
        let wary = Settings { ca_file: Some(trusted.path().to_owned()), ..settings([url]) };
        let message = "the gateway's certificate is not trusted";
        assert_eq!(reasons(wary).await, [message, &format!("gave up after 2 attempts; the last: {message}")]);
    }
    assert_eq!(seen.seen(), []);
}

#[tokio::test]
async fn a_gateway_that_speaks_no_tls_on_https_is_recognised() {
    let (mut url, script) = gateway([]).await;
    url.set_scheme("https").expect("an address can be https");
    let (_, certificate) = gateway_with_tls(Arc::clone(&script), "localhost").await;
    let secure = Settings { ca_file: Some(certificate.path().to_owned()), ..settings([url]) };
    assert_eq!(reasons(secure).await[0], "the gateway does not speak TLS as it should");
    assert_eq!(script.seen(), []);
}

#[test]
fn bad_settings_make_no_phone() {
    assert!(Phone::new(settings([])).is_err());
}
