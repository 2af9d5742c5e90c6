//! Phone apps against the same server.

use std::fmt::Write as _;

use serde_json::Value;

use super::*;
use crate::app::App;
use crate::batch::Cut;
use crate::phone::apps::Installed;
use crate::track::Track;

const OVERLAND_OK: Reply = Json(200, r#"{"result":"ok"}"#);

/// Points a second apart.
fn gpx(points: usize) -> String {
    let mut gpx = "<gpx>".to_owned();
    for second in 0..points {
        write!(gpx, "<wpt lat='1' lon='2'><time>2026-03-14T09:00:{second:02}Z</time></wpt>")
            .expect("a string takes all");
    }
    gpx + "</gpx>"
}

struct Played {
    summary: Summary,
    seen: Vec<Seen>,
}

/// Plays so many points to a server, of which two gather at a time.
async fn play(app: App, points: usize, twice: bool, replies: impl IntoIterator<Item = Reply>) -> Played {
    let (url, script) = gateway(replies).await;
    let gpx = gpx(points);
    let cut = Cut { size: 50, gap: Duration::from_secs(300) };
    let mut track = Track::survey(|| Ok(gpx.as_bytes()), cut, i64::MAX).expect("the test's GPX is good");
    let phone = phone(settings([url]));
    let installed = Installed { app, device_id: "pixel8", gathering: 2 };
    let play = phone.play_app(installed, &mut track, twice, future::pending(), |_| ());
    let summary = tokio::time::timeout(PATIENCE, play).await.expect("the play ends in time");
    Played { summary, seen: script.seen() }
}

fn json(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).expect("the body is JSON")
}

/// The second of each point in a batch of Overland.
fn seconds(seen: &Seen) -> Vec<u32> {
    let body = json(seen);
    let features = body["locations"].as_array().expect("a list").iter();
    let second = |feature: &Value| feature["properties"]["timestamp"].as_str()?.get(17..19)?.parse().ok();
    features.map(|feature| second(feature).expect("a time")).collect()
}

#[tokio::test]
async fn an_app_sends_the_same_bytes_until_it_has_success_and_only_then_the_next_point() {
    let replies = [HangUp, Json(401, "{}"), Say(503, ""), Say(200, ""), Json(200, "[]"), Json(200, "[]")];
    let Played { summary, seen } = play(App::Owntracks, 2, false, replies).await;
    let expected = Summary { uploads: 2, attempts: 6, sent: 6, locations: 2, ..Summary::default() };
    assert_eq!(summary, expected);
    assert!(seen[..5].iter().all(|request| *request == seen[0]), "{seen:?}");
    assert_eq!(
        (&json(&seen[4])["tst"], &json(&seen[5])["tst"]),
        (&1_773_478_800.into(), &1_773_478_801.into())
    );
    assert!(seen.iter().all(|request| !request.headers.contains_key("x-api-key")));
    assert!(seen.iter().all(|request| !request.headers.contains_key("idempotency-key")));
}

#[tokio::test]
async fn a_batch_that_fails_comes_again_with_all_that_has_gathered_since() {
    let replies = [HangUp, Say(200, "[]"), OVERLAND_OK, OVERLAND_OK];
    let Played { summary, seen } = play(App::Overland, 7, false, replies).await;
    let expected = Summary { uploads: 2, attempts: 4, sent: 13, locations: 7, ..Summary::default() };
    assert_eq!(summary, expected);
    let sent: Vec<Vec<u32>> = seen.iter().map(seconds).collect();
    assert_eq!(sent, [vec![0, 1], vec![0, 1, 2, 3], vec![0, 1, 2, 3, 4, 5], vec![6]]);
}

#[tokio::test]
async fn twice_overland_sends_its_whole_queue_in_batches_as_large_as_it_makes_them() {
    let replies = [OVERLAND_OK, OVERLAND_OK, OVERLAND_OK];
    let Played { summary, seen } = play(App::Overland, 4, true, replies).await;
    assert_eq!((summary.uploads, summary.sent, summary.locations), (3, 8, 8));
    let sent: Vec<Vec<u32>> = seen.iter().map(seconds).collect();
    assert_eq!(sent, [vec![0, 1], vec![2, 3], vec![0, 1, 2, 3]]);
}

#[tokio::test]
async fn twice_owntracks_sends_each_fix_in_a_message_of_its_own() {
    let replies = (0..4).map(|_| Json(200, "[]"));
    let Played { summary, seen } = play(App::Owntracks, 2, true, replies).await;
    assert_eq!((summary.uploads, summary.sent, summary.locations), (4, 4, 4));
    let [first, again] = [json(&seen[0]), json(&seen[2])];
    assert_eq!((&first["tst"], &first["lat"]), (&again["tst"], &again["lat"]));
    assert_eq!(again["t"], "p");
    assert_ne!(first["_id"], again["_id"]);
}

#[tokio::test]
async fn an_app_that_keeps_what_has_no_success_sends_nothing_behind_it() {
    let replies = (0..9).map(|_| Say(503, ""));
    let Played { summary, seen } = play(App::Traccar, 3, true, replies).await;
    assert_eq!(only_failure(&summary), "gave up after 8 attempts; the last: 503");
    assert_eq!((summary.uploads, summary.attempts, summary.sent, summary.locations), (1, 8, 8, 0));
    assert_eq!((seen.len(), summary.unfinished), (8, 0));
    assert!(seen.iter().all(|request| *request == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn gpslogger_gives_up_a_fix_after_three_attempts_and_goes_on_with_the_next() {
    let replies = [HangUp, Say(503, ""), Say(401, ""), Say(200, "")];
    let Played { summary, seen } = play(App::Gpslogger, 2, false, replies).await;
    assert_eq!(only_failure(&summary), "gave up after 3 attempts; the last: 401");
    assert_eq!((summary.uploads, summary.attempts, summary.locations, summary.unfinished), (2, 4, 1, 0));
    assert_eq!(seen[0].path, seen[2].path);
    assert_ne!(seen[2].path, seen[3].path);
    assert!(seen[0].path.starts_with("/gpslogger/secret?lat=1.0&lon=2.0&time=2026-03-14T09:00:00.000Z&"));
}

#[tokio::test]
async fn gpslogger_begins_its_file_again_at_the_first_line_where_one_fails() {
    let ok = || Say(200, "");
    let replies = [ok(), ok(), ok(), ok(), Say(503, ""), HangUp, ok(), ok(), ok()];
    let Played { summary, seen } = play(App::Gpslogger, 3, true, replies).await;
    let second = |seen: &Seen| seen.path.split(".000Z").next().and_then(|start| start.chars().last());
    let lines: String = seen.iter().filter_map(second).collect();
    assert_eq!(lines, ["012", "01", "0", "012"].concat());
    let expected = Summary { uploads: 7, attempts: 9, sent: 9, locations: 7, ..Summary::default() };
    assert_eq!(summary, expected);
}

#[tokio::test]
async fn the_file_of_gpslogger_is_begun_no_more_often_than_there_are_attempts() {
    let replies = [Say(200, "")].into_iter().chain((0..9).map(|_| Say(503, "")));
    let Played { summary, seen } = play(App::Gpslogger, 1, true, replies).await;
    assert_eq!(only_failure(&summary), "gave up after 8 attempts; the last: 503");
    assert_eq!((seen.len(), summary.locations, summary.unfinished), (9, 1, 0));
}

#[tokio::test]
async fn a_stopped_app_ends_at_once_with_what_it_has() {
    let (url, _) = gateway([Say(200, ""), Silence]).await;
    let gpx = gpx(3);
    let cut = Cut { size: 50, gap: Duration::from_secs(300) };
    let mut track = Track::survey(|| Ok(gpx.as_bytes()), cut, i64::MAX).expect("the test's GPX is good");
    let installed = Installed { app: App::Traccar, device_id: "pixel8", gathering: 50 };
    let finished = Notify::new();
    let phone = phone(settings([url]));
    let play = phone.play_app(installed, &mut track, true, finished.notified(), |event| {
        if let Event::Finished(_) = event {
            finished.notify_one();
        }
    });
    let summary = tokio::time::timeout(PATIENCE, play).await.expect("the play ends in time");
    let expected =
        Summary { uploads: 1, attempts: 1, sent: 1, locations: 1, unfinished: 5, ..Summary::default() };
    assert_eq!(summary, expected);
}
