//! Copies of known uploads, answered from the table: the gateway has no cache.

use super::cached_replays::against_noop;
use crate::installation::Installation;
use crate::scenario::Report;
use crate::setup::Setup;

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let milepost = Installation::start(setup, 1, &[("CACHE_ENTRIES", "0")]).await?;
    let figure = against_noop(setup, &milepost, 0.4).await?;
    let [queries, keys] = ["milepost_gateway_lookups_total", "milepost_gateway_lookup_batch_records_sum"];
    let (queries, keys) =
        (milepost.gateways[0].metric(queries).await?, milepost.gateways[0].metric(keys).await?);
    milepost.end().await?;
    let notes = vec![format!("{keys:.0} keys were looked up by {queries:.0} queries.")];
    Ok(Report { notes, ..Report::of(vec![figure]) })
}
