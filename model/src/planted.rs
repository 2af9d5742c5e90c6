//! Planted bugs: weakenings of the protocol, each of which the check must find.

use clap::ValueEnum;

/// A weakening. Those of the consumer, but for the last, are bugs of the torture harness too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlantedBug {
    /// A batch sets the progress without comparing it, and so without waiting for another's transaction.
    NoFence,
    /// Whether a window is open is asked of the wall clock.
    DecideByWallClock,
    /// A table partition of keys goes when the wall clock has passed its windows.
    ExpireByWallClock,
    /// The emitter gives up on a fact and goes on with the next.
    GiveUpOnAFact,
    /// A table partition of keys goes before its facts are emitted.
    ExpireBeforeEmission,
    /// Whether a record below the progress was persisted is judged by the newest row of its key.
    ReEmitByNewestRow,
    /// A batch that is only emitted again is resolved against any table, even one that was put back to before it.
    ReEmitUnfenced,
    /// A request of a phone app is answered with success when the first of its points is acknowledged.
    AnswerAtFirstAcknowledgement,
    /// A point that the journal did not take counts as acknowledged.
    AnswerDespiteFailure,
    /// A gateway remembers a point as acknowledged when it publishes it.
    RememberBeforeAcknowledgement,
    /// A point that another request at the same gateway has published counts as known.
    KnowWhatIsInFlight,
    /// The key of a point is made without its device.
    PointWithoutDevice,
    /// The key of a point is made with all that is known of it.
    PointWithAccuracy,
    /// What is stored of a point is replaced by what came with its copy.
    ReplaceByCopy,
}
