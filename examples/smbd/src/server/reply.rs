//! A reply frame in the making: one response, or those of a compound.

use super::error::Refusal;
use super::protection::{Protection, Seal};
use crate::outgoing::{Buffers, FilePart, Outgoing};
use crate::transport::{self, FRAME_HEADER_LEN, MAX_REPLY_LEN};
use crate::wire::Put;
use crate::wire::file::FileId;
use crate::wire::header::{HEADER_LEN, NEXT_COMMAND_OFFSET, ResponseHeader};
use crate::wire::negotiate::Dialect;
use crate::wire::status::Status;
use crate::wire::transform::TRANSFORM_LEN;

/// Left free for the errors that answer the rest of a compound, 80 bytes each.
const RESERVE: usize = super::MAX_COMPOUND * 80;

/// The responses to one message, behind room for the framing header.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    /// What follows them, if that is the data of the only response.
    file: Option<FilePart>,
    /// Where `bytes` come from.
    buffers: Buffers,
    /// How much is to go before it into the same frame.
    earlier: usize,
    /// Where the latest response begins.
    latest: Option<usize>,
    /// Signs it when its padding is known.
    protection: Protection,
    /// Encrypts the whole.
    seal: Option<Seal>,
}

/// An empty message, behind room for the framing header and, if it is to be encrypted, for the
/// transform header.
fn start(seal: Option<&Seal>, buffers: &Buffers) -> Vec<u8> {
    let mut bytes = transport::start_frame(buffers.take(0));
    if seal.is_some() {
        bytes.put_zeros(TRANSFORM_LEN);
    }
    bytes
}

impl Frame {
    pub(super) fn new(seal: Option<Seal>, buffers: &Buffers) -> Self {
        Frame {
            bytes: start(seal.as_ref(), buffers),
            file: None,
            buffers: buffers.clone(),
            earlier: 0,
            latest: None,
            protection: Protection::default(),
            seal,
        }
    }

    /// A frame for a response that either is appended to this one or goes alone.
    pub(super) fn another(&self) -> Self {
        Frame {
            earlier: self.earlier + self.bytes.len(),
            ..Frame::new(self.seal.clone(), &self.buffers)
        }
    }

    /// Moves the frame out; what remains is empty.
    pub(super) fn take(&mut self) -> Self {
        let empty = Frame {
            bytes: Vec::new(),
            file: None,
            buffers: self.buffers.clone(),
            earlier: 0,
            latest: None,
            protection: Protection::default(),
            seal: self.seal.clone(),
        };
        std::mem::replace(self, empty)
    }

    /// Where the first response begins.
    fn base(&self) -> usize {
        match self.seal {
            Some(_) => FRAME_HEADER_LEN + TRANSFORM_LEN,
            None => FRAME_HEADER_LEN,
        }
    }

    /// Whether there is no response in it.
    pub(super) fn is_empty(&self) -> bool {
        self.latest.is_none()
    }

    /// Appends the responses of `other`.
    pub(super) fn append(&mut self, mut other: Frame) {
        if self.is_empty() {
            *self = other;
            return;
        }
        if let Some(start) = other.latest {
            self.pad();
            let base = self.bytes.len() - other.base();
            self.bytes.extend(other.bytes.drain(other.base()..));
            self.latest = Some(base + start);
            self.protection = other.protection;
        }
        self.buffers.put(other.bytes);
    }

    /// Ends the latest response, as another is to follow.
    fn pad(&mut self) {
        if let Some(latest) = self.latest {
            self.bytes.align(self.base(), 8);
            let distance = self.bytes.len() - latest;
            self.bytes
                .patch_u32(latest + NEXT_COMMAND_OFFSET, distance as u32);
            self.protection.seal_response(&mut self.bytes[latest..]);
        }
    }

    /// Begins a response. Its header is entered by [`Frame::finish_response`].
    pub(super) fn start_response(&mut self, session_id: u64, tree_id: u32) -> Reply<'_> {
        if self.bytes.is_empty() {
            self.bytes = start(self.seal.as_ref(), &self.buffers);
        }
        self.pad();
        self.latest = Some(self.bytes.len());
        self.bytes.put_zeros(HEADER_LEN);
        Reply {
            session_id,
            tree_id,
            file_id: None,
            earlier: self.earlier,
            takes_file: false,
            file: None,
            out: &mut self.bytes,
            buffers: &self.buffers,
        }
    }

    /// Enters the body of an interim response, which is that of an error.
    pub(super) fn put_interim(&mut self) {
        self.put_error(Refusal::Status(Status::PENDING), None);
    }

    /// Replaces the body of the latest response by an error's.
    pub(super) fn put_error(&mut self, refusal: Refusal, dialect: Option<Dialect>) {
        let Some(start) = self.latest else { return };
        self.file = None;
        self.bytes.truncate(start + HEADER_LEN);
        let out = &mut self.bytes;
        out.put_u16(9);
        match refusal {
            Refusal::BufferTooSmall(needed) if dialect == Some(Dialect::Smb311) => {
                // As an error context ([MS-SMB2] 2.2.2.1) of SMB2_ERROR_ID_DEFAULT.
                out.put_bytes(&[1, 0]);
                out.put_u32(12);
                out.put_u32(4);
                out.put_u32(0);
                out.put_u32(needed);
            }
            Refusal::BufferTooSmall(needed) => {
                out.put_bytes(&[0, 0]);
                out.put_u32(4);
                out.put_u32(needed);
            }
            Refusal::Status(_) | Refusal::Disconnect(_) => {
                out.put_bytes(&[0, 0]);
                out.put_u32(0);
                out.put_u8(0); // there has to be one byte of ErrorData
            }
        }
    }

    /// Has the data of the only response follow it.
    pub(super) fn put_file(&mut self, file: Option<FilePart>) {
        self.file = file;
    }

    /// Enters the header of the latest response.
    pub(super) fn finish_response(&mut self, header: &ResponseHeader, protection: Protection) {
        if let Some(start) = self.latest {
            self.bytes[start..start + HEADER_LEN].copy_from_slice(&header.to_bytes());
            self.protection = protection;
        }
    }

    /// The finished frame, `None` if nothing has been put into it.
    pub(super) fn finish(mut self) -> Option<Outgoing> {
        let latest = self.latest?;
        self.protection.seal_response(&mut self.bytes[latest..]);
        if let Some(seal) = &self.seal
            && seal.encrypt(&mut self.bytes[FRAME_HEADER_LEN..]).is_err()
        {
            // After 2^64 messages. It can't go out as it is.
            log::error!("a reply can't be encrypted any more");
            return None;
        }
        let more = self.file.as_ref().map_or(0, FilePart::len);
        transport::finish_frame_before(&mut self.bytes, more);
        Some(Outgoing::new(self.bytes, self.file, self.buffers))
    }
}

/// Where a handler puts its response.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    /// For the header; SESSION_SETUP changes it.
    pub(super) session_id: u64,
    /// For the header; TREE_CONNECT changes it.
    pub(super) tree_id: u32,
    /// The file the request was about, for related requests that follow.
    pub(super) file_id: Option<FileId>,
    /// How much else is to go into the same frame.
    earlier: usize,
    /// Whether data may stay in its file: nobody signs or encrypts it, and nothing follows.
    pub(super) takes_file: bool,
    /// The data that does.
    pub(super) file: Option<FilePart>,
    /// The frame; the body is appended.
    pub(super) out: &'a mut Vec<u8>,
    /// Where that comes from.
    buffers: &'a Buffers,
}

impl Reply<'_> {
    /// Makes room for `length` more bytes.
    pub(super) fn reserve(&mut self, length: usize) {
        let wanted = self.out.len() + length;
        if self.out.capacity() < wanted {
            let mut larger = self.buffers.take(wanted);
            larger.extend_from_slice(self.out);
            self.buffers.put(std::mem::replace(self.out, larger));
        }
    }

    /// Makes sure that `length` more bytes fit into the frame.
    ///
    /// Each response is bounded by the negotiated maximum, but a compound can
    /// ask for several that together exceed what a frame can be.
    pub(super) fn check_room(&self, length: usize) -> Result<(), Status> {
        if self.earlier + self.out.len() + length + RESERVE <= MAX_REPLY_LEN {
            Ok(())
        } else {
            Err(Status::INSUFFICIENT_RESOURCES)
        }
    }
}
