//! The documents: what they print is what happens.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use milepost_shared::journal::set_aside::REASONS;
use milepost_shared::location::{Location, Rules, Shape, Upload, decode};
use milepost_tests::{Answer, Client, Fact, Post, Raw, World, WorldSettings};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::process::Command;

use crate::sent::{self, Sent};

const README: &str = include_str!("../../../README.md");
const HTTP_API: &str = include_str!("../../../docs/http-api.md");
const TOPICS: &str = include_str!("../../../docs/topics.md");
const PHONES: &str = include_str!("../../../docs/phones.md");
const PROBLEMS: [&str; 4] = [
    include_str!("../../../gateway/src/http/problem.rs"),
    include_str!("../../../gateway/src/admission/problem.rs"),
    include_str!("../../../gateway/src/native/problem.rs"),
    include_str!("../../../gateway/src/phones/problem.rs"),
];

const SINGLE: &str = "/api/v1/locations";
const BATCH: &str = "/api/v1/locations/batch";
/// Longest time the shell may take for one command.
const COMMAND: Duration = Duration::from_secs(60);

/// The fenced block of a language that holds a text.
fn block<'a>(document: &'a str, language: &str, text: &str) -> anyhow::Result<&'a str> {
    let mut blocks = document.split("\n```").skip(1).step_by(2);
    let found = blocks.find_map(|block| {
        let block = block.strip_prefix(language)?.strip_prefix('\n')?;
        block.contains(text).then_some(block)
    });
    found.with_context(|| format!("no {language} block with {text}"))
}

/// A row of the table of problems.
struct Row {
    status: u16,
    code: &'static str,
    detail: &'static str,
}

fn documented() -> Vec<Row> {
    let row = |line: &'static str| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let status = cells.next()?.parse().ok()?;
        let code = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some(Row { status, code, detail: cells.next()? })
    };
    HTTP_API.lines().filter_map(row).collect()
}

/// The statuses and codes that the gateway's source pairs.
fn existing() -> BTreeSet<(u16, &'static str)> {
    let sources = PROBLEMS.iter().filter_map(|source| source.split("#[cfg(test)]").next());
    let pair = |rest: &'static str| {
        let (name, rest) = rest.split_once(',')?;
        let (code, _) = rest.split_once('"')?.1.split_once('"')?;
        let named = |status: &StatusCode| {
            status
                .canonical_reason()
                .is_some_and(|reason| reason.replace(' ', "_").eq_ignore_ascii_case(name))
        };
        let status = (100..600).filter_map(|status| StatusCode::from_u16(status).ok()).find(named)?;
        Some((status.as_u16(), code))
    };
    let made = sources.flat_map(|source| source.split("Problem::new(").skip(1));
    let made = made.filter_map(|rest| rest.trim_start().strip_prefix("StatusCode::"));
    made.map(|rest| pair(rest).expect("a status and a code")).collect()
}

#[test]
fn every_problem_is_documented_with_its_status_and_every_documented_one_exists() {
    let documented = documented();
    let rows: BTreeSet<_> = documented.iter().map(|row| (row.status, row.code)).collect();
    assert_eq!(rows, existing());
    assert_eq!(rows.len(), documented.len(), "a code has two rows");
    assert!(rows.len() > 20, "the table is not read");
}

/// What a client can do wrong alone, by the code it gets.
async fn provoked(client: &Client, stranger: &Client) -> anyhow::Result<Vec<(&'static str, Answer)>> {
    let fine =
        || Post::to(SINGLE, r#"{"deviceId":"d","timestamp":1773480413000,"latitude":2,"longitude":3}"#);
    let other = Post::to(SINGLE, r#"{"deviceId":"e","timestamp":1773480413000,"latitude":2,"longitude":3}"#);
    let faulty = r#"{"deviceId":"curl","locations":[{"timestamp":"x","latitude":91,"longitude":16},
        {"timestamp":1773480413000,"latitude":1,"longitude":1,"lat":2}]}"#;
    let crowd = format!(r#"{{"deviceId":"d","locations":[{}]}}"#, vec!["0"; 1001].join(","));
    let mut answers = vec![
        ("unknown-upload", client.get("/api/v1/uploads/nothing").await?),
        ("unauthorized", stranger.post(&fine()).await?),
    ];
    assert_eq!(client.post(&fine().key("used")).await?.status, 200);
    for (code, post) in [
        ("malformed-json", Post::to(SINGLE, r#"{"deviceId":"#)),
        ("invalid-upload", Post::to(BATCH, faulty)),
        ("unreadable-body", fine().header("Content-Encoding", "gzip")),
        ("invalid-idempotency-key", fine().header("Idempotency-Key", "a b")),
        ("not-found", Post::to("/api/v1/location", "{}")),
        ("method-not-allowed", Post::to("/api/v1/uploads/nothing", "{}")),
        ("not-acceptable", fine().header("Accept", "text/html")),
        ("body-too-large", Post::to(SINGLE, vec![b' '; (1 << 20) + 1])),
        ("too-many-locations", Post::to(BATCH, crowd)),
        ("unsupported-media-type", Post { headers: Vec::new(), ..fine() }),
        ("unsupported-encoding", fine().header("Content-Encoding", "compress")),
        ("key-reused", other.key("used")),
    ] {
        answers.push((code, client.post(&post).await?));
    }
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
    for (code, bytes) in [
        ("ambiguous-request", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("malformed-request", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("head-too-large", &many),
    ] {
        let mut raw = Raw::connect(client.gateway()).await?;
        raw.send(bytes.as_bytes()).await?;
        answers.push((code, raw.answer(COMMAND).await?));
    }
    Ok(answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_read_as_documented_and_their_request_ids_are_in_the_log() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let mut gateway = world.new_gateway()?;
    // As it is by default, not as talkative as in other tests.
    gateway.unset("MILEPOST_LOG");
    gateway.start().await?;
    let _consumer = world.consumer().await?;
    let client = world.client(&gateway)?;
    let stranger = Client::new(client.gateway(), "mp_nobody")?;

    let documented = documented();
    for (code, answer) in provoked(&client, &stranger).await? {
        let row = documented.iter().find(|row| row.code == code).with_context(|| code.to_owned())?;
        let mut page = answer.json();
        let read = (answer.status, page["code"].as_str(), page["detail"].as_str());
        assert_eq!(read, (row.status, Some(code), Some(row.detail)));
        assert_eq!(page["status"], row.status);
        assert!(page["type"].is_string() && page["title"].is_string(), "{page}");
        assert_eq!(answer.header("Content-Type"), Some("application/problem+json"), "{code}");
        let id = page["requestId"].as_str().context("a request id")?;
        assert_eq!(answer.header("X-Request-Id"), Some(id));
        assert!(gateway.logged()?.contains(id), "the request id of {code} is not in the log");
        let allow = answer.header("Allow").filter(|allow| !allow.is_empty());
        assert_eq!(allow.is_some(), code == "method-not-allowed");
        if code == "invalid-upload" {
            let (_, printed) =
                block(HTTP_API, "http", "faultsTotal")?.split_once("\n\n").context("a body")?;
            let mut printed: Value = serde_json::from_str(printed)?;
            for page in [&mut page, &mut printed] {
                page["requestId"] = Value::Null;
            }
            assert_eq!(page, printed);
        }
    }
    let upload = decode(
        br#"{"deviceId":"d","timestamp":1773480413000,"latitude":2,"longitude":3}"#,
        Shape::Single,
        Rules::STORABLE,
    )?;
    world.finish(&[&upload]).await
}

/// What a command line writes.
async fn shell(command: &str, environment: [(&str, String); 2]) -> anyhow::Result<String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env_clear().envs(environment).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND, shell.output()).await??;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// An answer without the values that differ each time.
fn comparable(answer: &str) -> Vec<&str> {
    let named = |line: &str| ["x-request-id: ", "date: "].into_iter().find(|name| line.starts_with(name));
    answer.lines().map(|line| named(line).unwrap_or(line.trim_end())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_upload_of_the_readme_and_its_replay_are_answered_as_printed() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;

    let lines = block(README, "sh", "curl")?;
    let command = lines.strip_prefix(". .dev/env\n").context("the settings come first")?;
    let address = gateway.listen.context("a gateway listens")?;
    for printed in [block(README, "http", "200 OK")?, block(README, "http", "idempotency-replayed")?] {
        let environment = [
            ("MILEPOST_URL", format!("http://{address}")),
            ("MILEPOST_API_KEY", world.account.secret.clone()),
        ];
        let answer = shell(command, environment).await?;
        assert_eq!(comparable(&answer), comparable(printed));
    }
    let (_, body) = command.split_once("-d '").context("a body")?;
    let (body, _) = body.split_once('\'').context("a body")?;
    world.finish(&[&decode(body.as_bytes(), Shape::Single, Rules::STORABLE)?]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_phone_apps_send_is_answered_as_printed_and_stored_once() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let commands = block(PHONES, "sh", "curl")?.strip_prefix(". .dev/env\n").context("the settings first")?;
    let address = gateway.listen.context("a gateway listens")?;
    let printed = block(PHONES, "text", "[]")?;
    for _ in 0..2 {
        let environment = [
            ("MILEPOST_URL", format!("http://{address}")),
            ("MILEPOST_API_KEY", world.account.secret.clone()),
        ];
        assert_eq!(shell(commands, environment).await?.trim_end(), printed.trim_end());
    }
    let stored = |device: &str, accuracy| {
        let location = Location::new(1_773_480_413_000, 48.2081743, 16.3738189);
        Upload { device: device.to_owned(), locations: vec![Location { accuracy, ..location }] }
    };
    let stored = [("pixel8", Some(5.0)), ("iphone", None), ("123456", None), ("nexus", None)]
        .map(|(device, accuracy)| stored(device, accuracy));
    world.finish(&stored.each_ref()).await
}

/// A fix of GPSLogger, and how it writes it.
struct Fix {
    seconds: i64,
    latitude: &'static str,
    longitude: &'static str,
    accuracy: &'static str,
}

/// A text of GPSLogger's settings with its placeholders replaced as it does: one after the other, wherever they stand.
fn filled(text: &str, fix: &Fix, key: &str) -> String {
    let replaced = text
        .replace("%LAT", fix.latitude)
        .replace("%LON", fix.longitude)
        .replace("%ACC", fix.accuracy)
        .replace("%TIMESTAMP", &fix.seconds.to_string())
        .replace("%AID", "9774d56d682e549c");
    assert!(!replaced.contains('%'), "{replaced}");
    replaced.replace("X-API-Key: KEY", &format!("X-API-Key: {key}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recipe_for_gpslogger_stores_each_line_once_and_never_stops_at_one() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let client = Client::new(world.client(&gateway)?.gateway(), "")?;
    let headers = block(PHONES, "text", "Idempotency-Key")?;
    let body = block(PHONES, "text", "%TIMESTAMP000")?.trim();
    let fix = |seconds, latitude, accuracy| Fix { seconds, latitude, longitude: "-1.5E-4", accuracy };
    let fixes = [
        fix(1_773_480_413, "48.2081743", "4.288000106811523"),
        // Another place, and another accuracy, within the second; and an accuracy that is not known.
        fix(1_773_480_413, "48.2081744", "4.288000106811523"),
        fix(1_773_480_413, "48.2081744", "5.0"),
        fix(1_773_480_414, "48.2081744", "0.0"),
    ];
    let key = &world.account.secret;
    for round in 0..3 {
        for fix in &fixes {
            let mut post = Post { headers: Vec::new(), ..Post::to(SINGLE, filled(body, fix, key)) };
            for line in filled(headers, fix, key).lines() {
                // It drops a line with a second colon.
                let [name, value] = line.split(':').collect::<Vec<_>>()[..] else {
                    anyhow::bail!("GPSLogger would drop the line {line:?}")
                };
                post = post.header(name.trim(), value.trim());
            }
            let answer = client.post_until_final(&post, COMMAND).await?;
            assert_eq!(answer.status_and_body(), (200, r#"{"success":true,"processedCount":1}"#.to_owned()));
            assert_eq!(answer.replayed(), round > 0);
        }
    }
    let stored = |fix: &Fix| -> anyhow::Result<Upload> {
        let mut location = Location::new(fix.seconds * 1000, fix.latitude.parse()?, fix.longitude.parse()?);
        location.accuracy = Some(fix.accuracy.parse()?);
        Ok(Upload { device: "9774d56d682e549c".to_owned(), locations: vec![location] })
    };
    let stored: Vec<Upload> = fixes.iter().map(stored).collect::<anyhow::Result<_>>()?;
    world.finish(&stored.iter().collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_for_gpslogger_gives_all_that_it_knows() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let address = block(PHONES, "text", "/gpslogger/KEY?")?.trim();
    let target = address.strip_prefix("https://milepost.example").context("the example's host")?;
    let mut target = target.replace("KEY", &world.account.secret);
    for (placeholder, value) in [
        ("%LAT", "48.2081743"),
        ("%LON", "16.3738189"),
        ("%TIME", "2026-03-14T09:26:53.579Z"),
        ("%ACC", "4.5"),
        ("%ALT", "171.4"),
        ("%SPD", "13.5"),
        ("%DIR", "143.5"),
        ("%BATT", "64.0"),
        ("%PROV", "gps"),
        ("%AID", "9774d56d682e549c"),
    ] {
        assert!(target.contains(placeholder), "{placeholder}");
        target = target.replace(placeholder, value);
    }
    assert!(!target.contains('%'), "{target}");
    for _ in 0..2 {
        sent::ok(&Sent::get(target.clone()).to(&gateway).await?, "");
    }
    let location = Location {
        accuracy: Some(4.5),
        altitude: Some(171.4),
        speed: Some(13.5),
        bearing: Some(143.5),
        battery_level: Some(64.0),
        provider: Some("gps".to_owned()),
        ..Location::new(1_773_480_413_579, 48.2081743, 16.3738189)
    };
    world.finish(&[&Upload { device: "9774d56d682e549c".to_owned(), locations: vec![location] }]).await
}

/// The cells of a column of codes, in the tables of a document.
fn codes(document: &'static str) -> BTreeSet<&'static str> {
    let cells = document.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells.flat_map(|cell| cell.split(['`', ',', ' ']).filter(|code| !code.is_empty())).collect()
}

#[test]
fn every_reason_for_which_a_point_is_set_aside_is_documented() {
    let (_, section) = PHONES.split_once("## What is set aside").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("another section");
    assert_eq!(codes(section), BTreeSet::from(REASONS));
}

fn uploads() -> anyhow::Result<[(Post, Upload); 2]> {
    let single = block(HTTP_API, "json", "\"deviceId\"")?;
    let batch = block(HTTP_API, "json", "\"locations\"")?;
    Ok([
        (Post::to(SINGLE, single), decode(single.as_bytes(), Shape::Single, Rules::STORABLE)?),
        (Post::to(BATCH, batch), decode(batch.as_bytes(), Shape::Batch, Rules::STORABLE)?),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_uploads_are_published_as_printed_and_kept_once_by_the_statement_for_subscribers()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let client = world.client(&gateway)?;
    let uploads = uploads()?;
    for (post, upload) in &uploads {
        let answer = client.post(post).await?;
        let count = upload.locations.len();
        assert_eq!(
            answer.status_and_body(),
            (200, format!(r#"{{"success":true,"processedCount":{count}}}"#))
        );
    }
    world.caught_up().await?;

    let seen = block(TOPICS, "sql", "CREATE TABLE seen")?;
    let is_new = block(TOPICS, "sql", "INSERT INTO seen")?;
    world.tables.execute(seen).await?;
    let mut kept = Vec::new();
    let records = world.kafka.read(&world.topics.locations).await?;
    for record in records.iter().chain(&records) {
        let fact = Fact::read(record)?;
        let changed = sqlx::query(is_new).bind(fact.partition).bind(fact.source_offset);
        if changed.execute(&world.tables.pool).await?.rows_affected() == 1 {
            kept.push(fact);
        }
    }
    assert_eq!(kept.len(), uploads.len());

    let mut printed: Value = serde_json::from_str(block(TOPICS, "json", "receivedAt")?)?;
    let fact = kept.iter().find(|fact| fact.value["locations"].as_array().is_some_and(|all| all.len() == 2));
    let fact = fact.context("the batch is published")?;
    printed["account"] = world.account.id.to_string().into();
    printed["receivedAt"] = fact.value["receivedAt"].clone();
    assert_eq!(fact.value, printed);
    world.finish(&uploads.each_ref().map(|(_, upload)| upload)).await
}
