//! Requests that real apps have sent, as others recorded them: answered as the app expects, and stored as the points they must give.
//!
//! The recordings are no part of the repository: they are looked for in `MILEPOST_PHONES_DIR`, which must hold them if it is set, or
//! else in `shared/phones` beside it. Without them this tests nothing, and says so; `apps.jsonl` has cases of its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::clock::Clock;
use milepost_shared::location::{Location, Upload};
use milepost_tests::{Answer, DeadLetter, Program, World, WorldSettings, eventually, http};
use serde_json::Value;

use crate::sent;

const MINUTE: Duration = Duration::from_secs(60);
/// A line whose device is told by a record of its batch only, which names that of no point.
const DEVICE_OF_A_NEIGHBOUR: &str = "ov-002";

/// A recorded request.
struct Line {
    app: &'static str,
    line: Value,
    /// Those of one story have one account.
    story: String,
}

/// Where the recordings are; if nobody says that there are any, there may be none.
fn directory() -> Option<PathBuf> {
    let set = std::env::var_os("MILEPOST_PHONES_DIR").map(PathBuf::from);
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/phones"));
    set.or_else(|| Some(beside()).filter(|directory| directory.is_dir()))
}

fn lines(directory: &Path) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for file in ["owntracks", "overland", "osmand", "gpslogger", "others"] {
        let path = directory.join(format!("{file}.jsonl"));
        let all = std::fs::read_to_string(&path);
        for text in all.with_context(|| format!("no recordings in {}", path.display()))?.lines() {
            let line: Value = serde_json::from_str(text)?;
            let app = match (file, line["kind"].as_str().context("a kind")?) {
                ("owntracks", _) => "owntracks",
                ("overland", _) | (_, "dawarich") => "overland",
                ("osmand", _) | (_, "traccar-forward" | "home-assistant") => "traccar",
                _ => "gpslogger",
            };
            let story = line["group"].as_str().or_else(|| line["id"].as_str()).context("an id")?.to_owned();
            lines.push(Line { app, line, story });
        }
    }
    Ok(lines)
}

/// An account of its own for each story, with a key.
async fn accounts(world: &World, lines: &[Line]) -> anyhow::Result<HashMap<String, (AccountId, String)>> {
    let stories: HashSet<&str> = lines.iter().map(|line| line.story.as_str()).collect();
    let mut accounts = HashMap::new();
    for (number, story) in stories.into_iter().enumerate() {
        accounts.insert(story.to_owned(), sent::account(world, number).await?);
    }
    Ok(accounts)
}

impl Line {
    fn expects(&self, name: &str) -> Option<&Value> {
        self.line["expect"].get(name)
    }

    fn locations(&self) -> &[Value] {
        self.expects("locations").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.line["headers"].as_object()?.iter();
        headers.find(|(of, _)| of.eq_ignore_ascii_case(name))?.1.as_str()
    }

    /// Below its route, as the app would have it there.
    async fn send(&self, gateway: &Program, secret: &str) -> anyhow::Result<Answer> {
        let address = gateway.listen.context("a gateway listens")?;
        let path = self.line["path"].as_str().context("a path")?;
        let in_path = ["traccar", "gpslogger"].contains(&self.app);
        let key = if in_path { format!("/{secret}") } else { String::new() };
        let url = format!("http://{address}/{}{key}{path}", self.app);
        let method = self.line["method"].as_str().context("a method")?.parse()?;
        let mut request = http().timeout(MINUTE).build()?.request(method, url);
        for name in ["Content-Type", "User-Agent", "X-Limit-D", "X-Limit-U", "Accept"] {
            if let Some(value) = self.header(name) {
                request = request.header(name, value);
            }
        }
        if !in_path {
            request = request.bearer_auth(secret);
        }
        let response = request.body(self.line["body"].as_str().unwrap_or_default().to_owned()).send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await?.to_vec() })
    }

    /// What its app takes for success.
    fn success(&self) -> &'static str {
        let path = self.line["path"].as_str().unwrap_or_default();
        match self.app {
            "overland" => r#"{"result":"ok"}"#,
            "owntracks" if self.header("User-Agent").is_some_and(|agent| agent.starts_with("Overland/")) => {
                r#"{"result":"ok"}"#
            }
            "owntracks" => "[]",
            "gpslogger" if path.split('?').next().is_some_and(|path| path.ends_with("/client/index.php")) => {
                r#"{"error":false,"trackid":1}"#
            }
            "gpslogger" if path.split('?').next().is_some_and(|path| path.contains("/log")) => {
                r#"{"done":1,"friends":[]}"#
            }
            _ => "",
        }
    }

    /// Whether it may end like this, which is not what is wanted first.
    fn may_also(&self, outcome: &str) -> bool {
        self.expects("also_ok").and_then(Value::as_array).is_some_and(|also| also.contains(&outcome.into()))
    }
}

fn near(found: f64, wanted: f64, tolerance: f64) -> bool {
    (found - wanted).abs() <= tolerance
}

/// Whether a stored point is the one wanted; of a story's only by what a point is known by, since the first one stays.
fn is(stored: &Upload, wanted: &Value, line: &Line) -> bool {
    let at = &stored.locations[0];
    let device = wanted.get("device").unwrap_or(&line.line["expect"]["device"]);
    let device = if line.line["id"] == DEVICE_OF_A_NEIGHBOUR { None } else { device.as_str() };
    let time = wanted["timestamp_ms"].as_i64();
    let is_known = stored.device == device.unwrap_or("phone")
        && time.is_none_or(|time| at.timestamp == time || wanted["also"]["timestamp_ms"] == at.timestamp)
        && near(at.latitude, wanted["latitude"].as_f64().unwrap_or(f64::NAN), 1e-9)
        && near(at.longitude, wanted["longitude"].as_f64().unwrap_or(f64::NAN), 1e-9);
    is_known && (line.line["group"].is_string() || has_all(at, wanted))
}

fn has_all(at: &Location, wanted: &Value) -> bool {
    let has = |(name, found): (&str, Option<f64>)| {
        let either = wanted["either_null"].as_array().is_some_and(|names| names.contains(&name.into()));
        let also = wanted["also"].get(name);
        let mut acceptable = std::iter::once(&wanted[name]).chain(also);
        let right = acceptable.any(|wanted| match (found, wanted.as_f64()) {
            (Some(found), Some(wanted)) => near(found, wanted, wanted.abs() * 1e-3),
            (found, wanted) => found.is_none() && wanted.is_none(),
        });
        right || (either && found.is_none())
    };
    [
        ("accuracy", at.accuracy),
        ("altitude", at.altitude),
        ("bearing", at.bearing),
        ("speed_mps", at.speed),
        ("battery_percent", at.battery_level),
    ]
    .into_iter()
    .all(has)
}

/// What is wrong with what is stored of a story.
fn faults(lines: &[(&Line, Answer)], stored: &[Upload], letters: bool, begun: i64) -> Vec<String> {
    let mut faults = Vec::new();
    let mut lenient = false;
    for (line, answer) in lines {
        let taken = answer.status == 200;
        if taken && answer.body != line.success().as_bytes() {
            faults.push(format!("answered {:?}", answer.status_and_body()));
        }
        let outcome = match (taken, stored.is_empty()) {
            (false, _) => "invalid",
            (true, true) if letters => "invalid",
            (true, true) => "ignored",
            (true, false) => "accepted",
        };
        let wanted = if line.expects("invalid").is_some() {
            "invalid"
        } else if line.expects("ignored").is_some_and(|ignored| *ignored == true) {
            "ignored"
        } else {
            "accepted"
        };
        let alone = lines.len() == 1;
        lenient |= line.expects("also_ok").is_some() || line.expects("decrypted").is_some();
        // A time of arrival is later than any recording.
        let untimed = !stored.is_empty() && stored.iter().all(|point| point.locations[0].timestamp >= begun);
        let may_also = line.may_also(outcome) || (untimed && line.may_also("server_time"));
        if alone && outcome != wanted && !may_also && line.expects("decrypted").is_none() {
            faults.push(format!("{outcome}, not {wanted}: {:?}", answer.status_and_body()));
        }
        if !taken && wanted != "invalid" && !line.may_also("invalid") {
            faults.push(format!("refused: {:?}", answer.status_and_body()));
        }
        if taken
            && wanted == "accepted"
            && line.expects("also_ok").is_none()
            && line.expects("decrypted").is_none()
        {
            for location in line.locations() {
                if !stored.iter().any(|stored| is(stored, location, line)) {
                    faults.push(format!("{}: {location} is not among {}", line.line["id"], stored.len()));
                }
            }
        }
    }
    let is_wanted = |stored: &Upload| {
        lines.iter().any(|(line, _)| line.locations().iter().any(|location| is(stored, location, line)))
    };
    let more = stored.iter().filter(|stored| !is_wanted(stored)).count();
    if more > 0 && !lenient {
        faults.push(format!("{more} points that nobody sent"));
    }
    let (last, _) = &lines[lines.len() - 1];
    let distinct = last.expects("distinct_points_in_group").or_else(|| last.expects("distinct_points"));
    if !lenient && distinct.and_then(Value::as_u64).is_some_and(|distinct| distinct != stored.len() as u64) {
        faults.push(format!("{} points, not {distinct:?}", stored.len()));
    }
    faults
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_request_is_answered_as_its_app_expects_and_gives_exactly_its_points()
-> anyhow::Result<()> {
    let Some(directory) = directory() else {
        eprintln!("NOT RUN: there are no recordings; set MILEPOST_PHONES_DIR to where they are");
        return Ok(());
    };
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let lines = lines(&directory)?;
    let begun = Clock::new(0).now_ms();
    let accounts = accounts(&world, &lines).await?;
    let mut stories: BTreeMap<&str, Vec<(&Line, Answer)>> = BTreeMap::new();
    for line in &lines {
        let secret = &accounts[&line.story].1;
        // The first of all records may find a producer that does not know the topic yet.
        let answered = eventually(MINUTE, "it is answered", async || {
            let answer = line.send(&gateway, secret).await?;
            Ok((answer.status != 503).then_some(answer))
        });
        stories.entry(&line.story).or_default().push((line, answered.await?));
    }
    world.caught_up().await?;
    let stored = world.tables.stored().await?;
    let letters = world.tables.dead_letters().await?;
    let mut wrong = Vec::new();
    for (story, lines) in &stories {
        let (account, _) = accounts[*story];
        let points: Vec<Upload> =
            stored.iter().filter(|one| one.account == account).map(|one| one.upload.clone()).collect();
        let letters = letters.iter().any(|letter| is_unreadable_of(letter, account));
        let faults = faults(lines, &points, letters, begun);
        wrong.extend(faults.into_iter().map(|fault| format!("{story}: {fault}")));
    }
    assert!(lines.len() > 100 && wrong.is_empty(), "of {} lines:\n{}", lines.len(), wrong.join("\n"));
    // The rows are what was sent; the facts are the rows, bit for bit.
    let stored: Vec<&Upload> = stored.iter().map(|one| &one.upload).collect();
    world.finish(&stored).await
}

/// Whether a dead letter is a point of this account that is not merely encrypted.
fn is_unreadable_of(letter: &DeadLetter, account: AccountId) -> bool {
    letter.account == Some(account) && !letter.reason.contains(": encrypted")
}
