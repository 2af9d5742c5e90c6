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
}

/// The bounds of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// What the run is called.
    pub name: &'static str,
    /// What it looks at.
    pub focus: Focus,
    /// Most records of each of the two uploads: first time and retries, or later uses of the key.
    pub copies: [usize; 2],
    /// The last moment, in ticks of half a TTL.
    pub until: i64,
    /// Whether Postgres can lose commits, and the group its offsets.
    pub losses: bool,
}

/// One key, two uploads, a retry of each.
pub const ANSWERING: Size =
    Size { name: "answering", focus: Focus::Answering, copies: [2, 2], until: 4, losses: false };
/// Two uploads under one key, and Postgres put back.
pub const ANSWERING_LOSSES: Size =
    Size { name: "answering, losses", copies: [1, 1], losses: true, ..ANSWERING };
/// One key, claimed again in later windows.
pub const EMISSION: Size =
    Size { name: "emission", focus: Focus::Emission, copies: [3, 0], until: 4, losses: false };
/// The same, and Postgres put back.
pub const EMISSION_LOSSES: Size = Size { name: "emission, losses", copies: [2, 0], losses: true, ..EMISSION };

/// What every test run checks.
pub const STANDARD: [Size; 4] = [ANSWERING, ANSWERING_LOSSES, EMISSION, EMISSION_LOSSES];

/// What is checked by hand: each with a record more.
pub const BIG: [Size; 4] = [
    Size { copies: [3, 2], ..ANSWERING },
    Size { copies: [2, 1], ..ANSWERING_LOSSES },
    Size { copies: [3, 1], ..EMISSION },
    Size { copies: [3, 0], ..EMISSION_LOSSES },
];
