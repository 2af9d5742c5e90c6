//! Mixed builds: this one, and a next one that `torture/next-version.patch` makes of it by a field and a schema more, rolled over
//! each other under load, there and back.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use milepost_shared::journal::schema;
use milepost_shared::location::Upload;
use milepost_tests::{
    Answer, Client, Fact, Post, Program, Server, Services, Subscriber, World, WorldSettings,
};
use milepost_tests::{eventually, exact};
use tokio::sync::RwLock;
use tokio::time::sleep;

use crate::mutants;

/// The value that the new field has, wherever it is sent.
const NEW_FIELD: &str = r#""verticalAccuracy":3.25,"#;
const NEW_COLUMN: &str = "vertical_accuracy = 3.25";
/// Clients at once, half of which send each upload to both gateways at the same moment.
const CLIENTS: usize = 8;
/// Between two uploads of a client.
const PACE: Duration = Duration::from_millis(50);
/// Uploads that end in each stage.
const STAGE: usize = 100;
/// Longest time for one upload to be final, whatever is restarted meanwhile, and for a stage.
const PATIENCE: Duration = Duration::from_secs(120);

/// An upload that was answered.
#[derive(Debug, Clone)]
struct Sent {
    post: Post,
    upload: Upload,
    answer: Answer,
    has_new_field: bool,
}

/// What clients do all the time.
#[derive(Debug)]
struct Load {
    clients: [Client; 2],
    sent: Mutex<Vec<Sent>>,
    /// Whether some uploads have the new field. Held for reading by each upload under way.
    new_field: RwLock<bool>,
    ends: AtomicBool,
}

impl Load {
    fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One client, until the end.
    async fn run(&self, number: usize, uploads: Vec<(Upload, String)>) -> anyhow::Result<()> {
        for (turn, (upload, key)) in uploads.into_iter().enumerate() {
            if self.ends.load(Ordering::Relaxed) {
                return Ok(());
            }
            let may_be_new = self.new_field.read().await;
            let has_new_field = *may_be_new && turn % 2 == 0;
            let mut post = Post::batch(&upload).key(&key).wait(1);
            if has_new_field {
                let body = String::from_utf8(post.body)?
                    .replace(r#""timestamp""#, &format!(r#"{NEW_FIELD}"timestamp""#));
                post.body = body.into_bytes();
            }
            let [one, other] = [turn, turn + 1].map(|turn| &self.clients[turn % 2]);
            let answer = if number.is_multiple_of(2) {
                let (answer, copy) = tokio::try_join!(
                    one.post_until_final(&post, PATIENCE),
                    other.post_until_final(&post, PATIENCE)
                )?;
                ensure!(
                    answer.status_and_body() == copy.status_and_body(),
                    "two gateways: {:?} and {:?}",
                    answer.status_and_body(),
                    copy.status_and_body()
                );
                ensure!(answer.replayed() || copy.replayed(), "two copies of one upload were accepted");
                answer
            } else {
                one.post_until_final(&post, PATIENCE).await?
            };
            ensure!(answer.status == 200, "an upload ended with {:?}", answer.status_and_body());
            let sent = Sent { post, upload, answer, has_new_field };
            self.sent.lock().unwrap_or_else(PoisonError::into_inner).push(sent);
            drop(may_be_new);
            sleep(PACE).await;
        }
        anyhow::bail!("the uploads of a client did not last")
    }

    /// Waits for so many more, then sends each that was answered so far once more, to both gateways.
    async fn stage(&self, name: &str, replay_new_field: bool) -> anyhow::Result<()> {
        let begun = self.sent().len();
        eventually(PATIENCE, name, async || Ok((self.sent().len() >= begun + STAGE).then_some(()))).await?;
        let sent = self.sent();
        // The newest first: of the stages before, a few are enough.
        let again = sent.iter().rev().take(3 * STAGE).filter(|one| replay_new_field || !one.has_new_field);
        for (index, Sent { post, answer, .. }) in again.enumerate() {
            let copy = self.clients[index % 2].post_until_final(post, PATIENCE).await?;
            ensure!(
                copy.status_and_body() == answer.status_and_body(),
                "{name}: {:?}, then {:?}",
                answer.status_and_body(),
                copy.status_and_body()
            );
            ensure!(copy.replayed(), "{name}: an upload was accepted a second time");
        }
        println!("{name}: {} uploads so far", sent.len());
        Ok(())
    }
}

/// Rolls the next build over this one and back. The programs of this build are in `bin_dir`.
///
/// # Errors
/// Something was lost, dead-lettered, emitted twice or answered in two ways; or the programs do not start.
pub async fn roll(bin_dir: PathBuf) -> anyhow::Result<()> {
    let next = mutants::plant("next-version").await?;
    let (kafka, postgres) = tokio::try_join!(Server::kafka(), Server::postgres())?;
    let none = Services { kafka: String::new(), database_url: String::new(), bin_dir: bin_dir.clone() };
    let services = none.with_kafka(&kafka).with_postgres(&postgres);
    let mut world = World::on(services, WorldSettings::default()).await?;
    let mut consumers = [world.consumer().await?, world.consumer().await?];
    let mut gateways = [world.gateway().await?, world.gateway().await?];
    let clients = [world.client(&gateways[0])?, world.client(&gateways[1])?];
    let load =
        Load { clients, sent: Mutex::default(), new_field: RwLock::new(false), ends: AtomicBool::new(false) };
    let uploads =
        |_| (0..10_000).map(|index| (world.planted.upload(1 + index % 3), world.planted.key())).collect();
    let uploads: Vec<Vec<(Upload, String)>> = (0..CLIENTS).map(uploads).collect();
    let mut clients = Box::pin(try_join_all(
        uploads.into_iter().enumerate().map(|(number, uploads)| load.run(number, uploads)),
    ));
    let rolled = async {
        load.stage("this build", true).await?;
        world.services.bin_dir.clone_from(&next);
        world.administer(&["migrate"]).await?;
        load.stage("this build on the next one's schema", true).await?;
        restart_as(&mut consumers[..1], &next).await?;
        load.stage("one next consumer", true).await?;
        restart_as(&mut consumers[1..], &next).await?;
        restart_as(&mut gateways[..1], &next).await?;
        load.stage("next consumers, and one next gateway", true).await?;
        restart_as(&mut gateways[1..], &next).await?;
        *load.new_field.write().await = true;
        load.stage("the next build", true).await?;

        *load.new_field.write().await = false;
        restart_as(&mut gateways[..1], &bin_dir).await?;
        load.stage("next consumers, and one gateway of this build again", false).await?;
        restart_as(&mut gateways[1..], &bin_dir).await?;
        await_persisted(&world).await?;
        restart_as(&mut consumers[..1], &bin_dir).await?;
        load.stage("one next consumer again", false).await?;
        restart_as(&mut consumers[1..], &bin_dir).await?;
        load.stage("this build again", false).await
    };
    tokio::select! {
        rolled = rolled => rolled?,
        failed = &mut clients => return failed.context("a client").map(drop),
    }
    load.ends.store(true, Ordering::Relaxed);
    clients.await?;
    check(&world, &load.sent()).await?;
    for program in consumers.iter_mut().chain(&mut gateways) {
        program.stop().await?;
    }
    world.check_logs()?;
    world.leave();
    Ok(())
}

async fn restart_as(programs: &mut [Program], build: &Path) -> anyhow::Result<()> {
    try_join_all(programs.iter_mut().map(async |program| {
        program.stop().await?;
        program.set_build(build)?;
        program.start().await
    }))
    .await
    .map(drop)
}

/// Waits as docs/operations.md asks of whoever goes back: until all that is in the journal by now is persisted.
async fn await_persisted(world: &World) -> anyhow::Result<()> {
    let ends = world.kafka.ends(&world.topics.uploads).await?;
    eventually(PATIENCE, "what the next gateways wrote is persisted", async || {
        let progress = world.tables.progress().await?;
        let next = |partition| {
            progress.iter().find(|one| one.partition == partition).map_or(0, |one| one.next_offset)
        };
        Ok((0..).zip(&ends).all(|(partition, (_, end))| next(partition) >= *end).then_some(()))
    })
    .await
}

/// Each upload is stored and emitted once, as it was sent, and nothing is a dead letter.
async fn check(world: &World, sent: &[Sent]) -> anyhow::Result<()> {
    world.caught_up_within(PATIENCE).await?;
    let letters = world.tables.dead_letters().await?;
    ensure!(letters.is_empty(), "dead letters: {letters:?}");
    let new: Vec<&Sent> = sent.iter().filter(|one| one.has_new_field).collect();
    ensure!(new.len() >= STAGE / 4, "only {} uploads had the new field", new.len());

    let mut expected: Vec<String> = sent.iter().map(|one| exact(&one.upload)).collect();
    let mut stored: Vec<String> = world.tables.stored().await?.iter().map(|one| exact(&one.upload)).collect();
    expected.sort_unstable();
    stored.sort_unstable();
    ensure!(
        stored == expected,
        "{} uploads are stored, {} were sent, or they differ",
        stored.len(),
        expected.len()
    );
    let locations = new.iter().map(|one| one.upload.locations.len()).sum::<usize>();
    let counted = world.tables.number(&format!("SELECT count(*) FROM locations WHERE {NEW_COLUMN}")).await?;
    ensure!(
        counted == i64::try_from(locations)?,
        "{counted} locations have the new field, {locations} were sent"
    );

    let (mut subscriber, mut emitted, mut emitted_new) = (Subscriber::default(), BTreeSet::new(), 0);
    for record in world.kafka.read(&world.topics.locations).await? {
        let fact = Fact::read(&record)?;
        if subscriber.accepts(fact.partition, fact.source_offset) {
            emitted_new += usize::from(fact.value["locations"][0].get("verticalAccuracy").is_some());
            ensure!(emitted.insert(fact.device.clone()), "an upload is emitted twice");
        }
    }
    let devices: BTreeSet<String> = sent.iter().map(|one| one.upload.device.clone()).collect();
    ensure!(
        emitted == devices,
        "{} uploads are emitted, {} were sent, or they differ",
        emitted.len(),
        devices.len()
    );
    ensure!(emitted_new == new.len(), "{emitted_new} facts have the new field, {} uploads", new.len());

    // The next build's gateways write the next schema where it is needed, and nowhere else.
    let mut schemas: HashMap<Option<u32>, BTreeSet<Vec<u8>>> = HashMap::new();
    for record in world.kafka.read(&world.topics.uploads).await? {
        let schema = record.value.as_deref().and_then(schema::of);
        schemas.entry(schema).or_default().insert(record.key.unwrap_or_default());
    }
    let keys = |schema| schemas.get(&Some(schema)).map_or(0, BTreeSet::len);
    let (old, next) = (sent.len() - new.len(), new.len());
    ensure!(
        schemas.len() == 2 && (keys(1), keys(2)) == (old, next),
        "keys in schemas 1 and 2: {} and {}, uploads {old} and {next}",
        keys(1),
        keys(2)
    );
    println!("held: {} uploads, {next} of them with the new field", sent.len());
    Ok(())
}
