//! The check itself: the protocol keeps its promises in every state of the standard sizes, and every planted bug is found.

use std::collections::BTreeSet;

use milepost_model::planted::PlantedBug;
use milepost_model::property::{FACTS, FIRST_STAYS, OFFSETS_FOLLOW_DATA, ONCE, ONE_ANSWER, SAFE};
use milepost_model::protocol::Protocol;
use milepost_model::size::{
    ANSWERING, ANSWERING_LOSSES, EMISSION, EMISSION_LOSSES, POINTS, POINTS_LATER, Size,
};
use stateright::{Checker as _, HasDiscoveries, Model as _, Path};

/// Visits every state. Their number is part of the check: fewer would mean that something can no longer happen.
fn keeps_its_promises(size: Size, states: usize) {
    let checker = Protocol { size, planted: None }.checker().threads(2).spawn_bfs().join();
    assert!(checker.is_done());
    checker.assert_properties();
    assert_eq!(checker.unique_state_count(), states);
}

/// Plants a bug, and follows the shortest way to break a property: every step of it can be taken, and only the last one does
/// harm. The protocol without the bug comes through the same steps unharmed, or does not take them.
fn breaks(planted: PlantedBug, size: Size, property: &'static str, steps: usize) {
    let protocol = Protocol { size, planted: Some(planted) };
    let found = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    // One thread, for a shortest way.
    let checker = protocol.checker().finish_when(found).spawn_bfs().join();
    let actions = checker.assert_any_discovery(property).into_actions();
    assert_eq!(actions.len(), steps, "{actions:?}");

    let holds = protocol.property(property).condition;
    let begin = protocol.init_states().remove(0);
    let way = Path::from_actions(&protocol, begin.clone(), &actions).expect("every step can be taken again");
    let harm: Vec<bool> = way.into_states().iter().map(|universe| !holds(&protocol, universe)).collect();
    assert_eq!(harm.iter().position(|harm| *harm), Some(steps));

    let sound = Protocol { size, planted: None };
    if let Some(way) = Path::from_actions(&sound, begin, &actions) {
        assert!(way.into_states().iter().all(|universe| holds(&sound, universe)));
    }
}

#[test]
fn answers_keep_their_promises_through_retries_conflicts_crashes_lag_and_expiry() {
    keeps_its_promises(ANSWERING, 1_190_755);
}

#[test]
fn answers_keep_their_promises_when_postgres_and_the_group_lose_what_they_knew() {
    keeps_its_promises(ANSWERING_LOSSES, 61_474);
}

#[test]
fn facts_keep_their_promises_through_crashes_lag_and_expiry() {
    keeps_its_promises(EMISSION, 309_920);
}

#[test]
fn facts_keep_their_promises_when_postgres_and_the_group_lose_what_they_knew() {
    keeps_its_promises(EMISSION_LOSSES, 65_107);
}

#[test]
fn points_keep_their_promises_through_supersets_two_gateways_lost_answers_and_crashes() {
    keeps_its_promises(POINTS, 339_226);
}

#[test]
fn points_keep_their_promises_when_windows_end_and_the_consumer_lags_and_crashes() {
    keeps_its_promises(POINTS_LATER, 498_863);
}

#[test]
fn answered_at_the_first_acknowledgement_a_point_is_lost() {
    breaks(PlantedBug::AnswerAtFirstAcknowledgement, POINTS, SAFE, 4);
}

#[test]
fn answered_despite_a_failure_a_point_is_lost() {
    breaks(PlantedBug::AnswerDespiteFailure, POINTS, SAFE, 3);
}

#[test]
fn remembered_before_its_acknowledgement_a_point_is_lost() {
    breaks(PlantedBug::RememberBeforeAcknowledgement, POINTS, SAFE, 3);
}

#[test]
fn known_because_another_request_has_published_it_a_point_is_lost() {
    breaks(PlantedBug::KnowWhatIsInFlight, POINTS, SAFE, 3);
}

#[test]
fn keyed_without_its_device_a_point_of_another_device_is_lost() {
    breaks(PlantedBug::PointWithoutDevice, POINTS, SAFE, 6);
}

#[test]
fn keyed_without_its_device_a_point_of_another_device_is_never_persisted() {
    breaks(PlantedBug::PointWithoutDevice, POINTS, OFFSETS_FOLLOW_DATA, 5);
}

#[test]
fn keyed_with_its_accuracy_a_point_is_persisted_twice() {
    breaks(PlantedBug::PointWithAccuracy, POINTS, ONCE, 5);
}

#[test]
fn replaced_by_its_copy_a_point_is_not_the_first_one() {
    breaks(PlantedBug::ReplaceByCopy, POINTS, FIRST_STAYS, 5);
}

#[test]
fn without_the_fence_an_upload_is_persisted_twice() {
    breaks(PlantedBug::NoFence, EMISSION, ONCE, 7);
}

#[test]
fn decided_by_wall_clock_a_copy_is_persisted_again() {
    breaks(PlantedBug::DecideByWallClock, EMISSION, ONCE, 9);
}

#[test]
fn expired_by_wall_clock_a_key_is_forgotten_before_its_copies_are_decided() {
    breaks(PlantedBug::ExpireByWallClock, EMISSION, ONCE, 12);
}

#[test]
fn a_fact_given_up_leaves_a_hole() {
    breaks(PlantedBug::GiveUpOnAFact, EMISSION, FACTS, 9);
}

#[test]
fn expired_before_emission_an_upload_is_never_a_fact() {
    breaks(PlantedBug::ExpireBeforeEmission, EMISSION, OFFSETS_FOLLOW_DATA, 13);
}

#[test]
fn emitted_again_by_the_newest_row_an_earlier_window_is_never_a_fact() {
    breaks(PlantedBug::ReEmitByNewestRow, EMISSION, FACTS, 11);
}

#[test]
fn emitted_again_from_a_table_put_back_an_upload_gets_the_answer_of_an_earlier_window() {
    breaks(PlantedBug::ReEmitUnfenced, ANSWERING_LOSSES, ONE_ANSWER, 11);
}

#[test]
fn emitted_again_from_a_table_put_back_an_upload_is_never_a_fact() {
    breaks(PlantedBug::ReEmitUnfenced, EMISSION_LOSSES, OFFSETS_FOLLOW_DATA, 13);
}
