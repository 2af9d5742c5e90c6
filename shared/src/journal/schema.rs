//! The schema of a value in the journal or among the results.
//!
//! A build reads every schema up to its own, and writes the lowest that can hold what a record says: so what an old build can
//! read it gets, and what it cannot is distinguished from poison. For that the schema comes first in each value, whatever else
//! a later build changes: field 1, in four bytes of which two are zero. No other bytes begin like that by chance.

/// Field 1, of 32 bits.
const KEY: u8 = 1 << 3 | 5;
/// Greatest schema that is believed.
const MAX: u32 = u16::MAX as u32;

/// The schema that a value says it has; `None` if none of Milepost's builds, old or new, has written it.
#[must_use]
pub fn of(value: &[u8]) -> Option<u32> {
    let [KEY, bytes @ ..] = value.first_chunk::<5>()? else { return None };
    let schema = u32::from_le_bytes(*bytes);
    (1..=MAX).contains(&schema).then_some(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_read_from_the_first_five_bytes_and_nothing_else() {
        assert_eq!(of(b"\x0d\x01\0\0\0"), Some(1));
        assert_eq!(of(b"\x0d\x02\x01\0\0whatever"), Some(258));
        for none in
            [&b""[..], b"\x0d\x01\0\0", b"\x0d\0\0\0\0", b"\x0d\0\0\x01\0", b"\x08\x01", b"{\"schema\":1}"]
        {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
