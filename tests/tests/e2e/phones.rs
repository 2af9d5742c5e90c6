//! Phone apps, unmodified: whatever they send again, each point is stored once and told once.

use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use milepost_shared::location::{Location, Upload};
use milepost_tests::{Answer, Program, Raw, Server, Services, World, WorldSettings, eventually, http};
use reqwest::Method;
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const IOS: &str = "OwnTracks/26.1.1 CFNetwork/3860.400.51 Darwin/25.3.0";
const OVERLAND_OK: &str = r#"{"result":"ok"}"#;

/// A request as an app sends it. Sent again, it is a retry.
#[derive(Clone)]
struct Sent {
    method: Method,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Sent {
    fn owntracks(secret: &str, body: &Value) -> Self {
        let headers = vec![("authorization", format!("Basic {}", STANDARD.encode(format!("jane:{secret}"))))];
        Self { method: Method::POST, target: "/owntracks".to_owned(), headers, body: body.to_string() }
    }

    fn overland(secret: &str, body: &Value) -> Self {
        let headers = vec![("authorization", format!("Bearer {secret}"))];
        Self { method: Method::POST, target: "/overland".to_owned(), headers, body: body.to_string() }
    }

    fn get(target: String) -> Self {
        Self { method: Method::GET, target, headers: Vec::new(), body: String::new() }
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    async fn to(&self, gateway: &Program) -> anyhow::Result<Answer> {
        let address = gateway.listen.context("not a gateway")?;
        let client = http().redirect(reqwest::redirect::Policy::none()).timeout(MINUTE).build()?;
        let mut request = client.request(self.method.clone(), format!("http://{address}{}", self.target));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let response = request.body(self.body.clone()).send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await?.to_vec() })
    }
}

fn ok(answer: &Answer, body: &str) {
    assert_eq!(answer.status_and_body(), (200, body.to_owned()));
    let json = (!body.is_empty()).then_some("application/json");
    assert_eq!(answer.header("Content-Type"), json);
}

/// Points of a device, with what all apps can say of one.
fn points(world: &World, count: usize) -> Vec<Upload> {
    let Upload { device, locations } = world.planted.upload(count);
    let bare = |location| Location { battery_level: None, provider: None, network_type: None, ..location };
    let one = |location| Upload { device: device.clone(), locations: vec![bare(location)] };
    locations.into_iter().map(one).collect()
}

/// As Overland sends it.
fn feature(point: &Upload) -> Value {
    let at = &point.locations[0];
    json!({
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [at.longitude, at.latitude]},
        "properties": {
            "timestamp": at.timestamp, "horizontal_accuracy": at.accuracy, "altitude": at.altitude, "speed": at.speed,
            "course": at.bearing, "device_id": point.device,
        },
    })
}

fn batch(points: &[Upload]) -> Value {
    json!({"locations": points.iter().map(feature).collect::<Vec<Value>>()})
}

/// A line of GPSLogger's custom URL.
fn line(secret: &str, point: &Upload) -> Sent {
    let at = &point.locations[0];
    let optional =
        |name: &str, value: Option<f64>| value.map_or(String::new(), |value| format!("&{name}={value:?}"));
    Sent::get(format!(
        "/gpslogger/{secret}?lat={:?}&lon={:?}&timestamp={}&aid={}{}{}{}{}",
        at.latitude,
        at.longitude,
        at.timestamp,
        point.device,
        optional("acc", at.accuracy),
        optional("alt", at.altitude),
        optional("spd", at.speed),
        optional("dir", at.bearing),
    ))
}

fn all(points: &[Upload]) -> Vec<&Upload> {
    points.iter().collect()
}

async fn count(gateways: &[Program], outcome: &str) -> anyhow::Result<f64> {
    let label = format!("outcome=\"{outcome}\"");
    let mut count = 0.0;
    for gateway in gateways {
        count += gateway.metric_of("milepost_gateway_points_total", &label).await?;
    }
    Ok(count)
}

async fn two_gateways(world: &World) -> anyhow::Result<[Program; 2]> {
    Ok([world.gateway().await?, world.gateway().await?])
}

/// Sends a request and hangs up before the answer comes, once its points are in the journal.
async fn lose_the_answer(gateways: &[Program], sent: &Sent, points: usize) -> anyhow::Result<()> {
    let before = count(gateways, "published").await?;
    let mut raw = Raw::connect(gateways[0].listen.context("a gateway listens")?).await?;
    let headers: String = sent.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let Sent { method, target, body, .. } = sent;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: milepost\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    raw.send(format!("{head}{body}").as_bytes()).await?;
    drop(raw);
    eventually(MINUTE, "the points are published", async || {
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        let published = count(gateways, "published").await? - before == points as f64;
        Ok(published.then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_answer_is_lost_and_then_a_superset_to_two_gateways_at_once_are_each_point_once()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let mut consumer = world.consumer().await?;
    let gateways = two_gateways(&world).await?;
    let mut stored = Vec::new();
    for consumer_runs in [true, false] {
        if !consumer_runs {
            consumer.stop().await?;
        }
        let points = points(&world, 120);
        let first = Sent::overland(&world.account.secret, &batch(&points[..50]));
        lose_the_answer(&gateways, &first, 50).await?;
        let superset = Sent::overland(&world.account.secret, &batch(&points));
        for answer in
            [tokio::try_join!(superset.to(&gateways[0]), superset.to(&gateways[1]))?].map(<[_; 2]>::from)
        {
            answer.iter().for_each(|answer| ok(answer, OVERLAND_OK));
        }
        stored.extend(points);
    }
    consumer.start().await?;
    world.finish(&all(&stored)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_away_and_the_gateway_killed_that_took_the_first_of_it_a_superset_is_each_point_once()
-> anyhow::Result<()> {
    let postgres = Server::postgres().await?;
    let services = Services::shared()?.with_postgres(&postgres);
    let world = World::on(services, WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let mut gateways = two_gateways(&world).await?;
    let points = points(&world, 120);
    postgres.stop().await?;
    lose_the_answer(&gateways, &Sent::overland(&world.account.secret, &batch(&points[..50])), 50).await?;
    gateways[0].kill().await?;
    let superset = Sent::overland(&world.account.secret, &batch(&points));
    ok(&superset.to(&gateways[1]).await?, OVERLAND_OK);
    postgres.start().await?;
    world.finish(&all(&points)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_publishes_no_point_again_that_it_published_a_moment_ago_though_no_consumer_runs()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateways = [world.gateway().await?];
    let points = points(&world, 50);
    let sent = Sent::overland(&world.account.secret, &batch(&points));
    for _ in 0..3 {
        ok(&sent.to(&gateways[0]).await?, OVERLAND_OK);
    }
    assert_eq!((count(&gateways, "published").await?, count(&gateways, "recent").await?), (50.0, 100.0));
    let _consumer = world.consumer().await?;
    world.finish(&all(&points)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_fix_of_owntracks_with_anything_else_about_it_is_one_row_and_what_is_no_point_is_none()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateways = two_gateways(&world).await?;
    let point = points(&world, 1).remove(0);
    let at = &point.locations[0];
    let (tst, secret) = (at.timestamp / 1000, &world.account.secret);
    let fix = |created_at: i64, id: &str, more: Value| {
        let mut fix = json!({
            "_type": "location", "lat": at.latitude, "lon": at.longitude, "tst": tst, "created_at": created_at,
            "_id": id, "acc": 7, "topic": format!("owntracks/jane/{}", point.device),
        });
        fix.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Sent::owntracks(secret, &fix)
    };
    ok(&fix(tst, "00000001", json!({"p": 100.4})).to(&gateways[0]).await?, "[]");
    for (gateway, again) in [
        (0, fix(tst + 600, "00000002", json!({"p": 99.1, "acc": 70}))),
        (1, fix(tst + 700, "00000003", json!({"batt": 12, "t": "p"}))),
    ] {
        ok(&again.to(&gateways[gateway]).await?, "[]");
    }
    let beside =
        json!({"_type": "transition", "lat": at.latitude, "lon": at.longitude, "tst": tst, "event": "enter"});
    for body in [
        beside,
        json!({"_type": "configuration", "password": "planted"}),
        json!({"_type": "lwt", "tst": tst}),
    ] {
        ok(&Sent::owntracks(secret, &body).to(&gateways[0]).await?, "[]");
    }
    for kind in ["transition", "configuration", "lwt"] {
        let label = format!("kind=\"{kind}\"");
        assert_eq!(
            gateways[0].metric_of("milepost_gateway_phone_records_total", &label).await?,
            1.0,
            "{kind}"
        );
    }
    assert!(!gateways[0].logged()?.contains("planted"));
    let stored = Location { accuracy: Some(7.0), ..Location::new(tst * 1000, at.latitude, at.longitude) };
    let stored = Upload { device: point.device.clone(), locations: vec![stored] };
    world.finish(&[&stored]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_days_file_sent_again_and_again_line_by_line_to_two_gateways_is_published_once()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateways = two_gateways(&world).await?;
    let points = points(&world, 200);
    let lines: Vec<Sent> = points.iter().map(|point| line(&world.account.secret, point)).collect();
    for round in 0..5 {
        let send = |(index, line): (usize, &Sent)| {
            let (line, gateway) = (line.clone(), &gateways[(index + round) % 2]);
            async move { line.to(gateway).await }
        };
        let answers: Vec<Answer> =
            stream::iter(lines.iter().enumerate()).map(send).buffered(8).try_collect().await?;
        answers.iter().for_each(|answer| ok(answer, ""));
        world.caught_up().await?;
    }
    assert_eq!(count(&gateways, "published").await?, 200.0);
    let known = count(&gateways, "cache").await? + count(&gateways, "table").await?;
    assert_eq!(known + count(&gateways, "recent").await?, 800.0);
    world.finish(&all(&points)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_points_of_a_batch_become_dead_letters_once_and_spoil_no_other() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let mut gateways = [world.new_gateway()?, world.new_gateway()?];
    for gateway in &mut gateways {
        // No batch of an app is too long by these.
        gateway.set("LOCATIONS_MAX", "10");
        gateway.set("PUBLISH_IN_FLIGHT", "100");
        gateway.start().await?;
    }
    let points = points(&world, 993);
    let mut body = batch(&points);
    let at = |timestamp: Value, latitude: Value| json!({"geometry": {"coordinates": [16.5, latitude]}, "properties": {"timestamp": timestamp}});
    let bad = [
        ("latitude-out-of-range", at(json!(1_773_480_413), json!(91))),
        (
            "latitude-missing",
            json!({"geometry": {"coordinates": [16.5]}, "properties": {"timestamp": 1_773_480_413}}),
        ),
        ("not-a-number", at(json!(1_773_480_413), json!("NaN"))),
        ("time-unreadable", at(json!("yesterday"), json!(48.5))),
        ("no-time", at(json!(0), json!(48.5))),
        ("too-far-ahead", at(json!(4_000_000_000_i64), json!(48.5))),
        ("undecodable", json!("a point")),
    ];
    let items = body["locations"].as_array_mut().context("a list")?;
    for (index, (_, item)) in bad.iter().enumerate() {
        items.insert(index * 140, item.clone());
    }
    let sent = Sent::overland(&world.account.secret, &body);
    ok(&sent.to(&gateways[0]).await?, OVERLAND_OK);
    world.caught_up().await?;
    let letters = world.tables.dead_letters().await?;
    let mut found: Vec<(String, String)> = letters
        .iter()
        .map(|letter| {
            let raw = String::from_utf8_lossy(letter.value.as_deref().unwrap_or_default()).into_owned();
            (letter.reason.split([' ', '(']).nth(1).unwrap_or_default().to_owned(), raw)
        })
        .collect();
    let mut wanted: Vec<(String, String)> =
        bad.iter().map(|(reason, item)| ((*reason).to_owned(), item.to_string())).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    for gateway in [&gateways[0], &gateways[1]] {
        ok(&sent.to(gateway).await?, OVERLAND_OK);
    }
    world.caught_up().await?;
    assert_eq!(world.tables.dead_letters().await?, letters);
    assert_eq!(count(&gateways, "published").await?, 1000.0);
    let reasons =
        gateways[0].metric_of("milepost_gateway_points_set_aside_total", r#"reason="no-time""#).await?;
    assert_eq!(reasons, 2.0);
    world.finish(&all(&points)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_as_the_app_understands_it_and_names_no_key() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let mut gateway = world.new_gateway()?;
    gateway.set("PHONE_PROTOCOLS", "owntracks,overland,gpslogger");
    gateway.start().await?;
    let _consumer = world.consumer().await?;
    let secret = world.account.secret.as_str();
    let raw = |target: &str, body: &str| Sent {
        target: target.to_owned(),
        body: body.to_owned(),
        ..Sent::overland(secret, &Value::Null)
    };
    let large = " ".repeat((1 << 20) + 1);
    let wrong = Sent { headers: Vec::new(), ..Sent::owntracks(secret, &json!({"_type": "lwt"})) };
    let wrong = wrong.header("authorization", "Basic dXNlcjp3cm9uZw==");
    for (sent, status, code) in [
        (raw("/overland", "{"), 400, "not-this-protocol"),
        (raw("/overland", ""), 400, "not-this-protocol"),
        (raw("/overland", r#"{"batch":[]}"#), 400, "not-this-protocol"),
        (raw("/owntracks", "[]"), 400, "not-this-protocol"),
        (raw("/overland", &large), 413, "body-too-large"),
        (Sent::get(format!("/gpslogger/{secret}")), 400, "not-this-protocol"),
        (Sent::get("/gpslogger/mp_wrong?lat=1&lon=2".to_owned()), 401, "unauthorized"),
        (Sent::get("/gpslogger".to_owned()), 401, "unauthorized"),
        (Sent::get(format!("/overland?token={secret}")), 405, "method-not-allowed"),
        (Sent::get(format!("/traccar/{secret}?id=1&lat=1&lon=2")), 404, "not-found"),
        (wrong.clone(), 401, "unauthorized"),
        (wrong.header("user-agent", IOS), 503, "unauthorized"),
    ] {
        let answer = sent.to(&gateway).await?;
        let page = answer.json();
        assert_eq!((answer.status, page["code"].as_str()), (status, Some(code)), "{}", sent.body);
        assert_eq!(answer.header("Retry-After").is_some(), status == 503);
        assert!(!page.to_string().contains(secret), "{page}");
    }
    ok(&raw("/owntracks", "").to(&gateway).await?, "[]");
    ok(&raw("/owntracks/", "").to(&gateway).await?, "[]");
    ok(&raw("/owntracks/pub?u=jane&d=phone", "").to(&gateway).await?, "[]");
    ok(&raw("/overland", r#"{"locations":[]}"#).to(&gateway).await?, OVERLAND_OK);
    let mut token = raw(&format!("/overland?token={secret}"), r#"{"locations":[]}"#);
    token.headers.clear();
    ok(&token.to(&gateway).await?, OVERLAND_OK);
    let metrics = gateway.page("/metrics").await.context("metrics")?;
    assert!(metrics.contains(r#"route="/gpslogger/{*key}""#) && !metrics.contains(secret));
    world.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_an_app_is_told_to_wait_and_what_it_sends_again_is_stored_once() -> anyhow::Result<()> {
    let (services, kafka, _postgres): (Services, Server, Server) = Services::dedicated().await?;
    let world = World::on(services, WorldSettings::default()).await?;
    let mut gateway = world.new_gateway()?;
    gateway.set("PUBLISH_TIMEOUT", "2s");
    gateway.start().await?;
    let _consumer = world.consumer().await?;
    let points = points(&world, 20);
    let secret = &world.account.secret;
    let taken = async |sent: &Sent| {
        let answered = eventually(MINUTE, "the points are taken", async || {
            let answer = sent.to(&gateway).await?;
            Ok((answer.status != 503).then_some(answer))
        });
        ok(&answered.await?, OVERLAND_OK);
        anyhow::Ok(())
    };
    taken(&Sent::overland(secret, &batch(&points[..5]))).await?;
    let sent = Sent::overland(secret, &batch(&points));
    kafka.stop().await?;
    let answer = sent.to(&gateway).await?;
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("2")));
    assert_eq!(answer.json()["code"], "journal-unavailable");
    kafka.start().await?;
    taken(&sent).await?;
    world.finish(&all(&points)).await
}
