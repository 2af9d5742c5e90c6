//! docs/operations.md: its tables of dependencies and metrics are what the programs show.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use milepost_tests::{Post, World, WorldSettings};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// A row of the document, its cells without their backquotes; only those cells that a program can be asked about.
type Row = Vec<String>;

/// The rows of all tables that `is_wanted` says of their first cell, and their first cells.
fn rows(is_wanted: impl Fn(&str) -> bool, cells: usize) -> BTreeSet<Row> {
    let of_line = |line: &str| -> Option<Row> {
        let line = line.strip_prefix("| ")?;
        let row: Row = line.split('|').take(cells).map(|cell| cell.trim().replace('`', "")).collect();
        is_wanted(&row[0]).then_some(row)
    };
    OPERATIONS.lines().filter_map(of_line).collect()
}

/// Name, kind and labels of each metric on a page.
fn metrics(page: &str) -> BTreeSet<Row> {
    let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let labels_of = |name: &str| -> BTreeSet<&str> {
        let series = page.lines().filter_map(|line| line.strip_prefix(name));
        let braced = series.filter_map(|rest| {
            let (suffix, rest) = rest.split_once('{')?;
            ["", "_bucket", "_sum", "_count"].contains(&suffix).then(|| rest.split_once('}')).flatten()
        });
        let labels =
            braced.flat_map(|(labels, _)| labels.split(',').filter_map(|label| label.split_once('=')));
        labels.map(|(label, _)| label).filter(|label| *label != "le").collect()
    };
    kinds
        .map(|(name, kind)| {
            let labels: Vec<&str> = labels_of(name).into_iter().collect();
            vec![name.to_owned(), kind.to_owned(), labels.join(", ")]
        })
        .collect()
}

/// Program, name and "yes" or "no" for required, of each dependency on a page.
fn dependencies(program: &str, page: &str) -> anyhow::Result<BTreeSet<Row>> {
    let page: serde_json::Value = serde_json::from_str(page)?;
    let dependencies = page["dependencies"].as_object().context("no dependencies")?;
    let row = |(name, state): (&String, &serde_json::Value)| {
        let required = if state["required"] == true { "yes" } else { "no" };
        vec![program.to_owned(), name.clone(), required.to_owned()]
    };
    Ok(dependencies.iter().map(row).collect())
}

fn compare(documented: &BTreeSet<Row>, shown: &BTreeSet<Row>) {
    let missing: Vec<&Row> = shown.difference(documented).collect();
    let invented: Vec<&Row> = documented.difference(shown).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "not documented: {missing:#?}, documented and not shown: {invented:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_and_dependency_of_the_programs_is_documented_and_every_documented_one_is_shown()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let (gateway, consumer) = (world.gateway().await?, world.consumer().await?);
    // Some series of requests begin with the first.
    let upload = world.planted.upload(1);
    let post = Post::batch(&upload).key(&world.planted.key());
    assert_eq!(world.client(&gateway)?.post(&post).await?.status, 200);
    world.caught_up().await?;

    let programs = BTreeMap::from([("gateway", &gateway), ("consumer", &consumer)]);
    let (mut shown, mut required) = (BTreeSet::new(), BTreeSet::new());
    for (name, program) in &programs {
        shown.extend(metrics(&program.page("/metrics").await.context("no metrics")?));
        required.extend(dependencies(name, &program.page("/readyz").await.context("no readiness")?)?);
    }
    compare(&rows(|first| first.starts_with("milepost_"), 3), &shown);
    compare(&rows(|first| programs.contains_key(first), 3), &required);
    world.finish(&[&upload]).await
}
