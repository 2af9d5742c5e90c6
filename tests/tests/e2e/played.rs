//! The phone client as the apps that others have made: each point of a track is stored once, as that app sends it.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use milepost_shared::location::{Location, Upload};
use milepost_tests::{Lossy, Program, World, WorldSettings};
use serde_json::Value;

use crate::phone::points;

/// An app, and which part of a millisecond time it sends.
struct App {
    name: &'static str,
    /// Its times are multiples of this, in milliseconds.
    tick: i64,
    /// Every so many-th answer gets lost.
    loses: usize,
}

const fn app(name: &'static str, tick: i64, loses: usize) -> App {
    App { name, tick, loses }
}

/// Of Overland more answers get lost, since it needs so few.
const APPS: [App; 6] = [
    app("owntracks", 1000, 7),
    app("overland", 1000, 3),
    app("traccar", 1000, 7),
    app("traccar-9", 1, 7),
    app("traccar-8", 1000, 7),
    app("gpslogger", 1, 20),
];
/// The most answers that each of two proxies loses. GPSLogger begins its file again for each.
const LOST_MAX: usize = 8;

async fn lossy(gateways: &[Program; 2], every: usize) -> anyhow::Result<[Lossy; 2]> {
    let [first, second] = gateways.each_ref().map(|gateway| gateway.listen.context("a gateway listens"));
    Ok([Lossy::to(first?, every, LOST_MAX).await?, Lossy::to(second?, every + 2, LOST_MAX).await?])
}

fn urls(lossy: &[Lossy; 2]) -> String {
    lossy.each_ref().map(|lossy| format!("http://{}", lossy.address)).join(",")
}

/// Plays a file as an app, and returns what it says of it.
async fn play(world: &World, app: &App, file: &Path, more: &[&str]) -> anyhow::Result<Value> {
    let file = file.to_string_lossy();
    let arguments = ["--app", app.name, "--device-id", app.name, "--json", &file];
    let patience = ["--backoff-min", "1ms", "--backoff-max", "20ms"];
    let played = world.phone(&[&arguments[..], &patience, more].concat()).await?;
    let stderr = String::from_utf8_lossy(&played.stderr);
    assert!(played.status.success(), "{}: {stderr}{}", app.name, String::from_utf8_lossy(&played.stdout));
    Ok(serde_json::from_slice(&played.stdout)?)
}

/// What is stored of a device.
async fn stored(world: &World, device: &str) -> anyhow::Result<Vec<Location>> {
    let stored = world.tables.stored().await?.into_iter().map(|stored| stored.upload);
    Ok(stored.filter(|upload| upload.device == device).flat_map(|upload| upload.locations).collect())
}

async fn finish(world: World) -> anyhow::Result<()> {
    let uploads: Vec<Upload> = world.tables.stored().await?.into_iter().map(|stored| stored.upload).collect();
    world.finish(&uploads.iter().collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_track_that_an_app_plays_twice_while_answers_get_lost_is_stored_once_bit_equal_in_time_and_place()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateways = [world.gateway().await?, world.gateway().await?];
    let track = Path::new(env!("CARGO_MANIFEST_DIR")).join("../phone/sample.gpx");
    let (wanted, without_time) = points(&fs::read_to_string(&track)?)?;
    assert!(wanted.iter().any(|(time, ..)| time % 1000 != 0), "no time has a part of a second");

    for app in &APPS {
        let lossy = lossy(&gateways, app.loses).await?;
        let more = ["--url", &urls(&lossy), "--twice", "--batch-size", "10"];
        let said = play(&world, app, &track, &more).await?;
        let number = |name: &str| said[name].as_u64().with_context(|| format!("{} has no {name}", app.name));
        let count = wanted.len() as u64;
        assert_eq!((number("points")?, number("pointsLeftOut")?), (count, without_time as u64), "{said}");
        assert!(number("answered")? >= 2 * count && number("sent")? > number("answered")?, "{said}");
        let lost: u64 = lossy.iter().map(|lossy| lossy.lost() as u64).sum();
        assert!(lost >= 2, "{}: {lost} answers were lost", app.name);
        assert_eq!(number("attempts")? - number("requests")?, lost, "{said}");

        world.caught_up().await?;
        let stored = stored(&world, app.name).await?;
        let place = |at: &Location| (at.timestamp, at.latitude.to_bits(), at.longitude.to_bits());
        let mut found: Vec<_> = stored.iter().map(place).collect();
        let sent = |(time, latitude, longitude, _): &(i64, u64, u64, _)| {
            (time.div_euclid(app.tick) * app.tick, *latitude, *longitude)
        };
        let mut sent: Vec<_> = wanted.iter().map(sent).collect();
        found.sort_unstable();
        sent.sort_unstable();
        assert_eq!(found.len(), sent.len(), "{}", app.name);
        assert!(found == sent, "{} is not stored bit for bit", app.name);
        // The second time OwnTracks says 63: what came first stays.
        assert!(stored.iter().all(|at| at.battery_level == Some(64.0)), "{}", app.name);
    }
    finish(world).await
}

/// All that a file can say of a point, and a point of which it says no more than place and time.
const TWO_POINTS: &str = r#"<gpx version="1.0"><trk><trkseg>
<trkpt lat="48.2081743" lon="16.370197273792407"><ele>171.4</ele><time>2026-03-14T09:26:53.579Z</time>
  <course>143.2</course><speed>13.9</speed><extensions><accuracy>4.288</accuracy></extensions></trkpt>
<trkpt lat="-0.00015" lon="-179.9"><time>2026-03-14T09:27:03.25Z</time></trkpt>
</trkseg></trk></gpx>"#;

/// Accuracy, altitude, bearing and speed of the first of them, as each app has them.
const MEASURED: [(&str, [f64; 4]); 6] = [
    ("owntracks", [4.0, 171.0, 143.0, 50.0 / 3.6]),
    ("overland", [4.0, 171.0, 143.0, 14.0]),
    ("traccar", [4.288, 171.4, 143.2, 13.9]),
    ("traccar-9", [4.288, 171.4, 143.2, 13.9]),
    ("traccar-8", [4.288, 171.4, 143.2, 13.9]),
    ("gpslogger", [4.288, 171.4, 143.2, 13.9]),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_sends_in_its_own_units_is_stored_in_milepost_s_and_what_it_does_not_know_is_absent()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateway = world.gateway().await?;
    let url = format!("http://{}", world.client(&gateway)?.gateway());
    let directory = tempfile::tempdir()?;
    let track = directory.path().join("track.gpx");
    fs::write(&track, TWO_POINTS)?;

    for (app, (name, measured)) in APPS.iter().zip(MEASURED) {
        assert_eq!(app.name, name);
        let said = play(&world, app, &track, &["--url", &url]).await?;
        let [sent, answered, failures] = ["sent", "answered", "failures"].map(|name| said[name].as_u64());
        assert_eq!((sent, answered, failures), (Some(2), Some(2), Some(0)), "{name}: {said}");
        world.caught_up().await?;
        let mut stored = stored(&world, name).await?;
        stored.sort_unstable_by_key(|at| at.timestamp);
        let [full, bare] = &stored[..] else { anyhow::bail!("{name} has {} rows", stored.len()) };
        let found = [full.accuracy, full.altitude, full.bearing, full.speed];
        for (found, wanted) in found.into_iter().zip(measured) {
            let found = found.with_context(|| format!("{name} has no {wanted}"))?;
            assert!((found - wanted).abs() <= 1e-4 * wanted, "{name}: {found} is not {wanted}");
        }
        assert_eq!((full.battery_level, bare.battery_level), (Some(64.0), Some(64.0)), "{name}");
        assert_eq!(
            (bare.accuracy, bare.altitude, bare.bearing, bare.speed),
            (None, None, None, None),
            "{name}"
        );
        assert_eq!(bare.latitude.to_bits(), (-0.000_15_f64).to_bits(), "{name}");
    }
    assert_eq!(world.tables.dead_letters().await?, []);
    finish(world).await
}
