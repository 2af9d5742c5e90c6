//! A GPX file and what it holds for a phone.
//!
//! A file is gone through once before anything is sent, so that a broken one sends nothing, and once more for each kind
//! of point that it holds. So it may be of any size: what is remembered is one upload's worth of points.

use std::io::{self, Read};

use crate::batch::{Cut, Cutter, Uploads};
use crate::gpx::{BadPoint, Found, KINDS, Kind, Reader, Unreadable};
use crate::point::Point;

/// The most bad points that are listed; the rest is only counted.
pub const LISTED_MAX: usize = 20;

/// What going through a file brings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// How many points can be sent.
    pub points: usize,
    /// How many uploads they make.
    pub uploads: usize,
    /// How many points have no time.
    pub without_time: usize,
    /// How many points cannot be sent for another reason.
    pub bad: usize,
    /// The first [`LISTED_MAX`] of these.
    pub bad_listed: Vec<BadPoint>,
    /// The line on which the file ends too early, if it does.
    pub cut_off: Option<u64>,
}

/// A GPX file that has been gone through once. `O` opens it from its start.
pub struct Track<O> {
    open: O,
    survey: Survey,
    /// The kinds of points that it holds.
    kinds: Vec<Kind>,
    cut: Cut,
    latest: i64,
}

impl<R: Read, O: FnMut() -> io::Result<R>> Track<O> {
    /// Goes through a file, version 1.0 or 1.1. No point after `latest`, in milliseconds since 1970, is sent; an upload
    /// ends before it and one begins after it, as if it were sent in one of its own.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is no GPX. A file that ends too early is no error.
    pub fn survey(mut open: O, cut: Cut, latest: i64) -> Result<Self, Unreadable> {
        let mut survey = Survey::default();
        let mut cutters = KINDS.map(|_| Cutter::new(cut));
        let mut kinds = Vec::new();
        for found in Reader::new(open()?)?.until(latest) {
            match found? {
                Found::Point(kind, point) => {
                    survey.points += 1;
                    survey.uploads += usize::from(cutters[kind as usize].begins(point.timestamp));
                    if !kinds.contains(&kind) {
                        kinds.push(kind);
                    }
                }
                Found::WithoutTime => survey.without_time += 1,
                Found::Bad(bad) => survey.add(bad),
                Found::Ahead(kind, bad) => {
                    survey.add(bad);
                    cutters[kind as usize] = Cutter::new(cut);
                }
                Found::CutOff(line) => survey.cut_off = Some(line),
            }
        }
        kinds.sort_unstable();
        Ok(Self { open, survey, kinds, cut, latest })
    }

    /// What the file holds.
    pub const fn found(&self) -> &Survey {
        &self.survey
    }

    /// The uploads of the file: of its tracks first, then of its routes, then of its waypoints, each in the order of
    /// the file. Where the file was changed after it was surveyed, they end.
    pub fn uploads<'a>(&'a mut self, device_id: &'a str) -> Uploads<'a, Points<'a, R, O>> {
        let (cut, count) = (self.cut, self.survey.uploads);
        Uploads::new(device_id, self.ends_and_points(), cut, count)
    }

    /// The points of the file that can be sent, in the order of its uploads.
    pub fn points(&mut self) -> impl Iterator<Item = Point> {
        self.ends_and_points().filter_map(|(_, point)| point)
    }

    fn ends_and_points(&mut self) -> Points<'_, R, O> {
        Points { open: &mut self.open, kinds: self.kinds.iter(), latest: self.latest, pass: None }
    }
}

impl Survey {
    fn add(&mut self, bad: BadPoint) {
        self.bad += 1;
        if self.bad_listed.len() < LISTED_MAX {
            self.bad_listed.push(bad);
        }
    }
}

/// The points of a file that can be sent, kind after kind; none where one is too far ahead.
pub struct Points<'a, R: Read, O> {
    open: &'a mut O,
    kinds: std::slice::Iter<'a, Kind>,
    latest: i64,
    pass: Option<(Kind, Reader<R>)>,
}

impl<R: Read, O: FnMut() -> io::Result<R>> Iterator for Points<'_, R, O> {
    type Item = (Kind, Option<Point>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((kind, reader)) = &mut self.pass {
                let of_this_kind = |found| match found {
                    Ok(Found::Point(its, point)) if its == *kind => Some(Some((its, Some(point)))),
                    Ok(Found::Ahead(its, _)) if its == *kind => Some(Some((its, None))),
                    Ok(_) => None,
                    Err(_) => Some(None),
                };
                if let Some(end_or_point) = reader.find_map(of_this_kind) {
                    return end_or_point;
                }
            }
            let kind = *self.kinds.next()?;
            self.pass = Some((kind, Reader::new((self.open)().ok()?).ok()?.until(self.latest)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::point::Flaw;
    use crate::upload::Upload;

    const CUT: Cut = Cut { size: 2, gap: Duration::from_secs(300) };

    fn track<'a>(text: &'a str, cut: Cut) -> Track<impl FnMut() -> io::Result<&'a [u8]>> {
        Track::survey(move || Ok(text.as_bytes()), cut, i64::MAX).expect("the test's GPX is good")
    }

    /// A point recognised by its seconds.
    fn point(element: &str, seconds: u32) -> String {
        format!(r#"<{element} lat="1" lon="2"><time>2026-03-14T09:00:{seconds:02}Z</time></{element}>"#)
    }

    fn seconds(upload: &Upload) -> Vec<String> {
        let body = String::from_utf8_lossy(&upload.body);
        let after = body.split(r#""timestamp":1773478"#).skip(1);
        after.map(|rest| rest.chars().skip(1).take(2).collect()).collect()
    }

    #[test]
    fn tracks_come_first_then_routes_then_waypoints_and_no_upload_mixes_them() {
        let segment = |first| {
            let points: String = (first..first + 3).map(|seconds| point("trkpt", seconds)).collect();
            format!("<trk><trkseg>{points}</trkseg></trk>")
        };
        let gpx = format!(
            "<gpx>{}<rte>{}</rte>{}{}</gpx>",
            point("wpt", 41),
            point("rtept", 31),
            segment(10),
            segment(20)
        );
        let mut track = track(&gpx, CUT);
        assert_eq!((track.found().points, track.found().uploads), (8, 5));
        let uploads = track.uploads("phone");
        assert_eq!(uploads.len(), 5);
        let played: Vec<Vec<String>> = uploads.map(|upload| seconds(&upload)).collect();
        assert_eq!(played, [vec!["10", "11"], vec!["12", "20"], vec!["21", "22"], vec!["31"], vec!["41"]]);
    }

    #[test]
    fn what_is_left_out_is_counted_and_the_first_bad_points_are_listed() {
        let bad: String = (0..30).map(|_| "<wpt lat='91' lon='0'/>\n").collect();
        let gpx = format!("<gpx>\n{bad}<wpt lat='1' lon='2'/>{}", point("wpt", 1));
        let track = track(&gpx, CUT);
        let found = track.found();
        assert_eq!((found.points, found.without_time, found.bad, found.cut_off), (1, 1, 30, Some(32)));
        let lines: Vec<u64> = found.bad_listed.iter().map(|bad| bad.line).collect();
        assert_eq!(lines, (2..22).collect::<Vec<u64>>());
    }

    #[test]
    fn a_point_too_far_ahead_is_bad_and_leaves_all_other_uploads_as_they_are() {
        let ahead = point("wpt", 9).replace("2026", "2080");
        let gpx = format!("<gpx>{}\n{ahead}\n{ahead}\n{}{}</gpx>", point("wpt", 1), point("wpt", 2), ahead);
        let latest = 1_773_478_802_000;
        let uploads = |latest| {
            let mut track =
                Track::survey(|| Ok(gpx.as_bytes()), CUT, latest).expect("the test's GPX is good");
            let found = track.found().clone();
            let uploads = track.uploads("phone");
            assert_eq!((found.uploads, uploads.len()), (uploads.len(), found.uploads));
            (found, uploads.map(|upload| (upload.key, upload.body)).collect::<Vec<_>>())
        };
        let (found, sent) = uploads(latest);
        let lines: Vec<u64> = found.bad_listed.iter().map(|bad| bad.line).collect();
        assert_eq!((found.points, found.bad, lines), (2, 3, vec![2, 3, 4]));
        assert_eq!(found.bad_listed[0].flaw, Flaw::Ahead);
        let (_, all) = uploads(i64::MAX);
        assert_eq!(all.len(), 4);
        assert_eq!(sent, [all[0].clone(), all[2].clone()]);
        assert_eq!(uploads(latest - 1).1, [all[0].clone()]);
    }

    #[test]
    fn a_file_that_is_shorter_the_next_time_ends_its_uploads_early() {
        let gpx = format!("<gpx>{}{}{}</gpx>", point("wpt", 1), point("wpt", 2), point("wpt", 3));
        let mut times = 0;
        let shrinking = || {
            times += 1;
            Ok(&gpx.as_bytes()[..if times == 1 { gpx.len() } else { gpx.len() / 2 }])
        };
        let mut track =
            Track::survey(shrinking, Cut { size: 1, ..CUT }, i64::MAX).expect("the test's GPX is good");
        let mut uploads = track.uploads("phone");
        assert_eq!(uploads.len(), 3);
        assert_eq!(uploads.by_ref().count(), 1);
    }

    #[test]
    fn the_sample_track_has_a_point_alone_a_pause_and_points_without_a_time() {
        let cut = Cut { size: 50, ..CUT };
        let mut track = track(include_str!("../sample.gpx"), cut);
        assert_eq!((track.found().points, track.found().without_time), (118, 3));
        assert_eq!((track.found().bad, track.found().cut_off), (0, None));
        let locations: Vec<usize> = track.uploads("phone").map(|upload| upload.locations).collect();
        assert_eq!(locations, [50, 20, 47, 1]);
    }

    #[test]
    fn the_same_file_makes_the_same_uploads_under_the_same_keys() {
        let uploads = || {
            let mut track = track(include_str!("../sample.gpx"), CUT);
            track.uploads("phone").map(|upload| (upload.key, upload.body)).collect::<Vec<_>>()
        };
        assert_eq!(uploads(), uploads());
    }
}
