//! How large the universe is: the bounds within which every state is visited.

/// What a run looks at closely. The other half of the protocol is in it too, in larger steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Focus {
    /// Gateways with caches. Consumers resolve all that the journal holds, and emission is one step: all that is queued
    /// leaves, the group offset follows, and the table hears of it.
    Answering,
    /// Batches of any length, and emission record by record, with the group offset and the table's knowledge of it left
    /// behind. No caches: what the topics and the table would answer is still checked.
    Emission,
    /// Points of phone apps, which come without a key: two apps, two gateways, the steps of a request. One consumer, which persists
    /// all that the journal holds in one step; keys do not expire.
    Points,
}

/// The bounds of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// What the run is called.
    pub name: &'static str,
    /// What it looks at.
    pub focus: Focus,
    /// Most records of each of the two uploads: first time and retries, or later uses of the key. With points,
    /// most requests of each of the two apps.
    pub copies: [usize; 2],
    /// Most records of points.
    pub points: usize,
    /// The last moment, in ticks of half a TTL.
    pub until: i64,
    /// Whether Postgres can lose commits, and the group its offsets. With points, whether a consumer emits later than it persists, and
    /// can crash in between.
    pub losses: bool,
}

/// One key, two uploads, a retry of each.
pub const ANSWERING: Size =
    Size { name: "answering", focus: Focus::Answering, copies: [2, 2], points: 0, until: 4, losses: false };
/// Two uploads under one key, and Postgres put back.
pub const ANSWERING_LOSSES: Size =
    Size { name: "answering, losses", copies: [1, 1], losses: true, ..ANSWERING };
/// One key, claimed again in later windows.
pub const EMISSION: Size = Size { name: "emission", focus: Focus::Emission, copies: [3, 0], ..ANSWERING };
/// The same, and Postgres put back.
pub const EMISSION_LOSSES: Size = Size { name: "emission, losses", copies: [2, 0], losses: true, ..EMISSION };
/// Two apps with a point in common, one of which sends again; all within a window.
pub const POINTS: Size =
    Size { name: "points", focus: Focus::Points, copies: [2, 1], points: 3, until: 0, losses: false };
/// A request of each app, windows that end, and a consumer that emits later than it persists and crashes in between.
pub const POINTS_LATER: Size =
    Size { name: "points, later", copies: [1, 1], until: 2, losses: true, ..POINTS };

/// What every test run checks.
pub const STANDARD: [Size; 6] =
    [ANSWERING, ANSWERING_LOSSES, EMISSION, EMISSION_LOSSES, POINTS, POINTS_LATER];

/// What is checked by hand: each with a record more.
pub const BIG: [Size; 6] = [
    Size { copies: [3, 2], ..ANSWERING },
    Size { copies: [2, 1], ..ANSWERING_LOSSES },
    Size { copies: [3, 1], ..EMISSION },
    Size { copies: [3, 0], ..EMISSION_LOSSES },
    Size { copies: [2, 2], ..POINTS },
    Size { points: 4, ..POINTS_LATER },
];
