//! One upload at a time, and where its time goes.

use std::time::Duration;

use milepost_tests::Program;

use crate::commit::commit_one_by_one;
use crate::figure::{Bound, Figure, Spread};
use crate::installation::Installation;
use crate::opponent::Opponent;
use crate::produce::produce_one_by_one;
use crate::records::Records;
use crate::scenario::Report;
use crate::setup::Setup;
use crate::warm_up::warm_up_both;

/// What a step is measured by: the name of its histogram, and a label of its series.
const STEPS: [(&str, &str, &str); 3] = [
    ("publish", "milepost_gateway_publish_seconds", ""),
    ("persist", "milepost_consumer_persist_seconds", ""),
    ("emit", "milepost_consumer_emit_seconds", "results"),
];
const BARE_TOPIC: &str = "bare";

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let milepost = Installation::start(setup, 1, &[]).await?;
    let plain = Opponent::plain(setup).await?;
    let mut ours = milepost.clients(1, &setup.singles).await?;
    let mut theirs = plain.clients(1, &setup.singles).await?;
    let topic = format!("{}{BARE_TOPIC}", milepost.world.prefix);
    milepost.world.kafka.create(&topic, 1, &[]).await?;
    let records = Records::new(&setup.singles, milepost.world.account.id);
    let mut owner = setup.owner().await?;
    warm_up_both(&mut ours, &mut theirs, setup.size.warm_up()).await?;

    let mut latencies: [Vec<f64>; 4] = Default::default();
    let mut spent = [Duration::ZERO; 3];
    let mut whole_ms = 0.0;
    for _ in 0..setup.size.rounds() {
        let before = steps(&milepost).await?;
        let tally = ours.closed(setup.size.slice()).await?;
        whole_ms += tally.mean_ms();
        for ((spent, before), after) in spent.iter_mut().zip(before).zip(steps(&milepost).await?) {
            *spent += (after - before).div_f64(tally.answers() as f64);
        }
        let tallies = [
            tally,
            theirs.closed(setup.size.slice()).await?,
            produce_one_by_one(&setup.services.kafka, &topic, &records, setup.size.slice()).await?,
            commit_one_by_one(&mut owner, setup.size.slice()).await?,
        ];
        for (latencies, tally) in latencies.iter_mut().zip(tallies) {
            latencies.push(tally.latency_ms(0.5));
        }
    }
    milepost.world.kafka.delete_topics(&[&topic]).await?;
    milepost.end().await?;
    plain.end().await?;

    let [ours, theirs, produce, commit] = latencies;
    let floor: Vec<f64> =
        produce.iter().zip(&commit).map(|(produce, commit)| 2.0 * produce + commit).collect();
    let of = |those: &[f64]| ours.iter().zip(those).map(|(ours, those)| ours / those).collect();
    let median = |rounds: &[f64]| Spread::of(rounds).median;
    let figures = vec![
        Figure::new("p50", "of two bare produces and a commit", of(&floor)).must(Bound::AtMost(2.0)).beside(
            format!(
                "{:.2} ms against 2 × {:.2} ms + {:.2} ms",
                median(&ours),
                median(&produce),
                median(&commit)
            ),
        ),
        Figure::new("p50 of plain", "of plain", of(&theirs)).beside(format!(
            "{:.2} ms against {:.2} ms",
            median(&ours),
            median(&theirs)
        )),
    ];
    Ok(Report {
        notes: vec![where_time_goes(whole_ms, &spent, setup.size.rounds() as f64)],
        ..Report::of(figures)
    })
}

/// How long each step has taken so far, all uploads together.
async fn steps(milepost: &Installation) -> anyhow::Result<[Duration; 3]> {
    let programs: [&Program; 3] = [&milepost.gateways[0], &milepost.consumers[0], &milepost.consumers[0]];
    let mut spent = [Duration::ZERO; 3];
    for ((spent, program), (_, metric, label)) in spent.iter_mut().zip(programs).zip(STEPS) {
        *spent = Duration::from_secs_f64(program.metric_of(&format!("{metric}_sum"), label).await?);
    }
    Ok(spent)
}

/// From sums over all rounds. An answer does not wait for the facts, so it can be out before the emission is over.
fn where_time_goes(whole_ms: f64, spent: &[Duration; 3], rounds: f64) -> String {
    let ms = |spent: &Duration| spent.as_secs_f64() * 1000.0 / rounds;
    let steps: Vec<String> =
        STEPS.iter().zip(spent).map(|((name, ..), spent)| format!("{name} {:.2} ms", ms(spent))).collect();
    let whole = whole_ms / rounds;
    let rest = whole - spent.iter().map(ms).sum::<f64>();
    format!(
        "Of the mean of {whole:.2} ms: {}, all else (HTTP, fetching, tailing) {rest:.2} ms.",
        steps.join(", ")
    )
}
