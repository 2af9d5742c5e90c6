//! Cutting a track into uploads, the way a phone does: when enough points have gathered, or after a pause.

use std::time::Duration;

use crate::track::Point;
use crate::upload::Upload;

/// Cuts `points` into uploads of at most `size` points, and wherever the time between two points (forwards,
/// or backwards, as from the end of one track to the start of another) is longer than `gap`. A `size` of 0
/// counts as 1.
#[must_use]
pub fn cut(device_id: &str, points: &[Point], size: usize, gap: Duration) -> Vec<Upload> {
    runs(points, size, gap).map(|run| Upload::new(device_id, run)).collect()
}

/// The runs of points that [`cut`] makes uploads of.
fn runs(points: &[Point], size: usize, gap: Duration) -> impl Iterator<Item = &[Point]> {
    let near = move |earlier: &Point, later: &Point| {
        u128::from(earlier.timestamp.abs_diff(later.timestamp)) <= gap.as_millis()
    };
    points.chunk_by(near).flat_map(move |run| run.chunks(size.max(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GAP: Duration = Duration::from_secs(300);

    fn at(seconds: i64) -> Point {
        Point {
            timestamp: seconds * 1000,
            latitude: 48.2,
            longitude: 16.37,
            altitude: None,
            speed: None,
            bearing: None,
            accuracy: None,
            provider: "gps",
        }
    }

    fn lengths(seconds: &[i64], size: usize) -> Vec<usize> {
        let points: Vec<Point> = seconds.iter().copied().map(at).collect();
        cut("phone", &points, size, GAP).iter().map(|upload| upload.locations).collect()
    }

    #[test]
    fn a_batch_is_cut_at_its_size_and_the_last_may_be_short() {
        assert_eq!(lengths(&[0, 1, 2, 3, 4], 2), [2, 2, 1]);
        assert_eq!(lengths(&[0, 1, 2, 3], 2), [2, 2]);
        assert_eq!(lengths(&[], 2), [0; 0]);
    }

    #[test]
    fn a_batch_is_cut_at_a_gap_longer_than_the_limit_but_not_at_the_limit() {
        assert_eq!(lengths(&[0, 300, 600], 50), [3]);
        assert_eq!(lengths(&[0, 301, 302], 50), [1, 2]);
        assert_eq!(lengths(&[302, 301, 0], 50), [2, 1]);
    }

    proptest! {
        #[test]
        fn the_runs_joined_are_the_points_and_each_is_within_its_bounds(
            seconds in prop::collection::vec(0i64..2000, 0..200),
            size in 1usize..20,
        ) {
            let points: Vec<Point> = seconds.into_iter().map(at).collect();
            let runs: Vec<&[Point]> = runs(&points, size, GAP).collect();
            prop_assert_eq!(&runs.concat(), &points);
            for run in &runs {
                prop_assert!((1..=size).contains(&run.len()));
                let near = |two: &[Point]| two[0].timestamp.abs_diff(two[1].timestamp) <= 300_000;
                prop_assert!(run.windows(2).all(near));
            }
            // No cut without a reason: a run that is not full ends at a gap.
            for two in runs.windows(2).filter(|two| two[0].len() < size) {
                prop_assert!(two[0][two[0].len() - 1].timestamp.abs_diff(two[1][0].timestamp) > 300_000);
            }
        }
    }
}
