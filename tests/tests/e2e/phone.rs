//! The reference client: what it plays is what is stored.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use milepost_tests::{World, WorldSettings, eventually};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The recorded tracks where they are at hand, else the repository's sample.
fn tracks() -> anyhow::Result<Vec<PathBuf>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let Ok(shared) = fs::read_dir(repository.join("../shared/tracks")) else {
        return Ok(vec![repository.join("phone/sample.gpx")]);
    };
    let mut tracks = shared.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    tracks.retain(|path| path.extension().is_some_and(|extension| extension == "gpx"));
    tracks.push(repository.join("phone/sample.gpx"));
    tracks.sort();
    Ok(tracks)
}

/// Time in milliseconds, and the bits of latitude, longitude and altitude.
pub type Point = (i64, u64, u64, Option<u64>);

/// The points that have a time, and how many have none, read without any GPX library.
pub fn points(gpx: &str) -> anyhow::Result<(Vec<Point>, usize)> {
    let (mut points, mut without_time) = (Vec::new(), 0);
    for element in ["trkpt", "rtept", "wpt"] {
        for rest in gpx.split(&format!("<{element} ")).skip(1) {
            let point = rest.split(&format!("</{element}>")).next().context("an element does not end")?;
            let after = |start: &str, end: &str| Some(point.split_once(start)?.1.split_once(end)?.0.trim());
            let Some(time) = after("<time>", "</time>") else {
                without_time += 1;
                continue;
            };
            let time = OffsetDateTime::parse(time, &Rfc3339)?;
            let number = |text: &str| anyhow::Ok(text.parse::<f64>()?.to_bits());
            points.push((
                i64::try_from(time.unix_timestamp_nanos() / 1_000_000)?,
                number(after("lat=\"", "\"").context("no latitude")?)?,
                number(after("lon=\"", "\"").context("no longitude")?)?,
                after("<ele>", "</ele>").map(number).transpose()?,
            ));
        }
    }
    points.sort_unstable();
    Ok((points, without_time))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_track_played_twice_is_stored_once_bit_equal_to_its_file() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateways = [world.gateway().await?, world.gateway().await?];
    let urls = [world.client(&gateways[0])?, world.client(&gateways[1])?]
        .map(|client| format!("http://{}", client.gateway()))
        .join(",");

    for track in tracks()? {
        let device = track.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let file = track.to_string_lossy();
        let played =
            world.phone(&[&file, "--url", &urls, "--device-id", &device, "--twice", "--json"]).await?;
        assert!(played.status.success(), "{device}: {}", String::from_utf8_lossy(&played.stderr));
        let (wanted, without_time) = points(&fs::read_to_string(&track)?)?;
        assert!(!wanted.is_empty());
        let table: serde_json::Value = serde_json::from_slice(&played.stdout)?;
        assert_eq!(table["locations"], wanted.len());
        assert_eq!(table["failures"], 0);
        assert_eq!(table["pointsLeftOut"], without_time);
        let stderr = String::from_utf8_lossy(&played.stderr);
        let reported =
            stderr.contains(&format!("{without_time} points of {file} have no time and are left out"));
        assert_eq!(reported, without_time > 0, "{stderr}");
        assert!(table["replays"].as_u64() >= table["uploads"].as_u64(), "{table}");

        let mut stored = world.tables.stored().await?;
        stored.retain(|one| one.upload.device == device);
        let mut stored: Vec<Point> = stored
            .iter()
            .flat_map(|one| &one.upload.locations)
            .map(|location| {
                let altitude = location.altitude.map(f64::to_bits);
                (location.timestamp, location.latitude.to_bits(), location.longitude.to_bits(), altitude)
            })
            .collect();
        stored.sort_unstable();
        assert_eq!(stored.len(), wanted.len(), "{device}");
        assert!(stored == wanted, "{device} is not stored bit for bit");
    }
    let uploads: Vec<_> = world.tables.stored().await?.into_iter().map(|stored| stored.upload).collect();
    world.finish(&uploads.iter().collect::<Vec<_>>()).await
}

/// What is stored of all points, in the order of their times.
async fn stored_points(world: &World) -> anyhow::Result<Vec<Point>> {
    let stored = world.tables.stored().await?;
    let locations = stored.iter().flat_map(|one| &one.upload.locations);
    let mut points: Vec<Point> = locations
        .map(|one| {
            let altitude = one.altitude.map(f64::to_bits);
            (one.timestamp, one.latitude.to_bits(), one.longitude.to_bits(), altitude)
        })
        .collect();
    points.sort_unstable();
    Ok(points)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_is_killed_and_run_again_stores_every_point_once() -> anyhow::Result<()> {
    const POINTS: usize = 600;
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateway = world.gateway().await?;
    let url = format!("http://{}", world.client(&gateway)?.gateway());

    let mut gpx = "<gpx version=\"1.0\"><trk><trkseg>\n".to_owned();
    for second in 0..POINTS {
        let (minute, second) = (second / 60, second % 60);
        writeln!(
            gpx,
            "<trkpt lat=\"48.2\" lon=\"16.3\"><ele>{second}</ele><time>2026-03-14T09:{minute:02}:{second:02}Z</time></trkpt>"
        )?;
    }
    let directory = tempfile::tempdir()?;
    let track = directory.path().join("track.gpx");
    // The end is missing, as it is when an app is killed too.
    fs::write(&track, &gpx)?;
    let file = track.to_string_lossy();
    let arguments = [&*file, "--url", &url, "--batch-size", "2", "--json"];

    let mut killed = world.start_phone(&[&arguments[..], &["--concurrency", "3"]].concat())?;
    let some = eventually(Duration::from_secs(60), "some points are stored", async || {
        Ok(Some(stored_points(&world).await?.len()).filter(|count| *count > 0))
    });
    some.await?;
    killed.kill().await?;
    world.caught_up().await?;
    let first = stored_points(&world).await?;
    anyhow::ensure!(first.len() < POINTS, "the phone was killed too late");

    let again = world.phone(&arguments).await?;
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let table: serde_json::Value = serde_json::from_slice(&again.stdout)?;
    assert_eq!((&table["locations"], &table["cutOff"]), (&POINTS.into(), &true.into()));
    assert!(table["replays"].as_u64() >= Some(first.len() as u64 / 2), "{table}");
    world.caught_up().await?;
    let (wanted, _) = points(&gpx)?;
    assert!(stored_points(&world).await? == wanted, "not every point is stored once");
    let uploads: Vec<_> = world.tables.stored().await?.into_iter().map(|stored| stored.upload).collect();
    world.finish(&uploads.iter().collect::<Vec<_>>()).await
}
