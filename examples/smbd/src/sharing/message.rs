//! The messages between a client's process and the parent, and their bytes.
//!
//! A message is a 32-bit length and that many bytes: a tag, then the fields in
//! order, little-endian. Both ends are the same program, so there are no
//! versions; but a client may have taken its process over, so the parent
//! parses what it gets as hostile.

use super::sessions::{SessionAsk, SessionNotice};
use crate::wire::status::Status;
use crate::wire::{Malformed, Put, Reader};

/// The longest message, without its length.
pub const MAX_LEN: usize = 64 * 1024;
/// The most ranges of a lock request.
pub const MAX_RANGES: usize = 2048;
/// The longest name that is told; longer ones are cut.
pub const MAX_NAME: usize = 512;

/// A file: its device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    /// The device's number.
    pub device: u64,
    /// The inode's.
    pub inode: u64,
}

/// An open's number, given by the process it is in.
pub type OpenId = u64;
/// A question's number, given by the process that asks.
pub type Ticket = u64;

/// An oplock's level, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the names are the specification's
pub enum Oplock {
    None,
    LevelII,
    Exclusive,
    Batch,
}

impl Oplock {
    const ALL: [Oplock; 4] = [
        Oplock::None,
        Oplock::LevelII,
        Oplock::Exclusive,
        Oplock::Batch,
    ];

    /// The level that SMB2 calls so ([MS-SMB2] 2.2.13); none for those that are
    /// not known here.
    pub fn from_level(level: u8) -> Oplock {
        match level {
            0x01 => Oplock::LevelII,
            0x08 => Oplock::Exclusive,
            0x09 => Oplock::Batch,
            _ => Oplock::None,
        }
    }

    /// What SMB2 calls it.
    pub fn level(self) -> u8 {
        match self {
            Oplock::None => 0x00,
            Oplock::LevelII => 0x01,
            Oplock::Exclusive => 0x08,
            Oplock::Batch => 0x09,
        }
    }

    fn parse(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let level = r.u8()?;
        Self::ALL.get(usize::from(level)).copied().ok_or(Malformed)
    }
}

/// A range of bytes to be locked, or locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// Whether nobody else may have a lock on it.
    pub exclusive: bool,
}

/// What a process asks or tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// May this file be opened so? Answered by `Opened` or `Refused`.
    Open {
        /// To be answered under.
        ticket: Ticket,
        /// What it is to be called if it is granted.
        open: OpenId,
        /// The file.
        file: FileKey,
        /// The access to be granted.
        access: u32,
        /// The access that others may have meanwhile.
        share: u32,
        /// The oplock that is wished for.
        oplock: Oplock,
        /// The data is going to be overwritten.
        overwrites: bool,
        /// Another file is about to take its name, and then this is closed. Others wait for that.
        replaces: bool,
        /// When it is closed the file is to be deleted.
        delete_on_close: bool,
        /// The share's name, and the path in it.
        name: String,
    },
    /// An open has ended. With a ticket, answered by `Closed`.
    Close {
        /// To be answered under; 0 for no answer.
        ticket: Ticket,
        /// The open.
        open: OpenId,
    },
    /// A file whose name was to be removed after `Closed` has none any more.
    Removed {
        /// The open that was closed.
        open: OpenId,
    },
    /// The file is to be deleted when its last open ends, or is not. Answered by
    /// `Done`.
    SetDelete {
        /// To be answered under.
        ticket: Ticket,
        /// The open it is done through.
        open: OpenId,
        /// Whether it is to be deleted.
        delete: bool,
    },
    /// May these ranges be locked? Answered by `Done` or `Refused`.
    Lock {
        /// To be answered under.
        ticket: Ticket,
        /// The open.
        open: OpenId,
        /// Rather wait than be refused.
        waits: bool,
        /// All of them or none.
        ranges: Vec<Range>,
    },
    /// Ranges have been unlocked.
    Unlock {
        /// The open.
        open: OpenId,
        /// First byte and number of bytes of each; [`MAX_RANGES`] at most.
        ranges: Vec<(u64, u64)>,
    },
    /// Are there locks of other clients in the way? Answered by `Done` or
    /// `Refused`.
    Check {
        /// To be answered under.
        ticket: Ticket,
        /// The open.
        open: OpenId,
        /// The first byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// Write, not read.
        writes: bool,
    },
    /// May this directory get another name? Not while something below it is open, as far as
    /// [`MAX_NAME`] lets that be seen. Answered by `Done` or `Refused`.
    Move {
        /// To be answered under.
        ticket: Ticket,
        /// An open of the directory.
        open: OpenId,
    },
    /// A file has got another name.
    Renamed {
        /// An open of it, by the name it had.
        open: OpenId,
        /// The new name.
        name: String,
    },
    /// Data is being changed: level II oplocks end.
    Announce {
        /// The open through which.
        open: OpenId,
    },
    /// The answer is not wanted any more. It comes nevertheless: that of what
    /// was asked if it was on its way, else `Refused`.
    Cancel {
        /// What it was asked under.
        ticket: Ticket,
    },
    /// The client has acknowledged an oplock's break.
    BreakDone {
        /// The open.
        open: OpenId,
        /// What it keeps.
        oplock: Oplock,
    },
    /// About sessions.
    Session(SessionAsk),
    /// Restrictions are obeyed.
    RestrictDone {
        /// The file.
        file: FileKey,
        /// Which ones.
        number: u64,
    },
}

/// Why something is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Another open's share modes or access are in the way.
    SharingViolation,
    /// The file is to be deleted.
    DeletePending,
    /// Locks are in the way.
    LockConflict,
    /// It was cancelled.
    Cancelled,
    /// Too much of everything.
    Resources,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::SharingViolation => Status::SHARING_VIOLATION,
            Refusal::DeletePending => Status::DELETE_PENDING,
            Refusal::LockConflict => Status::FILE_LOCK_CONFLICT,
            Refusal::Cancelled => Status::CANCELLED,
            Refusal::Resources => Status::INSUFFICIENT_RESOURCES,
        }
    }
}

impl Refusal {
    const ALL: [Refusal; 5] = [
        Refusal::SharingViolation,
        Refusal::DeletePending,
        Refusal::LockConflict,
        Refusal::Cancelled,
        Refusal::Resources,
    ];
}

/// What the parent answers or tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It may.
    Opened {
        /// What was asked under it.
        ticket: Ticket,
        /// The oplock it gets.
        oplock: Oplock,
        /// What holds for the file from now on.
        restrictions: u8,
    },
    /// It may not.
    Refused {
        /// What was asked under it.
        ticket: Ticket,
        /// Why.
        why: Refusal,
    },
    /// That depends on another client; the answer comes later.
    Waits {
        /// What was asked under it.
        ticket: Ticket,
    },
    /// It may, or it has been done.
    Done {
        /// What was asked under it.
        ticket: Ticket,
    },
    /// It is closed.
    Closed {
        /// What was asked under it.
        ticket: Ticket,
        /// It was the last one of a file that is to be deleted. `Removed` is
        /// expected.
        remove: bool,
    },
    /// An oplock is to be broken. From `Exclusive` and `Batch`, `BreakDone` is
    /// expected.
    Break {
        /// The open that has it.
        open: OpenId,
        /// What it may keep.
        to: Oplock,
    },
    /// The break was not acknowledged in time; there is no oplock any more.
    BreakExpired {
        /// The open that had it.
        open: OpenId,
    },
    /// About sessions.
    Session(SessionNotice),
    /// Other restrictions hold for a file from now on. `RestrictDone` is expected.
    Restrict {
        /// The file.
        file: FileKey,
        /// All that hold.
        restrictions: u8,
        /// To be acknowledged under.
        number: u64,
    },
}

fn bool(r: &mut Reader<'_>) -> Result<bool, Malformed> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

impl FileKey {
    fn parse(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(FileKey {
            device: r.u64()?,
            inode: r.u64()?,
        })
    }

    fn put(self, out: &mut Vec<u8>) {
        out.put_u64(self.device);
        out.put_u64(self.inode);
    }
}

/// Appends a name, the last of a message's fields, as far as names are told.
fn put_name(out: &mut Vec<u8>, name: &str) {
    let cut = (0..=name.len().min(MAX_NAME))
        .rev()
        .find(|&at| name.is_char_boundary(at));
    out.put_bytes(&name.as_bytes()[..cut.unwrap_or(0)]);
}

fn parse_name(r: &mut Reader<'_>) -> Result<String, Malformed> {
    let name = r.bytes(r.rest().len())?;
    if name.len() > MAX_NAME {
        return Err(Malformed);
    }
    String::from_utf8(name.to_vec()).map_err(|_| Malformed)
}

/// Appends a message, whose fields `put` appends.
fn framed(out: &mut Vec<u8>, tag: u8, put: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(tag);
    put(out);
    let length = out.len() - start - 4;
    out.patch_u32(start, length as u32);
}

impl Ask {
    /// Appends the message.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Ask::Open {
                ticket,
                open,
                file,
                access,
                share,
                oplock,
                overwrites,
                replaces,
                delete_on_close,
                name,
            } => framed(out, 1, |out| {
                out.put_u64(*ticket);
                out.put_u64(*open);
                file.put(out);
                out.put_u32(*access);
                out.put_u32(*share);
                out.put_u8(*oplock as u8);
                out.put_u8(u8::from(*overwrites));
                out.put_u8(u8::from(*replaces));
                out.put_u8(u8::from(*delete_on_close));
                put_name(out, name);
            }),
            Ask::Close { ticket, open } => framed(out, 2, |out| {
                out.put_u64(*ticket);
                out.put_u64(*open);
            }),
            Ask::Removed { open } => framed(out, 3, |out| out.put_u64(*open)),
            Ask::SetDelete {
                ticket,
                open,
                delete,
            } => framed(out, 4, |out| {
                out.put_u64(*ticket);
                out.put_u64(*open);
                out.put_u8(u8::from(*delete));
            }),
            Ask::Lock {
                ticket,
                open,
                waits,
                ranges,
            } => framed(out, 5, |out| {
                out.put_u64(*ticket);
                out.put_u64(*open);
                out.put_u8(u8::from(*waits));
                for range in ranges {
                    out.put_u64(range.offset);
                    out.put_u64(range.length);
                    out.put_u8(u8::from(range.exclusive));
                }
            }),
            Ask::Unlock { open, ranges } => framed(out, 6, |out| {
                out.put_u64(*open);
                for &(offset, length) in ranges {
                    out.put_u64(offset);
                    out.put_u64(length);
                }
            }),
            Ask::Check {
                ticket,
                open,
                offset,
                length,
                writes,
            } => framed(out, 7, |out| {
                out.put_u64(*ticket);
                out.put_u64(*open);
                out.put_u64(*offset);
                out.put_u64(*length);
                out.put_u8(u8::from(*writes));
            }),
            Ask::Announce { open } => framed(out, 8, |out| out.put_u64(*open)),
            Ask::Cancel { ticket } => framed(out, 9, |out| out.put_u64(*ticket)),
            Ask::BreakDone { open, oplock } => framed(out, 10, |out| {
                out.put_u64(*open);
                out.put_u8(*oplock as u8);
            }),
            Ask::Session(ask) => framed(out, 32, |out| ask.put(out)),
            Ask::RestrictDone { file, number } => framed(out, 11, |out| {
                file.put(out);
                out.put_u64(*number);
            }),
            Ask::Move { ticket, open } => framed(out, 12, |out| {
                out.put_u64(*ticket);
                out.put_u64(*open);
            }),
            Ask::Renamed { open, name } => framed(out, 13, |out| {
                out.put_u64(*open);
                put_name(out, name);
            }),
        }
    }

    /// Parses a message, without its length.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn parse(message: &[u8]) -> Result<Ask, Malformed> {
        let mut r = Reader::new(message);
        let ask = match r.u8()? {
            1 => {
                let ticket = r.u64()?;
                let open = r.u64()?;
                let file = FileKey::parse(&mut r)?;
                let access = r.u32()?;
                let share = r.u32()?;
                let oplock = Oplock::parse(&mut r)?;
                let overwrites = bool(&mut r)?;
                let replaces = bool(&mut r)?;
                let delete_on_close = bool(&mut r)?;
                Ask::Open {
                    ticket,
                    open,
                    file,
                    access,
                    share,
                    oplock,
                    overwrites,
                    replaces,
                    delete_on_close,
                    name: parse_name(&mut r)?,
                }
            }
            2 => Ask::Close {
                ticket: r.u64()?,
                open: r.u64()?,
            },
            3 => Ask::Removed { open: r.u64()? },
            4 => Ask::SetDelete {
                ticket: r.u64()?,
                open: r.u64()?,
                delete: bool(&mut r)?,
            },
            5 => {
                let ticket = r.u64()?;
                let open = r.u64()?;
                let waits = bool(&mut r)?;
                let mut ranges = Vec::new();
                while !r.rest().is_empty() {
                    if ranges.len() == MAX_RANGES {
                        return Err(Malformed);
                    }
                    ranges.push(Range {
                        offset: r.u64()?,
                        length: r.u64()?,
                        exclusive: bool(&mut r)?,
                    });
                }
                Ask::Lock {
                    ticket,
                    open,
                    waits,
                    ranges,
                }
            }
            6 => {
                let open = r.u64()?;
                let mut ranges = Vec::new();
                while !r.rest().is_empty() {
                    if ranges.len() == MAX_RANGES {
                        return Err(Malformed);
                    }
                    ranges.push((r.u64()?, r.u64()?));
                }
                Ask::Unlock { open, ranges }
            }
            7 => Ask::Check {
                ticket: r.u64()?,
                open: r.u64()?,
                offset: r.u64()?,
                length: r.u64()?,
                writes: bool(&mut r)?,
            },
            8 => Ask::Announce { open: r.u64()? },
            12 => Ask::Move {
                ticket: r.u64()?,
                open: r.u64()?,
            },
            13 => Ask::Renamed {
                open: r.u64()?,
                name: parse_name(&mut r)?,
            },
            9 => Ask::Cancel { ticket: r.u64()? },
            10 => Ask::BreakDone {
                open: r.u64()?,
                oplock: Oplock::parse(&mut r)?,
            },
            32 => Ask::Session(SessionAsk::parse(&mut r)?),
            11 => Ask::RestrictDone {
                file: FileKey::parse(&mut r)?,
                number: r.u64()?,
            },
            _ => return Err(Malformed),
        };
        if r.rest().is_empty() {
            Ok(ask)
        } else {
            Err(Malformed)
        }
    }
}

impl Notice {
    /// Appends the message.
    pub fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Notice::Opened {
                ticket,
                oplock,
                restrictions,
            } => framed(out, 1, |out| {
                out.put_u64(ticket);
                out.put_u8(oplock as u8);
                out.put_u8(restrictions);
            }),
            Notice::Refused { ticket, why } => framed(out, 2, |out| {
                out.put_u64(ticket);
                out.put_u8(why as u8);
            }),
            Notice::Waits { ticket } => framed(out, 3, |out| out.put_u64(ticket)),
            Notice::Done { ticket } => framed(out, 4, |out| out.put_u64(ticket)),
            Notice::Closed { ticket, remove } => framed(out, 5, |out| {
                out.put_u64(ticket);
                out.put_u8(u8::from(remove));
            }),
            Notice::Break { open, to } => framed(out, 6, |out| {
                out.put_u64(open);
                out.put_u8(to as u8);
            }),
            Notice::Session(notice) => framed(out, 32, |out| notice.put(out)),
            Notice::BreakExpired { open } => framed(out, 7, |out| out.put_u64(open)),
            Notice::Restrict {
                file,
                restrictions,
                number,
            } => framed(out, 8, |out| {
                file.put(out);
                out.put_u8(restrictions);
                out.put_u64(number);
            }),
        }
    }

    /// Parses a message, without its length.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn parse(message: &[u8]) -> Result<Notice, Malformed> {
        let mut r = Reader::new(message);
        let notice = match r.u8()? {
            1 => Notice::Opened {
                ticket: r.u64()?,
                oplock: Oplock::parse(&mut r)?,
                restrictions: r.u8()?,
            },
            2 => Notice::Refused {
                ticket: r.u64()?,
                why: {
                    let why = usize::from(r.u8()?);
                    Refusal::ALL.get(why).copied().ok_or(Malformed)?
                },
            },
            3 => Notice::Waits { ticket: r.u64()? },
            4 => Notice::Done { ticket: r.u64()? },
            5 => Notice::Closed {
                ticket: r.u64()?,
                remove: bool(&mut r)?,
            },
            6 => Notice::Break {
                open: r.u64()?,
                to: Oplock::parse(&mut r)?,
            },
            7 => Notice::BreakExpired { open: r.u64()? },
            32 => Notice::Session(SessionNotice::parse(&mut r)?),
            8 => Notice::Restrict {
                file: FileKey::parse(&mut r)?,
                restrictions: r.u8()?,
                number: r.u64()?,
            },
            _ => return Err(Malformed),
        };
        if r.rest().is_empty() {
            Ok(notice)
        } else {
            Err(Malformed)
        }
    }
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct Stream {
    bytes: Vec<u8>,
    /// How many of them have been taken.
    start: usize,
}

impl Stream {
    /// Appends what has arrived.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Lends the next complete message, without its length.
    ///
    /// # Errors
    ///
    /// It announces more than [`MAX_LEN`] bytes.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let unread = &self.bytes[self.start..];
        let Some((length, rest)) = unread.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_LEN {
            return Err(Malformed);
        }
        if rest.len() < length {
            return Ok(None);
        }
        let from = self.start + 4;
        self.start = from + length;
        Ok(Some(&self.bytes[from..from + length]))
    }

    /// Gives the buffer back if there is nothing in it.
    pub fn release(&mut self) {
        if self.start == self.bytes.len() {
            *self = Stream::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn oplocks() -> impl Strategy<Value = Oplock> {
        prop::sample::select(&Oplock::ALL[..])
    }

    fn files() -> impl Strategy<Value = FileKey> {
        any::<(u64, u64)>().prop_map(|(device, inode)| FileKey { device, inode })
    }

    fn asks() -> impl Strategy<Value = Ask> {
        let ranges = any::<(u64, u64, bool)>().prop_map(|(offset, length, exclusive)| Range {
            offset,
            length,
            exclusive,
        });
        prop_oneof![
            (
                any::<(u64, u64, u32, u32, bool, bool, bool)>(),
                files(),
                oplocks(),
                ".{0,100}"
            )
                .prop_map(|(numbers, file, oplock, name)| Ask::Open {
                    ticket: numbers.0,
                    open: numbers.1,
                    file,
                    access: numbers.2,
                    share: numbers.3,
                    oplock,
                    overwrites: numbers.4,
                    replaces: numbers.5,
                    delete_on_close: numbers.6,
                    name,
                }),
            any::<(u64, u64)>().prop_map(|(ticket, open)| Ask::Close { ticket, open }),
            any::<u64>().prop_map(|open| Ask::Removed { open }),
            any::<(u64, u64, bool)>().prop_map(|(ticket, open, delete)| Ask::SetDelete {
                ticket,
                open,
                delete
            }),
            (
                any::<(u64, u64, bool)>(),
                prop::collection::vec(ranges, 0..20)
            )
                .prop_map(|((ticket, open, waits), ranges)| Ask::Lock {
                    ticket,
                    open,
                    waits,
                    ranges
                }),
            (
                any::<u64>(),
                prop::collection::vec(any::<(u64, u64)>(), 0..20)
            )
                .prop_map(|(open, ranges)| Ask::Unlock { open, ranges }),
            any::<(u64, u64, u64, u64, bool)>().prop_map(|n| Ask::Check {
                ticket: n.0,
                open: n.1,
                offset: n.2,
                length: n.3,
                writes: n.4,
            }),
            any::<u64>().prop_map(|open| Ask::Announce { open }),
            any::<(u64, u64)>().prop_map(|(ticket, open)| Ask::Move { ticket, open }),
            (any::<u64>(), "\\PC{0,20}").prop_map(|(open, name)| Ask::Renamed { open, name }),
            any::<u64>().prop_map(|ticket| Ask::Cancel { ticket }),
            (any::<u64>(), oplocks()).prop_map(|(open, oplock)| Ask::BreakDone { open, oplock }),
            (files(), any::<u64>()).prop_map(|(file, number)| Ask::RestrictDone { file, number }),
        ]
    }

    fn notices() -> impl Strategy<Value = Notice> {
        prop_oneof![
            (any::<(u64, u8)>(), oplocks()).prop_map(|((ticket, restrictions), oplock)| {
                Notice::Opened {
                    ticket,
                    oplock,
                    restrictions,
                }
            }),
            (any::<u64>(), prop::sample::select(&Refusal::ALL[..]))
                .prop_map(|(ticket, why)| Notice::Refused { ticket, why }),
            any::<u64>().prop_map(|ticket| Notice::Waits { ticket }),
            any::<u64>().prop_map(|ticket| Notice::Done { ticket }),
            any::<(u64, bool)>().prop_map(|(ticket, remove)| Notice::Closed { ticket, remove }),
            (any::<u64>(), oplocks()).prop_map(|(open, to)| Notice::Break { open, to }),
            any::<u64>().prop_map(|open| Notice::BreakExpired { open }),
            (files(), any::<(u8, u64)>()).prop_map(|(file, (restrictions, number))| {
                Notice::Restrict {
                    file,
                    restrictions,
                    number,
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_asked_arrives_however_it_is_cut(
            asks in prop::collection::vec(asks(), 1..8),
            step in 1..200usize,
        ) {
            let mut bytes = Vec::new();
            asks.iter().for_each(|ask| ask.put(&mut bytes));
            let mut stream = Stream::default();
            let mut arrived = Vec::new();
            for piece in bytes.chunks(step) {
                stream.extend(piece);
                while let Some(message) = stream.next_message().unwrap() {
                    arrived.push(Ask::parse(message).unwrap());
                }
            }
            prop_assert_eq!(arrived, asks);
        }

        #[test]
        fn what_is_answered_arrives(notice in notices()) {
            let mut bytes = Vec::new();
            notice.put(&mut bytes);
            prop_assert_eq!(Notice::parse(&bytes[4..]), Ok(notice));
        }

        #[test]
        fn no_bytes_are_trusted(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0..14u8) {
            let _ = Notice::parse(&bytes);
            let _ = Ask::parse(&bytes);
            // What is taken for a message is one.
            let tagged = [&[tag][..], &bytes].concat();
            if let Ok(ask) = Ask::parse(&tagged) {
                let mut again = Vec::new();
                ask.put(&mut again);
                prop_assert_eq!(&again[4..], &tagged[..]);
            }
        }
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let name = "ä".repeat(MAX_NAME);
        let ask = Ask::Open {
            ticket: 1,
            open: 1,
            file: FileKey {
                device: 1,
                inode: 1,
            },
            access: 0,
            share: 0,
            oplock: Oplock::None,
            overwrites: false,
            replaces: false,
            delete_on_close: false,
            name: format!("a{name}"),
        };
        let mut bytes = Vec::new();
        ask.put(&mut bytes);
        let Ok(Ask::Open { name, .. }) = Ask::parse(&bytes[4..]) else {
            panic!("not an open");
        };
        assert_eq!(name.len(), MAX_NAME - 1);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused() {
        let mut stream = Stream::default();
        stream.extend(&(MAX_LEN as u32 + 1).to_le_bytes());
        assert_eq!(stream.next_message(), Err(Malformed));
    }
}
