//! The faults that a run can inject, by name.

use std::fmt;

use milepost_shared::program::crash::CrashPoint;

/// A process of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// One of the gateways.
    Gateway,
    /// One of the consumers.
    Consumer,
    /// The broker.
    Kafka,
    /// The database server.
    Postgres,
}

/// A connection between two kinds of processes, through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// Gateways to the broker.
    GatewayKafka,
    /// Gateways to the database.
    GatewayPostgres,
    /// Consumers to the broker.
    ConsumerKafka,
    /// Consumers to the database.
    ConsumerPostgres,
}

/// What a link can suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    /// Connections are reset, and new ones are refused.
    Cut,
    /// Connections stay open and carry nothing.
    Silent,
    /// Everything takes longer, and little gets through.
    Slow,
    /// What is sent in one direction vanishes.
    Lossy,
    /// What was asked for arrives and is done; then the connection is cut before the reply comes through.
    ReplyLost,
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// SIGKILL, then a start.
    Kill(Target),
    /// SIGSTOP for longer than the session time-out, then SIGCONT.
    Pause(Target),
    /// SIGTERM, then a start.
    Restart(Target),
    /// A start with a crash point; when it has died there, a start without.
    Crash(CrashKind),
    /// Trouble on a link.
    Link(Link, Trouble),
    /// `pg_terminate_backend` of everybody.
    TerminateBackends,
    /// The database takes no writes.
    ReadOnly,
    /// A table is locked for 20 s.
    TableLock,
    /// All connections of the database are taken.
    ConnectionsExhausted,
    /// The disk of a server is full.
    DiskFull(Target),
    /// The group's offsets are deleted.
    OffsetsDeleted,
    /// A third consumer joins and leaves every few seconds.
    Rebalances,
    /// A program's clock is 25 h ahead.
    ClockAhead(Target),
    /// A program's clock is an hour behind.
    ClockBehind(Target),
    /// A gateway whose cache holds ten entries.
    TinyCache,
    /// Poison records in the journal.
    Poison,
    /// Postgres is put back to an earlier state.
    PutBack,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Kill(target) => format!("kill {target}"),
            Self::Pause(target) => format!("pause {target}"),
            Self::Restart(target) => format!("restart {target}"),
            Self::Crash(kind) => format!("crash at {}", kind.point().name()),
            Self::Link(link, trouble) => format!("{link} {trouble}"),
            Self::TerminateBackends => "terminate backends".to_owned(),
            Self::ReadOnly => "database read-only".to_owned(),
            Self::TableLock => "table locked".to_owned(),
            Self::ConnectionsExhausted => "connections exhausted".to_owned(),
            Self::DiskFull(target) => format!("disk full: {target}"),
            Self::OffsetsDeleted => "offsets deleted".to_owned(),
            Self::Rebalances => "rebalances".to_owned(),
            Self::ClockAhead(target) => format!("clock ahead: {target}"),
            Self::ClockBehind(target) => format!("clock behind: {target}"),
            Self::TinyCache => "tiny cache".to_owned(),
            Self::Poison => "poison records".to_owned(),
            Self::PutBack => "database put back".to_owned(),
        };
        f.pad(&name)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gateway => "gateway",
            Self::Consumer => "consumer",
            Self::Kafka => "Kafka",
            Self::Postgres => "Postgres",
        })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::GatewayKafka => "gateway to Kafka",
            Self::GatewayPostgres => "gateway to Postgres",
            Self::ConsumerKafka => "consumer to Kafka",
            Self::ConsumerPostgres => "consumer to Postgres",
        })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cut => "cut",
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::Lossy => "lossy",
            Self::ReplyLost => "reply lost",
        })
    }
}

/// A crash point by its place in [`CrashPoint::ALL`], since that has no order of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CrashKind(pub usize);

impl CrashKind {
    /// The crash point.
    #[must_use]
    pub fn point(self) -> CrashPoint {
        CrashPoint::ALL[self.0]
    }

    /// The program that has it.
    #[must_use]
    pub fn target(self) -> Target {
        match self.point() {
            CrashPoint::Accepted | CrashPoint::Published | CrashPoint::Answered => Target::Gateway,
            _ => Target::Consumer,
        }
    }
}

/// One fault of one run: what was planned, and what came of it.
#[derive(Debug, Clone)]
pub struct Episode {
    /// What.
    pub fault: Fault,
    /// When it began and ended (healed), seconds since the run did.
    pub began: f64,
    /// When it was healed.
    pub healed: f64,
    /// The sign by which it was seen to bite, such as `3 connections cut`; `Err` with the reason if it was skipped or did not.
    pub bite: Result<String, NoBite>,
}

/// Why a fault has no sign of a bite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoBite {
    /// The machine does not allow it, with the reason.
    Skipped(String),
    /// It was injected, and showed no effect.
    Unseen(String),
}
