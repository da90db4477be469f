//! Direct-TCP framing ([MS-SMB2] 2.1): a zero byte, a 24-bit big-endian
//! length, and that many bytes of message.
//!
//! [`FrameReader`] is the receiving side, without a socket: whoever reads one
//! reads straight into [`FrameReader::spare`], says how much came with
//! [`FrameReader::filled`], and takes the complete messages from
//! [`FrameReader::next_message`].
//!
//! A [`Message`] owns its bytes, so that a request may outlast the reading of
//! the next one. It takes the buffer along when what is left behind is
//! shorter than itself, else it is copied out: never more than half of what
//! has been received is copied, and nothing of a large WRITE. Buffers come back
//! when their message is dropped; two of them serve a client whose requests are
//! answered at once.
//!
//! The buffer grows with the bytes that arrive, at most to double of them, so
//! announcing a large message costs the announcer as much as it costs us. It
//! is kept for the messages to come; [`FrameReader::release`] gives it back
//! when a connection falls silent. The downside is one move of the unfinished
//! tail whenever a message straddles the end of the buffer: at most one move
//! per message.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;

use crate::wire::Put;
use crate::wire::header::{HEADER_LEN, PROTOCOL_SMB1};

/// Length of the framing header.
pub const FRAME_HEADER_LEN: usize = 4;

/// The longest message that is accepted: the largest WRITE (8 MiB) and room
/// for its headers and for small requests compounded with it.
pub const MAX_MESSAGE_LEN: usize = 8 * 1024 * 1024 + 64 * 1024;

/// The longest message of a client of whom nothing is known yet.
pub const MAX_STRANGER_LEN: usize = 64 * 1024;

/// The longest message the 24-bit length can express, the bound for replies.
pub const MAX_REPLY_LEN: usize = 0xFF_FFFF;

/// The shortest SMB1 NEGOTIATE: header, WordCount, ByteCount.
const MIN_SMB1_LEN: usize = 35;

/// What the buffer begins with; a typical request is a few hundred bytes.
const FIRST_LEN: usize = 4 * 1024;

/// What the buffer has once more than that has come at a time.
const INITIAL_LEN: usize = 16 * 1024;

/// Less spare room than this makes for wastefully short reads.
const MIN_SPARE: usize = 4 * 1024;

/// What is wrong with a frame. The stream cannot be resynchronised after any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// A NetBIOS session request (0x81): a client of port 139.
    NetbiosSessionRequest,
    /// The first byte is no packet type known here.
    UnknownType(u8),
    /// The announced length is beyond [`MAX_MESSAGE_LEN`], or [`MAX_STRANGER_LEN`].
    TooLong(usize),
    /// The announced length has no room for an SMB2 header.
    TooShort(usize),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::NetbiosSessionRequest => {
                f.write_str("NetBIOS session request on a direct-TCP port")
            }
            FrameError::UnknownType(byte) => {
                write!(f, "frame begins with {byte:#04x}: not SMB over direct TCP")
            }
            FrameError::TooLong(length) => {
                write!(f, "frame announces {length} bytes, more than is allowed")
            }
            FrameError::TooShort(length) => {
                write!(f, "frame of {length} bytes has no room for an SMB header")
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// Cuts a byte stream into messages.
///
/// Invariant: `start <= end <= buffer.len()`; `start..end` has been received
/// and not been handed out.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// Initialised throughout; everything behind `end` is spare.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    pool: Pool,
    /// A read has filled the first buffer.
    is_busy: bool,
    /// Messages may have no more than [`MAX_STRANGER_LEN`] bytes.
    is_stranger: bool,
}

/// Buffers that wait for their next use.
#[derive(Debug, Clone, Default)]
struct Pool(Rc<RefCell<Vec<Vec<u8>>>>);

/// How many buffers a [`Pool`] keeps.
const POOLED: usize = 2;
/// A message that waits must not keep a buffer much larger than itself.
const MAX_WASTE: usize = 4;

impl Pool {
    /// The buffer used last of those that `fits` accepts by their length.
    fn take(&self, fits: impl Fn(usize) -> bool) -> Option<Vec<u8>> {
        let mut pool = self.0.borrow_mut();
        let at = pool.iter().rposition(|buffer| fits(buffer.len()))?;
        Some(pool.remove(at))
    }

    /// Replaces an empty buffer by one that is in the CPU's cache and no shorter, if there is one.
    fn exchange(&self, buffer: &mut Vec<u8>) {
        if let Some(pooled) = self.take(|length| length >= buffer.len()) {
            self.put(std::mem::replace(buffer, pooled));
        }
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut pool = self.0.borrow_mut();
        if pool.len() < POOLED && buffer.capacity() > 0 {
            pool.push(buffer);
        }
    }
}

/// A complete message, without its framing header.
#[derive(Debug)]
pub struct Message {
    buffer: Vec<u8>,
    range: Range<usize>,
    pool: Pool,
}

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

impl DerefMut for Message {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.range.clone()]
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Message {
            range: 0..bytes.len(),
            buffer: bytes,
            pool: Pool::default(),
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.buffer));
    }
}

/// What stands at the beginning of the unread bytes.
enum Next {
    /// Not enough bytes to say.
    Unknown,
    /// A keepalive, complete.
    Keepalive,
    /// A message of this length, header excluded, perhaps incomplete.
    Message(usize),
}

impl FrameReader {
    /// A reader without a buffer; the first [`spare`](Self::spare) allocates it.
    pub fn new() -> Self {
        Self::default()
    }

    /// A reader for a client of whom nothing is known yet: messages are short.
    pub fn for_stranger() -> Self {
        FrameReader {
            is_stranger: true,
            ..Self::default()
        }
    }

    /// The client is known now.
    pub fn accept_long(&mut self) {
        self.is_stranger = false;
    }

    /// Room for the next bytes of the stream, never empty.
    ///
    /// Take the messages out before asking for more room, else the buffer
    /// grows beyond what one message needs.
    pub fn spare(&mut self) -> &mut [u8] {
        if !self.is_mid_message() {
            self.pool.exchange(&mut self.buffer);
        }
        let has_outgrown = self.is_busy && self.buffer.len() < INITIAL_LEN;
        if has_outgrown || self.buffer.len() - self.end < self.wanted() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            if has_outgrown || self.buffer.len() - self.end < self.wanted() {
                let doubled = (self.buffer.len() * 2).max(self.least());
                let useful = self.end + self.wanted();
                self.buffer.resize(doubled.min(self.limit()).max(useful), 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// Notes that the first `n` bytes of [`spare`](Self::spare) have been filled.
    ///
    /// # Panics
    ///
    /// If `n` is more than the spare room.
    pub fn filled(&mut self, n: usize) {
        assert!(
            n <= self.buffer.len() - self.end,
            "filled beyond the spare room"
        );
        self.end += n;
        self.is_busy |= self.end >= FIRST_LEN;
    }

    /// The least that is allocated.
    fn least(&self) -> usize {
        if self.is_busy { INITIAL_LEN } else { FIRST_LEN }
    }

    /// Takes the next complete message, or `None` when more bytes are needed.
    /// Keepalives are passed over.
    ///
    /// # Errors
    ///
    /// See [`FrameError`]; the connection is to be dropped.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        let length = loop {
            match self.peek()? {
                Next::Unknown => {
                    if self.start == self.end {
                        self.start = 0;
                        self.end = 0;
                    }
                    return Ok(None);
                }
                Next::Keepalive => self.start += FRAME_HEADER_LEN,
                Next::Message(length) => break length,
            }
        };
        let from = self.start + FRAME_HEADER_LEN;
        let to = from + length;
        if to > self.end {
            return Ok(None);
        }
        let tail = to..self.end;
        let is_worth_it = self.buffer.len() <= MAX_WASTE * length.max(INITIAL_LEN);
        if tail.len() < length && is_worth_it {
            let mut other = self.pool.take(|len| len >= tail.len()).unwrap_or_default();
            if other.len() < tail.len() {
                other.resize(tail.len().max(self.least()), 0);
            }
            other[..tail.len()].copy_from_slice(&self.buffer[tail.clone()]);
            self.start = 0;
            self.end = tail.len();
            std::mem::swap(&mut self.buffer, &mut other);
            return Ok(Some(Message {
                buffer: other,
                range: from..to,
                pool: self.pool.clone(),
            }));
        }
        let useful = length..=MAX_WASTE * length.max(INITIAL_LEN);
        let pooled = self.pool.take(|len| useful.contains(&len));
        let mut other = pooled.unwrap_or_else(|| vec![0; length.max(self.least())]);
        other[..length].copy_from_slice(&self.buffer[from..to]);
        self.start = to;
        Ok(Some(Message {
            buffer: other,
            range: 0..length,
            pool: self.pool.clone(),
        }))
    }

    /// Whether a message has begun but not ended: such a peer is not idle but stuck.
    pub fn is_mid_message(&self) -> bool {
        self.start < self.end
    }

    /// Whether it keeps more memory than small messages need.
    pub fn is_large(&self) -> bool {
        let pool = self.pool.0.borrow();
        let mut buffers = pool.iter().chain([&self.buffer]);
        buffers.any(|buffer| buffer.len() > MAX_WASTE * INITIAL_LEN)
    }

    /// Gives back the buffers if nothing is in them.
    pub fn release(&mut self) {
        if !self.is_mid_message() {
            let is_stranger = self.is_stranger;
            *self = Self::default();
            self.is_stranger = is_stranger;
        }
    }

    /// Bytes of spare room below which the buffer has to be tidied or grown.
    fn wanted(&self) -> usize {
        match self.peek() {
            // Near the end of a large message no more room than its rest is needed.
            Ok(Next::Message(length)) => (FRAME_HEADER_LEN + length)
                .saturating_sub(self.end - self.start)
                .clamp(1, MIN_SPARE),
            _ => MIN_SPARE,
        }
    }

    /// A size that no message makes the buffer exceed.
    fn limit(&self) -> usize {
        match self.peek() {
            Ok(Next::Message(length)) => (FRAME_HEADER_LEN + length).max(INITIAL_LEN),
            _ => INITIAL_LEN,
        }
    }

    fn peek(&self) -> Result<Next, FrameError> {
        let unread = &self.buffer[self.start..self.end];
        let Some((&[kind, a, b, c], body)) = unread.split_first_chunk::<FRAME_HEADER_LEN>() else {
            // A wrong first byte is told at once: a stranger's protocol may
            // never send four bytes.
            return match unread.first() {
                None | Some(0x00 | 0x85) => Ok(Next::Unknown),
                Some(0x81) => Err(FrameError::NetbiosSessionRequest),
                Some(&other) => Err(FrameError::UnknownType(other)),
            };
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            0x00 if length > MAX_MESSAGE_LEN || self.is_stranger && length > MAX_STRANGER_LEN => {
                Err(FrameError::TooLong(length))
            }
            0x00 if length < MIN_SMB1_LEN => Err(FrameError::TooShort(length)),
            // Only SMB1 has messages shorter than an SMB2 header; which it is
            // shows in the protocol id.
            0x00 if length < HEADER_LEN
                && !PROTOCOL_SMB1.starts_with(&body[..body.len().min(4)]) =>
            {
                Err(FrameError::TooShort(length))
            }
            0x00 => Ok(Next::Message(length)),
            0x85 if length == 0 => Ok(Next::Keepalive),
            0x81 => Err(FrameError::NetbiosSessionRequest),
            other => Err(FrameError::UnknownType(other)),
        }
    }
}

/// Starts a reply frame in an empty buffer: an empty message behind room for the framing header.
pub fn start_frame(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.put_zeros(FRAME_HEADER_LEN);
    buffer
}

/// Enters the length of the message into the framing header before it.
///
/// # Panics
///
/// If the message is longer than [`MAX_REPLY_LEN`]; the server bounds what it
/// puts into a reply.
pub fn finish_frame(frame: &mut [u8]) {
    finish_frame_before(frame, 0);
}

/// The same where `more` bytes of the message follow elsewhere.
///
/// # Panics
///
/// As [`finish_frame`].
pub fn finish_frame_before(frame: &mut [u8], more: usize) {
    let length = frame.len() - FRAME_HEADER_LEN + more;
    assert!(length <= MAX_REPLY_LEN, "reply longer than a frame can be");
    frame[..FRAME_HEADER_LEN].copy_from_slice(&(length as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_does_not_follow_announcements() {
        let mut reader = FrameReader::new();
        reader.spare()[..4].copy_from_slice(&[0, 0x80, 0, 0]);
        reader.filled(4);
        assert!(matches!(reader.next_message(), Ok(None)));
        for _ in 0..3 {
            let received = reader.end;
            let spare = reader.spare().len();
            assert!(
                spare <= received.max(INITIAL_LEN),
                "{spare} spare after {received}"
            );
            reader.filled(spare);
        }
    }

    #[test]
    fn lies_are_told_apart() {
        for (bytes, error) in [
            (&[0x81][..], FrameError::NetbiosSessionRequest),
            (b"GET ", FrameError::UnknownType(b'G')),
            (&[0, 0xFF, 0xFF, 0xFF], FrameError::TooLong(0xFF_FFFF)),
            (&[0, 0, 0, 34], FrameError::TooShort(34)),
            (b"\0\0\0\x3F\xFES", FrameError::TooShort(63)),
        ] {
            let mut reader = FrameReader::new();
            reader.spare()[..bytes.len()].copy_from_slice(bytes);
            reader.filled(bytes.len());
            assert_eq!(reader.next_message().err(), Some(error));
        }
    }

    /// Takes from the stream as much as the reader has room for.
    fn receive(reader: &mut FrameReader, stream: &mut Vec<u8>) {
        let spare = reader.spare();
        let count = spare.len().min(stream.len());
        spare[..count].copy_from_slice(&stream[..count]);
        stream.drain(..count);
        reader.filled(count);
    }

    #[test]
    fn a_large_buffer_is_kept_for_large_messages() {
        let mut reader = FrameReader::new();
        let large = 4 << 20;
        let mut addresses = std::collections::BTreeSet::new();
        for length in [large, 64, large, 64, 64, large] {
            let mut stream = (length as u32).to_be_bytes().to_vec();
            stream.resize(4 + length, 0);
            while !stream.is_empty() {
                receive(&mut reader, &mut stream);
            }
            let message = reader.next_message().unwrap().unwrap();
            if length == large {
                addresses.insert(message.as_ptr());
            } else {
                assert!(message.buffer.len() <= MAX_WASTE * INITIAL_LEN);
            }
        }
        assert_eq!(addresses.len(), 1);
        assert!(reader.is_large());
        reader.release();
        assert!(!reader.is_large());
    }

    #[test]
    fn two_buffers_serve_requests_that_are_answered_at_once() {
        let mut reader = FrameReader::new();
        let mut addresses = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let frame = [&[0, 0, 0, 64][..], &[0; 64]].concat();
            reader.spare()[..68].copy_from_slice(&frame);
            reader.filled(68);
            let message = reader.next_message().unwrap().unwrap();
            addresses.insert(message.as_ptr());
        }
        assert!(addresses.len() <= 2, "{addresses:?}");
    }

    #[test]
    fn a_small_message_that_waits_keeps_no_large_buffer() {
        let mut reader = FrameReader::new();
        let large = 4 << 20;
        let mut stream = vec![0, 0x40, 0, 0];
        stream.resize(4 + large, 0);
        stream.extend([0, 0, 0, 64]);
        stream.resize(stream.len() + 64, 0);
        let mut messages = Vec::new();
        while !stream.is_empty() {
            receive(&mut reader, &mut stream);
            while let Some(message) = reader.next_message().unwrap() {
                messages.push(message);
            }
        }
        assert_eq!(messages.len(), 2);
        assert!(messages[1].buffer.len() <= MAX_WASTE * INITIAL_LEN);
    }
}
