//! What goes over the wire: heads that are refused, refusals that arrive, headers that every answer has.

use super::*;

fn post(headers: &str, body: &str) -> String {
    head("POST /api/v1/locations", headers) + body
}

/// An answer that HTTP itself demands: a page of its own, its id, and the end of the connection.
async fn refused(gateway: &Gateway, request: &str, status: u16, code: &str) {
    let mut raw = gateway.connect().await;
    raw.send(request).await;
    let answer = raw.answer().await;
    let shown = &request[..request.len().min(200)];
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{shown:?}");
    let page: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer.header("x-request-id"), page["requestId"].as_str(), "{shown:?}");
    assert_eq!(answer.header("connection"), Some("close"), "{shown:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{shown:?}");
    assert!(answer.header("date").is_some(), "{shown:?}");
    raw.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_servers_read_differently_are_refused_and_nothing_behind_them_is_carried_out() {
    let gateway = gateway(&[]).await;
    let smuggled = head("GET /smuggled", "");
    for host in ["a b", "a/b", "u@a", "a,b", "a, b", "http://a", "a:b"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n{smuggled}");
        refused(&gateway, &request, 400, "ambiguous-request").await;
    }
    for fields in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: five\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 6\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
    ] {
        refused(&gateway, &post(fields, &format!("0\r\n\r\n{smuggled}")), 400, "ambiguous-request").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_1_gets_a_page_with_a_request_id() {
    let gateway = gateway(&[]).await;
    for bytes in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}",
        "GET / HTTP/3\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
        "hello\r\n\r\n",
    ] {
        refused(&gateway, bytes, 400, "malformed-request").await;
    }
    let mut raw = gateway.connect().await;
    raw.send("HEAD / HTTP/1.1\r\n\r\n").await;
    assert_eq!(raw.answer_to_head().await.status, 400);
    raw.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_of_a_head_is_32_kib_and_100_fields_however_it_is_sent() {
    let gateway = gateway(&[]).await;
    let of = |bytes: usize| {
        head("GET /", &format!("X: {}\r\n", "x".repeat(bytes - head("GET /", "X: \r\n").len())))
    };
    let fields = |count: usize| head("GET /", &"X: y\r\n".repeat(count - 1));
    for (fits, not) in [(of(32 << 10), of((32 << 10) + 1)), (fields(100), fields(101))] {
        assert_eq!(gateway.ask(&fits).await.status, 404);
        refused(&gateway, &not, 431, "head-too-large").await;
        for (request, status) in [(&fits, 404), (&not, 431)] {
            let mut raw = gateway.connect().await;
            for part in request.as_bytes().chunks(3000) {
                raw.send(part).await;
                tokio::task::yield_now().await;
            }
            assert_eq!(raw.answer().await.status, status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_requests_before_a_refused_head_come_first() {
    let gateway = gateway(&[]).await;
    let mut raw = gateway.connect().await;
    let chunked = post("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\nX: y\r\n\r\n");
    let plain = post("Content-Length: 2\r\n", "{}");
    raw.send([plain.as_str(), &chunked, &plain, "GET / HTTP/1.1\r\n\r\n", &plain].concat()).await;
    for status in [401, 401, 401, 400] {
        assert_eq!(raw.answer().await.status, status);
    }
    raw.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_head_is_answered_also_on_a_connection_that_was_to_be_another_protocols() {
    let gateway = gateway(&[]).await;
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    for first in [head("GET /x", "Upgrade: h2c\r\n"), head("GET /x", upgrade), head("CONNECT a:1", "")] {
        let mut raw = gateway.connect().await;
        raw.send(first + "GET / HTTP/1.1\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 404);
        assert_eq!(raw.answer().await.code(), "ambiguous-request");
        raw.closed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_offers_an_upgrade_gets_its_refusal_also_while_the_gateway_stops() {
    let gateway = gateway(&[]).await;
    let mut raw = gateway.connect().await;
    let body = " ".repeat(16 << 20);
    raw.send(upload_head("Upgrade: h2c\r\nExpect: 100-continue\r\n", 1000)).await;
    assert_eq!(raw.answer().await.status, 100);
    gateway.stop.cancel();
    raw.send(&body).await;
    assert_eq!(raw.answer().await.code(), "malformed-json");
    raw.closed().await;
    timeout(PATIENCE, gateway.serving).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_one_stream_are_separated_wherever_it_is_cut() {
    let gateway = gateway(&[]).await;
    let requests = [
        post("Transfer-Encoding: chunked\r\n", "3;a=b\r\n{ }\r\n00\r\nX: y\r\nZ:\r\n\r\n"),
        post("Content-Length: 3\r\n", "{ }"),
        head("GET /", ""),
        post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        head("GET /", ""),
    ];
    let stream = requests.concat();
    for cut in 0..stream.len() {
        let mut raw = gateway.connect().await;
        raw.stream.set_nodelay(true).unwrap();
        raw.send(&stream[..cut]).await;
        tokio::task::yield_now().await;
        raw.send(&stream[cut..]).await;
        for status in [401, 401, 404, 401, 404] {
            assert_eq!(raw.answer().await.status, status, "{cut}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_that_end_with_a_bare_line_feed_do_not_eat_the_next_request() {
    let gateway = gateway(&[]).await;
    let next = head("GET /next", "");
    let key =
        format!("X-API-Key: {SECRET}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n");
    for end in [
        "0\r\nX: y\n\r\n",
        "0\r\nX: y\n\n",
        "0\r\nX: y\r\n\n",
        "0\r\n\n",
        "0\n\r\n",
        "0\r\nX: y\rZ: z\r\n\r\n",
    ] {
        for (path, status) in [("/api/v1/locations", 400), ("/", 404)] {
            let mut raw = gateway.connect().await;
            raw.send(head(&format!("POST {path}"), &key) + "2\r\n{}\r\n" + end + &next).await;
            let answer = raw.answer().await;
            assert_eq!(
                (answer.status, answer.header("connection")),
                (status, Some("close")),
                "{path} {end:?}"
            );
            raw.closed().await;
        }
    }
    let mut raw = gateway.connect().await;
    raw.send(head("POST /", &key) + "2\r\n{}\r\n0\r\nX: y\r\n\r\n" + &next).await;
    for _ in 0..2 {
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (404, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_has_begun_when_the_gateway_begins_to_stop_is_answered_if_it_ends_in_time() {
    let begun = async |gateway: &Gateway, request: &str| {
        let mut raw = gateway.connect().await;
        raw.send(&request[..20]).await;
        // What is sent later is read later: this one is read by then.
        assert_eq!(gateway.ask(head("GET /", "")).await.status, 404);
        gateway.stop.cancel();
        while TcpStream::connect(gateway.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        raw
    };
    for (request, status) in
        [(head("GET /x", ""), 404), ("GET /x HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400)]
    {
        let gateway = gateway(&[]).await;
        let mut raw = begun(&gateway, &request).await;
        raw.send(&request[20..]).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
        raw.closed().await;
        timeout(PATIENCE, gateway.serving).await.unwrap().unwrap();
    }
    let gateway = gateway(&["--header-timeout=300ms"]).await;
    let mut raw = begun(&gateway, &head("GET /x", "")).await;
    raw.closed().await;
    timeout(PATIENCE, gateway.serving).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_head_in_the_packet_of_the_first_has_a_heads_deadline() {
    let gateway = gateway(&["--header-timeout=300ms", "--idle-timeout=60s"]).await;
    for first in [head("GET /", ""), post("Content-Length: 2\r\n", "{}")] {
        let mut raw = gateway.connect().await;
        raw.send(first + "GET / HTTP/1.1\r\n").await;
        assert!([401, 404].contains(&raw.answer().await.status));
        let took = raw.closed().await;
        assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_of_a_request_for_nothing_is_read_and_the_connection_goes_on() {
    let gateway = gateway(&[]).await;
    let mut raw = gateway.connect().await;
    let key = format!("X-API-Key: {SECRET}\r\n");
    let body = " ".repeat(60_000);
    let status = format!("/api/v1/uploads/{}", "0".repeat(64));
    for (request, wanted) in [
        ("POST /".to_owned(), 404),
        (format!("PUT {LOCATIONS}"), 405),
        (format!("POST {status}"), 405),
        (format!("GET {status}"), 401),
        ("DELETE /x".to_owned(), 404),
    ] {
        for framing in ["Content-Length: 60000\r\n", "Transfer-Encoding: chunked\r\n"] {
            let chunked = framing.starts_with('T');
            raw.send(head(&request, framing)).await;
            raw.send(if chunked { format!("ea60\r\n{body}\r\n0\r\n\r\n") } else { body.clone() }).await;
            let answer = raw.answer().await;
            assert_eq!((answer.status, answer.header("connection")), (wanted, None), "{request} {framing}");
        }
    }
    raw.send(head("POST /", &format!("{key}Content-Length: 70000\r\n")) + &" ".repeat(70_000)).await;
    assert_eq!(raw.answer().await.header("connection"), Some("close"));
    raw.closed().await;
    let mut raw = gateway.connect().await;
    raw.send(head("POST /", "Expect: 100-continue\r\nContent-Length: 5\r\n")).await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_http_1_0_says_either_that_the_connection_goes_on_or_that_it_is_closed() {
    let gateway = gateway(&[]).await;
    let request = |length: usize| {
        format!("POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: {length}\r\n\r\n")
            + &" ".repeat(length)
    };
    let mut raw = gateway.connect().await;
    for (length, connection) in [(5, "keep-alive"), (70_000, "close")] {
        raw.send(request(length)).await;
        assert_eq!(raw.answer().await.header("connection"), Some(connection), "{length}");
    }
    raw.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_writes_16_mib_before_it_reads_gets_its_refusal() {
    let gateway = gateway(&["--connections-max=100"]).await;
    let body = " ".repeat(16 << 20);
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let cases = [
        (upload("", &body), 413),
        (upload("", &body).replace(SECRET, "nobody"), 401),
        (upload_head("", 0).replace("Content-Length: 0", "Transfer-Encoding: chunked") + &chunks, 413),
        (upload("Host: other\r\n", &body), 400),
        (head("PUT /", &format!("Content-Length: {}\r\n", body.len())) + &body, 404),
    ];
    for (request, status) in &cases {
        // As curl and Java's client do at first.
        let offers = request.replacen("\r\n\r\n", "\r\nUpgrade: h2c\r\n\r\n", 1);
        for request in [request, &offers] {
            for _ in 0..8 {
                let mut raw = gateway.connect().await;
                raw.send(request).await;
                assert_eq!(raw.answer().await.status, *status);
                raw.closed().await;
            }
        }
    }
    let mut connected = Vec::new();
    for _ in 0..100 {
        let mut raw = gateway.connect().await;
        raw.send(head("GET /", "")).await;
        assert_eq!(raw.answer().await.status, 404);
        connected.push(raw);
    }
    let mut raw = gateway.connect().await;
    raw.send(&cases[0].0).await;
    assert_eq!(raw.answer().await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_on_their_way_take_no_slots_of_requests() {
    let gateway = gateway(&["--requests-max=1"]).await;
    let mut slow = Vec::new();
    for _ in 0..5 {
        let mut raw = gateway.connect().await;
        raw.send(upload_head("Expect: 100-continue\r\n", BODY.len())).await;
        // It is being read for sure once it may go on.
        assert_eq!(raw.answer().await.status, 100);
        slow.push(raw);
    }
    assert_eq!(gateway.ask(upload("", BODY)).await.code(), "journal-unavailable");
    for mut raw in slow {
        raw.send(BODY).await;
        assert_eq!(raw.answer().await.code(), "journal-unavailable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_take_long_if_it_is_never_silent_for_long() {
    let gateway = gateway(&["--body-silence=400ms", "--body-timeout=20s"]).await;
    let mut raw = gateway.connect().await;
    raw.send(upload_head("", BODY.len())).await;
    let mut pace = tokio::time::interval(Duration::from_millis(25));
    for byte in BODY.bytes() {
        pace.tick().await;
        raw.send([byte]).await;
    }
    assert_eq!(raw.answer().await.code(), "journal-unavailable");
    raw.send(upload_head("", BODY.len()) + &BODY[..5]).await;
    let begun = Moment::now();
    assert_eq!(raw.answer().await.code(), "body-timeout");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_may_be_stored_by_caches() {
    let gateway = gateway(&[]).await;
    let upload_of = decode(BODY.as_bytes(), Shape::Single, Rules::STORABLE).unwrap();
    let key_hash = KeyHash::new(ACCOUNT, "k");
    store(&gateway.database, key_hash, &upload_of).await;
    let key = format!("X-API-Key: {SECRET}\r\n");
    let status = head(&format!("GET {UPLOADS}{key_hash}"), &key);
    for (request, wanted) in [
        (upload("Idempotency-Key: k\r\n", BODY), 200),
        (status.clone(), 200),
        (status.replace("_xxx", "_yyy"), 401),
        (head("GET /", ""), 404),
        (upload("", "{"), 400),
        (upload("", BODY), 503),
    ] {
        let answer = gateway.ask(&request).await;
        assert_eq!((answer.status, answer.header("cache-control")), (wanted, Some("no-store")), "{request}");
        let is_page = request.starts_with(&format!("GET {UPLOADS}"));
        let vary = is_page.then_some("accept, authorization, x-api-key");
        assert_eq!(answer.header("vary"), vary, "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_allowed_origins_a_web_page_learns_nothing() {
    let gateway = gateway(&[]).await;
    let asking = "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n";
    let answer = gateway.ask(head(&format!("OPTIONS {LOCATIONS}"), asking)).await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    let answers = [answer, gateway.ask(upload("Origin: https://app.example\r\n", BODY)).await];
    for answer in answers {
        let is_cors = |name: &http::HeaderName| name.as_str().starts_with("access-control-");
        assert!(!answer.headers.keys().any(is_cors) && answer.header("vary").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_allowed_origin_may_upload_and_read_the_answer() {
    let gateway = gateway(&["--cors-origins=https://app.example,capacitor://localhost"]).await;
    for (origin, allowed) in [
        ("https://app.example", true),
        ("capacitor://localhost", true),
        ("https://evil.example", false),
        ("http://app.example", false),
        ("null", false),
    ] {
        let wanted = allowed.then_some(origin);
        let asking = format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: content-type,idempotency-key,x-api-key\r\n"
        );
        let answer = gateway.ask(head(&format!("OPTIONS {BATCH}"), &asking)).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, wanted));
        assert!(answer.header("x-request-id").is_some());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let listed = |name: &str| answer.header(name).unwrap_or_default().to_ascii_lowercase();
        let of = |list: String, name: &str| list.split(',').any(|one| one.trim() == name);
        for name in [
            "x-api-key",
            "authorization",
            "content-type",
            "content-encoding",
            "idempotency-key",
            "x-idempotency-key",
            "prefer",
            "traceparent",
        ] {
            assert!(of(listed("access-control-allow-headers"), name), "{name}");
        }
        assert!(of(listed("access-control-allow-methods"), "post"));

        let origin_header = format!("Origin: {origin}\r\n");
        for (request, status) in [
            (upload(&origin_header, BODY), 503),
            (upload(&origin_header, "{"), 400),
            (upload(&origin_header, BODY).replace(SECRET, "nobody"), 401),
            (head("GET /", &origin_header), 404),
        ] {
            let answer = gateway.ask(request).await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, wanted));
            assert!(answer.header("vary").is_some_and(|vary| vary.contains("origin")));
            let exposed =
                answer.header("access-control-expose-headers").unwrap_or_default().to_ascii_lowercase();
            for name in
                ["x-request-id", "idempotency-replayed", "retry-after", "location", "preference-applied"]
            {
                assert!(of(exposed.clone(), name), "{name}");
            }
        }
    }
    // Who is no browser is served as ever, but the answer differs by what the header might have been.
    let answer = gateway.ask(upload("", BODY)).await;
    assert_eq!((answer.status, answer.header("vary")), (503, Some("origin")));
    // An OPTIONS that asks for nothing is none of a browser's.
    let answer = gateway.ask(head(&format!("OPTIONS {LOCATIONS}"), "Origin: https://app.example\r\n")).await;
    assert_eq!(answer.status, 405);
    // The connection goes on after a small body that was refused.
    let mut raw = gateway.connect().await;
    for _ in 0..2 {
        raw.send(upload("Origin: https://app.example\r\n", "{")).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (400, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_origin_can_be_allowed() {
    let gateway = gateway(&["--cors-origins=*"]).await;
    let answer = gateway.ask(upload("Origin: null\r\n", BODY)).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (503, Some("*")));
}
