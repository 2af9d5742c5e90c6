//! Phone apps, unmodified: whatever they send again, each point is stored once and told once.

use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use milepost_shared::location::{Location, Upload};
use milepost_tests::{Program, Raw, Server, Services, World, WorldSettings, eventually};
use serde_json::{Value, json};

use crate::sent::{self, OVERLAND_OK, OWNTRACKS_IOS, Sent, TRACCAR_IOS, Told, ok};

const MINUTE: Duration = Duration::from_secs(60);

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

/// Sends all lines, one request each, the one half to the one gateway and the other to the other, which changes by round.
async fn send_file(gateways: &[Program; 2], lines: &[Sent], round: usize) -> anyhow::Result<()> {
    let client = sent::client()?;
    let send = |(index, line): (usize, Sent)| {
        let (client, gateway) = (&client, &gateways[(index + round) % 2]);
        async move { line.by(client, gateway).await }
    };
    let lines = lines.iter().cloned().enumerate();
    let mut answers = stream::iter(lines).map(send).buffered(16);
    while let Some(answer) = answers.try_next().await? {
        ok(&answer, "");
    }
    Ok(())
}

/// How many records the journal holds.
async fn journal(world: &World) -> anyhow::Result<i64> {
    Ok(world.kafka.ends(&world.topics.uploads).await?.iter().map(|(first, next)| next - first).sum())
}

/// What became of points so far: published, and known from the cache or the table, or from what was just acknowledged.
async fn outcomes(gateways: &[Program]) -> anyhow::Result<[f64; 3]> {
    let cached = count(gateways, "cache").await? + count(gateways, "table").await?;
    Ok([count(gateways, "published").await?, cached, count(gateways, "recent").await?])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_days_file_sent_five_times_line_by_line_to_two_gateways_is_published_once_and_known_after_that()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let mut gateways = two_gateways(&world).await?;
    let points = points(&world, 2000);
    let lines: Vec<Sent> = points.iter().map(|point| line(&world.account.secret, point)).collect();
    send_file(&gateways, &lines, 0).await?;
    world.caught_up().await?;
    assert_eq!((journal(&world).await?, outcomes(&gateways).await?), (2000, [2000.0, 0.0, 0.0]));

    // A gateway remembers for a while what it has published itself, and uses that before the answers have come to its cache.
    send_file(&gateways, &lines, 1).await?;
    let [published, cached, recent] = outcomes(&gateways).await?;
    assert_eq!((published, cached + recent), (2000.0, 2000.0));

    // Without that memory, all are known from the cache and the table, also by gateways that have just started.
    for gateway in &mut gateways {
        gateway.set("RECENT_POINTS", "0");
    }
    for round in [2, 3, 4] {
        if round != 4 {
            for gateway in &mut gateways {
                gateway.set("WARM_UP", if round == 2 { "0s" } else { "1h" });
                gateway.restart().await?;
            }
        }
        let [_, before, _] = outcomes(&gateways).await?;
        send_file(&gateways, &lines, round).await?;
        assert_eq!(outcomes(&gateways).await?, [0.0, before + 2000.0, 0.0], "round {round}");
        if round == 2 {
            assert_eq!(count(&gateways, "table").await?, 2000.0, "nothing else knows them");
        }
    }
    assert_eq!(journal(&world).await?, 2000);
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
    let listed = world.administer(&["dead-letters", "list", "--limit", "100"]).await?;
    for (reason, _) in &bad {
        let is_whole = |line: &&str| {
            [&world.account.id.to_string(), "phone", &format!("overland: {reason}")]
                .iter()
                .all(|text| line.contains(text))
        };
        assert_eq!(listed.lines().filter(is_whole).count(), 1, "{reason} in {listed}");
    }
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
    let raw = |target: &str, body: &str| {
        Sent::post(target, body).header("authorization", &format!("Bearer {secret}"))
    };
    let large = " ".repeat((1 << 20) + 1);
    let wrong = Sent::owntracks("wrong", &json!({"_type": "lwt"}));
    for (sent, status, code) in [
        (raw("/overland", "{"), 400, "not-this-protocol"),
        (raw("/overland", ""), 400, "not-this-protocol"),
        (raw("/overland", r#"{"batch":[]}"#), 400, "not-this-protocol"),
        (raw("/owntracks", "[]"), 400, "not-this-protocol"),
        (raw("/overland", &large), 413, "body-too-large"),
        (Sent::get(format!("/gpslogger/{secret}")), 400, "not-this-protocol"),
        (Sent::get("/gpslogger/mp_wrong?lat=1&lon=2"), 401, "unauthorized"),
        (Sent::get("/gpslogger"), 401, "unauthorized"),
        (Sent::get(format!("/overland?token={secret}")), 405, "method-not-allowed"),
        (Sent::get(format!("/traccar/{secret}?id=1&lat=1&lon=2")), 404, "not-found"),
        (wrong.clone(), 401, "unauthorized"),
        (wrong.header("user-agent", OWNTRACKS_IOS), 503, "unauthorized"),
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
    let token = Sent::post(format!("/overland?token={secret}"), r#"{"locations":[]}"#);
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

#[tokio::test(flavor = "multi_thread")]
async fn with_kafka_gone_in_the_middle_of_a_batch_an_app_is_told_to_wait_and_its_retry_stores_the_rest_once()
-> anyhow::Result<()> {
    let kafka = Server::kafka().await?;
    let world = World::on(Services::shared()?.with_kafka(&kafka), WorldSettings::default()).await?;
    let mut gateway = world.new_gateway()?;
    gateway.set("PUBLISH_TIMEOUT", "2s");
    // Four points of a batch are on their way at once: it takes a while.
    gateway.set("PUBLISH_IN_FLIGHT", "8");
    gateway.start().await?;
    let gateways = [gateway];
    let points = points(&world, 2000);
    let secret = &world.account.secret;
    let mut tries = 0_u8;
    eventually(MINUTE, "the journal takes points", async || {
        tries += 1;
        let answer = Sent::overland(secret, &batch(&points[..1])).to(&gateways[0]).await?;
        Ok((answer.status == 200).then_some(()))
    })
    .await?;
    let refused_before = count(&gateways, "unavailable").await?;

    let sent = Sent::overland(secret, &batch(&points[..1900]));
    let cut = async {
        eventually(MINUTE, "some of the batch are acknowledged", async || {
            Ok((count(&gateways, "published").await? > 20.0).then_some(()))
        })
        .await?;
        // At once, and then as a power cut would.
        kafka.pause()?;
        kafka.kill().await
    };
    let (answer, ()) = tokio::try_join!(sent.to(&gateways[0]), cut)?;
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("2")));
    let acknowledged = count(&gateways, "published").await?;
    let left = count(&gateways, "unavailable").await? - refused_before;
    assert!(acknowledged > 20.0 && left > 20.0, "{acknowledged} acknowledged, {left} not: it was not split");
    assert_eq!(acknowledged + left, 1900.0);

    kafka.start().await?;
    let before =
        eventually(MINUTE, "the journal can be read", async || Ok(journal(&world).await.ok())).await?;
    // What was on its way may have arrived though it was not acknowledged.
    let unknown = i64::from(4 + tries - 1);
    #[expect(clippy::cast_possible_truncation, reason = "a small count")]
    let acknowledged = acknowledged as i64;
    assert!((acknowledged..=acknowledged + unknown).contains(&before), "{before} in the journal");
    let superset = Sent::overland(secret, &batch(&points));
    let taken = eventually(MINUTE, "the points are taken", async || {
        let answer = superset.to(&gateways[0]).await?;
        Ok((answer.status != 503).then_some(answer))
    });
    ok(&taken.await?, OVERLAND_OK);
    // What was acknowledged is not published again; what arrived besides is there twice, and is persisted once.
    assert_eq!(journal(&world).await? - 2000, before - acknowledged);
    let _consumer = world.consumer().await?;
    world.finish(&all(&points)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_as_long_as_its_body_may_be_whatever_a_batch_of_locations_may_be() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let mut gateway = world.new_gateway()?;
    gateway.set("LOCATIONS_MAX", "1");
    gateway.start().await?;
    let points = points(&world, 2000);
    let sent = Sent::overland(&world.account.secret, &batch(&points));
    let room = (1 << 20) - sent.body.len();
    let with_blanks = |blanks: usize| sent.clone().with_body(sent.body.clone() + &" ".repeat(blanks));
    let taken = eventually(MINUTE, "the points are taken", async || {
        let answer = with_blanks(room).to(&gateway).await?;
        Ok((answer.status != 503).then_some(answer))
    });
    ok(&taken.await?, OVERLAND_OK);
    let answer = with_blanks(room + 1).to(&gateway).await?;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (413, Some("body-too-large")));
    world.finish(&all(&points)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_passwords_of_apps_are_in_no_log_at_any_level_in_no_metric_and_in_no_problem()
-> anyhow::Result<()> {
    const PLANTED: &str = "PlantedPassword5309";
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let mut gateway = world.new_gateway()?;
    gateway.set("MILEPOST_LOG", "trace");
    gateway.start().await?;
    let secret = world.account.secret.as_str();
    let configuration = json!({"_type": "configuration", "password": PLANTED, "username": PLANTED});
    let dump = json!({"_type": "dump", "configuration": configuration});
    let form = "application/x-www-form-urlencoded";
    let session = format!("action=auth&user=jane&pass={PLANTED}");
    let token = format!("id=1&notificationToken={PLANTED}");
    let with_key = |path: &str| Sent::post(format!("{path}/{secret}"), token.clone());
    let requests = [
        Sent::owntracks(secret, &configuration),
        Sent::owntracks(secret, &dump),
        Sent::owntracks(secret, &json!({"_type": "encrypted", "data": PLANTED})),
        Sent::owntracks(PLANTED, &dump),
        Sent::owntracks(secret, &json!([PLANTED])),
        Sent::post(format!("/owntracks/{PLANTED}?d={PLANTED}"), configuration.to_string()),
        Sent::post(format!("/overland?token={PLANTED}"), format!(r#"{{"trip":"{PLANTED}"}}"#)),
        Sent::overland(secret, &json!({"locations": [PLANTED, {"geometry": PLANTED}]})),
        Sent::overland(PLANTED, &json!({"locations": []})),
        with_key("/traccar").header("content-type", form),
        Sent::get(format!("/traccar/{PLANTED}?id=1&pass={PLANTED}")),
        Sent::post(format!("/gpslogger/{secret}/log/ulogger/t/jane/client/index.php"), session),
        Sent::get(format!("/gpslogger/{PLANTED}/{PLANTED}?lat={PLANTED}&api_key={PLANTED}")),
        Sent::get(format!("/gpslogger/{secret}?lat={PLANTED}&lon=1&pass={PLANTED}")),
        Sent::get(format!("/nowhere/{PLANTED}?token={PLANTED}")),
        Sent::get(format!("/traccar/{secret}?{PLANTED}={PLANTED}")).header("user-agent", TRACCAR_IOS),
        Sent::post(format!("/traccar/{PLANTED}"), "").header("user-agent", TRACCAR_IOS),
    ];
    let client = sent::client()?;
    for (index, request) in requests.iter().enumerate() {
        let told = eventually(MINUTE, "it is answered", async || {
            let told = request.told(&client, &gateway).await?;
            // The first of all records may find a producer that does not know the topic yet.
            let is_early =
                matches!(&told, Told::Answer(answer) if answer.json()["code"] == "journal-unavailable");
            Ok((!is_early).then_some(told))
        });
        if let Told::Answer(answer) = told.await? {
            let text = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body));
            assert!(!text.contains(PLANTED) && !text.contains(secret), "{index}: {text}");
            assert!(!(300..400).contains(&answer.status), "{index} is a redirect");
        }
    }
    world.caught_up().await?;
    let metrics = gateway.page("/metrics").await.context("metrics")?;
    assert!(!metrics.contains(PLANTED) && !metrics.contains(secret));
    assert!(gateway.logged()?.contains(" TRACE "), "the log is not as talkative as it could be");
    for log in world.log_files()? {
        let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        assert!(!text.contains(PLANTED), "a password is in {}", log.display());
    }
    // A point that was set aside is kept as it was sent, without what may be a key.
    let letters = world.tables.dead_letters().await?;
    let form = letters.iter().find(|letter| letter.reason.starts_with("gpslogger:")).context("set aside")?;
    assert_eq!(form.value.as_deref(), Some(format!("lat={PLANTED}&lon=1").as_bytes()));
    world.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_protocol_can_be_turned_off_and_no_address_leads_elsewhere() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let names = ["owntracks", "overland", "traccar", "gpslogger"];
    let (client, secret) = (sent::client()?, &world.account.secret);
    for off in ["", "owntracks", "overland", "traccar", "gpslogger"] {
        let mut gateway = world.new_gateway()?;
        let on: Vec<&str> = names.into_iter().filter(|name| *name != off && !off.is_empty()).collect();
        gateway.set("PHONE_PROTOCOLS", &on.join(","));
        gateway.start().await?;
        for name in names {
            for below in ["", "/", &format!("/{secret}"), &format!("/{secret}/"), "/a/b?c=d", "//"] {
                let answer = Sent::post(format!("/{name}{below}"), "{").by(&client, &gateway).await?;
                let is_there = if on.contains(&name) { [400, 401] } else { [404, 404] };
                assert!(is_there.contains(&answer.status), "{name}{below} without {off}: {}", answer.status);
            }
        }
        let answer = Sent::post("/api/v1/locations", "{").by(&client, &gateway).await?;
        assert_eq!(answer.status, 401, "the JSON API is always there");
        gateway.stop().await?;
    }
    let _consumer = world.consumer().await?;
    world.finish(&[]).await
}
