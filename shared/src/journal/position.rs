//! Where things stand in the journal. An [`Offset`] is that of a record, a [`NextOffset`] that of the record after the last one
//! done: apart by type, so that nobody is one record off.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number that keeps its meaning, and is written, stored and logged as the bare number.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($of:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A partition of the journal; a result and a fact are in the same one of their topics.
    Partition(i32)
}

number! {
    /// The offset of a record.
    Offset(i64)
}

number! {
    /// The offset after the last record done, whatever was done: everything below is, and nothing from there on.
    NextOffset(i64)
}

impl Partition {
    /// All partitions of a topic with so many.
    pub fn all(count: i32) -> impl Iterator<Item = Self> {
        (0..count).map(Self)
    }
}

impl Offset {
    /// How far one has come when the record at this offset is the next.
    #[must_use]
    pub fn before(self) -> NextOffset {
        NextOffset(self.0)
    }

    /// How far one has come with the record at this offset.
    #[must_use]
    pub fn next(self) -> NextOffset {
        NextOffset(self.0 + 1)
    }
}

impl NextOffset {
    /// Nothing is done.
    pub const START: Self = Self(0);

    /// Whether the record at this offset is done.
    #[must_use]
    pub fn covers(self, offset: Offset) -> bool {
        offset.0 < self.0
    }

    /// The last offset done; that before the journal's first if nothing is.
    #[must_use]
    pub fn last(self) -> Offset {
        Offset(self.0 - 1)
    }
}

/// Where a record stands in the journal. Unique in the life of a journal; one that is rewound uses offsets again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Partition of `location-uploads`.
    pub partition: Partition,
    /// Offset in that partition.
    pub offset: Offset,
}

impl Position {
    /// From bare numbers, as clients and tables have them.
    #[must_use]
    pub const fn new(partition: i32, offset: i64) -> Self {
        Self { partition: Partition(partition), offset: Offset(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_offset_covers_what_is_before_it_and_not_the_record_it_names() {
        let next = Offset(4).next();
        assert_eq!((next, next.last(), Offset(4).before()), (NextOffset(5), Offset(4), NextOffset(4)));
        assert_eq!([3, 4, 5, 6].map(|offset| next.covers(Offset(offset))), [true, true, false, false]);
        assert!(!NextOffset::START.covers(Offset(0)));
    }

    #[test]
    fn a_position_is_written_as_bare_numbers() {
        let position = Position::new(3, 7);
        assert_eq!(serde_json::to_string(&position).unwrap(), r#"{"partition":3,"offset":7}"#);
        assert_eq!(format!("{} {:?}", position.offset, [position.partition]), "7 [3]");
    }
}
