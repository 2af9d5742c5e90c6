//! The partition of a key, as the Java client's default partitioner and librdkafka's `murmur2_random` choose it.
//!
//! It is computed from the setting `PARTITIONS` and never from what the brokers report: were partitions added to the journal,
//! a client that asks the brokers would send the next copy of a key to another one, and the order within a key would be
//! lost.

use crate::journal::position::Partition;

/// What Kafka begins its hash with.
const SEED: u32 = 0x9747_b28c;
/// MurmurHash2's own constants.
const FACTOR: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;

/// The partition of a record with this key, of a topic with so many partitions. 0 if there are none.
#[must_use]
pub fn of_key(key: &[u8], partitions: i32) -> Partition {
    let positive = murmur2(key) & 0x7fff_ffff;
    let partition = u32::try_from(partitions).ok().and_then(|partitions| positive.checked_rem(partitions));
    Partition(partition.and_then(|partition| i32::try_from(partition).ok()).unwrap_or(0))
}

/// `MurmurHash2`, 32 bits, by Austin Appleby, who put it into the public domain.
fn murmur2(bytes: &[u8]) -> u32 {
    // A key longer than this cannot be a record's.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(FACTOR);
        word ^= word >> SHIFT;
        hash = hash.wrapping_mul(FACTOR) ^ word.wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(FACTOR);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(FACTOR);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITIONS: [i32; 9] = [1, 2, 3, 6, 7, 12, 64, 1000, 10_000];

    #[test]
    fn hash_and_partition_of_a_key_are_the_java_clients() {
        let mut seen = 0;
        for line in include_str!("partition/java.txt").lines().filter(|line| !line.starts_with('#')) {
            let mut columns = line.split(' ');
            let key = columns.next().unwrap();
            let key = if key == "-" { Vec::new() } else { hex::decode(key).unwrap() };
            let hash: i32 = columns.next().unwrap().parse().unwrap();
            assert_eq!(murmur2(&key).cast_signed(), hash, "{line}");
            let partitions: Vec<Partition> =
                columns.map(|column| Partition(column.parse().unwrap())).collect();
            assert_eq!(PARTITIONS.map(|count| of_key(&key, count)), partitions[..], "{line}");
            seen += 1;
        }
        assert_eq!(seen, 50);
    }

    #[test]
    fn no_count_of_partitions_makes_it_panic() {
        assert_eq!([0, -1, i32::MIN].map(|count| of_key(b"key", count)), [Partition(0); 3]);
    }
}
