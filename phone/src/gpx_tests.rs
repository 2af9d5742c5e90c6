use std::fmt::Write as _;

use encoding_rs::WINDOWS_1252;
use proptest::prelude::*;

use super::*;

/// What a file holds, and the error at its end.
fn all(file: &[u8]) -> (Vec<Found>, Option<String>) {
    let mut error = None;
    let reader = Reader::new(file).expect("a slice can be read");
    let found =
        reader.map_while(|found| found.map_err(|message| error = Some(message.to_string())).ok()).collect();
    (found, error)
}

fn found(text: &str) -> Vec<Found> {
    let (found, error) = all(text.as_bytes());
    assert_eq!(error, None, "{text}");
    found
}

fn points(text: &str) -> Vec<Point> {
    let point = |found| match found {
        Found::Point(_, point) => point,
        other => panic!("{other:?} in {text}"),
    };
    found(text).into_iter().map(point).collect()
}

fn error(text: &str) -> String {
    all(text.as_bytes()).1.unwrap_or_else(|| panic!("{text} is read"))
}

const TIME: &str = "<time>2026-03-14T09:26:53Z</time>";

/// A file of one track point that holds this.
fn track(inside: &str) -> String {
    format!(
        r#"<gpx version="1.1"><trk><trkseg><trkpt lat="48.2" lon="16.3">{TIME}{inside}</trkpt></trkseg></trk></gpx>"#
    )
}

fn only(text: &str) -> Point {
    let mut points = points(text);
    assert_eq!(points.len(), 1, "{text}");
    points.remove(0)
}

#[test]
fn what_files_hold_beside_their_points_is_passed_over() {
    let plain = only(&track(""));
    for inside in [
        "<url>http://example.com/</url><urlname>there</urlname><magvar>2.5</magvar><sym/><type></type><name></name>",
        "<magvar>-3</magvar><fix>dgps</fix><sat>many</sat><ageofdgpsdata/><dgpsid>0</dgpsid>",
        r#"<link href="http://example.com/"><text>text</text><type>type</type></link>"#,
        "<extensions/>",
        "<extensions><heading>273</heading><color>#AA0000</color></extensions>",
        "<extensions><gpxtpx:TrackPointExtension><gpxtpx:hr>120</gpxtpx:hr></gpxtpx:TrackPointExtension></extensions>",
        "<name>A & B &amp; &nbsp; &unknown; <![CDATA[<trkpt>]]></name><!-- <trkpt/> --><?php trkpt ?>",
        "<extensions><wpt lat='1' lon='2'/><time>1999</time><ele>9</ele></extensions>",
    ] {
        assert_eq!(only(&track(inside)), plain, "{inside}");
    }
    let point = track("").split_once("<trk>").map(|(_, rest)| format!("<trk>{rest}")).expect("a track");
    for before in [
        "<metadata><time>0000-00-00T00:00:00Z</time></metadata>",
        r#"<metadata><bounds minlat="1" minlon="170" maxlat="2" maxlon="-170"/></metadata>"#,
        "<time>1970-01-01T00:00:00Z</time><bounds/><url></url>",
        "<extensions><trkpt lat='1' lon='2'/></extensions>",
        "<trk><type/><extensions/><trkseg/><trkseg><extensions><any><time/></any></extensions></trkseg></trk>",
    ] {
        assert_eq!(only(&format!("<gpx>{before}{point}")), plain, "{before}");
    }
    for before in [
        "<?xml version='1.0'?>\n<!DOCTYPE gpx [<!ENTITY a 'b'>]>\n<!-- -->",
        "\u{FEFF}<?xml version='1.0' encoding='UTF-8' standalone='no'?>",
        "\n\n  <?xml version='1.1' encoding='no-such'?>",
    ] {
        assert_eq!(only(&format!("{before}{}\n<!-- the end -->\n", track(""))), plain, "{before}");
    }
}

#[test]
fn a_prefix_and_a_version_do_not_count() {
    let plain = only(&track(""));
    for root in [r#"<gpx version="1.0">"#, r#"<gpx version="9">"#, "<gpx>", r#"<gpx xmlns="urn:other">"#] {
        assert_eq!(only(&track("").replace(r#"<gpx version="1.1">"#, root)), plain, "{root}");
    }
    let prefixed = ["gpx", "trk", "trkseg", "trkpt", "time"].iter().fold(track(""), |text, name| {
        text.replace(&format!("<{name} "), &format!("<ns0:{name} "))
            .replace(&format!("<{name}>"), &format!("<ns0:{name}>"))
            .replace(&format!("</{name}>"), &format!("</ns0:{name}>"))
    });
    assert_eq!(only(&prefixed), plain, "{prefixed}");
}

#[test]
fn numbers_and_times_are_read_with_white_space_around_them() {
    let text = "<gpx><wpt lat=\" 48.2\n\" lon='\t16.3 '><ele>\n 171.25 </ele><time>\n 2026-03-14T09:26:53Z\t</time></wpt></gpx>";
    assert_eq!(only(text), only(&track("<ele>171.25</ele>")));
}

#[test]
fn a_value_may_be_written_with_references_and_in_pieces() {
    let text = "<gpx><wpt lat='&#52;8.2' lon=\"16&#x2E;3\"><ele>1<!-- a -->7<![CDATA[1]]>&#46;25</ele><time>2026-03-14T09:26:53Z</time></wpt></gpx>";
    assert_eq!(only(text), only(&track("<ele>171.25</ele>")));
}

#[test]
fn speed_course_and_accuracy_are_read_from_gpx_1_0_and_from_common_extensions() {
    let apple = "<ele>1</ele><extensions><speed>1.5</speed><course>143</course><hAcc>4</hAcc><vAcc>3</vAcc></extensions>";
    let garmin = "<extensions><gpxtpx:TrackPointExtension><gpxtpx:speed>1.5</gpxtpx:speed><gpxtpx:course>143</gpxtpx:course></gpxtpx:TrackPointExtension></extensions>";
    let open_tracks = "<extensions><gpxtpx:TrackPointExtension><gpxtpx:speed>1.5</gpxtpx:speed><opentracks:accuracy_horizontal>4</opentracks:accuracy_horizontal></gpxtpx:TrackPointExtension></extensions>";
    for (inside, speed, bearing, accuracy) in [
        ("<course>143</course><speed>1.5</speed><src>gps</src>", Some(1.5), Some(143.0), None),
        ("<extensions><speed>1.5</speed></extensions>", Some(1.5), None, None),
        (
            "<extensions><osmand:speed>1.5</osmand:speed><osmand:heading>9</osmand:heading></extensions>",
            Some(1.5),
            None,
            None,
        ),
        (
            "<extensions><accuracy>4</accuracy><bearing>143</bearing></extensions>",
            None,
            Some(143.0),
            Some(4.0),
        ),
        (garmin, Some(1.5), Some(143.0), None),
        (&garmin.replace("gpxtpx:", "ns3:"), Some(1.5), Some(143.0), None),
        (apple, Some(1.5), Some(143.0), Some(4.0)),
        ("<extensions><speed>-1</speed><course>-1</course><hAcc>-1</hAcc></extensions>", None, None, None),
        (open_tracks, Some(1.5), None, Some(4.0)),
        ("<speed>2</speed><extensions><speed>1.5</speed></extensions>", Some(2.0), None, None),
        ("<extensions><speed><value>7</value></speed></extensions>", None, None, None),
        ("<hdop>3</hdop>", None, None, None),
    ] {
        let point = only(&track(inside));
        assert_eq!((point.speed, point.bearing, point.accuracy), (speed, bearing, accuracy), "{inside}");
    }
}

#[test]
fn the_dilution_that_osmand_writes_is_its_accuracy() {
    let hdop = track("<hdop>3.5</hdop>");
    let by = |creator: &str| only(&hdop.replace("<gpx ", &format!("<gpx creator='{creator}' "))).accuracy;
    assert_eq!((by("OsmAnd 4.7.10"), by("OsmAnd~"), by("GPSLogger")), (Some(3.5), Some(3.5), None));
}

#[test]
fn an_altitude_that_apple_marks_as_none_is_left_out() {
    let inside = "<ele>0</ele><extensions><hAcc>4</hAcc><vAcc>-1</vAcc></extensions>";
    assert_eq!(only(&track(inside)), only(&track("<extensions><hAcc>4</hAcc></extensions>")));
}

#[test]
fn points_are_recognised_by_their_kind_wherever_they_stand() {
    let point = |name: &str| format!("<{name} lat='1' lon='180'>{TIME}</{name}>");
    let text = format!(
        "<gpx>{}<rte>{}</rte><trk><trkseg>{}</trkseg>{}</trk></gpx>",
        point("wpt"),
        point("rtept"),
        point("trkpt"),
        point("trkpt")
    );
    let kinds: Vec<Kind> = found(&text)
        .into_iter()
        .map(|found| match found {
            Found::Point(kind, _) => kind,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, [Kind::Waypoint, Kind::Route, Kind::Track, Kind::Track]);
}

#[test]
fn a_bad_point_is_named_with_its_line_and_the_others_are_read() {
    let good = format!("<wpt lat='1' lon='2'>{TIME}</wpt>");
    let text = format!(
        "<gpx>\n{good}\n<wpt\n lat='91' lon='2'>{TIME}</wpt>\n<wpt lat='1'>{TIME}</wpt>\n<wpt lat='1' lon='2'><time>now</time></wpt>
<wpt lat='1' lon='2'><time>1970-01-01T00:00:00Z</time></wpt>\n<wpt lat='1' lon='2'>{TIME}{good}</wpt>
<wpt lat=1 lon=2>{TIME}</wpt>\n<wpt lat='1' lon='2'/>\n{good}</gpx>"
    );
    let bad = |line, flaw| Found::Bad(BadPoint { line, flaw });
    let good = found(&format!("<gpx>{good}</gpx>")).remove(0);
    assert_eq!(
        found(&text),
        [
            good.clone(),
            bad(3, Flaw::Latitude),
            bad(5, Flaw::Longitude),
            bad(6, Flaw::Time),
            bad(7, Flaw::Early),
            bad(8, Flaw::Nested),
            bad(9, Flaw::Latitude),
            Found::WithoutTime,
            good,
        ]
    );
    let message = BadPoint { line: 3, flaw: Flaw::Latitude }.to_string();
    assert_eq!(message, "line 3: its latitude is no number from -90 to 90");
}

#[test]
fn a_truncated_file_gives_its_whole_points_and_says_where_it_ends() {
    let points = format!("<gpx>\n<wpt lat='1' lon='2'>{TIME}</wpt>\n<wpt lat='3' lon='4'>{TIME}</wpt>\n");
    for rest in [
        "",
        "<wpt",
        "<wpt lat='5' lon='6'>",
        "<wpt lat='5' lon='6'><time>2026-",
        "</gp",
        "<!-- ",
        "<!",
        "<![CDATA[ ",
        "&",
        "<",
    ] {
        let found = found(&format!("{points}{rest}"));
        assert_eq!((found.len(), found.last()), (3, Some(&Found::CutOff(4))), "{rest}");
    }
}

#[test]
fn what_follows_after_the_end_is_an_error_unless_it_says_nothing() {
    let whole = track("");
    for rest in ["", "\n", "\r\n<!-- over -->\n", "<?pi?>"] {
        assert_eq!(only(&format!("{whole}{rest}")), only(&whole));
    }
    for rest in [
        "x",
        "\0\0",
        "<wpt/>",
        "<wpt",
        "</gpx>",
        "<![CDATA[]]x",
        "&amp;",
        "\n<?xml version='1.0'?>\n",
        &whole,
    ] {
        let message = error(&format!("{whole}\n{rest}"));
        assert!(message.contains("</gpx>") || message.contains("another file"), "{rest:?}: {message}");
    }
}

#[test]
fn what_is_not_gpx_is_an_error_with_its_line() {
    for (text, message) in [
        ("", "line 1: there is no <gpx>"),
        ("<?xml version='1.0'", "line 1: there is no <gpx>"),
        ("\n\n<!-- -->", "line 3: there is no <gpx>"),
        ("not xml", "line 1: this is no XML"),
        ("PK\u{3}\u{4}", "line 1: this is no XML"),
        ("\n<kml xmlns='x'/>", "line 2: this is <kml>, not <gpx>"),
        ("<html>", "line 1: this is <html>, not <gpx>"),
        ("</gpx>", "line 1: ill-formed document: close tag `</gpx>` does not match any open tag"),
    ] {
        assert_eq!(error(text), message, "{text}");
    }
    assert!(error("<gpx>\n<trk>\n</gpx>").starts_with("line 3: ill-formed document"));
    assert!(error("<gpx>\n<!x></gpx>").starts_with("line 2: "));
    let bell = error("<\u{7}gpx>");
    assert!(bell.chars().all(|char| !char.is_control()), "{bell:?}");
    assert!(error(&format!("<{}>", "x".repeat(900))).chars().count() < 250);
}

#[test]
fn nesting_and_names_have_bounds() {
    let nested = |depth: usize| format!("<gpx>{}{}</gpx>", "<a>".repeat(depth - 1), "</a>".repeat(depth - 1));
    assert_eq!(found(&nested(DEPTH_MAX)), []);
    for text in [nested(DEPTH_MAX + 1), format!("<gpx><{}/></gpx>", "x".repeat(NAME_BYTES_MAX + 1))] {
        assert_eq!(error(&text), "line 1: elements are nested too deeply, or one has too long a name");
    }
}

#[test]
fn a_long_text_in_place_of_a_value_is_no_value_and_is_not_kept() {
    let long = "1".repeat(100_000);
    let pieces = "<![CDATA[ ]]>".repeat(10_000);
    let padded = format!("{}5", " ".repeat(TEXT_BYTES_MAX));
    for inside in [&long, &pieces, &padded] {
        assert_eq!(only(&track(&format!("<ele>{inside}</ele>"))), only(&track("")));
    }
    let mut draft = Draft::new(Kind::Track, &BytesStart::new("trkpt"), 1, 1);
    draft.start("ele", 2);
    (0..10_000).for_each(|_| draft.text("é 1", 2));
    assert!(draft.text.len() <= TEXT_BYTES_MAX + 1);
}

#[test]
fn a_file_is_read_in_the_encoding_that_it_declares() {
    let text = format!(
        "<?xml version='1.0' encoding='windows-1252'?><gpx><trk><name>Größe – €</name></trk>{}",
        &track("")[5..]
    )
    .replace("<gpx><trk><name>", "<gpx creator='Größe'><trk><name>")
    .replace("version=\"1.1\">", "");
    let plain = only(&track(""));
    assert_eq!(only(&text), plain);
    let (bytes, _, is_lossy) = WINDOWS_1252.encode(&text);
    assert!(!is_lossy && std::str::from_utf8(&bytes).is_err());
    for bytes in [
        bytes.to_vec(),
        text.replace("windows-1252", "UTF-16").encode_utf16().flat_map(u16::to_be_bytes).collect(),
    ] {
        let (found, error) = all(&bytes);
        assert_eq!((found, error), (vec![Found::Point(Kind::Track, plain.clone())], None));
    }
}

/// A file with everything in it, some of it odd.
fn full() -> String {
    let mut text =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- é -->\n<gpx version=\"1.0\" creator=\"OsmAnd\">\n"
            .to_owned();
    for (index, name) in ["wpt", "rtept", "trkpt", "trkpt"].iter().enumerate() {
        write!(
            text,
            "<{name} lat=\" 48.{index}\" lon='180'><ele> 17{index} </ele><time>\n2026-03-14T09:26:5{index}Z </time><name>é &amp; &#8364; &</name>
<magvar>1</magvar><geoidheight>45</geoidheight><sym/><extensions><a:speed>1.{index}</a:speed><course>1</course></extensions></{name}>
<{name} lat='1' lon='2'/><{name}/><!-- <{name}> --><![CDATA[ <{name}> ]]>"
        )
        .expect("a String takes it");
    }
    text + "</gpx>\n"
}

/// The points, in order.
fn sent(found: &[Found]) -> Vec<&Found> {
    found.iter().filter(|found| matches!(found, Found::Point(..))).collect()
}

#[test]
fn every_truncation_of_a_file_gives_a_prefix_of_its_points() {
    let text = full();
    let (whole, error) = all(text.as_bytes());
    assert_eq!((sent(&whole).len(), error), (4, None));
    let root = text.find("OsmAnd").expect("the root") + "OsmAnd\">".len();
    let last = text.trim_end().len();
    for end in 0..text.len() {
        let (found, error) = all(&text.as_bytes()[..end]);
        assert!(sent(&whole).starts_with(&sent(&found)), "{end}");
        let is_logged = matches!(found.last(), Some(Found::CutOff(_)));
        assert_eq!((is_logged, error.is_some()), ((root..last).contains(&end), end < root), "{end}");
    }
}

proptest! {
    #[test]
    fn coordinates_are_the_bits_the_text_parses_to_and_survive_the_body(
        latitude in r"-?[0-8]?[0-9]\.[0-9]{1,20}",
        longitude in r"-?1?[0-7]?[0-9]\.[0-9]{1,20}",
    ) {
        let point = only(&format!("<gpx><wpt lat='{latitude}' lon='{longitude}'>{TIME}</wpt></gpx>"));
        let latitude: f64 = latitude.parse().expect("the strategy makes numbers");
        let longitude: f64 = longitude.parse().expect("the strategy makes numbers");
        prop_assert_eq!(point.latitude.to_bits(), latitude.to_bits());
        prop_assert_eq!(point.longitude.to_bits(), longitude.to_bits());

        let json = serde_json::to_string(&point).expect("a point is JSON");
        let back: serde_json::Value = serde_json::from_str(&json).expect("the body is JSON");
        prop_assert_eq!(back["latitude"].as_f64().map(f64::to_bits), Some(latitude.to_bits()));
        prop_assert_eq!(back["longitude"].as_f64().map(f64::to_bits), Some(longitude.to_bits()));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        all(&bytes);
        all(&[b"<gpx><wpt lat='1' lon='2'>", &bytes[..]].concat());
    }

    #[test]
    fn no_jumble_of_what_files_are_made_of_makes_the_reader_panic_or_send_what_milepost_refuses(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "<gpx>", "</gpx>", "<trk>", "</trk>", "<trkpt lat='1' lon='2'>", "<wpt lat='-0' lon='1e2'>", "<wpt/>", "</trkpt>",
            "</wpt>", "<time>", "</time>", "2026-03-14T09:26:53Z", "9999-12-31T23:59:59.999Z", "<ele>", "</ele>", "1e308",
            "<geoidheight>", "</geoidheight>", "-1", "<extensions>", "</extensions>", "<speed>", "</speed>", "<!--", "-->",
            "<![CDATA[", "]]>", "<?xml", "?>", "<!DOCTYPE", "&", "&#", ";", "<", ">", "\"", "'", "\n", " ", "é", "\0",
        ]), 0..60),
    ) {
        for found in all(pieces.concat().as_bytes()).0 {
            if let Found::Point(_, point) = found {
                prop_assert!(point.timestamp >= 100_000_000_000);
                prop_assert!((-90.0..=90.0).contains(&point.latitude) && (-180.0..=180.0).contains(&point.longitude));
                prop_assert!(point.altitude.is_none_or(|metres| (-1e5..=1e8).contains(&metres)));
                prop_assert!(point.speed.is_none_or(|speed| (0.0..=1e5).contains(&speed)));
            }
        }
    }

    #[test]
    fn one_changed_byte_costs_an_error_or_some_points_and_never_invents_any(at in 0..full().len(), byte in any::<u8>()) {
        let mut bytes = full().into_bytes();
        bytes[at] = byte;
        let (found, _) = all(&bytes);
        prop_assert!(sent(&found).len() <= 4);
    }
}

/// So many bytes of a file in which points, a comment and an element repeat.
struct Endless {
    left: u64,
    at: usize,
}

const REPEATED: &[u8] = b"<trkpt lat='48.2' lon='16.3'><ele>171</ele><time>2026-03-14T09:26:53Z</time></trkpt>\n<!-- x --><a><b/></a>";

impl Read for Endless {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for byte in &mut into[..length] {
            *byte = REPEATED[self.at % REPEATED.len()];
            self.at += 1;
        }
        self.left -= length as u64;
        Ok(length)
    }
}

#[test]
fn what_is_remembered_does_not_grow_with_the_file() {
    let file = (&b"<gpx><trk><trkseg>"[..]).chain(Endless { left: 5_000_000, at: 0 });
    let mut reader = Reader::new(file).expect("the file can be read");
    let found = reader.by_ref().inspect(|found| assert!(found.is_ok())).count();
    assert!(found > 40_000, "{found}");
    assert!(reader.buffer.capacity() < 4096, "{}", reader.buffer.capacity());
}
