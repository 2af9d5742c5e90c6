//! The text of a file as UTF-8, read once from front to back: decoded, its lines counted, and in bounded pieces.

use std::io::{self, BufRead, Chain, Cursor, Read};

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use encoding_rs_io::{DecodeReaderBytes, DecodeReaderBytesBuilder};

/// The longest piece that is read, such as one tag, one text or one comment, in bytes of UTF-8. A picture in a
/// comment fits.
pub const PIECE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How far into the file the XML declaration may stand, in bytes.
const DECLARATION_BYTES_MAX: u64 = 1024;

const BUFFER_BYTES: usize = 64 * 1024;

/// A [`BufRead`] for an XML parser. What is not valid in the file's encoding becomes U+FFFD.
pub struct Source<R: Read> {
    decoded: DecodeReaderBytes<Chain<Cursor<Vec<u8>>, R>, Vec<u8>>,
    buffer: Box<[u8]>,
    /// What of the buffer is filled and not consumed.
    rest: std::ops::Range<usize>,
    line: u64,
    piece_left: usize,
}

impl<R: Read> Source<R> {
    /// Finds out the encoding: by the byte order mark, else by the XML declaration, else it is UTF-8.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn new(mut file: R) -> io::Result<Self> {
        let mut start = Vec::new();
        file.by_ref().take(DECLARATION_BYTES_MAX).read_to_end(&mut start)?;
        let encoding = encoding(&start);
        let decoded = DecodeReaderBytesBuilder::new()
            .encoding(Some(encoding))
            .bom_override(true)
            .strip_bom(true)
            .build(Cursor::new(start).chain(file));
        let buffer = vec![0; BUFFER_BYTES].into();
        Ok(Self { decoded, buffer, rest: 0..0, line: 1, piece_left: PIECE_BYTES_MAX })
    }

    /// The line of what comes next, from 1.
    pub const fn line(&self) -> u64 {
        self.line
    }

    /// Begins another piece.
    pub const fn next_piece(&mut self) {
        self.piece_left = PIECE_BYTES_MAX;
    }

    /// Whether all of the file is consumed.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn is_at_end(&mut self) -> io::Result<bool> {
        self.next_piece();
        Ok(self.fill_buf()?.is_empty())
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.rest = 0..self.decoded.read(&mut self.buffer)?;
        }
        let available = &self.buffer[self.rest.clone()];
        if self.piece_left == 0 && !available.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("a tag, a text or a comment is longer than {PIECE_BYTES_MAX} bytes"),
            ));
        }
        Ok(&available[..available.len().min(self.piece_left)])
    }

    fn consume(&mut self, count: usize) {
        let end = self.rest.end.min(self.rest.start + count);
        let consumed = &self.buffer[self.rest.start..end];
        self.line += consumed.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
        self.piece_left = self.piece_left.saturating_sub(count);
        self.rest.start = end;
    }
}

/// The encoding of a file that starts like this, unless a byte order mark says otherwise. A name that is not known
/// counts as UTF-8: all that is read of a file is ASCII in nearly every encoding.
fn encoding(start: &[u8]) -> &'static Encoding {
    if start.starts_with(b"<\0") {
        return UTF_16LE;
    }
    if start.starts_with(b"\0<") {
        return UTF_16BE;
    }
    // A declaration that can be read by bytes is not in UTF-16, whatever it says; some programs do say it.
    let declared =
        declared(start).and_then(Encoding::for_label).filter(|encoding| encoding.is_ascii_compatible());
    declared.unwrap_or(UTF_8)
}

/// The name in `<?xml … encoding="name"?>`.
fn declared(start: &[u8]) -> Option<&[u8]> {
    let start = start.trim_ascii_start().strip_prefix(b"<?xml")?;
    let declaration = &start[..find(start, b"?>")?];
    let after = &declaration[find(declaration, b"encoding")? + b"encoding".len()..];
    let after = after.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let (quote, after) = after.split_first()?;
    after.split(|byte| byte == quote).next()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(file: &[u8]) -> String {
        let mut text = String::new();
        Source::new(file).and_then(|mut source| source.read_to_string(&mut text)).expect("the file is read");
        text
    }

    #[test]
    fn a_file_is_decoded_by_its_mark_or_else_by_its_declaration() {
        let utf_16 =
            |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        for (file, decoded) in [
            (b"<a>\xE9</a>".to_vec(), "<a>\u{FFFD}</a>"),
            (b"\xEF\xBB\xBF<a>\xC3\xA9</a>".to_vec(), "<a>é</a>"),
            (b"\xEF\xBB\xBF<?xml encoding='latin1'?>\xC3\xA9".to_vec(), "<?xml encoding='latin1'?>é"),
            (
                b"<?xml version='1.0' encoding = \"windows-1252\"?>\x80".to_vec(),
                "<?xml version='1.0' encoding = \"windows-1252\"?>€",
            ),
            (b"\n<?xml encoding='ISO-8859-1'?>\xE9".to_vec(), "\n<?xml encoding='ISO-8859-1'?>é"),
            (b"<?xml encoding='UTF-16'?>\xC3\xA9".to_vec(), "<?xml encoding='UTF-16'?>é"),
            (b"<?xml encoding='no-such'?>\xC3\xA9".to_vec(), "<?xml encoding='no-such'?>é"),
            (b"<?xml encoding=".to_vec(), "<?xml encoding="),
            (utf_16("\u{FEFF}<a>é</a>", u16::to_le_bytes), "<a>é</a>"),
            (utf_16("\u{FEFF}<a>é</a>", u16::to_be_bytes), "<a>é</a>"),
            (utf_16("<a>é</a>", u16::to_le_bytes), "<a>é</a>"),
            (utf_16("<a>é</a>", u16::to_be_bytes), "<a>é</a>"),
            (vec![], ""),
        ] {
            assert_eq!(text(&file), decoded);
        }
    }

    #[test]
    fn lines_are_counted_as_they_are_consumed() {
        let mut source = Source::new(&b"one\ntwo\r\nthree"[..]).expect("the file is read");
        let mut lines = vec![source.line()];
        for _ in 0..3 {
            let mut piece = Vec::new();
            source.read_until(b'\n', &mut piece).expect("the file is read");
            lines.push(source.line());
        }
        assert_eq!(lines, [1, 2, 3, 3]);
    }

    #[test]
    fn a_piece_may_be_as_long_as_its_bound_and_not_longer() {
        let read = |length: usize| {
            let mut source = Source::new(io::repeat(b'x').take(length as u64)).expect("the file is read");
            io::copy(&mut source, &mut io::sink())
        };
        assert_eq!(read(PIECE_BYTES_MAX).ok(), Some(PIECE_BYTES_MAX as u64));
        assert_eq!(read(PIECE_BYTES_MAX + 1).map_err(|error| error.kind()), Err(io::ErrorKind::FileTooLarge));
    }
}
