//! A run without a fault of its own, made up, for the tests to break in one place.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use milepost_shared::journal::clock::{JournalTime, millis};
use milepost_shared::journal::position::Position;

use super::case::Case;
use super::one_answer::promised;
use super::{Checker, Demands, Judgement, Verdict, all};
use crate::app::App;
use crate::evidence::{
    DeadLetter, Evidence, Footprint, JournalEntry, Observed, Sample, SeenFact, StoredKey, StoredUpload,
};
use crate::fault::{Episode, Fault, Target};
use crate::history::{Ask, Attempt, History, Outcome};
use crate::operation::{self, HOT_COPIES, Kind, Operation, UploadId, Variant, point};

/// Of this seed the first operations are of all kinds.
const SEED: u64 = 17;
const BEGUN_MS: i64 = 1_800_000_000_000;
const TTL: Duration = Duration::from_secs(8);
const OPERATIONS: u64 = 120;
const PARTITIONS: i32 = 2;

pub(crate) struct Run {
    pub(crate) history: History,
    pub(crate) evidence: Evidence,
    pub(crate) episodes: Vec<Episode>,
    pub(crate) demands: Demands,
}

impl Run {
    /// Every kind of operation, answered as it should be; a poison record; facts emitted twice.
    pub(crate) fn innocent() -> Self {
        let mut script = Script::default();
        for index in 0..OPERATIONS {
            script.play(&operation::operation(SEED, index), Duration::from_millis(500 * index));
        }
        let mut evidence = script.evidence();
        evidence.observed.reads = ["facts", "torn", "offsets", "samples"].map(|watcher| (watcher, 9)).into();
        evidence.replay_paths = ["cache", "table", "results", "joined"].map(|path| (path, 9)).into();
        evidence.observed.samples = (0..100).map(sample).collect();
        evidence.pauses = 2;
        evidence.rebuilt = Some(Vec::new());
        evidence.recovered = Some((Duration::from_secs(1), Duration::from_secs(2)));
        let faults = [Fault::Kill(Target::Consumer), Fault::Poison];
        let episode = |fault| Episode { fault, began: 5.0, healed: 6.0, bite: Ok("it was gone".to_owned()) };
        let demands = Demands {
            succeeded: Kind::ALL.map(|(kind, _)| (kind, 1)).into(),
            faults: faults.to_vec(),
            replays: 1,
            pauses: 2,
            rebuilt: true,
            grace: Duration::from_secs(3),
            acknowledged: Duration::from_secs(2),
            attempt: Duration::from_secs(15),
            first_answer: Duration::from_secs(30),
            caught_up: Duration::from_secs(60),
            idle: Duration::from_secs(20),
            files: 50,
            memory: 50 << 20,
        };
        Self { history: script.history, evidence, episodes: faults.map(episode).to_vec(), demands }
    }

    pub(crate) fn verdict(&self, checker: Checker) -> Verdict {
        checker.check(&Case::new(&self.history, &self.evidence, &self.episodes, &self.demands))
    }

    pub(crate) fn judgement(&self, checker: Checker) -> Judgement {
        self.verdict(checker).judgement()
    }

    pub(crate) fn operations(&self, kind: Kind) -> HashSet<u64> {
        (0..OPERATIONS).filter(|index| operation::operation(SEED, *index).kind == kind).collect()
    }

    /// Upload A of the first operation of a kind, of those that have attempts without a hang-up.
    pub(crate) fn first(&self, kind: Kind) -> UploadId {
        let operation = self.operations(kind).into_iter().min().expect("every kind has operations");
        UploadId { operation, variant: Variant::A }
    }

    /// All points of the first operation of a kind, in the order in which they are sent first.
    pub(crate) fn points(&self, kind: Kind) -> Vec<UploadId> {
        let operation = operation::operation(SEED, self.first(kind).operation);
        let [mut points, other] = point::sent(SEED, &operation);
        points.extend(other.into_iter().filter(|id| !points.contains(id)).collect::<Vec<_>>());
        points
    }

    /// The first of them, which is none that is set aside.
    pub(crate) fn first_point(&self, kind: Kind) -> UploadId {
        self.points(kind)[0]
    }

    /// The one of them that is set aside.
    pub(crate) fn bad_point(&self, kind: Kind) -> UploadId {
        let points = self.points(kind);
        points.into_iter().find(|id| operation::count(SEED, *id) == 0).expect("a batch has a bad point")
    }

    /// Its first record.
    pub(crate) fn published(&mut self, upload: UploadId) -> &mut JournalEntry {
        let mut journal = self.evidence.journal.iter_mut();
        journal.find(|entry| entry.upload == Some(upload)).expect("it is published")
    }

    pub(crate) fn stored(&self, upload: UploadId) -> &StoredUpload {
        let mut stored = self.evidence.stored.iter();
        stored.find(|stored| stored.upload == Some(upload)).expect("it is stored")
    }

    /// The first upload of an operation of a kind that was answered so.
    pub(crate) fn answered(&mut self, kind: Kind, status: u16) -> &mut Attempt {
        let operations = self.operations(kind);
        let mut attempts = self.history.attempts.iter_mut();
        let found = attempts.find(|attempt| {
            attempt.is_upload()
                && operations.contains(&attempt.upload.operation)
                && attempt.status() == Some(status)
        });
        found.expect("there is such an answer")
    }
}

fn sample(second: u64) -> Sample {
    let footprint = Footprint { files: 100, memory: 100 << 20 };
    Sample {
        at: Duration::from_secs(second),
        lag: Some(0),
        idle_in_transaction: Some(0),
        idle_longest: Some(Duration::ZERO),
        processes: BTreeMap::from([("gateway-1".to_owned(), footprint)]),
    }
}

/// What clients do and gateways publish.
#[derive(Default)]
struct Script {
    history: History,
    /// Time of the run, upload, account, key hash.
    published: Vec<(Duration, UploadId, usize, String)>,
    requests: u64,
}

impl Script {
    fn play(&mut self, operation: &Operation, at: Duration) {
        let Operation { index, account, .. } = *operation;
        self.history.operations = index + 1;
        let [a, b] = [Variant::A, Variant::B].map(|variant| UploadId { operation: index, variant });
        let second = Duration::from_secs(1);
        match operation.kind {
            Kind::Plain => {
                self.unknown(a, account, at);
                self.first(a, account, at + second);
                self.replay(a, account, at + 2 * second);
            }
            Kind::Keyless => self.first(a, account, at),
            Kind::Conflict | Kind::Race => {
                self.first(a, account, at);
                self.publish(b, account, at + second / 10);
                self.attempt(b, Ask::Post, account, at + second / 10, answer(422, "", false));
            }
            Kind::Strangers => {
                self.first(a, account, at);
                self.first(b, 1 - account, at);
            }
            Kind::HangUp => {
                self.publish(a, account, at);
                self.attempt(a, Ask::Post, account, at, Outcome::HungUp { whole: true });
                if index % 2 == 0 {
                    self.replay(a, account, at + second);
                }
            }
            Kind::Reuse => {
                self.first(a, account, at);
                self.first(a, account, at + TTL + second);
            }
            Kind::Status => {
                self.publish(a, account, at);
                self.attempt(a, Ask::Post, account, at, answer(202, r#"{"status":"pending"}"#, false));
                self.attempt(a, Ask::GetByStranger, 1 - account, at, answer(404, "", false));
                self.attempt(a, Ask::Get, account, at, answer(200, r#"{"status":"pending"}"#, false));
                let accepted = JournalTime(BEGUN_MS).plus(at);
                let page = format!(
                    r#"{{"status":"final","httpStatus":200,"processedCount":{},"acceptedAt":{},"expiresAt":{}}}"#,
                    operation::count(SEED, a),
                    accepted.0,
                    accepted.plus(TTL).0,
                );
                self.attempt(a, Ask::Get, account, at + second, answer(200, &page, false));
            }
            Kind::Hot => {
                self.first(a, account, at);
                self.publish(a, account, at + second / 100);
                (0..HOT_COPIES).for_each(|_| self.replay(a, account, at));
            }
            Kind::Malformed => {
                self.attempt(a, Ask::PostMalformed, account, at, answer(503, "", false));
                self.attempt(a, Ask::PostMalformed, account, at, answer(400, "", false));
            }
            kind => self.play_app(kind, operation, at),
        }
    }

    fn play_app(&mut self, kind: Kind, operation: &Operation, at: Duration) {
        let account = operation.account;
        let [one, other] = point::sent(SEED, operation);
        let second = Duration::from_secs(1);
        let taken = |app: App| answer(200, app.success(), false);
        match kind {
            Kind::Superset => {
                self.publish_all(&one, account, at);
                self.request(App::Overland, &one, account, 0, at, &Outcome::HungUp { whole: true });
                self.publish_all(&other[one.len()..], account, at + second);
                self.request(App::Overland, &other, account, 0, at + second, &taken(App::Overland));
            }
            Kind::Shared => {
                for (gateway, batch) in [&one, &other].into_iter().enumerate() {
                    self.publish_all(batch, account, at);
                    self.request(App::Overland, batch, account, gateway, at, &taken(App::Overland));
                }
            }
            Kind::WholeFile => {
                // The last time after the window.
                for (round, later) in [Duration::ZERO, second, TTL + 2 * second].into_iter().enumerate() {
                    let at = at + later;
                    for (line, id) in one.iter().enumerate() {
                        if round != 1 {
                            self.publish(*id, account, at);
                        }
                        self.request(App::Gpslogger, &[*id], account, line % 2, at, &taken(App::Gpslogger));
                    }
                }
            }
            Kind::Renewed => {
                self.publish_all(&one, account, at);
                self.request(App::Owntracks, &one, account, 0, at, &Outcome::Unknown);
                for gateway in 0..2 {
                    self.request(App::Owntracks, &one, account, gateway, at + second, &taken(App::Owntracks));
                }
            }
            _ => {
                for (id, account) in one.iter().zip([account, account, 1 - account]) {
                    self.publish(*id, account, at);
                    self.request(App::Traccar, &[*id], account, 0, at, &taken(App::Traccar));
                }
            }
        }
    }

    fn publish_all(&mut self, points: &[UploadId], account: usize, at: Duration) {
        points.iter().for_each(|id| self.publish(*id, account, at));
    }

    /// Points in one request, which has no effect by itself.
    fn request(
        &mut self,
        app: App,
        points: &[UploadId],
        account: usize,
        gateway: usize,
        at: Duration,
        outcome: &Outcome,
    ) {
        self.requests += 1;
        let attempt = |upload: &UploadId| Attempt {
            request: self.requests,
            upload: *upload,
            ask: Ask::Point(app),
            account,
            gateway,
            began: at,
            ended: at + Duration::from_millis(50),
            outcome: outcome.clone(),
        };
        self.history.attempts.extend(points.iter().map(attempt));
    }

    /// Under the hash of its key, which is as good as any other.
    fn publish(&mut self, upload: UploadId, account: usize, at: Duration) {
        let point = upload.key().point;
        let point = point.map_or(0, |point| 1 + u64::from(point.fix) * 3 + point.phone as u64);
        let hash = format!("{:032x}{:032x}", upload.operation * 2 + account as u64, point);
        self.published.push((at, upload, account, hash));
    }

    /// Published, and the answer got lost.
    fn unknown(&mut self, upload: UploadId, account: usize, at: Duration) {
        self.publish(upload, account, at);
        self.attempt(upload, Ask::Post, account, at, Outcome::Unknown);
    }

    fn first(&mut self, upload: UploadId, account: usize, at: Duration) {
        self.publish(upload, account, at);
        let body = promised(operation::count(SEED, upload));
        self.attempt(upload, Ask::Post, account, at, answer(200, &body, false));
    }

    fn replay(&mut self, upload: UploadId, account: usize, at: Duration) {
        let body = promised(operation::count(SEED, upload));
        self.attempt(upload, Ask::Post, account, at, answer(200, &body, true));
    }

    fn attempt(&mut self, upload: UploadId, ask: Ask, account: usize, at: Duration, outcome: Outcome) {
        let ended = at + Duration::from_millis(50);
        self.requests += 1;
        let attempt =
            Attempt { request: self.requests, upload, ask, account, gateway: 0, began: at, ended, outcome };
        self.history.attempts.push(attempt);
    }

    /// What a faultless system makes of it.
    fn evidence(&mut self) -> Evidence {
        self.published.sort_by_key(|(at, ..)| *at);
        let mut evidence = Evidence { seed: SEED, ttl: TTL, ..Evidence::default() };
        let mut next = [0_i64; PARTITIONS as usize];
        let mut ends: HashMap<String, JournalTime> = HashMap::new();
        for (at, upload, account, key_hash) in &self.published {
            let partition = usize::try_from(upload.operation).unwrap() % next.len();
            let position = Position::new(i32::try_from(partition).unwrap(), next[partition]);
            next[partition] += 1;
            let time = JournalTime(BEGUN_MS).plus(*at);
            let is_set_aside = operation::count(SEED, *upload) == 0;
            let (upload, account, key_hash) = (Some(*upload), Some(*account), key_hash.clone());
            let entry = JournalEntry { position, time, key_hash, account, upload, is_set_aside };
            if ends.get(&entry.key_hash).is_none_or(|end| time >= *end) {
                ends.insert(entry.key_hash.clone(), time.plus(TTL));
                keep(&mut evidence, &entry);
            }
            evidence.journal.push(entry);
        }
        let poison = Position::new(0, next[0]);
        next[0] += 1;
        let time = JournalTime(BEGUN_MS + 90_000);
        evidence.journal.push(JournalEntry {
            position: poison,
            time,
            key_hash: String::new(),
            account: None,
            upload: None,
            is_set_aside: false,
        });
        evidence.dead_letters.push(DeadLetter { position: poison, upload: None });
        evidence.journal.sort_by_key(|entry| entry.position);
        evidence.stored.sort_by_key(|stored| stored.position);
        evidence.facts.extend_from_within(20..40);
        evidence.progress = (0..PARTITIONS).zip(next).collect();
        evidence.committed = evidence.progress.clone();
        evidence.gathered_ms = BEGUN_MS + millis(Duration::from_secs(200));
        evidence.observed =
            Observed { begun_ms: BEGUN_MS, facts: evidence.facts.clone(), ..Observed::default() };
        evidence
    }
}

/// What a record that claims its key leaves behind.
fn keep(evidence: &mut Evidence, entry: &JournalEntry) {
    let JournalEntry { position, time, account, upload, .. } = *entry;
    evidence.keys.push(StoredKey {
        key_hash: entry.key_hash.clone(),
        account,
        status: 200,
        body: promised(operation::count(SEED, upload.expect("it is known"))).into_bytes(),
        accepted_at: time,
        expires_at: time.plus(TTL),
        source: position,
    });
    if entry.is_set_aside {
        return evidence.dead_letters.push(DeadLetter { position, upload });
    }
    let stored = StoredUpload { position, received_at: time, account, upload, fault: None, copies: 1 };
    evidence.stored.push(stored);
    let (partition, source_offset) = (position.partition.0, position.offset.0);
    evidence.facts.push(SeenFact {
        partition,
        source_offset,
        account,
        upload,
        received_at: time,
        fault: None,
    });
}

fn answer(status: u16, body: &str, replayed: bool) -> Outcome {
    Outcome::Answer { status, body: Arc::from(body.as_bytes()), replayed }
}

#[test]
fn an_innocent_run_is_not_accused() {
    let run = Run::innocent();
    let verdicts = all(&run.history, &run.evidence, &run.episodes, &run.demands);
    assert_eq!(verdicts.len(), Checker::ALL.len());
    for verdict in &verdicts {
        assert_eq!((verdict.judgement(), &verdict.violations), (Judgement::Held, &Vec::new()), "{verdict:?}");
        assert!(verdict.examined > 0, "{verdict:?}");
    }
}
