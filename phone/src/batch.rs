//! Cutting a track into uploads, the way a phone does: when enough points have gathered, or after a pause.
//!
//! Where a track is cut depends on its points alone, so that a file cut again makes the same uploads.

use std::mem;
use std::time::Duration;

use crate::gpx::Kind;
use crate::point::Point;
use crate::upload::Upload;

/// When a new upload begins.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// The most points in one upload; 0 counts as 1.
    pub size: usize,
    /// The longest time between two points of an upload, forwards, or backwards, as from the end of one track to the
    /// start of another.
    pub gap: Duration,
}

/// Cuts one point after the other.
#[derive(Clone, Copy, Debug)]
pub struct Cutter {
    cut: Cut,
    /// The points in the upload so far; 0 before the first.
    filled: usize,
    timestamp_before: i64,
}

impl Cutter {
    /// A cutter that has seen no point.
    #[must_use]
    pub const fn new(cut: Cut) -> Self {
        Self { cut, filled: 0, timestamp_before: 0 }
    }

    /// Takes the next point, by its time in milliseconds: whether an upload begins with it.
    pub fn begins(&mut self, timestamp: i64) -> bool {
        let between = self.timestamp_before.abs_diff(timestamp);
        let is_near = u128::from(between) <= self.cut.gap.as_millis();
        let begins = self.filled == 0 || self.filled >= self.cut.size || !is_near;
        self.filled = if begins { 1 } else { self.filled + 1 };
        self.timestamp_before = timestamp;
        begins
    }
}

/// The uploads that points are cut into. None of them mixes kinds of points.
pub struct Uploads<'a, I> {
    device_id: &'a str,
    points: I,
    cut: Cut,
    cutter: Cutter,
    kind: Option<Kind>,
    /// The points of the next upload.
    gathered: Vec<Point>,
    left: usize,
}

impl<'a, I: Iterator<Item = (Kind, Option<Point>)>> Uploads<'a, I> {
    /// The uploads of a device, as many as `count` says: what [`Cutter`]s counted before. Where there is no point, an
    /// upload ends.
    pub const fn new(device_id: &'a str, points: I, cut: Cut, count: usize) -> Self {
        let cutter = Cutter::new(cut);
        Self { device_id, points, cut, cutter, kind: None, gathered: Vec::new(), left: count }
    }
}

impl<I: Iterator<Item = (Kind, Option<Point>)>> Iterator for Uploads<'_, I> {
    type Item = Upload;

    fn next(&mut self) -> Option<Upload> {
        if self.left == 0 {
            return None;
        }
        let mut whole = Vec::new();
        while whole.is_empty()
            && let Some((kind, point)) = self.points.next()
        {
            if self.kind.replace(kind) != Some(kind) || point.is_none() {
                self.cutter = Cutter::new(self.cut);
            }
            let Some(point) = point else { continue };
            if self.cutter.begins(point.timestamp) {
                whole = mem::take(&mut self.gathered);
            }
            self.gathered.push(point);
        }
        if whole.is_empty() {
            whole = mem::take(&mut self.gathered);
        }
        self.left = if whole.is_empty() { 0 } else { self.left - 1 };
        (!whole.is_empty()).then(|| Upload::new(self.device_id, &whole))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<I: Iterator<Item = (Kind, Option<Point>)>> ExactSizeIterator for Uploads<'_, I> {}

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

    fn uploads(points: &[(Kind, Point)], size: usize) -> Vec<Upload> {
        Uploads::new(
            "phone",
            points.iter().cloned().map(|(kind, point)| (kind, Some(point))),
            Cut { size, gap: GAP },
            points.len(),
        )
        .collect()
    }

    fn lengths(seconds: &[i64], size: usize) -> Vec<usize> {
        let points: Vec<_> = seconds.iter().map(|seconds| (Kind::Track, at(*seconds))).collect();
        uploads(&points, size).iter().map(|upload| upload.locations).collect()
    }

    #[test]
    fn an_upload_is_cut_at_its_size_and_the_last_may_be_short() {
        assert_eq!(lengths(&[0, 1, 2, 3, 4], 2), [2, 2, 1]);
        assert_eq!(lengths(&[0, 1, 2, 3], 2), [2, 2]);
        assert_eq!(lengths(&[0, 1], 0), [1, 1]);
        assert_eq!(lengths(&[], 2), [0; 0]);
    }

    #[test]
    fn an_upload_is_cut_at_a_gap_longer_than_the_limit_but_not_at_the_limit() {
        assert_eq!(lengths(&[0, 300, 600], 50), [3]);
        assert_eq!(lengths(&[0, 301, 302], 50), [1, 2]);
        assert_eq!(lengths(&[302, 301, 0], 50), [2, 1]);
    }

    #[test]
    fn what_is_added_to_a_file_changes_no_upload_that_was_full() {
        let before: Vec<_> = (0..25).map(|seconds| (Kind::Track, at(seconds))).collect();
        let after: Vec<_> = (0..40).map(|seconds| (Kind::Track, at(seconds))).collect();
        let keys = |points| uploads(points, 10).iter().map(|upload| upload.key).collect::<Vec<_>>();
        let (before, after) = (keys(&before), keys(&after));
        assert_eq!(before[..2], after[..2]);
        assert_ne!(before[2], after[2]);
    }

    proptest! {
        #[test]
        fn the_uploads_joined_are_the_points_and_each_is_within_its_bounds(
            seconds in prop::collection::vec(0i64..2000, 0..200),
            size in 1usize..20,
        ) {
            let points: Vec<(Kind, Point)> = seconds
                .into_iter()
                .map(|seconds| (if seconds % 7 == 0 { Kind::Route } else { Kind::Track }, at(seconds)))
                .collect();
            let uploads = uploads(&points, size);
            let mut rest = &points[..];
            let mut runs = Vec::new();
            for upload in &uploads {
                let (run, after) = rest.split_at(upload.locations);
                let alone: Vec<Point> = run.iter().map(|(_, point)| point.clone()).collect();
                prop_assert_eq!(&Upload::new("phone", &alone).body, &upload.body);
                (rest, _) = (after, runs.push(run));
            }
            prop_assert!(rest.is_empty());
            let near = |one: &(Kind, Point), two: &(Kind, Point)| {
                one.0 == two.0 && one.1.timestamp.abs_diff(two.1.timestamp) <= 300_000
            };
            for run in &runs {
                prop_assert!((1..=size).contains(&run.len()));
                prop_assert!(run.windows(2).all(|two| near(&two[0], &two[1])));
            }
            // No cut without a reason: a run that is not full ends at a gap, or where another kind begins.
            for two in runs.windows(2).filter(|two| two[0].len() < size) {
                prop_assert!(!near(&two[0][two[0].len() - 1], &two[1][0]));
            }
        }
    }
}
