//! What one upload costs: CPU time by process, and bytes by store.

use std::sync::Arc;

use milepost_tests::{Server, World};
use sqlx::Executor as _;

use crate::cost::{CpuTimes, cpu_times, kafka_bytes, spent, table_bytes, wal_bytes};
use crate::figure::{Figure, Spread};
use crate::installation::Installation;
use crate::opponent::Opponent;
use crate::scenario::Report;
use crate::setup::{CONNECTIONS, Setup};
use crate::uploads::Uploads;
use crate::warm_up::warm_up_both;

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let milepost = Installation::start(setup, 1, &[]).await?;
    let plain = Opponent::plain(setup).await?;
    let mut figures = Vec::new();
    for (name, uploads) in [("single", &setup.singles), ("batch of 50", &setup.batches)] {
        figures.extend(compare(setup, name, uploads, &milepost, &plain).await?);
    }
    milepost.end().await?;
    plain.end().await?;
    Ok(Report::of(figures))
}

/// What one upload took.
#[derive(Debug, Default)]
struct Cost {
    /// µs, by what runs.
    cpu: Vec<(&'static str, f64)>,
    wal: f64,
    table: f64,
    index: f64,
    kafka: f64,
}

impl Cost {
    fn cpu_in_all(&self) -> f64 {
        self.cpu.iter().map(|(_, cpu)| cpu).sum()
    }

    fn cpu_by_process(&self) -> String {
        let each: Vec<String> = self.cpu.iter().map(|(name, cpu)| format!("{name} {cpu:.0}")).collect();
        format!("{} µs", each.join(", "))
    }
}

async fn compare(
    setup: &Setup,
    name: &str,
    uploads: &Arc<Uploads>,
    milepost: &Installation,
    plain: &Opponent,
) -> anyhow::Result<Vec<Figure>> {
    let mut ours = milepost.clients(CONNECTIONS, uploads).await?;
    let mut theirs = plain.clients(CONNECTIONS, uploads).await?;
    let mut our_processes = milepost.processes(setup)?;
    let mut their_processes = vec![("plain", plain.pid()?)];
    their_processes.extend(setup.processes()?.into_iter().filter(|(name, _)| *name == "Postgres"));
    our_processes.sort_unstable();
    warm_up_both(&mut ours, &mut theirs, setup.size.warm_up()).await?;
    let (mut our_costs, mut their_costs) = (Vec::new(), Vec::new());
    for _ in 0..setup.size.rounds() {
        milepost.persisted().await?;
        let meter = Meter::start(setup, &milepost.world, &our_processes).await?;
        let answers = ours.closed(setup.size.slice()).await?.answers();
        milepost.persisted().await?;
        our_costs.push(meter.per_upload(setup, answers).await?);
        let meter = Meter::start(setup, plain.world()?, &their_processes).await?;
        let answers = theirs.closed(setup.size.slice()).await?.answers();
        their_costs.push(meter.per_upload(setup, answers).await?);
    }
    Ok(figures(name, uploads.body_bytes(), &our_costs, &their_costs))
}

fn figures(name: &str, body_bytes: f64, ours: &[Cost], theirs: &[Cost]) -> Vec<Figure> {
    // All rounds together: files grow in steps.
    let bytes = |what: &str, of: &dyn Fn(&Cost) -> f64| {
        let mean = |costs: &[Cost]| costs.iter().map(of).sum::<f64>() / costs.len() as f64;
        let (ours, theirs) = (mean(ours), mean(theirs));
        Figure::new(&format!("{what} of a {name}"), "of plain", vec![ours / theirs])
            .beside(format!("{ours:.0} bytes against {theirs:.0} bytes"))
    };
    let of_plain = |(ours, theirs): (&Cost, &Cost)| ours.cpu_in_all() / theirs.cpu_in_all();
    let last = |costs: &[Cost]| costs.last().map(Cost::cpu_by_process).unwrap_or_default();
    let kafka: Vec<f64> = ours.iter().map(|cost| cost.kafka).collect();
    let kafka_bytes = Spread::of(&kafka).median;
    vec![
        Figure::new(
            &format!("CPU time of a {name}"),
            "of plain",
            ours.iter().zip(theirs).map(of_plain).collect(),
        )
        .beside(format!("{} against {}", last(ours), last(theirs))),
        bytes("write-ahead log", &|cost| cost.wal),
        bytes("table", &|cost| cost.table),
        bytes("indexes", &|cost| cost.index),
        Figure::new(
            &format!("Kafka bytes of a {name}"),
            "of the body",
            kafka.iter().map(|kafka| kafka / body_bytes).collect(),
        )
        .beside(format!("{kafka_bytes:.0} bytes of records in three topics, the body has {body_bytes:.0}")),
    ]
}

/// Where everything stood before a load.
struct Meter<'a> {
    world: &'a World,
    processes: &'a [(&'static str, i32)],
    cpu: CpuTimes,
    wal: u64,
    tables: (u64, u64),
    kafka: u64,
}

impl<'a> Meter<'a> {
    /// Begins behind a checkpoint, since what follows one costs more: so both pay for it.
    async fn start(
        setup: &Setup,
        world: &'a World,
        processes: &'a [(&'static str, i32)],
    ) -> anyhow::Result<Self> {
        setup.owner().await?.execute("CHECKPOINT").await?;
        Ok(Self {
            world,
            processes,
            cpu: cpu_times(processes)?,
            wal: wal_bytes(&world.tables).await?,
            tables: table_bytes(&world.tables).await?,
            kafka: records(&setup.kafka, world)?,
        })
    }

    async fn per_upload(self, setup: &Setup, uploads: u64) -> anyhow::Result<Cost> {
        let per_upload = |before: u64, after: u64| (after as f64 - before as f64) / uploads as f64;
        let (table, index) = table_bytes(&self.world.tables).await?;
        let wal = wal_bytes(&self.world.tables).await?;
        let cpu = spent(&self.cpu, &cpu_times(self.processes)?);
        let cpu = cpu.into_iter().map(|(name, spent)| (name, spent.as_secs_f64() * 1e6 / uploads as f64));
        Ok(Cost {
            cpu: cpu.collect(),
            wal: per_upload(self.wal, wal),
            table: per_upload(self.tables.0, table),
            index: per_upload(self.tables.1, index),
            kafka: per_upload(self.kafka, records(&setup.kafka, self.world)?),
        })
    }
}

fn records(kafka: &Server, world: &World) -> anyhow::Result<u64> {
    kafka_bytes(kafka, &world.prefix)
}
