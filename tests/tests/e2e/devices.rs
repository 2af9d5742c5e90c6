//! API keys of devices: what they send is their device's, until they expire or are revoked, and gateways know of it soon.

use std::time::Duration;

use anyhow::Context as _;
use milepost_shared::location::{Location, Rules, Shape, Upload, decode};
use milepost_tests::{Client, Post, World, WorldSettings, eventually};
use serde_json::json;

use crate::sent::{OWNTRACKS_IOS, Sent};

const MINUTE: Duration = Duration::from_secs(60);

/// Makes a key that is bound to a device.
async fn key_of(world: &World, device: &str, more: &[&str]) -> anyhow::Result<String> {
    let account = world.account.id.to_string();
    let create = ["device", "create", "--account", &account, "--name", device];
    let shown = world.administer(&[&create[..], more].concat()).await?;
    let secret = shown.lines().find(|line| line.starts_with("mp_") && line.len() == 55);
    Ok(secret.context("no secret is shown")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bound_key_sends_is_its_devices_whatever_the_body_says_and_a_copy_may_say_another()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateways = [world.gateway().await?, world.gateway().await?];
    let secret = key_of(&world, "pixel8", &[]).await?;
    let [first, second] =
        [&gateways[0], &gateways[1]].map(|gateway| Client::new(world.client(gateway)?.gateway(), &secret));
    let (first, second) = (first?, second?);

    let sent = world.planted.upload(2);
    let bound = Upload { device: "pixel8".to_owned(), ..sent.clone() };
    let key = world.planted.key();
    assert_eq!(first.post_until_final(&Post::batch(&sent).key(&key), MINUTE).await?.status, 200);
    for same in [&bound, &sent, &Upload { device: "somebody else".to_owned(), ..sent.clone() }] {
        for client in [&first, &second] {
            let answer = client.post_until_final(&Post::batch(same).key(&key), MINUTE).await?;
            assert_eq!((answer.status, answer.replayed()), (200, true), "{}", same.device);
        }
    }
    // A key that is not bound speaks for whom it says, and then that is another upload.
    let free = world.client(&gateways[0])?;
    assert_eq!(free.post(&Post::batch(&sent).key(&key)).await?.status, 422);
    assert_eq!(free.post(&Post::batch(&bound).key(&key)).await?.status, 200);
    world.finish(&[&bound]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_an_app_sends_with_a_bound_key_is_its_devices_and_once_whatever_name_it_has_there()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateway = world.gateway().await?;
    let secret = key_of(&world, "pixel8", &[]).await?;
    let client = Client::new(world.client(&gateway)?.gateway(), "")?;
    for name in ["pixel8", "somebody else", "pixel8"] {
        let point = json!({
            "type": "Feature", "geometry": { "type": "Point", "coordinates": [16.3738189, 48.2081743] },
            "properties": { "timestamp": "2026-03-14T09:26:53Z", "device_id": name },
        });
        let post = Post::to("/overland", json!({ "locations": [point] }).to_string());
        let answer = client.post(&post.header("Authorization", &format!("Bearer {secret}"))).await?;
        assert_eq!(answer.status_and_body(), (200, r#"{"result":"ok"}"#.to_owned()));
    }
    let body =
        br#"{"deviceId":"pixel8","timestamp":1773480413000,"latitude":48.2081743,"longitude":16.3738189}"#;
    world.finish(&[&decode(body, Shape::Single, Rules::STORABLE)?]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_and_those_of_a_lost_device_are_refused_and_only_what_changed_is_loaded()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let many = "INSERT INTO api_keys (account_id, secret_sha256, prefix) \
                SELECT id, sha256(n::text::bytea), n::text FROM accounts, generate_series(1, 6000) n";
    world.tables.execute(many).await?;
    let brief = key_of(&world, "pixel8", &["--expires", "3s"]).await?;
    let lost = [key_of(&world, "lost", &[]).await?, key_of(&world, "lost", &[]).await?];
    let mut gateway = world.new_gateway()?;
    gateway.set("API_KEY_REFRESH", "200ms");
    gateway.start().await?;
    let address = world.client(&gateway)?.gateway();
    let known = gateway.metric("milepost_gateway_api_keys").await?;
    assert_eq!(known, 6004.0);
    let loaded = async || gateway.metric("milepost_gateway_api_key_rows_total").await;
    let before = loaded().await?;

    let sent = world.planted.upload(1);
    let post = Post::batch(&sent).key(&world.planted.key());
    let with = async |secret: &str| anyhow::Ok(Client::new(address, secret)?.post(&post).await?.status);
    let refused = async |secret: &str| {
        let is_refused = async || Ok((with(secret).await? == 401).then_some(()));
        eventually(MINUTE, "the key is refused", is_refused).await
    };
    for secret in &lost {
        assert_eq!(with(secret).await?, 200);
    }
    refused(&brief).await?;
    world
        .administer(&["device", "revoke", "--account", &world.account.id.to_string(), "--name", "lost"])
        .await?;
    for secret in &lost {
        refused(secret).await?;
    }
    assert_eq!(with(&world.account.secret).await?, 422, "of another device");
    let read = loaded().await? - before;
    assert!((2.0..6000.0).contains(&read), "{read} rows were read for two that changed");

    let listed = world.administer(&["device", "list", "--account", &world.account.id.to_string()]).await?;
    assert!(lost.iter().chain([&brief]).all(|secret| !listed.contains(&secret[12..])));
    eventually(MINUTE, "the use of both keys is noted", async || {
        let noted = "SELECT count(*) FROM api_keys WHERE device = 'lost' \
                     AND last_used_at = date_trunc('hour', last_used_at)";
        Ok((world.tables.number(noted).await? == 2).then_some(()))
    })
    .await?;
    world.finish(&[&Upload { device: "lost".to_owned(), ..sent }]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_of_a_device_stops_within_a_minute_at_every_address_and_deletes_no_point()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    // With the settings that it has by itself.
    let gateway = world.gateway().await?;
    let secret = key_of(&world, "lost", &[]).await?;
    let fix = json!({"_type": "location", "lat": 48.25, "lon": 16.375, "tst": 1_773_480_413});
    let point = json!({
        "type": "Feature", "geometry": {"type": "Point", "coordinates": [16.375, 48.25]},
        "properties": {"timestamp": 1_773_480_413},
    });
    let query = "id=1&lat=48.25&lon=16.375&timestamp=1773480413";
    let sent = [
        Sent::owntracks(&secret, &fix),
        Sent::overland(&secret, &json!({"locations": [point]})),
        Sent::get(format!("/traccar/{secret}?{query}")),
        Sent::get(format!("/gpslogger/{secret}?{query}")),
        Sent::owntracks(&secret, &fix).header("user-agent", OWNTRACKS_IOS),
    ];
    for sent in &sent {
        eventually(
            MINUTE,
            "it is taken",
            async || Ok((sent.to(&gateway).await?.status == 200).then_some(())),
        )
        .await?;
    }
    let account = world.account.id.to_string();
    world.administer(&["device", "revoke", "--account", &account, "--name", "lost"]).await?;
    for (sent, status) in sent.iter().zip([401, 401, 401, 401, 503]) {
        eventually(MINUTE, "it is refused", async || {
            Ok((sent.to(&gateway).await?.status == status).then_some(()))
        })
        .await?;
    }
    let location = Location::new(1_773_480_413_000, 48.25, 16.375);
    world.finish(&[&Upload { device: "lost".to_owned(), locations: vec![location] }]).await
}
