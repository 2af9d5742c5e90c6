//! GPX as it is found in the wild: what is uploaded is read, and the rest is passed over.
//!
//! A [`Reader`] goes through the file once and remembers one point. Namespaces and versions do not count: GPX 1.0 and
//! 1.1 mean the same by the same name, and many files declare neither rightly.

use std::io::{self, Read};
use std::mem;
use std::ops::ControlFlow;

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};

use crate::point::{Field, Flaw, Point, Values};
use crate::source::Source;

/// How deep elements may be nested.
pub const DEPTH_MAX: usize = 100;

/// The longest name of an element, in bytes.
const NAME_BYTES_MAX: usize = 1000;

/// The most text of one field that is kept, in bytes. A longer one is no number and no time.
const TEXT_BYTES_MAX: usize = 1000;

/// The most characters of a parser's words that are shown: they may quote the file.
const SHOWN_CHARS_MAX: usize = 200;

/// Where points come from.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `trkpt`, of a track.
    Track,
    /// `rtept`, of a route.
    Route,
    /// `wpt`, a waypoint.
    Waypoint,
}

/// All kinds, in the order in which they are played.
pub const KINDS: [Kind; 3] = [Kind::Track, Kind::Route, Kind::Waypoint];

/// What a file holds, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A point that can be sent.
    Point(Kind, Point),
    /// A point without a time. It cannot be uploaded, and inventing one would be a lie.
    WithoutTime,
    /// A point that cannot be sent.
    Bad(BadPoint),
    /// One that is too far ahead to be sent; else it is good.
    Ahead(Kind, BadPoint),
    /// The file ends too early, on this line. Comes last.
    CutOff(u64),
}

/// A point that cannot be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {flaw}")]
pub struct BadPoint {
    /// Where it begins, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// Why a file is no GPX.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It cannot be read at all.
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is not XML, or other XML.
    #[error("line {line}: {what}")]
    Malformed {
        /// The line, from 1.
        line: u64,
        /// What is wrong there.
        what: String,
    },
}

/// Where in the file a reader is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Before,
    Inside,
    After,
    /// Nothing more is read, for the end is reached or the rest makes no sense.
    End,
}

/// Reads a file from front to back. Ends after the first error.
pub struct Reader<R: Read> {
    xml: quick_xml::Reader<Source<R>>,
    buffer: Vec<u8>,
    place: Place,
    depth: usize,
    /// At which depth the outermost `extensions` began.
    extensions: Option<usize>,
    dilution_is_accuracy: bool,
    latest: i64,
    draft: Option<Draft>,
}

/// A point that is being read.
struct Draft {
    kind: Kind,
    line: u64,
    depth: usize,
    values: Values,
    field: Option<(usize, Field)>,
    text: String,
    has_nested: bool,
}

impl<R: Read> Reader<R> {
    /// A reader of this file from where it stands.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn new(file: R) -> io::Result<Self> {
        let mut xml = quick_xml::Reader::from_reader(Source::new(file)?);
        // A lone `&` in a name is no reason to lose a track.
        xml.config_mut().allow_dangling_amp = true;
        Ok(Self {
            xml,
            buffer: Vec::new(),
            place: Place::Before,
            depth: 0,
            extensions: None,
            dilution_is_accuracy: false,
            latest: i64::MAX,
            draft: None,
        })
    }

    /// Takes points after this time, in milliseconds since 1970, for too far ahead.
    #[must_use]
    pub fn until(self, latest: i64) -> Self {
        Self { latest, ..self }
    }

    /// Reads on to the next thing that counts.
    fn read(&mut self) -> Result<Option<Found>, Unreadable> {
        let mut buffer = mem::take(&mut self.buffer);
        let found = loop {
            buffer.clear();
            if let ControlFlow::Break(found) = self.step(&mut buffer)? {
                break found;
            }
        };
        self.buffer = buffer;
        Ok(found)
    }

    fn step(&mut self, buffer: &mut Vec<u8>) -> Result<ControlFlow<Option<Found>>, Unreadable> {
        if self.place == Place::End {
            return Ok(ControlFlow::Break(None));
        }
        self.xml.get_mut().next_piece();
        let line = self.xml.get_ref().line();
        match self.xml.read_event_into(buffer) {
            Ok(Event::Start(element)) => self.start(&element, line)?,
            Ok(Event::End(_)) => return Ok(self.end()),
            Ok(Event::Empty(element)) => {
                self.start(&element, line)?;
                return Ok(self.end());
            }
            Ok(Event::Text(text)) => self.text(&text, line)?,
            Ok(Event::CData(text)) => self.text(&text, line)?,
            Ok(Event::GeneralRef(reference)) => {
                // What is no character stands for something that is not read.
                let character =
                    reference.resolve_char_ref().ok().flatten().unwrap_or(char::REPLACEMENT_CHARACTER);
                self.text(character.encode_utf8(&mut [0; 4]), line)?;
            }
            Ok(Event::Decl(_)) if self.place != Place::Before => {
                return Err(malformed(line, "another file begins within this one"));
            }
            Ok(Event::Decl(_) | Event::Comment(_) | Event::PI(_) | Event::DocType(_)) => {}
            Ok(Event::Eof) => return self.at_end(line),
            Err(quick_xml::Error::Io(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(malformed(line, &error.to_string()));
            }
            Err(quick_xml::Error::Io(error)) => return Err(io::Error::new(error.kind(), error).into()),
            Err(quick_xml::Error::Syntax(_))
                if self.place != Place::After && self.xml.get_mut().is_at_end()? =>
            {
                return self.at_end(line);
            }
            Err(_) if self.place == Place::After => return Err(after(line)),
            Err(error) => return Err(malformed(line, &error.to_string())),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn start(&mut self, element: &BytesStart<'_>, line: u64) -> Result<(), Unreadable> {
        let name = element.local_name();
        let name = name.as_ref();
        self.depth += 1;
        if self.depth > DEPTH_MAX || element.name().as_ref().len() > NAME_BYTES_MAX {
            return Err(malformed(line, "elements are nested too deeply, or one has too long a name"));
        }
        match (self.place, name) {
            (Place::Before, "gpx") => {
                self.place = Place::Inside;
                let creator = attribute(element, "creator");
                self.dilution_is_accuracy = creator.is_some_and(|creator| creator.starts_with("OsmAnd"));
            }
            (Place::Before, other) => return Err(malformed(line, &format!("this is <{other}>, not <gpx>"))),
            (Place::After | Place::End, _) => return Err(after(line)),
            (Place::Inside, _) => {}
        }
        if name == "extensions" && self.extensions.is_none() {
            self.extensions = Some(self.depth);
        }
        let kind = Kind::named(name).filter(|_| self.extensions.is_none());
        match (&mut self.draft, kind) {
            (Some(draft), Some(_)) => draft.has_nested = true,
            (Some(draft), None) => draft.start(name, self.depth),
            (None, Some(kind)) => self.draft = Some(Draft::new(kind, element, line, self.depth)),
            (None, None) => {}
        }
        Ok(())
    }

    fn end(&mut self) -> ControlFlow<Option<Found>> {
        let depth = self.depth;
        self.depth = depth.saturating_sub(1);
        if self.extensions == Some(depth) {
            self.extensions = None;
        }
        if self.depth == 0 {
            self.place = Place::After;
        }
        if let Some(draft) = self.draft.take_if(|draft| draft.depth == depth) {
            return ControlFlow::Break(Some(draft.finish(self.dilution_is_accuracy, self.latest)));
        }
        if let Some(draft) = &mut self.draft {
            draft.end(depth);
        }
        ControlFlow::Continue(())
    }

    fn text(&mut self, text: &str, line: u64) -> Result<(), Unreadable> {
        if let Some(draft) = &mut self.draft {
            draft.text(text, self.depth);
        }
        match self.place {
            Place::Inside => Ok(()),
            _ if text.trim_ascii().is_empty() => Ok(()),
            Place::Before => Err(malformed(line, "this is no XML")),
            Place::After | Place::End => Err(after(line)),
        }
    }

    fn at_end(&mut self, line: u64) -> Result<ControlFlow<Option<Found>>, Unreadable> {
        match mem::replace(&mut self.place, Place::End) {
            Place::Before => Err(malformed(line, "there is no <gpx>")),
            Place::Inside => Ok(ControlFlow::Break(Some(Found::CutOff(self.xml.get_ref().line())))),
            Place::After | Place::End => Ok(ControlFlow::Break(None)),
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Found, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.read();
        if found.is_err() {
            self.place = Place::End;
        }
        found.transpose()
    }
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        match name {
            "trkpt" => Some(Self::Track),
            "rtept" => Some(Self::Route),
            "wpt" => Some(Self::Waypoint),
            _ => None,
        }
    }
}

impl Draft {
    fn new(kind: Kind, element: &BytesStart<'_>, line: u64, depth: usize) -> Self {
        let mut values = Values::default();
        for name in ["lat", "lon"] {
            values.put_attribute(name, &attribute(element, name).unwrap_or_default());
        }
        Self { kind, line, depth, values, field: None, text: String::new(), has_nested: false }
    }

    /// An element within the point begins. What is deeper than its children is an extension: GPX itself has only
    /// `link` there, with a text and a type.
    fn start(&mut self, name: &str, depth: usize) {
        if self.field.is_none() {
            self.field = Field::named(name, depth > self.depth + 1).map(|field| (depth, field));
            self.text.clear();
        }
    }

    fn text(&mut self, text: &str, depth: usize) {
        if self.field.is_some_and(|(at, _)| at == depth) {
            let room = (TEXT_BYTES_MAX + 1).saturating_sub(self.text.len());
            self.text.push_str(&text[..text.floor_char_boundary(room)]);
        }
    }

    fn end(&mut self, depth: usize) {
        if let Some((_, field)) = self.field.take_if(|(at, _)| *at == depth) {
            // What was cut must not look like a value.
            let is_whole = self.text.len() <= TEXT_BYTES_MAX;
            self.values.put(field, if is_whole { &self.text } else { "\u{FFFD}" });
        }
    }

    fn finish(self, dilution_is_accuracy: bool, latest: i64) -> Found {
        let line = self.line;
        let bad = |flaw| Found::Bad(BadPoint { line, flaw });
        if self.has_nested {
            return bad(Flaw::Nested);
        }
        match self.values.point(dilution_is_accuracy) {
            Ok(Some(point)) if point.timestamp > latest => {
                Found::Ahead(self.kind, BadPoint { line, flaw: Flaw::Ahead })
            }
            Ok(Some(point)) => Found::Point(self.kind, point),
            Ok(None) => Found::WithoutTime,
            Err(flaw) => bad(flaw),
        }
    }
}

/// An attribute without a prefix, unescaped. One that cannot be read counts as absent.
fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = element.try_get_attribute(name).ok()??;
    Some(attribute.normalized_value(XmlVersion::Implicit1_0).ok()?.into_owned())
}

fn malformed(line: u64, what: &str) -> Unreadable {
    let shown = what.chars().take(SHOWN_CHARS_MAX).map(|char| if char.is_control() { ' ' } else { char });
    Unreadable::Malformed { line, what: shown.collect() }
}

fn after(line: u64) -> Unreadable {
    malformed(line, "something follows after </gpx>; are these two files in one?")
}

#[cfg(test)]
#[path = "gpx_tests.rs"]
mod tests;
