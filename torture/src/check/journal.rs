//! Journal = tables: the journal, decided again by its rule alone, gives the rows, keys and dead letters that
//! are there; and so did the consumers when the tables were emptied.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::position::Position;

use super::Verdict;
use super::case::{Case, at};
use super::one_answer::promised;
use crate::evidence::{DeadLetter, Evidence, JournalEntry};
use crate::operation::{self, Key, Kind};

/// What the journal says should be there.
#[derive(Default)]
struct Expected<'a> {
    /// The uploads that claim their keys.
    new: BTreeMap<Position, &'a JournalEntry>,
    /// The points set aside that claim their keys.
    set_aside: BTreeMap<Position, &'a JournalEntry>,
    poison: BTreeSet<Position>,
}

/// Per key, in the order of the journal: a record is new unless it is stamped before the end of the key's last window.
fn decided(evidence: &Evidence) -> Expected<'_> {
    let mut expected = Expected::default();
    let mut ends: HashMap<&str, JournalTime> = HashMap::new();
    for entry in &evidence.journal {
        if entry.account.is_none() || entry.upload.is_none() && !entry.is_set_aside {
            expected.poison.insert(entry.position);
        } else if ends.get(entry.key_hash.as_str()).is_none_or(|end| entry.time >= *end) {
            ends.insert(&entry.key_hash, entry.time.plus(evidence.ttl));
            let claims = if entry.is_set_aside { &mut expected.set_aside } else { &mut expected.new };
            claims.insert(entry.position, entry);
        }
    }
    expected
}

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    check_hashes(case, verdict);
    let expected = decided(case.evidence);
    check_stored(case.evidence, &expected, verdict);
    check_keys(case.evidence, &expected, verdict);
    check_dead_letters(case.evidence, &expected, verdict);
    for difference in case.evidence.rebuilt.iter().flatten() {
        verdict.accuse(|| format!("built again from the journal: {difference}"));
    }
}

/// What the journal is decided by: a key hash stands for one key of one account, and the key for it, unless the client gave none.
fn check_hashes(case: &Case<'_>, verdict: &mut Verdict) {
    let mut keys: HashMap<&str, (Key, usize)> = HashMap::new();
    let mut hashes: HashMap<(Key, usize), &str> = HashMap::new();
    for entry in &case.evidence.journal {
        let (Some(upload), Some(account)) = (entry.upload, entry.account) else { continue };
        verdict.examined += 1;
        let (hash, key) = (entry.key_hash.as_str(), upload.key());
        if *keys.entry(hash).or_insert((key, account)) != (key, account) {
            verdict.accuse(|| format!("{} has the key hash of another key than {key}", at(entry.position)));
        }
        let has_key = case.kind(key.operation) != Some(Kind::Keyless);
        if has_key && *hashes.entry((key, account)).or_insert(hash) != hash {
            verdict.accuse(|| format!("{} has another key hash than {key} had before", at(entry.position)));
        }
    }
}

fn check_stored(evidence: &Evidence, expected: &Expected<'_>, verdict: &mut Verdict) {
    let mut missing = expected.new.clone();
    for stored in &evidence.stored {
        verdict.examined += 1;
        let position = at(stored.position);
        match missing.remove(&stored.position) {
            None => verdict.accuse(|| format!("{position} is stored, and by the journal it is not new")),
            Some(entry) => {
                let found = (stored.upload, stored.account, stored.received_at);
                let wanted = (entry.upload, entry.account, entry.time);
                if found != wanted {
                    verdict
                        .accuse(|| format!("{position} is stored as {found:?}, the journal says {wanted:?}"));
                }
            }
        }
    }
    for position in missing.into_keys() {
        verdict.accuse(|| format!("{} is new by the journal, and not stored", at(position)));
    }
}

/// A key may be gone once its window is over.
fn check_keys(evidence: &Evidence, expected: &Expected<'_>, verdict: &mut Verdict) {
    let now = JournalTime(evidence.gathered_ms);
    let mut claims = expected.new.clone();
    claims.extend(&expected.set_aside);
    let mut open = claims.clone();
    open.retain(|_, entry| entry.time.plus(evidence.ttl) > now);
    for key in &evidence.keys {
        verdict.examined += 1;
        open.remove(&key.source);
        let is_right = claims.get(&key.source).is_some_and(|entry| {
            let body = promised(entry.upload.map_or(0, |upload| operation::count(evidence.seed, upload)));
            key.key_hash == entry.key_hash
                && key.account == entry.account
                && (key.accepted_at, key.expires_at) == (entry.time, entry.time.plus(evidence.ttl))
                && (key.status, &key.body[..]) == (200, body.as_bytes())
        });
        if !is_right {
            verdict
                .accuse(|| format!("the key that {} claimed is not what the journal says", at(key.source)));
        }
    }
    for position in open.into_keys() {
        verdict.accuse(|| format!("the window that {} opened is open, and its key is gone", at(position)));
    }
}

fn check_dead_letters(evidence: &Evidence, expected: &Expected<'_>, verdict: &mut Verdict) {
    let letters = evidence.dead_letters.iter();
    let dead: BTreeSet<Position> = letters.map(|letter| letter.position).collect();
    verdict.examined += u64::try_from(dead.len()).unwrap_or(u64::MAX);
    for letter in &evidence.dead_letters {
        let DeadLetter { position, upload } = letter;
        if expected.set_aside.get(position).is_some_and(|entry| entry.upload != *upload) {
            verdict.accuse(|| format!("the dead letter of {} is not the point of its record", at(*position)));
        }
    }
    let wanted: BTreeSet<Position> =
        expected.poison.iter().chain(expected.set_aside.keys()).copied().collect();
    for position in dead.difference(&wanted) {
        verdict.accuse(|| format!("{} is a dead letter, and neither poison nor set aside", at(*position)));
    }
    for position in wanted.difference(&dead) {
        verdict.accuse(|| format!("{} is poison or set aside, and not a dead letter", at(*position)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use super::*;

    fn broken_by(change: impl FnOnce(&mut Run)) {
        let mut run = Run::innocent();
        change(&mut run);
        assert_eq!(run.judgement(Checker::Journal), Judgement::Broken);
    }

    #[test]
    fn rows_differ_from_the_journal_if_one_is_missing_too_many_or_changed() {
        broken_by(|run| drop(run.evidence.stored.remove(9)));
        broken_by(|run| {
            let mut stored = run.evidence.stored[9].clone();
            stored.position.offset.0 += 1_000_000;
            run.evidence.stored.push(stored);
        });
        broken_by(|run| run.evidence.stored[9].received_at.0 += 1);
        broken_by(|run| run.evidence.stored[9].upload = run.evidence.stored[8].upload);
    }

    #[test]
    fn a_copy_that_is_stored_is_not_new() {
        broken_by(|run| {
            let upload = run.first(Kind::Hot);
            let mut copies = run.evidence.journal.iter().filter(|entry| entry.upload == Some(upload));
            let copy = copies.nth(1).unwrap().position;
            let mut stored = run.stored(upload).clone();
            stored.position = copy;
            run.evidence.stored.push(stored);
        });
    }

    #[test]
    fn a_key_must_be_what_the_journal_says_and_there_while_its_window_is_open() {
        broken_by(|run| run.evidence.keys[4].expires_at.0 += 1);
        broken_by(|run| run.evidence.keys[4].key_hash.push('0'));
        broken_by(|run| {
            let key = run.evidence.keys.remove(4);
            run.evidence.gathered_ms = key.expires_at.0 - 1;
        });
        let mut run = Run::innocent();
        let key = run.evidence.keys.remove(4);
        run.evidence.gathered_ms = run.evidence.gathered_ms.max(key.expires_at.0);
        assert_eq!(run.judgement(Checker::Journal), Judgement::Held);
    }

    #[test]
    fn dead_letters_are_the_poison_records_and_the_points_set_aside() {
        broken_by(|run| run.evidence.dead_letters.clear());
        broken_by(|run| {
            let stored = &run.evidence.stored[9];
            let (position, upload) = (stored.position, stored.upload);
            run.evidence.dead_letters.push(DeadLetter { position, upload });
        });
    }

    #[test]
    fn a_point_set_aside_is_one_dead_letter_with_a_key_and_without_a_row() {
        let bad = Run::innocent().bad_point(Kind::Shared);
        let positions = |run: &Run| -> Vec<Position> {
            let journal = run.evidence.journal.iter().filter(|entry| entry.upload == Some(bad));
            journal.map(|entry| entry.position).collect()
        };
        let [first, copy] = positions(&Run::innocent())[..] else { panic!("two batches have it") };
        broken_by(|run| run.evidence.dead_letters.retain(|letter| letter.position != first));
        broken_by(|run| {
            let mut letters = run.evidence.dead_letters.iter();
            let letter = *letters.find(|letter| letter.position == first).unwrap();
            run.evidence.dead_letters.push(DeadLetter { position: copy, ..letter });
        });
        broken_by(|run| {
            let mut letters = run.evidence.dead_letters.iter_mut();
            letters.find(|letter| letter.position == first).unwrap().upload = None;
        });
        broken_by(|run| {
            let mut keys = run.evidence.keys.iter_mut();
            keys.find(|key| key.source == first).unwrap().body = promised(1).into_bytes();
        });
        broken_by(|run| {
            let mut stored = run.evidence.stored[9].clone();
            stored.position = first;
            run.evidence.stored.push(stored);
        });
    }

    #[test]
    fn a_key_hash_stands_for_one_key_and_a_key_for_one_hash() {
        let twins = Run::innocent().points(Kind::Twins);
        for other in &twins[1..] {
            broken_by(|run| {
                let hash = run.published(twins[0]).key_hash.clone();
                run.published(*other).key_hash = hash;
            });
        }
        broken_by(|run| {
            let bad = run.bad_point(Kind::Shared);
            run.published(bad).key_hash.push('0');
        });
    }

    #[test]
    fn what_differs_after_a_rebuild_counts() {
        broken_by(|run| run.evidence.rebuilt = Some(vec!["0/5 is gone".to_owned()]));
    }
}
