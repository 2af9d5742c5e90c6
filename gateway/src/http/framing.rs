//! Where the body of a request ends, found in its bytes on their way to hyper.
//!
//! hyper decodes the chunks, and refuses more than this does. Both must find the same end, or one request could be smuggled
//! into another. So this is strict: every line ends with CRLF, those of trailers too, where hyper takes a bare LF for a
//! part of the line and reads on into the next request.

/// What is still to come of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks (RFC 9112 section 7.1).
    Chunked(Chunks),
}

/// What comes next in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunks {
    /// A digit of a chunk's size, or what ends it.
    Size {
        /// As far as it is known.
        size: u64,
        /// By so many digits.
        digits: u8,
    },
    /// An extension, or the end of its line.
    Extension(u64),
    /// The LF behind a chunk's size.
    SizeLf(u64),
    /// So many bytes.
    Data(u64),
    /// The CR behind the data.
    DataCr,
    /// The LF behind the data.
    DataLf,
    /// A trailer, or the empty line at the end.
    TrailerOrEnd,
    /// The rest of a trailer.
    Trailer,
    /// The LF behind a trailer.
    TrailerLf,
    /// The last LF.
    EndLf,
    /// Nothing.
    End,
    /// Nothing: these are not chunks.
    Broken,
}

/// More digits do not fit.
const DIGITS_MAX: u8 = 16;

impl Framing {
    /// A chunked body of which nothing is read.
    pub const CHUNKED: Self = Self::Chunked(Chunks::Size { size: 0, digits: 0 });

    /// The body has ended.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks::End))
    }

    /// The body cannot be read on.
    #[must_use]
    pub fn is_broken(self) -> bool {
        self == Self::Chunked(Chunks::Broken)
    }

    /// Passes over the bytes that belong to the body, and returns their number: all, unless the body ends or breaks before.
    pub fn pass(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Length(left) => skip(left, bytes.len()),
            Self::Chunked(chunks) => chunks.pass(bytes),
        }
    }
}

/// As many of `bytes` as there are left.
fn skip(left: &mut u64, bytes: usize) -> usize {
    let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes);
    *left -= skipped as u64;
    skipped
}

impl Chunks {
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() && !matches!(self, Self::End | Self::Broken) {
            if let Self::Data(left) = self {
                passed += skip(left, bytes.len() - passed);
                if *left == 0 {
                    *self = Self::DataCr;
                }
                continue;
            }
            *self = self.after(bytes[passed]);
            if *self != Self::Broken {
                passed += 1;
            }
        }
        passed
    }

    /// What comes after a byte that is not data.
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < DIGITS_MAX => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { size, digits: 1.. }, b'\r') | (Self::Extension(size), b'\r') => Self::SizeLf(size),
            (Self::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => Self::Extension(size),
            (Self::Extension(size), 1..) if byte != b'\n' => Self::Extension(size),
            (Self::SizeLf(0), b'\n') | (Self::TrailerLf, b'\n') => Self::TrailerOrEnd,
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::TrailerOrEnd, b'\r') => Self::EndLf,
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::TrailerOrEnd | Self::Trailer, 1..) if byte != b'\n' => Self::Trailer,
            (Self::EndLf, b'\n') => Self::End,
            _ => Self::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed(framing: Framing, bytes: &[u8]) -> (usize, Framing) {
        let mut framing = framing;
        (framing.pass(bytes), framing)
    }

    #[test]
    fn a_body_ends_where_its_length_or_its_chunks_say() {
        let next = "GET / HTTP/1.1\r\n";
        assert_eq!(passed(Framing::Length(3), b"abcGET"), (3, Framing::Length(0)));
        assert_eq!(passed(Framing::Length(3), b"a"), (1, Framing::Length(2)));
        for body in [
            "0\r\n\r\n",
            "000\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "3;a=b;c\r\n\r\n0\r\n0\r\n\r\n",
            "3 ;a\r\nabc\r\nA\r\n0123456789\r\n0\r\nX: y\r\nZ:\r\n\r\n",
        ] {
            let (ends, framing) = passed(Framing::CHUNKED, format!("{body}{next}").as_bytes());
            assert!(framing.is_over() && ends == body.len(), "{body:?}: {framing:?} after {ends}");
        }
    }

    #[test]
    fn what_ends_no_line_or_is_no_size_breaks_a_body() {
        for (body, at) in [
            ("\r\n", 0),
            (";\r\n", 0),
            ("x\r\n", 0),
            ("0\n\r\n", 1),
            ("0\r\r\n", 2),
            ("0;a\n\r\n", 3),
            ("3\r\nabcd", 6),
            ("3\r\nabc\n", 6),
            ("3\r\nabc\r3", 7),
            ("0\r\n\n", 3),
            ("0\r\nX: y\n\r\n", 7),
            ("0\r\nX: y\r\n\n", 9),
            ("0\r\nX: y\rZ: z\r\n\r\n", 8),
            ("0\r\n\rX", 4),
            ("00000000000000001\r\n", 16),
        ] {
            let (passed, framing) = passed(Framing::CHUNKED, body.as_bytes());
            assert!(framing.is_broken() && passed == at, "{body:?}: {framing:?} after {passed}");
        }
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_makes_no_difference(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'0'), Just(b'1'), Just(b'a'), Just(b'\r'), Just(b'\n'), Just(b';')], 0..40,
            ),
            cut in 0..40usize,
        ) {
            let cut = cut.min(bytes.len());
            let whole = passed(Framing::CHUNKED, &bytes);
            let mut framing = Framing::CHUNKED;
            let mut passed = framing.pass(&bytes[..cut]);
            if passed == cut {
                passed += framing.pass(&bytes[cut..]);
            }
            prop_assert_eq!((passed, framing), whole);
        }
    }
}
