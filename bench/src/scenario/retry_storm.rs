//! Both gateways come back with cold caches while everybody retries the same keys.

use crate::clients::Clients;
use crate::figure::{Bound, Figure};
use crate::installation::Installation;
use crate::scenario::Report;
use crate::setup::{CONNECTIONS, Setup};
use crate::warm_up::warm_up;
use std::time::Duration;

/// A cache that starts empty.
const COLD: [(&str, &str); 1] = [("WARM_UP", "0s")];
/// How much longer than before still counts as normal.
const NORMAL: f64 = 2.0;
const SECOND: Duration = Duration::from_secs(1);

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let mut milepost = Installation::start(setup, 2, &COLD).await?;
    let keys = setup.size.hot_keys();
    let mut clients = milepost.clients(CONNECTIONS, &setup.singles).await?;
    clients.send(keys).await?;
    let hot = clients.requests();
    let mut before = Clients::connect(&milepost.targets(), CONNECTIONS, hot.replays(keys)).await?;
    warm_up(&mut before, setup.size.warm_up()).await?.report();
    let normal = before.closed(setup.size.slice()).await?.latency_ms(0.99);
    drop(before);

    for gateway in &mut milepost.gateways {
        gateway.restart().await?;
    }
    let mut storm = Clients::connect(&milepost.targets(), CONNECTIONS, hot.replays(keys)).await?;
    let mut seconds = Vec::new();
    for _ in 0..setup.size.storm_seconds() {
        seconds.push(storm.closed(SECOND).await?.latency_ms(0.99));
    }
    let mut looked_up = 0.0;
    let mut queries = 0.0;
    for gateway in &milepost.gateways {
        looked_up += gateway.metric("milepost_gateway_lookup_batch_records_sum").await?;
        queries += gateway.metric("milepost_gateway_lookups_total").await?;
    }
    drop((clients, storm));
    milepost.end().await?;

    let per_key = looked_up / (keys * 2) as f64;
    let abnormal = seconds.iter().rposition(|p99| *p99 > normal * NORMAL).map_or(0, |last| last + 1);
    let shown: Vec<String> = seconds.iter().map(|p99| format!("{p99:.1}")).collect();
    Ok(Report::of(vec![
        Figure::new("keys looked up in the table", "of the hot keys of each gateway", vec![per_key])
            .must(Bound::AtMost(1.1))
            .beside(format!("{looked_up:.0} keys by {queries:.0} queries")),
        Figure::new("until p99 is normal again", "s", vec![abnormal as f64])
            .must(Bound::AtMost(10.0))
            .beside(format!("before {normal:.1} ms; then, by second, {} ms", shown.join(" "))),
    ]))
}
