//! A reply frame in the making: one response, or those of a compound.

use super::error::Refusal;
use super::protection::{Protection, Seal};
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
fn start(seal: Option<&Seal>) -> Vec<u8> {
    let mut bytes = transport::start_frame();
    if seal.is_some() {
        bytes.put_zeros(TRANSFORM_LEN);
    }
    bytes
}

impl Frame {
    pub(super) fn new(seal: Option<Seal>) -> Self {
        Frame {
            bytes: start(seal.as_ref()),
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
            ..Frame::new(self.seal.clone())
        }
    }

    /// Moves the frame out; what remains is empty.
    pub(super) fn take(&mut self) -> Self {
        let empty = Frame {
            bytes: Vec::new(),
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
            self.bytes = start(self.seal.as_ref());
        }
        self.pad();
        self.latest = Some(self.bytes.len());
        self.bytes.put_zeros(HEADER_LEN);
        Reply {
            session_id,
            tree_id,
            file_id: None,
            earlier: self.earlier,
            out: &mut self.bytes,
        }
    }

    /// Enters the body of an interim response, which is that of an error.
    pub(super) fn put_interim(&mut self) {
        self.put_error(Refusal::Status(Status::PENDING), None);
    }

    /// Replaces the body of the latest response by an error's.
    pub(super) fn put_error(&mut self, refusal: Refusal, dialect: Option<Dialect>) {
        let Some(start) = self.latest else { return };
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

    /// Enters the header of the latest response.
    pub(super) fn finish_response(&mut self, header: &ResponseHeader, protection: Protection) {
        if let Some(start) = self.latest {
            self.bytes[start..start + HEADER_LEN].copy_from_slice(&header.to_bytes());
            self.protection = protection;
        }
    }

    /// The finished frame, `None` if nothing has been put into it.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        let latest = self.latest?;
        self.protection.seal_response(&mut self.bytes[latest..]);
        if let Some(seal) = &self.seal
            && seal.encrypt(&mut self.bytes[FRAME_HEADER_LEN..]).is_err()
        {
            // After 2^64 messages. It can't go out as it is.
            log::error!("a reply can't be encrypted any more");
            return None;
        }
        transport::finish_frame(&mut self.bytes);
        Some(self.bytes)
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
    /// The frame; the body is appended.
    pub(super) out: &'a mut Vec<u8>,
}

impl Reply<'_> {
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
