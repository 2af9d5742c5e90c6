//! What phone apps send, line by line: the answer, what is stored, and what a retry adds. The lines are in `apps.jsonl`, one
//! request each, and docs/phones.md says the same in tables, which are compared with the programs here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::clock::Clock;
use milepost_shared::location::{Location, Rules, Shape, Upload, decode};
use milepost_tests::{Answer, Program, World, WorldSettings, eventually, exact};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::sent::{self, OWNTRACKS_IOS, Sent, TRACCAR_IOS, Told, basic};

const LINES: &str = include_str!("apps.jsonl");
const PHONES: &str = include_str!("../../../docs/phones.md");
const MINUTE: Duration = Duration::from_secs(60);
/// Stands for the time of arrival in comparisons.
const ARRIVED: i64 = 1;

fn lines() -> Vec<Value> {
    let lines: Vec<Value> = LINES.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.len() > 70, "the lines are not read");
    lines
}

/// Texts of a list in a line; none if it is not there.
fn texts<'a>(line: &'a Value, name: &str) -> Vec<&'a str> {
    line[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn app(line: &Value) -> &str {
    line["app"].as_str().expect("an app")
}

/// The request of a line with another body, if that is one.
fn request(line: &Value, body: &Value, secret: &str) -> anyhow::Result<Sent> {
    let with_key = |text: &str| match text.strip_prefix("Basic jane:KEY") {
        Some("") => basic(secret),
        _ => text.replace("KEY", secret),
    };
    let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
    let target = with_key(line["target"].as_str().context("a target")?);
    let mut sent = Sent::post(target, if body == "null" { String::new() } else { body });
    sent.method = line["method"].as_str().context("a method")?.parse()?;
    for (name, value) in line["headers"].as_object().into_iter().flatten() {
        sent = sent.header(name, &with_key(value.as_str().context("a header")?));
    }
    Ok(sent)
}

/// The answer is the line's.
fn check_answer(line: &Value, answer: &Answer) {
    let [status, body] = [&line["answer"][0], &line["answer"][1]];
    if *status == 200 {
        sent::ok(answer, body.as_str().expect("a body"));
    } else {
        assert_eq!((json!(answer.status), &answer.json()["code"]), (status.clone(), body), "{line}");
    }
}

/// Uploads as texts, sorted, without the times of arrival.
fn comparable<'a>(uploads: impl IntoIterator<Item = &'a Upload>, begun: i64) -> Vec<String> {
    let text = |upload: &Upload| {
        let mut upload = upload.clone();
        let time = &mut upload.locations[0].timestamp;
        *time = if *time >= begun { ARRIVED } else { *time };
        exact(&upload)
    };
    let mut texts: Vec<String> = uploads.into_iter().map(text).collect();
    texts.sort();
    texts
}

/// The points that a line must have left, once it was sent, or also again.
fn wanted(line: &Value, again: bool) -> anyhow::Result<Vec<String>> {
    let then = line.get("stored_then").filter(|_| again);
    let points = then.unwrap_or(&line["stored"]).as_array().into_iter().flatten();
    let upload = |point: &Value| -> anyhow::Result<Upload> {
        let mut point = point.clone();
        if point["timestamp"].is_null() {
            point["timestamp"] = ARRIVED.into();
        }
        Ok(decode(point.to_string().as_bytes(), Shape::Single, Rules::STORABLE)?)
    };
    let uploads: Vec<Upload> = points.map(upload).collect::<anyhow::Result<_>>()?;
    Ok(comparable(&uploads, i64::MAX))
}

/// Compares what each account has stored with what its line must have left.
async fn check_stored(
    world: &World,
    lines: &[Value],
    accounts: &[(AccountId, String)],
    begun: i64,
    again: bool,
) -> anyhow::Result<()> {
    world.caught_up().await?;
    let stored = world.tables.stored().await?;
    let letters = world.tables.dead_letters().await?;
    for (line, (account, _)) in lines.iter().zip(accounts) {
        let of_account = stored.iter().filter(|one| one.account == *account).map(|one| &one.upload);
        assert_eq!(comparable(of_account, begun), wanted(line, again)?, "{line}");
        let of_account = letters.iter().filter(|letter| letter.account == Some(*account));
        let reason = |reason: &str| reason.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut reasons: Vec<String> = of_account.map(|letter| reason(&letter.reason)).collect();
        let mut wanted = texts(line, "set_aside");
        reasons.sort();
        wanted.sort_unstable();
        assert_eq!(reasons, wanted, "{line}");
    }
    Ok(())
}

/// Checks that what was no point, and what was set aside, was counted by app and kind at each of two gateways.
async fn check_counts(gateways: &[Program; 2], lines: &[Value]) -> anyhow::Result<()> {
    for (metric, label, list) in [
        ("milepost_gateway_phone_records_total", "kind", "ignored"),
        ("milepost_gateway_points_set_aside_total", "reason", "set_aside"),
    ] {
        let mut counts: BTreeMap<(&str, &str), f64> = BTreeMap::new();
        for line in lines {
            texts(line, list).iter().for_each(|name| *counts.entry((app(line), name)).or_default() += 1.0);
        }
        for ((app, name), count) in counts {
            let labels = format!("app=\"{app}\",{label}=\"{name}\"");
            for gateway in gateways {
                assert_eq!(gateway.metric_of(metric, &labels).await?, count, "{metric} {labels}");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_what_apps_send_is_answered_stored_and_stored_again_as_it_says() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateways = [world.gateway().await?, world.gateway().await?];
    let (lines, client, begun) = (lines(), sent::client()?, Clock::new(0).now_ms());
    let mut accounts = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let (account, secret) = sent::account(&world, number).await?;
        let sent = request(line, &line["body"], &secret)?;
        // The first of all records may find a producer that does not know the topic yet.
        let answered = eventually(MINUTE, "it is answered", async || {
            let answer = sent.by(&client, &gateways[0]).await?;
            Ok((answer.status != 503).then_some(answer))
        });
        check_answer(line, &answered.await?);
        accounts.push((account, secret));
    }
    check_stored(&world, &lines, &accounts, begun, false).await?;
    for (line, (_, secret)) in lines.iter().zip(&accounts) {
        let again = request(line, line.get("again").unwrap_or(&line["body"]), secret)?;
        let answered = eventually(MINUTE, "it is answered again", async || {
            let answer = again.by(&client, &gateways[1]).await?;
            Ok((answer.status != 503).then_some(answer))
        });
        check_answer(line, &answered.await?);
    }
    check_stored(&world, &lines, &accounts, begun, true).await?;
    check_counts(&gateways, &lines).await?;
    let stored = world.tables.stored().await?;
    world.finish(&stored.iter().map(|one| &one.upload).collect::<Vec<_>>()).await
}

/// The section of a document with this title.
fn section(title: &str) -> &'static str {
    let (_, section) = PHONES.split_once(&format!("\n## {title}\n")).expect("the section");
    section.split("\n## ").next().unwrap_or_default()
}

/// The cells of the rows of a section's table, without its head.
fn rows(title: &str) -> Vec<Vec<&'static str>> {
    let lines = section(title).lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    let rows: Vec<Vec<&str>> = lines.skip(1).map(|line| line.split('|').map(str::trim).collect()).collect();
    assert!(rows.len() > 3, "the table of {title} is not read");
    rows
}

/// What is in backticks.
fn codes(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_reason_and_every_kind_of_the_document_is_that_of_a_line() {
    let lines = lines();
    for (title, list) in [("What is set aside", "set_aside"), ("What is no point", "ignored")] {
        let documented: BTreeSet<&str> = rows(title).iter().flat_map(|row| codes(row[0])).collect();
        let tested: BTreeSet<&str> = lines.iter().flat_map(|line| texts(line, list)).collect();
        assert_eq!(documented, tested, "{title}");
    }
}

#[test]
fn every_field_that_the_document_says_is_stored_is_that_of_a_line_of_its_app() {
    let lines = lines();
    let is_sent_and_stored = |line: &Value, name: &str, field: &str| {
        let sent = format!("{}{}", line["target"].as_str().unwrap_or_default(), line["body"]);
        let is_sent = [format!("\"{name}\":"), format!("{name}=")].iter().any(|text| sent.contains(text));
        let stored = line["stored"].as_array().into_iter().flatten();
        is_sent && stored.into_iter().any(|point| point.get(field).is_some())
    };
    for row in rows("What is stored") {
        let field = codes(row[0]).next().expect("a field");
        for (app, cell) in ["owntracks", "overland", "traccar", "gpslogger"].iter().zip(&row[1..]) {
            for name in codes(cell) {
                let mut of_app = lines.iter().filter(|line| self::app(line) == *app);
                assert!(of_app.any(|line| is_sent_and_stored(line, name, field)), "{app} {name}, {field}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_point_has_the_kinds_of_the_document_and_no_other() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let page = gateway.page("/metrics").await.context("metrics")?;
    for (title, metric, label) in [
        ("What is no point", "milepost_gateway_phone_records_total{", "kind=\""),
        ("What is set aside", "milepost_gateway_points_set_aside_total{", "reason=\""),
    ] {
        let series = page.lines().filter(|line| line.starts_with(metric));
        let names: BTreeSet<&str> =
            series.filter_map(|line| line.split_once(label)?.1.split('"').next()).collect();
        assert_eq!(rows(title).iter().flat_map(|row| codes(row[0])).collect::<BTreeSet<_>>(), names);
    }
    world.leave();
    Ok(())
}

/// A point as an app of the table sends it, at a time in seconds since 1970.
type Sample = fn(&str, i64) -> Sent;

const FIX: &str = "lat=48.25&lon=16.375";

/// The apps of the table "What each app is told".
const SAMPLES: [(&str, Sample); 9] = [
    ("OwnTracks, Android", |key, time| owntracks(key, time, "Owntracks-Android/gms/420509001")),
    ("OwnTracks, iOS", |key, time| owntracks(key, time, OWNTRACKS_IOS)),
    ("Overland", |key, time| {
        let point = json!({
            "type": "Feature", "geometry": {"type": "Point", "coordinates": [16.375, 48.25]},
            "properties": {"timestamp": time},
        });
        Sent::overland(key, &json!({"locations": [point]}))
    }),
    ("Traccar Client 10", |key, time| {
        let form = Sent::post(format!("/traccar/{key}"), format!("id=1&timestamp={time}&{FIX}"));
        form.header("user-agent", "ktor-client").header("content-type", "application/x-www-form-urlencoded")
    }),
    ("Traccar Client 9, transistorsoft's SDK", |key, time| {
        let coords = json!({"latitude": 48.25, "longitude": 16.375});
        let body = json!({"location": {"timestamp": time, "coords": coords}, "device_id": "1"});
        Sent::post(format!("/traccar/{key}"), body.to_string()).header("user-agent", "okhttp/3.14.9")
    }),
    ("Traccar Client up to 8, Android", |key, time| {
        traccar_8(key, time, "Dalvik/2.1.0 (Linux; U; Android 11)")
    }),
    ("Traccar Client up to 8, iOS", |key, time| traccar_8(key, time, TRACCAR_IOS)),
    ("GPSLogger, each fix", |key, time| Sent::get(format!("/gpslogger/{key}?timestamp={time}&{FIX}"))),
    ("GPSLogger, its file", |key, time| Sent::get(format!("/gpslogger/{key}?timestamp={time}&{FIX}"))),
];

fn owntracks(key: &str, time: i64, user_agent: &str) -> Sent {
    let fix = json!({"_type": "location", "lat": 48.25, "lon": 16.375, "tst": time});
    Sent::owntracks(key, &fix).header("user-agent", user_agent)
}

fn traccar_8(key: &str, time: i64, user_agent: &str) -> Sent {
    let sent = Sent::post(format!("/traccar/{key}?id=1&timestamp={time}&{FIX}"), "");
    sent.header("user-agent", user_agent)
}

/// The same without anything that would make it a point.
fn senseless(sent: &Sent) -> Sent {
    let target = sent.target.split('?').next().unwrap_or_default();
    let body = if sent.body.is_empty() { "" } else { "{" };
    Sent { target: target.to_owned(), body: body.to_owned(), ..sent.clone() }
}

/// Checks what an app was told against a cell: `200 BODY`, a status with what the app does then, or `closed`.
fn check_told(told: &Told, cell: &str, of: &str) {
    let word = cell.trim_start_matches('*').split([' ', ',', ':', '*']).next().unwrap_or_default();
    let answer = match told {
        Told::Closed => return assert_eq!("closed", word, "{of}"),
        Told::Answer(answer) => answer,
    };
    assert_eq!(answer.status.to_string(), word, "{of}: {answer:?}");
    if answer.status == 200 {
        sent::ok(answer, cell.split('`').nth(1).unwrap_or_default());
    }
    let waits = [429, 503].contains(&answer.status);
    assert_eq!(answer.header("Retry-After").is_some(), waits, "{of}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_app_is_told_what_the_document_says_in_every_case() -> anyhow::Result<()> {
    const TIME: i64 = 1_773_480_413;
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let here = world.gateway().await?;
    let [mut alone, mut slow] = [world.new_gateway()?, world.new_gateway()?];
    alone.set("KAFKA_BROKERS", "127.0.0.1:1");
    alone.set("PUBLISH_TIMEOUT", "200ms");
    alone.spawn()?;
    let address = alone.listen.context("a gateway listens")?;
    eventually(MINUTE, "it listens", async || Ok(TcpStream::connect(address).await.ok().map(drop))).await?;
    slow.set("RATE_LIMIT", "1");
    slow.set("RATE_BURST", "1");
    slow.start().await?;

    let rows = rows("What each app is told");
    let apps: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(apps, SAMPLES.map(|(app, _)| app));
    let (secret, client) = (world.account.secret.as_str(), sent::client()?);
    for (row, (app, sample)) in rows.iter().zip(SAMPLES) {
        let [_, success, away, wrong_key, too_fast, too_large, none] = row[..] else {
            anyhow::bail!("a row of {} cells", row.len())
        };
        let sent = sample(secret, TIME);
        let taken = eventually(MINUTE, "it is taken", async || {
            let told = sent.told(&client, &here).await?;
            Ok(matches!(&told, Told::Answer(answer) if answer.status == 200).then_some(told))
        });
        check_told(&taken.await?, success, app);
        check_told(&sample(secret, TIME + 1).told(&client, &alone).await?, away, app);
        check_told(&sample("mp_wrong", TIME).told(&client, &here).await?, wrong_key, app);
        let refused = eventually(MINUTE, "it is too fast", async || {
            let told = sent.told(&client, &slow).await?;
            // The first of all records may find a producer that does not know the topic yet.
            let is_early = matches!(&told, Told::Answer(answer)
                if answer.status == 200 || answer.json()["code"] == "journal-unavailable");
            Ok((!is_early).then_some(told))
        });
        check_told(&refused.await?, too_fast, app);
        if too_large != "-" {
            let large = sent.clone().with_body(format!("{}{}", sent.body, " ".repeat(1 << 20)));
            check_told(&large.told(&client, &here).await?, too_large, app);
        }
        check_told(&senseless(&sent).told(&client, &here).await?, none, app);
    }
    // All samples are one point of two devices.
    let point = |device: &str| Upload {
        device: device.to_owned(),
        locations: vec![Location::new(TIME * 1000, 48.25, 16.375)],
    };
    world.finish(&[&point("1"), &point("phone")]).await
}
