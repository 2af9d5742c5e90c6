//! Planted bugs: what the torture harness must catch. A harness that has never caught a bug proves nothing.
//!
//! They exist in builds with the feature `planted-bugs` only, which a release build refuses. There `--planted-bug NAME`
//! (or `PLANTED_BUG`) switches on one of them; in every other build the option is unknown, [`Planted`] is empty, and
//! [`Planted::is`] is a constant `false`, so that nothing of a bug is left.

#[cfg(feature = "planted-bugs")]
use crate::clock::{Clock, JournalTime};

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("planted bugs are for debug builds: leave out the feature `planted-bugs`, or `--release`");

/// A bug, the checker that must catch it (design, section 7), and what makes it bite. The names on the command line are
/// those of the variants in kebab case, such as `no-fence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "planted-bugs", derive(clap::ValueEnum))]
pub enum PlantedBug {
    /// Consumer: the progress is set without being compared, by a batch and by maintenance.
    ///
    /// *Lost*: when an older state of Postgres is put back under load, the next batch moves the progress over what is
    /// missing.
    NoFence,
    /// Consumer: whether a key's window is open is asked of the wall clock, not of the record's journal time.
    ///
    /// *Doubled*: when a consumer's clock is a day ahead, or it lags behind by more than the TTL, every copy that reaches the
    /// journal is new. *Window*: with a clock behind, a window that is over goes on answering.
    DecideByWallClock,
    /// Consumer: table partitions of keys are dropped as soon as its own clock says that their windows are over.
    ///
    /// *Doubled*: when it lags behind by more than two TTLs, copies find no key and are new. A clock that is ahead is not enough:
    /// the database goes by its own.
    ExpireByWallClock,
    /// Gateway: 200 as soon as the journal has acknowledged the record.
    ///
    /// *Conflict*: two uploads under one key are both answered 200, if they race, or the second comes while the consumer or
    /// Postgres is away and the key is in no cache yet.
    AnswerAtAcknowledgement,
    /// Consumer: it resumes at the group offset and makes the table's progress follow.
    ///
    /// *Lost*: what Postgres lost with an older state put back is never persisted again. *Facts*: what was persisted and not
    /// emitted when the consumer died is decided a second time, as a copy of itself, and is never a fact. *Doubled*: with the
    /// group's offsets deleted, keys that have expired since are new once more.
    ResumeAtGroupOffset,
    /// Consumer: it resumes at the table's progress, whatever the group has acknowledged.
    ///
    /// *Facts*: what was persisted and not emitted when the consumer died, such as at crash point `after-commit`, is never
    /// emitted.
    ResumeAtProgress,
    /// Gateway: the key hash does not depend on the account.
    ///
    /// *Strangers*: two accounts that use the same key get 422, or each other's answers.
    KeyHashWithoutAccount,
    /// Gateway: the fingerprint of the window is not compared with the upload's.
    ///
    /// *Conflict*: another body under a used key is answered 200, with the first one's bytes.
    NoFingerprintCheck,
    /// Consumer: without a group offset it begins at the journal's end, and makes the table's progress follow.
    ///
    /// *Lost*: what was published while no consumer ran is skipped once the group's offsets are deleted.
    OffsetResetLatest,
    /// Consumer: uploads whose transaction fails with a database error, a lost connection included, become dead letters.
    ///
    /// *Lost*: whenever backends are terminated, or Postgres is restarted, read-only, full or locked for too long.
    DeadLetterOnDatabaseError,
    /// Consumer: a copy leaves a fact as well.
    ///
    /// *Facts*: more facts than uploads persisted, after the one-integer rule too, when copies reach the journal, such as when
    /// they come to both gateways at once.
    FactsForCopies,
    /// Gateway: a replay is not the stored bytes but made again, with a field more.
    ///
    /// *One answer*: at every replay.
    ReplayWithNewField,
    /// Consumer: keys and devices are committed before the locations, in a transaction of their own.
    ///
    /// *Torn*: a reader sees keys without their locations. *Lost*: the locations of a batch whose second transaction fails,
    /// such as at crash point `in-transaction`, or when backends are terminated.
    LocationsInOwnTransaction,
    /// Consumer: told to stop, it drops its producer with whatever is queued, and commits the group offset all the same. So
    /// that something is, the producer waits 100 ms for fuller batches.
    ///
    /// *Facts*: what is being persisted or emitted at a SIGTERM under load is never emitted.
    NoFlushAtShutdown,
    /// Gateway: the request's own future looks up and publishes, and a client's hang-up, even of its sending side only,
    /// cancels it.
    ///
    /// *Completeness*: an upload with a key whose client hangs up right after the last byte, and does not retry, never
    /// reaches the journal, though nothing was down; copies that joined it get 503.
    PublishInHandler,
    /// Consumer: the emitting producer gives a record up after two seconds, and the emitter goes on with the next.
    ///
    /// *Facts*: after every time in which Kafka is away, silent or paused for longer, while records wait to be emitted.
    GiveUpOnAFact,
    /// Consumer: a table partition of keys is dropped without waiting for its answers and facts to be emitted.
    ///
    /// *Facts*: when a consumer dies between commit and emission, such as at crash point `after-commit`, nothing more is
    /// published, and nobody takes its partitions over before the windows are over: its session time-out is longer than two
    /// TTLs and the grace. Another consumer, or the same one started again, looks after expiry meanwhile.
    ExpireBeforeEmission,
    /// Consumer: whether a record below the progress was persisted is told from the newest row of its key.
    ///
    /// *Facts*: when a consumer that lags by more than the TTL dies between commit and emission, such as at crash point
    /// `after-commit`, the first of two uploads of one key in two windows is never emitted.
    ReEmitByNewestRow,
}

/// The bug switched on in this process, if any. Handed to each part that has one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Planted {
    #[cfg(feature = "planted-bugs")]
    bug: Option<PlantedBug>,
    #[cfg(feature = "planted-bugs")]
    clock: Clock,
}

#[cfg(not(feature = "planted-bugs"))]
impl Planted {
    /// Never.
    #[must_use]
    pub const fn is(self, _bug: PlantedBug) -> bool {
        false
    }
}

#[cfg(feature = "planted-bugs")]
impl Planted {
    /// Switches on what `--planted-bug` asked for. The clock is for bugs that go by it.
    #[must_use]
    pub fn new(bug: Option<PlantedBug>, clock: Clock) -> Self {
        Self { bug, clock }
    }

    /// Whether this bug is switched on.
    #[must_use]
    pub fn is(self, bug: PlantedBug) -> bool {
        self.bug == Some(bug)
    }

    /// The program's wall clock, taken for journal time.
    #[must_use]
    pub fn now(self) -> JournalTime {
        self.clock.now()
    }
}
