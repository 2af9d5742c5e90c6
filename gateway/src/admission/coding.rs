//! Content codings: how a body may be compressed, and how it is decompressed once it is there as a whole.

use std::io::Read as _;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use zstd::bulk::Decompressor;

use crate::admission::problem::unsupported_encoding;
use crate::http::problem::Problem;

/// Most codings of one body, applied one after the other.
const CODINGS_MAX: usize = 4;
/// The first size of the output buffer, bytes; it doubles.
const ROOM: usize = 8 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// RFC 1952; `x-gzip` is the same.
    Gzip,
    /// RFC 1950 by RFC 9110. Many send bare RFC 1951, which looks different from its first byte on.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

/// The codings of a body, in the order in which they were applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Codings(Vec<Coding>);

/// Why a body cannot be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecoded {
    /// What was sent is not in this coding from its first byte to its last.
    Broken,
    /// Its output is larger than allowed.
    TooLarge,
}

impl Codings {
    /// All headers are one list (RFC 9110 section 5.3), whose elements are not case-sensitive and may be empty.
    ///
    /// # Errors
    /// [`unsupported_encoding`]: one of them is not known, or there are too many.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut codings = Vec::new();
        for value in headers.get_all(CONTENT_ENCODING) {
            let list = value.to_str().map_err(|_| unsupported_encoding())?;
            for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                codings.extend(coding(name)?);
            }
        }
        if codings.len() > CODINGS_MAX { Err(unsupported_encoding()) } else { Ok(Self(codings)) }
    }

    /// The body is not compressed.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the codings off. No intermediate output may be larger than `bytes_max` either.
    ///
    /// # Errors
    /// [`Undecoded`].
    pub fn take_off(&self, sent: &[u8], bytes_max: usize) -> Result<Vec<u8>, Undecoded> {
        let mut codings = self.0.iter().rev();
        let Some(last) = codings.next() else { return Ok(sent.to_owned()) };
        let decoded = last.take_off(sent, bytes_max)?;
        codings.try_fold(decoded, |decoded, coding| coding.take_off(&decoded, bytes_max))
    }
}

/// `identity` is none.
fn coding(name: &str) -> Result<Option<Coding>, Problem> {
    let named = |other: &str| name.eq_ignore_ascii_case(other);
    if named("gzip") || named("x-gzip") {
        Ok(Some(Coding::Gzip))
    } else if named("deflate") {
        Ok(Some(Coding::Deflate))
    } else if named("br") {
        Ok(Some(Coding::Brotli))
    } else if named("zstd") {
        Ok(Some(Coding::Zstd))
    } else if named("identity") {
        Ok(None)
    } else {
        Err(unsupported_encoding())
    }
}

impl Coding {
    fn take_off(self, sent: &[u8], bytes_max: usize) -> Result<Vec<u8>, Undecoded> {
        match self {
            Self::Gzip => gunzip(sent, bytes_max),
            Self::Deflate => inflate(sent, bytes_max),
            Self::Brotli => unbrotli(sent, bytes_max),
            Self::Zstd => unzstd(sent, bytes_max),
        }
    }
}

/// Every member, and nothing behind the last one.
fn gunzip(sent: &[u8], bytes_max: usize) -> Result<Vec<u8>, Undecoded> {
    let mut output = Output::new(bytes_max);
    let mut decoder = MultiGzDecoder::new(sent);
    loop {
        match decoder.read(output.room()?) {
            Ok(0) => return output.whole(),
            Ok(more) => output.length += more,
            Err(_) => return Err(Undecoded::Broken),
        }
    }
}

fn inflate(sent: &[u8], bytes_max: usize) -> Result<Vec<u8>, Undecoded> {
    let mut output = Output::new(bytes_max);
    let mut decoder = Decompress::new(is_zlib(sent));
    let mut consumed = 0;
    loop {
        let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(&sent[consumed..], output.room()?, FlushDecompress::None);
        let (taken, made) = (decoder.total_in() - before_in, decoder.total_out() - before_out);
        consumed += usize::try_from(taken).unwrap_or(usize::MAX);
        output.length += usize::try_from(made).unwrap_or(usize::MAX);
        match status {
            Ok(Status::StreamEnd) if consumed == sent.len() => return output.whole(),
            Ok(Status::Ok | Status::BufError) if taken > 0 || made > 0 => {}
            _ => return Err(Undecoded::Broken),
        }
    }
}

/// The first two bytes of zlib: deflate, a valid window, and a checksum of both. A bare deflate stream cannot begin like
/// that, unless the padding of an uncompressed block has bits set, which no encoder does.
fn is_zlib(sent: &[u8]) -> bool {
    let &[method, flags, ..] = sent else { return false };
    method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([method, flags]) % 31 == 0
}

fn unbrotli(sent: &[u8], bytes_max: usize) -> Result<Vec<u8>, Undecoded> {
    let mut output = Output::new(bytes_max);
    let (mut left, mut consumed, mut total) = (sent.len(), 0, 0);
    let allocate = StandardAlloc::default;
    let mut state = BrotliState::new_strict(allocate(), allocate(), allocate());
    loop {
        let room = output.room()?;
        let (mut free, mut made) = (room.len(), 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut consumed,
            sent,
            &mut free,
            &mut made,
            room,
            &mut total,
            &mut state,
        );
        output.length += made;
        match result {
            BrotliResult::ResultSuccess if left == 0 => return output.whole(),
            BrotliResult::NeedsMoreOutput => {}
            _ => return Err(Undecoded::Broken),
        }
    }
}

/// Every frame, and nothing behind the last one. Not as a stream: that takes as much memory as the sender's window.
fn unzstd(sent: &[u8], bytes_max: usize) -> Result<Vec<u8>, Undecoded> {
    // The buffer has the size that the frames declare, if that is less: if it is too small, they declare less than they hold.
    let may_be_large = Decompressor::upper_bound(sent).is_none_or(|declared| declared > bytes_max);
    let decoded = Decompressor::new().and_then(|mut zstd| zstd.decompress(sent, bytes_max));
    match decoded {
        Ok(_) if sent.is_empty() => Err(Undecoded::Broken),
        Ok(decoded) => Ok(decoded),
        // The crate has no other way to distinguish this error from others.
        Err(error) if may_be_large && error.to_string().starts_with("Destination buffer is too small") => {
            Err(Undecoded::TooLarge)
        }
        Err(_) => Err(Undecoded::Broken),
    }
}

/// What has come out of a decoder, and room for more.
struct Output {
    bytes: Vec<u8>,
    length: usize,
    bytes_max: usize,
}

impl Output {
    fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), length: 0, bytes_max }
    }

    /// Room for at least one byte, even one too many, since a decoder may need it to notice its end.
    fn room(&mut self) -> Result<&mut [u8], Undecoded> {
        if self.length > self.bytes_max {
            return Err(Undecoded::TooLarge);
        }
        if self.length == self.bytes.len() {
            let room = self.bytes.len().max(ROOM).min(self.bytes_max + 1 - self.length);
            self.bytes.reserve_exact(room);
            self.bytes.resize(self.length + room, 0);
        }
        Ok(&mut self.bytes[self.length..])
    }

    fn whole(mut self) -> Result<Vec<u8>, Undecoded> {
        self.bytes.truncate(self.length);
        if self.length > self.bytes_max { Err(Undecoded::TooLarge) } else { Ok(self.bytes) }
    }
}

#[cfg(test)]
#[path = "coding_tests.rs"]
mod tests;
