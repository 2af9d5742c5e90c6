//! The gateway behind a real listener, by clients that send bytes. The journal is away; Postgres is real.

use http::{HeaderMap, HeaderName, HeaderValue};
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::location::{Rules, Shape, decode};
use milepost_shared::program::crash::Crash;
use milepost_shared::program::pages::Readiness;
use milepost_shared::store::testing::{self, Role, TestDatabase};
use milepost_shared::testing::eventually;
use sqlx::types::time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant as Moment, timeout};

use super::*;
use crate::http::server;
use crate::testing::{ACCOUNT, SECRET, create_key, settings};

const LOCATIONS: &str = "/api/v1/locations";
const BATCH: &str = "/api/v1/locations/batch";
const UPLOADS: &str = "/api/v1/uploads/";
const PATIENCE: Duration = Duration::from_secs(10);
const BODY: &str = r#"{"deviceId":"d","timestamp":1773480413000,"latitude":48.2,"longitude":16.3}"#;

#[test]
fn the_future_of_a_request_has_no_room_for_what_is_rare() {
    fn size_of_output<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }
    let size =
        size_of_output(|(pipeline, request): (Arc<Pipeline>, http::Request<hyper::body::Incoming>)| {
            pipeline.answer(request)
        });
    assert!(size <= 2048, "{size} bytes are moved for each request");
}

struct Gateway {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    readiness: Readiness,
    database: TestDatabase,
}

async fn gateway(arguments: &[&str]) -> Gateway {
    let database = testing::database().await;
    create_key(&database, SECRET).await;
    let url = format!("--database-url={}", database.url(Role::Gateway));
    let mut arguments: Vec<&str> = arguments.iter().copied().chain([url.as_str()]).collect();
    if !arguments.iter().any(|argument| argument.starts_with("--publish-timeout=")) {
        arguments.push("--publish-timeout=100ms");
    }
    let settings = settings(&arguments);
    let (readiness, stop) = (Readiness::default(), CancellationToken::new());
    let clock = Clock::new(0);
    let crash = Crash::new(settings.tests.crash_at.clone());
    let GatewaySettings { answers, kafka, database: at, .. } = &settings;
    let at = at.target("milepost-gateway").unwrap();
    let answers = Answers::start(answers, kafka, &at, clock, crash, &readiness).unwrap();
    let app = App::new(&settings, &at, answers, &readiness, &stop).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn({
        let (readiness, stop) = (readiness.clone(), stop.clone());
        async move {
            server::serve(listener, app.pipeline, app.refuser, &settings.server, &readiness, &stop).await
        }
    });
    Gateway { address, stop, serving, readiness, database }
}

/// A client that sends bytes.
struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn code(&self) -> String {
        let page: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        page["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Gateway {
    async fn connect(&self) -> Raw {
        Raw { stream: TcpStream::connect(self.address).await.unwrap(), received: Vec::new() }
    }

    async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut raw = self.connect().await;
        raw.send(request).await;
        raw.answer().await
    }
}

impl Raw {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.unwrap().unwrap();
    }

    /// Reads one answer; a body ends where its length says.
    async fn answer(&mut self) -> Answer {
        let mut answer = self.answer_to_head().await;
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.received.len() < length {
            assert!(self.receive().await, "closed inside a body");
        }
        answer.body = self.received.drain(..length).collect();
        answer
    }

    /// Reads one answer that has no body, whatever length it says.
    async fn answer_to_head(&mut self) -> Answer {
        let head = loop {
            let end = self.received.windows(4).position(|window| window == b"\r\n\r\n");
            match end {
                Some(end) => break self.received.drain(..end + 4).collect::<Vec<u8>>(),
                None => assert!(self.receive().await, "closed without an answer"),
            }
        };
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        Answer { status, headers, body: Vec::new() }
    }

    /// False at the end.
    async fn receive(&mut self) -> bool {
        let read =
            timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await.expect("no answer in time");
        read.is_ok_and(|read| read > 0)
    }

    /// Waits until the gateway has closed the connection, without a further answer, and returns how long that
    /// took.
    async fn closed(&mut self) -> Duration {
        let begun = Moment::now();
        while self.receive().await {}
        assert_eq!(String::from_utf8_lossy(&self.received), "");
        begun.elapsed()
    }
}

fn head(method_and_path: &str, headers: &str) -> String {
    format!("{method_and_path} HTTP/1.1\r\nHost: milepost\r\n{headers}\r\n")
}

fn upload_head(headers: &str, length: usize) -> String {
    let common = "Content-Type: application/json\r\n";
    head(
        "POST /api/v1/locations",
        &format!("X-API-Key: {SECRET}\r\n{common}Content-Length: {length}\r\n{headers}"),
    )
}

fn upload(headers: &str, body: &str) -> String {
    upload_head(headers, body.len()) + body
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_a_problem_with_its_code_and_the_request_id() {
    let gateway = gateway(&["--locations-max=1", "--body-bytes-max=2000"]).await;
    let location = r#"{"timestamp":1773480413000,"latitude":1,"longitude":2}"#;
    let two = format!(r#"{{"deviceId":"d","locations":[{location},{location}]}}"#);
    let batch = |body: &str| upload("", body).replacen("/locations", "/locations/batch", 1);
    let uploads = format!("GET /api/v1/uploads/{}", "0".repeat(64));
    let key = format!("X-API-Key: {SECRET}\r\n");
    let cases: Vec<(String, u16, &str)> = vec![
        (upload("", "{"), 400, "malformed-json"),
        (upload("", "{}"), 400, "invalid-upload"),
        (upload("Idempotency-Key: \"a\r\n", BODY), 400, "invalid-idempotency-key"),
        (upload("Host: other\r\n", BODY), 400, "ambiguous-request"),
        ("hello\r\n\r\n".to_owned(), 400, "malformed-request"),
        (head("GET /", &"X: y\r\n".repeat(100)), 431, "head-too-large"),
        (upload("", BODY).replace("Host: milepost\r\n", ""), 400, "ambiguous-request"),
        (upload("Content-Encoding: gzip\r\n", BODY), 400, "unreadable-body"),
        (upload("", BODY).replace(&key, ""), 401, "unauthorized"),
        (upload("", BODY).replace("_xxx", "_yyy"), 401, "unauthorized"),
        (head("GET /", ""), 404, "not-found"),
        (head("GET /api/v1/uploads/x", &key), 404, "unknown-upload"),
        (head(&format!("{uploads}?receipt=x"), &key), 404, "unknown-upload"),
        (head(&uploads, ""), 401, "unauthorized"),
        (head("GET /api/v1/locations", &key), 405, "method-not-allowed"),
        (head("PURGE /api/v1/uploads/x", &key), 405, "method-not-allowed"),
        (upload("Accept: text/html\r\n", BODY), 406, "not-acceptable"),
        (batch(&two), 413, "too-many-locations"),
        (upload("", &" ".repeat(2001)), 413, "body-too-large"),
        (upload("", BODY).replace("application/json", "text/plain"), 415, "unsupported-media-type"),
        (upload("Content-Encoding: compress\r\n", BODY), 415, "unsupported-encoding"),
        (upload("", BODY), 503, "journal-unavailable"),
    ];
    for (request, status, code) in cases {
        let answer = gateway.ask(&request).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{request}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{request}");
        let page: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer.header("x-request-id"), page["requestId"].as_str(), "{request}");
        assert!(answer.header("x-request-id").is_some());
        assert_eq!(status == 503, answer.header("retry-after").is_some(), "{request}");
        assert_eq!(status == 401, answer.header("www-authenticate").is_some(), "{request}");
        assert_eq!(status == 405, answer.header("allow").is_some(), "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_page_has_its_methods_and_names_them() {
    let gateway = gateway(&[]).await;
    let status = format!("{UPLOADS}{}", KeyHash([0; 32]));
    let cases = [
        ("PUT", LOCATIONS, 405, Some("POST")),
        ("GET", BATCH, 405, Some("POST")),
        ("POST", &status, 405, Some("GET,HEAD")),
        ("GET", &status, 401, None),
        ("HEAD", &status, 401, None),
        ("HEAD", "/traccar/key?lat=1&lon=2&timestamp=1", 405, Some("GET,POST,PUT")),
        ("GET", UPLOADS, 404, None),
        ("GET", &format!("{status}/x"), 404, None),
        ("POST", "/api/v1/locations/", 404, None),
        ("POST", "/", 404, None),
    ];
    for (method, path, status, allow) in cases {
        let mut raw = gateway.connect().await;
        raw.send(head(&format!("{method} {path}"), "Connection: close\r\n")).await;
        let answer = if method == "HEAD" { raw.answer_to_head().await } else { raw.answer().await };
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{method} {path}");
        raw.closed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_forgets_at_any_answer_gets_none_where_another_would_be_told_to_come_again() {
    const IOS: &str = "User-Agent: TraccarClient/8 CFNetwork/1410.1 Darwin/22.6.0\r\nContent-Length: 0\r\n";
    const ANDROID: &str = "User-Agent: Dalvik/2.1.0 (Linux; U; Android 11)\r\nContent-Length: 0\r\n";
    let gateway = gateway(&[]).await;
    let post =
        |key: &str, fields: &str, headers: &str| head(&format!("POST /traccar/{key}?{fields}"), headers);
    let fix = "id=1&timestamp=1773480413&lat=48.25&lon=16.375";
    for (key, status) in [("mp_wrong", 401), (SECRET, 503)] {
        assert_eq!(gateway.ask(post(key, fix, ANDROID)).await.status, status);
        let mut raw = gateway.connect().await;
        raw.send(post(key, fix, IOS)).await;
        raw.closed().await;
    }
    // What would never get better is answered, and the connection goes on.
    let mut raw = gateway.connect().await;
    raw.send(post(SECRET, "", IOS)).await;
    assert_eq!(raw.answer().await.status, 400);
    raw.send(head("DELETE /traccar", "User-Agent: TraccarClient/8\r\n")).await;
    assert_eq!(raw.answer().await.status, 405);
    // What it has sent before is answered before the connection is closed.
    raw.send(head("GET /", "") + &post("mp_wrong", fix, IOS)).await;
    assert_eq!(raw.answer().await.status, 404);
    raw.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_and_compressed_bodies_are_read_and_bounded() {
    let gateway = gateway(&["--body-bytes-max=2000"]).await;
    let chunked = |body: &str| {
        let head = upload_head("", 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
        format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    };
    assert_eq!(gateway.ask(chunked(BODY)).await.code(), "journal-unavailable");
    assert_eq!(gateway.ask(chunked(&" ".repeat(2001))).await.code(), "body-too-large");
    let compressed = |body: &[u8]| {
        let mut request = upload_head("Content-Encoding: gzip\r\n", body.len()).into_bytes();
        request.extend_from_slice(body);
        request
    };
    let bomb = gzip(&vec![b' '; 1_000_000]);
    assert!(bomb.len() < 2000);
    assert_eq!(gateway.ask(compressed(&gzip(BODY.as_bytes()))).await.code(), "journal-unavailable");
    assert_eq!(gateway.ask(compressed(&bomb)).await.code(), "body-too-large");
    let little_too_much = gzip(&vec![b' '; 2001]);
    assert_eq!(gateway.ask(compressed(&little_too_much)).await.code(), "body-too-large");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn however_a_compressed_body_is_cut_its_answer_is_the_same() {
    let gateway = gateway(&[]).await;
    // A fault of the upload shows that it was read; what is accepted would wait for the journal.
    let (one, two) = (gzip(b"{"), gzip(b"}"));
    let brotli = {
        let (mut encoded, parameters) = (Vec::new(), brotli::enc::BrotliEncoderParams::default());
        brotli::BrotliCompress(&mut &b"{}"[..], &mut encoded, &parameters).unwrap();
        encoded
    };
    let zlib = [&b"\x78\x01\x01\x02\0\xfd\xff{}"[..], &[0x01, 0x75, 0x00, 0xf9]].concat();
    let zstd = zstd::stream::encode_all(&b"{}"[..], 3).unwrap();
    let members = [one, two].concat();
    let mut raw = gateway.connect().await;
    for (coding, whole) in [("x-gzip", members), ("br", brotli), ("deflate", zlib), ("ZSTD", zstd)] {
        for (trailing, code) in
            [(&b""[..], "invalid-upload"), (b"\0", "unreadable-body"), (b"{}", "unreadable-body")]
        {
            let body = [&whole[..], trailing].concat();
            let head = |framing: &str| {
                upload_head(&format!("Content-Encoding: {coding}\r\n"), 0)
                    .replace("Content-Length: 0", framing)
            };
            for cut in 1..body.len() {
                let (first, second) = body.split_at(cut);
                raw.send(head("Transfer-Encoding: chunked")).await;
                for chunk in [first, second] {
                    raw.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()).await;
                }
                raw.send("0\r\n\r\n").await;
                assert_eq!(raw.answer().await.code(), code, "{coding}, {trailing:?}, chunks cut at {cut}");
                raw.send([head(&format!("Content-Length: {}", body.len())).as_bytes(), first].concat()).await;
                raw.send(second).await;
                assert_eq!(raw.answer().await.code(), code, "{coding}, {trailing:?}, packets cut at {cut}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_counts_before_it_is_decompressed() {
    let gateway = gateway(&["--body-bytes-max=2000"]).await;
    let name = "n".repeat(3000);
    let header = [b"\x1f\x8b\x08\x08\0\0\0\0\0\x03", name.as_bytes(), b"\0"].concat();
    let body = [&header[..], &gzip(BODY.as_bytes())[10..]].concat();
    let mut request = upload_head("Content-Encoding: gzip\r\n", body.len()).into_bytes();
    request.extend_from_slice(&body);
    assert_eq!(gateway.ask(request).await.code(), "body-too-large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_outlives_a_refusal_if_the_rest_of_the_body_is_little() {
    let gateway = gateway(&[]).await;
    let mut raw = gateway.connect().await;
    for _ in 0..3 {
        raw.send(upload_head("", BODY.len()).replace(SECRET, "nobody")).await;
        raw.send(BODY).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (401, None));
    }
    raw.send(upload_head("", 200_000).replace(SECRET, "nobody")).await;
    raw.send(" ".repeat(200_000)).await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
    raw.closed().await;
    let mut raw = gateway.connect().await;
    raw.send(upload_head("Expect: 100-continue\r\n", BODY.len()).replace(SECRET, "nobody")).await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_slow_clients_are_closed_by_their_deadlines() {
    let arguments = ["--header-timeout=300ms", "--idle-timeout=700ms", "--body-timeout=300ms"];
    let gateway = gateway(&arguments).await;
    let near = |deadline: u64, took: Duration| {
        let deadline = Duration::from_millis(deadline);
        assert!(took >= deadline / 2 && took < deadline + Duration::from_secs(3), "{took:?}");
    };
    let mut silent = gateway.connect().await;
    near(300, silent.closed().await);

    let mut dripping = gateway.connect().await;
    let begun = Moment::now();
    // Writing fails once the gateway has closed.
    while dripping.stream.write_all(b"G").await.is_ok() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    near(300, begun.elapsed());

    let mut idle = gateway.connect().await;
    for _ in 0..2 {
        idle.send(head("GET /", "")).await;
        assert_eq!(idle.answer().await.status, 404);
    }
    near(700, idle.closed().await);

    // The second head has less time than an idle connection.
    let mut second = gateway.connect().await;
    second.send(head("GET /", "")).await;
    assert_eq!(second.answer().await.status, 404);
    second.send("GET / HTTP/1.1\r\n").await;
    let took = second.closed().await;
    assert!(took < Duration::from_millis(650), "{took:?}");

    let mut body = gateway.connect().await;
    body.send(upload_head("", 100) + "{").await;
    let answer = body.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    body.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_answers_is_closed() {
    let gateway = gateway(&["--write-timeout=200ms"]).await;
    let mut raw = gateway.connect().await;
    let requests = head("GET /", "").repeat(1000);
    let filling = async { while raw.stream.write_all(requests.as_bytes()).await.is_ok() {} };
    timeout(Duration::from_secs(60), filling).await.expect("closed, since nothing is read");
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_limit_of_connections_a_new_one_gets_503_and_a_slot_that_is_left_is_given_again() {
    let gateway = gateway(&["--connections-max=2"]).await;
    let mut connected = [gateway.connect().await, gateway.connect().await];
    for raw in &mut connected {
        raw.send(head("GET /", "")).await;
        assert_eq!(raw.answer().await.status, 404);
    }
    let mut refused = gateway.connect().await;
    refused.send(upload("", BODY)).await;
    let answer = refused.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "overload"));
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert!(answer.header("x-request-id").is_some());
    refused.closed().await;
    drop(connected);
    let served = async || Ok((gateway.ask(head("GET /", "")).await.status == 404).then_some(()));
    eventually(PATIENCE, "a slot is free", served).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_limit_of_requests_in_flight_a_new_one_gets_503() {
    // The journal is away: an upload is served for as long as its publishing may take.
    let gateway = gateway(&["--requests-max=1", "--publish-timeout=3s"]).await;
    let mut first = gateway.connect().await;
    first.send(upload("", BODY)).await;
    let mut second = gateway.connect().await;
    let refused = async || {
        second.send(head("GET /", "Content-Length: 2\r\n") + "{}").await;
        let answer = second.answer().await;
        if answer.status != 503 {
            return Ok(None);
        }
        assert_eq!((answer.code().as_str(), answer.header("connection")), ("overload", None));
        assert_eq!(answer.header("retry-after"), Some("2"));
        Ok(Some(()))
    };
    eventually(PATIENCE, "the first is being served", refused).await.unwrap();
    assert_eq!(first.answer().await.code(), "journal-unavailable");
    assert_eq!(gateway.ask(head("GET /", "")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_past_its_rate_gets_429() {
    let gateway = gateway(&["--rate-limit=1", "--rate-burst=1"]).await;
    let mut raw = gateway.connect().await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        raw.send(upload("", "{")).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status == 429, answer.header("retry-after").is_some());
        statuses.push(answer.status);
    }
    assert_eq!(statuses[0], 400);
    assert!(statuses[1..].contains(&429), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_requests_in_flight_are_answered_and_new_connections_are_not_taken() {
    let gateway = gateway(&[]).await;
    let mut idle = gateway.connect().await;
    idle.send(head("GET /", "")).await;
    assert_eq!(idle.answer().await.status, 404);
    let mut first = gateway.connect().await;
    first.send(upload_head("Expect: 100-continue\r\n", BODY.len())).await;
    assert_eq!(first.answer().await.status, 100);
    gateway.stop.cancel();
    idle.closed().await;
    // The idle connection may end before the listener does.
    let refused = async { while TcpStream::connect(gateway.address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("new connections are refused");
    assert!(!gateway.readiness.is_ready());
    first.send(BODY).await;
    let answer = first.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    first.closed().await;
    drop((idle, first));
    timeout(PATIENCE, gateway.serving).await.expect("the server ends").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_ended_by_the_drain_timeout_is_cut_off() {
    let gateway = gateway(&["--drain-timeout=300ms"]).await;
    let mut first = gateway.connect().await;
    first.send(upload_head("Expect: 100-continue\r\n", BODY.len())).await;
    assert_eq!(first.answer().await.status, 100);
    gateway.stop.cancel();
    let begun = Moment::now();
    timeout(PATIENCE, gateway.serving).await.expect("the server ends").unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    first.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_answer_is_replayed_byte_for_byte_and_another_upload_gets_422() {
    let gateway = gateway(&[]).await;
    let key_hash = KeyHash::new(ACCOUNT, "k");
    let upload_of = decode(BODY.as_bytes(), Shape::Single, Rules::STORABLE).unwrap();
    let state = store(&gateway.database, key_hash, &upload_of).await;
    for key in ["k", "\"k\""] {
        let answer = gateway.ask(upload(&format!("Idempotency-Key: {key}\r\n"), BODY)).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &state.body[..]));
        assert_eq!(answer.header("idempotency-replayed"), Some("true"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let answer = gateway.ask(upload("Idempotency-Key: k\r\n", &BODY.replace("48.2", "48.3"))).await;
    assert_eq!((answer.status, answer.code().as_str()), (422, "key-reused"));
    let asked = format!("GET /api/v1/uploads/{key_hash}");
    let answer = gateway.ask(head(&asked, &format!("X-API-Key: {SECRET}\r\n"))).await;
    let page: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, &page["status"]), (200, &"final".into()));
    assert_eq!(page["acceptedAt"], state.accepted_at.0);
}

/// What an app sends, whose key is in the head or in the path.
fn phone(method_and_path: &str, headers: &str, body: &str) -> String {
    head(method_and_path, &format!("{headers}Content-Length: {}\r\n", body.len())) + body
}

#[tokio::test(flavor = "multi_thread")]
async fn each_app_finds_its_key_known_wherever_it_puts_it_and_hears_of_its_points_what_the_journal_says() {
    let gateway = gateway(&[]).await;
    let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("jane:{SECRET}"));
    let (basic, bearer) =
        (format!("Authorization: Basic {basic}\r\n"), format!("Authorization: Bearer {SECRET}\r\n"));
    let owntracks = r#"{"_type":"location","lat":1,"lon":2,"tst":1773480413}"#;
    let overland =
        r#"{"locations":[{"geometry":{"coordinates":[1,2]},"properties":{"timestamp":1773480413}}]}"#;
    let bad = r#"{"locations":[{"geometry":{"coordinates":[1,91]},"properties":{"timestamp":1773480413}}]}"#;
    let point = "id=1&lat=1&lon=2&timestamp=1773480413";
    for request in [
        phone("POST /owntracks", &basic, owntracks),
        phone("POST /owntracks/pub?u=jane&d=pixel8", &bearer, owntracks),
        phone("POST /overland", &bearer, overland),
        phone("POST /overland", &bearer, bad),
        phone(&format!("POST /overland?token={SECRET}"), "", overland),
        phone(&format!("GET /traccar/{SECRET}?{point}"), "", ""),
        phone(&format!("POST /traccar/{SECRET}/?{point}"), "", ""),
        phone(&format!("PUT /gpslogger/{SECRET}"), "Content-Type: text/plain\r\n", point),
        phone(&format!("GET /gpslogger?{point}"), &basic, ""),
    ] {
        // The journal is away: what was taken so far is as it should be.
        let answer = gateway.ask(&request).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "journal-unavailable"), "{request}");
        assert_eq!(answer.header("retry-after"), Some("2"));
        let stranger = request.replace(SECRET, "mp_nobody").replace(&basic, "");
        assert_eq!(gateway.ask(&stranger).await.status, 401, "{stranger}");
    }
    for (request, status) in [
        (phone(&format!("GET /owntracks?{point}"), &basic, ""), 405),
        (phone(&format!("DELETE /traccar/{SECRET}"), "", ""), 405),
        (phone(&format!("GET /traccars/{SECRET}"), "", ""), 404),
    ] {
        assert_eq!(gateway.ask(&request).await.status, status, "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_the_table_knows_are_safe_though_the_journal_is_away_and_one_that_it_does_not_know_is_not()
 {
    let gateway = gateway(&[]).await;
    let bearer = format!("Authorization: Bearer {SECRET}\r\n");
    let item = |second: i64| {
        format!(r#"{{"geometry":{{"coordinates":[16.5,48.5]}},"properties":{{"timestamp":{second}}}}}"#)
    };
    let batch = |seconds: &[i64]| {
        let items: Vec<String> = seconds.iter().map(|second| item(*second)).collect();
        phone("POST /overland", &bearer, &format!(r#"{{"locations":[{}]}}"#, items.join(",")))
    };
    let known = [1_773_480_413, 1_773_480_414, 1_773_480_415];
    for second in known {
        let location = milepost_shared::location::Location::new(second * 1000, 48.5, 16.5);
        let upload =
            milepost_shared::location::Upload { device: "phone".to_owned(), locations: vec![location] };
        store(&gateway.database, KeyHash::of_point(ACCOUNT, "phone", second * 1000, 48.5, 16.5), &upload)
            .await;
    }
    for _ in 0..2 {
        let answer = gateway.ask(batch(&known)).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &br#"{"result":"ok"}"#[..]));
    }
    let more = [&known[..], &[1_773_480_416]].concat();
    assert_eq!(gateway.ask(batch(&more)).await.code(), "journal-unavailable");
    let mode =
        phone("POST /owntracks", &bearer, r#"{"_type":"location","lat":48.5,"lon":16.5,"tst":1773480413}"#);
    let answer = gateway.ask(mode).await;
    assert_eq!(
        (answer.status, &answer.body[..], answer.header("content-type")),
        (200, &b"[]"[..], Some("application/json"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_deletes_what_is_refused_is_told_to_wait_as_long_as_anybody_else() {
    let gateway = gateway(&["--rate-limit=1", "--rate-burst=1"]).await;
    let send = async |secret: &str, agent: &str| {
        let headers = format!("Authorization: Bearer {secret}\r\nUser-Agent: {agent}\r\n");
        gateway.ask(phone("POST /owntracks", &headers, r#"{"_type":"lwt"}"#)).await
    };
    let ios = "OwnTracks/26.1.1 CFNetwork/3860.400.51 Darwin/25.3.0";
    for (agent, status) in [(ios, 503), ("Owntracks-Android/gms/420509001", 401)] {
        let answer = send("nobody", agent).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, "unauthorized"));
    }
    let mut statuses = Vec::new();
    for agent in [ios, "curl"].repeat(3) {
        let answer = send(SECRET, agent).await;
        if answer.status != 200 {
            assert_eq!(answer.code(), "rate-limited");
            assert!(answer.header("retry-after").is_some());
            statuses.push(answer.status);
        }
    }
    assert!(statuses.contains(&503) && statuses.contains(&429), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_turned_off_is_not_there() {
    let gateway = gateway(&["--phone-protocols=traccar"]).await;
    for path in ["/owntracks", "/owntracks/pub", "/overland", "/gpslogger/k"] {
        assert_eq!(gateway.ask(head(&format!("POST {path}"), "Content-Length: 0\r\n")).await.status, 404);
    }
    assert_eq!(gateway.ask(head("GET /traccar/k", "")).await.status, 401);
}

/// Writes an answer into the table as an older build might have.
async fn store(
    database: &TestDatabase,
    key_hash: KeyHash,
    upload: &milepost_shared::location::Upload,
) -> KeyState {
    let accepted_at = Clock::new(0).now();
    let state = KeyState {
        account: ACCOUNT,
        fingerprint: milepost_shared::location::fingerprint::Fingerprint::of(upload),
        status: 200,
        body: bytes::Bytes::from_static(b"{ \"processedCount\" : 1 }\n"),
        accepted_at,
        expires_at: accepted_at.plus(Duration::from_secs(3600)),
        source: milepost_shared::journal::position::Position::new(0, 0),
    };
    let mut owner = database.connect(Role::Owner).await;
    sqlx::query("SELECT ensure_partition('idempotency_keys', $1, '1 day')")
        .bind(accepted_at.to_datetime())
        .execute(&mut owner)
        .await
        .unwrap();
    sqlx::query("INSERT INTO idempotency_keys VALUES ($1, $2, $3, 200, $4, $5, $6, 0, 0)")
        .bind(&key_hash.0[..])
        .bind(ACCOUNT)
        .bind(&state.fingerprint.0[..])
        .bind(&state.body[..])
        .bind(accepted_at.to_datetime())
        .bind::<OffsetDateTime>(state.expires_at.to_datetime())
        .execute(&mut owner)
        .await
        .unwrap();
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_handler_is_a_500_with_a_fixed_page_and_the_server_lives_on() {
    let gateway = gateway(&["--crash-at=answered=panic"]).await;
    let mut answer = gateway.ask(upload("", BODY)).await;
    let mut page: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let id = page.as_object_mut().unwrap().remove("requestId").unwrap();
    assert_eq!(answer.header("x-request-id"), id.as_str());
    let wanted = serde_json::json!({
        "type": "about:blank", "title": "Internal Server Error", "status": 500, "code": "internal",
        "detail": "Something went wrong here. Try again with the same Idempotency-Key."
    });
    assert_eq!((answer.status, page), (500, wanted));
    answer = gateway.ask(upload("", BODY)).await;
    assert_eq!(answer.status, 503);
}

#[path = "app_wire_tests.rs"]
mod wire;
