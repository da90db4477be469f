//! What clients share: who has which file open and how, byte-range locks,
//! oplocks, and which files are to be deleted.
//!
//! Every client has a process of its own, so this state lives in the parent,
//! in a [`Table`]; a client's process has a [`Port`] to it. Neither knows how
//! the [`message`]s between them travel, nor what time it is.
//!
//! ```text
//!  client process            parent                       client process
//!  Port ── Ask::Open ──────► Table ── Notice::Break ─────► Port ── to the client
//!       ◄─ Notice::Waits ───       ◄─ Ask::BreakDone ────       ◄─ acknowledgment
//!       ◄─ Notice::Opened ──
//! ```
//!
//! A file is known by device and inode. Messages in one direction arrive in
//! the order they were sent in; the design relies on that.
//!
//! # What costs a round trip
//!
//! CREATE and LOCK do. READ, WRITE and CLOSE don't, as a rule: the parent tells
//! a process which of them it has to ask for, its [`restrictions`]:
//!
//! * `LOCKS`: another client has byte-range locks on the file, so reads and
//!   writes have to be [checked](message::Ask::Check);
//! * `CACHED`: another client has a level II oplock, so writes have to be
//!   [announced](message::Ask::Announce);
//! * `DELETED`: the file is to be deleted, so closing has to be asked for, as
//!   the last one removes the name.
//!
//! A process gets them when it opens the file, and later when another client
//! wants to lock, cache or delete. That one has to wait until all processes
//! that have the file open have acknowledged the restriction, by when they obey
//! it. A restriction that is no longer needed is lifted when a process asks in
//! vain, not before: two clients that take turns would only pass it to and fro.
//! A process knows the locks and oplocks of its own client, and asks nobody
//! about these.
//!
//! # Who must not be trusted
//!
//! A client's process may have been taken over by its client. What comes from
//! one is parsed as hostile. One that breaks the rules (an open that it hasn't,
//! an id twice) is to be evicted: [`Table::handle`] says so, and the program
//! ends it. Everything is bounded per client. One that hangs can't hold up
//! others for ever: an oplock break is over after 35 s, and who doesn't
//! acknowledge a restriction in time is evicted.
//!
//! The downside: a process can lie about which files it has open, and so keep
//! others from opening files that it couldn't open itself.

mod file;
pub mod message;
mod modes;
mod port;
mod ranges;
mod sessions;
mod sorted;
mod table;

pub use message::{Ask, FileKey, Notice, Oplock, Range, Refusal};
pub use modes::{SHARE_DELETE, SHARE_READ, SHARE_WRITE, conflicts, is_stat_open};
pub use port::{Access, Asked, Break, Held, Link, NoBreak, Port, Removing, Wanted};
pub use ranges::Locks;
pub use sessions::{SessionAsk, SessionNotice, Signing};
pub use table::{Action, BREAK_TIMEOUT, ClientId, Misbehaviour, OpenSummary, Summary, Table};

/// What a process has to ask for; bits.
pub mod restrictions {
    /// Reads and writes, as others have byte-range locks.
    pub const LOCKS: u8 = 1;
    /// Writes, as others have level II oplocks.
    pub const CACHED: u8 = 2;
    /// Closing, as the file is to be deleted.
    pub const DELETED: u8 = 4;
}
