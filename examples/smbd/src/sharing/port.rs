//! A client process's end: asks the parent, and knows what it need not ask.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::crypto::signing::Algorithm;
use crate::wire::header::HEADER_LEN;

use super::message::{
    Ask, FileKey, MAX_NAME, MAX_RANGES, Notice, OpenId, Oplock, Range, Refusal, Ticket,
};
use super::ranges::Locks;
use super::restrictions::{CACHED, DELETED, LOCKS};
use super::sessions::{MAX_SIGNED, SessionAsk, SessionNotice, Signing};

/// Takes messages to the parent. It must not call the port.
pub trait Link: fmt::Debug {
    /// Sends a message, after those before it.
    fn send(&self, ask: &Ask);
}

/// As much of an identity as is told.
fn cut(identity: &str) -> String {
    let end = (0..=identity.len().min(MAX_NAME))
        .rev()
        .find(|&at| identity.is_char_boundary(at));
    identity[..end.unwrap_or(0)].to_owned()
}

/// How a file is to be opened.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The file.
    pub file: FileKey,
    /// The access to be granted.
    pub access: u32,
    /// The access that others may have meanwhile.
    pub share: u32,
    /// The oplock that is wished for.
    pub oplock: Oplock,
    /// The data is going to be overwritten.
    pub overwrites: bool,
    /// Another file is about to take its name, and then this is closed.
    pub replaces: bool,
    /// When it is closed the file is to be deleted.
    pub delete_on_close: bool,
    /// The share's name, and the path in it.
    pub name: String,
}

/// What one of the client's opens has.
#[derive(Debug)]
struct Mine {
    oplock: Oplock,
    /// The level the client has been told to break it to.
    breaking: Option<Oplock>,
    delete_on_close: bool,
}

/// A file that the client has open.
#[derive(Debug, Default)]
struct File {
    restrictions: u8,
    opens: HashMap<OpenId, Mine>,
    /// The client's own.
    locks: Locks<OpenId>,
}

/// What has been asked and not been answered.
#[derive(Debug)]
struct Question {
    about: About,
    waker: Option<Waker>,
    /// It takes long.
    waits: bool,
    answer: Option<Notice>,
    /// Nobody wants the answer any more.
    is_abandoned: bool,
}

/// What an answer changes.
#[derive(Debug)]
enum About {
    Nothing,
    Open { open: OpenId, delete_on_close: bool },
    Lock { open: OpenId, ranges: Vec<Range> },
}

/// A break that the client is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Break {
    /// The open that has the oplock.
    pub open: OpenId,
    /// What it may keep.
    pub to: Oplock,
}

/// The way to the parent.
#[derive(Debug)]
pub struct Port {
    link: Rc<dyn Link>,
    last_number: Cell<u64>,
    questions: RefCell<HashMap<Ticket, Question>>,
    files: RefCell<HashMap<FileKey, File>>,
    keys: RefCell<HashMap<OpenId, FileKey>>,
}

impl Port {
    /// A port whose messages go over `link`.
    pub fn new(link: Rc<dyn Link>) -> Rc<Port> {
        Rc::new(Port {
            link,
            last_number: Cell::new(0),
            questions: RefCell::default(),
            files: RefCell::default(),
            keys: RefCell::default(),
        })
    }

    fn number(&self) -> u64 {
        self.last_number.set(self.last_number.get() + 1);
        self.last_number.get()
    }

    fn ask<T>(
        self: &Rc<Self>,
        open: OpenId,
        about: About,
        finish: fn(&Rc<Port>, OpenId, &Notice) -> T,
        ask: impl FnOnce(Ticket) -> Ask,
    ) -> Asked<T> {
        let ticket = self.number();
        self.questions.borrow_mut().insert(
            ticket,
            Question {
                about,
                waker: None,
                waits: false,
                answer: None,
                is_abandoned: false,
            },
        );
        self.link.send(&ask(ticket));
        Asked {
            port: Rc::clone(self),
            ticket,
            open,
            finish,
        }
    }

    /// Takes what the parent has sent. The client is to be told the break that
    /// is returned.
    pub fn deliver(&self, notice: Notice) -> Option<Break> {
        match notice {
            Notice::Waits { ticket } => self.wake(ticket, |question| question.waits = true),
            Notice::Opened { ticket, .. }
            | Notice::Done { ticket }
            | Notice::Refused { ticket, .. }
            | Notice::Closed { ticket, .. } => self.answer(ticket, notice),
            Notice::Break { open, to } => {
                self.with_open(open, |mine| {
                    if mine.oplock > Oplock::LevelII {
                        mine.breaking = Some(to);
                    } else {
                        mine.oplock = to;
                    }
                })?;
                return Some(Break { open, to });
            }
            Notice::Session(SessionNotice::Signing { ticket, .. }) => self.answer(ticket, notice),
            // The connection's matter.
            Notice::Session(SessionNotice::End { .. }) => {}
            Notice::BreakExpired { open } => {
                self.with_open(open, |mine| {
                    mine.breaking = None;
                    mine.oplock = Oplock::None;
                });
            }
            Notice::Restrict {
                file,
                restrictions,
                number,
            } => {
                if let Some(known) = self.files.borrow_mut().get_mut(&file) {
                    known.restrictions = restrictions;
                }
                // Also for a file that has just been closed: harmless.
                self.link.send(&Ask::RestrictDone { file, number });
            }
        }
        None
    }

    fn wake(&self, ticket: Ticket, change: impl FnOnce(&mut Question)) {
        let mut questions = self.questions.borrow_mut();
        let waker = questions.get_mut(&ticket).and_then(|question| {
            change(question);
            question.waker.take()
        });
        drop(questions);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// An answer has come. What it changes is changed at once, as the next
    /// message may be about that.
    fn answer(&self, ticket: Ticket, notice: Notice) {
        let (about, is_abandoned) = {
            let mut questions = self.questions.borrow_mut();
            let Some(question) = questions.get_mut(&ticket) else {
                return;
            };
            let about = std::mem::replace(&mut question.about, About::Nothing);
            (about, question.is_abandoned)
        };
        match (about, &notice) {
            (
                About::Open {
                    open,
                    delete_on_close,
                },
                &Notice::Opened {
                    oplock,
                    restrictions,
                    ..
                },
            ) => {
                let key = self.keys.borrow().get(&open).copied();
                if let Some(key) = key {
                    let mut files = self.files.borrow_mut();
                    let file = files.entry(key).or_default();
                    file.restrictions = restrictions;
                    let mine = Mine {
                        oplock,
                        breaking: None,
                        delete_on_close,
                    };
                    file.opens.insert(open, mine);
                }
                if is_abandoned {
                    self.close(open);
                }
            }
            (About::Open { open, .. }, _) => _ = self.keys.borrow_mut().remove(&open),
            (About::Lock { open, ranges }, Notice::Done { .. })
                if is_abandoned && self.with_open(open, |_| ()).is_some() =>
            {
                let ranges = ranges.iter().map(|range| (range.offset, range.length));
                self.link.send(&Ask::Unlock {
                    open,
                    ranges: ranges.collect(),
                });
            }
            (About::Lock { open, ranges }, Notice::Done { .. }) => {
                self.with_file(open, |file| file.locks.lock(open, &ranges));
            }
            _ => {}
        }
        if is_abandoned {
            self.questions.borrow_mut().remove(&ticket);
        } else {
            self.wake(ticket, |question| question.answer = Some(notice));
        }
    }

    fn with_file<R>(&self, open: OpenId, look: impl FnOnce(&mut File) -> R) -> Option<R> {
        let key = *self.keys.borrow().get(&open)?;
        self.files.borrow_mut().get_mut(&key).map(look)
    }

    fn with_open<R>(&self, open: OpenId, look: impl FnOnce(&mut Mine) -> R) -> Option<R> {
        self.with_file(open, |file| file.opens.get_mut(&open).map(look))?
    }

    /// Forgets an open. What was known of the file goes with its last one.
    fn forget(&self, open: OpenId) {
        let Some(key) = self.keys.borrow_mut().remove(&open) else {
            return;
        };
        let mut files = self.files.borrow_mut();
        if let Some(file) = files.get_mut(&key) {
            file.opens.remove(&open);
            file.locks.remove(open);
            if file.opens.is_empty() {
                files.remove(&key);
            }
        }
    }

    /// Whether an open is there.
    pub fn knows(&self, open: OpenId) -> bool {
        self.with_open(open, |_| ()).is_some()
    }

    /// Ends an open without an answer.
    fn close(&self, open: OpenId) {
        self.forget(open);
        self.link.send(&Ask::Close { ticket: 0, open });
    }

    /// Tells of a session that somebody has logged on to, or has renewed.
    pub fn session_begun(&self, session: u64, signing: Option<Signing>, identity: &str) {
        self.link.send(&Ask::Session(SessionAsk::Begun {
            session,
            signing,
            identity: cut(identity),
        }));
    }

    /// Tells of the end of such a session.
    pub fn session_ended(&self, session: u64) {
        self.link.send(&Ask::Session(SessionAsk::Ended { session }));
    }

    /// Has a session end that was lost, if it is of the same user.
    pub fn replace_session(self: &Rc<Self>, session: u64, identity: &str) -> Asked<()> {
        let identity = cut(identity);
        self.ask(
            0,
            About::Nothing,
            |_, _, _| (),
            |ticket| {
                Ask::Session(SessionAsk::Replace {
                    ticket,
                    session,
                    identity,
                })
            },
        )
    }

    /// Asks for the keys of a session that was begun on another connection: its own algorithm and
    /// key, and the algorithm of `message`, which has to be signed with it.
    pub fn session_elsewhere(
        self: &Rc<Self>,
        session: u64,
        algorithm: Algorithm,
        message: &[u8],
    ) -> Option<Asked<Option<(Signing, Algorithm)>>> {
        if !(HEADER_LEN..=MAX_SIGNED).contains(&message.len()) {
            return None;
        }
        let message = message.to_vec();
        Some(self.ask(
            0,
            About::Nothing,
            |_, _, notice| match *notice {
                Notice::Session(SessionNotice::Signing {
                    signing, message, ..
                }) => Some((signing, message)),
                _ => None,
            },
            |ticket| {
                Ask::Session(SessionAsk::Elsewhere {
                    ticket,
                    session,
                    algorithm,
                    message,
                })
            },
        ))
    }

    /// Asks for a file to be opened.
    pub fn open(self: &Rc<Self>, wanted: Wanted) -> Asked<Held> {
        let open = self.number();
        self.keys.borrow_mut().insert(open, wanted.file);
        let about = About::Open {
            open,
            delete_on_close: wanted.delete_on_close,
        };
        let held = |port: &Rc<Port>, open, _: &Notice| Held {
            port: Rc::clone(port),
            open,
            is_closed: Cell::new(false),
        };
        self.ask(open, about, held, |ticket| Ask::Open {
            ticket,
            open,
            file: wanted.file,
            access: wanted.access,
            share: wanted.share,
            oplock: wanted.oplock,
            overwrites: wanted.overwrites,
            replaces: wanted.replaces,
            delete_on_close: wanted.delete_on_close,
            name: wanted.name,
        })
    }
}

/// An answer that is to come. Dropping it gives it up, and undoes what it
/// brings.
#[derive(Debug)]
pub struct Asked<T> {
    port: Rc<Port>,
    ticket: Ticket,
    open: OpenId,
    finish: fn(&Rc<Port>, OpenId, &Notice) -> T,
}

impl<T> Asked<T> {
    /// Waits until there is an answer, which is `true`, or it is known to take
    /// long.
    pub async fn is_answered_soon(&mut self) -> bool {
        std::future::poll_fn(|context| {
            let mut questions = self.port.questions.borrow_mut();
            match questions.get_mut(&self.ticket) {
                Some(question) if question.answer.is_some() => Poll::Ready(true),
                Some(question) if question.waits => Poll::Ready(false),
                Some(question) => {
                    question.waker = Some(context.waker().clone());
                    Poll::Pending
                }
                None => Poll::Ready(true),
            }
        })
        .await
    }
}

impl<T> Future for Asked<T> {
    type Output = Result<T, Refusal>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = {
            let mut questions = self.port.questions.borrow_mut();
            let Some(question) = questions.get_mut(&self.ticket) else {
                return Poll::Ready(Err(Refusal::Cancelled));
            };
            let Some(answer) = question.answer.take() else {
                question.waker = Some(context.waker().clone());
                return Poll::Pending;
            };
            questions.remove(&self.ticket);
            answer
        };
        Poll::Ready(match answer {
            Notice::Refused { why, .. } => Err(why),
            answer => Ok((self.finish)(&self.port, self.open, &answer)),
        })
    }
}

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        let answer = {
            let mut questions = self.port.questions.borrow_mut();
            match questions.get_mut(&self.ticket) {
                None => return, // it was taken
                Some(question) if question.answer.is_none() => {
                    question.is_abandoned = true;
                    None
                }
                Some(_) => questions
                    .remove(&self.ticket)
                    .and_then(|question| question.answer),
            }
        };
        match answer {
            // It has come, and nobody has looked.
            Some(answer) => drop(match answer {
                Notice::Refused { .. } => None,
                answer => Some((self.finish)(&self.port, self.open, &answer)),
            }),
            None => self.port.link.send(&Ask::Cancel {
                ticket: self.ticket,
            }),
        }
    }
}

/// Whether an open may read or write.
#[derive(Debug)]
pub enum Access {
    /// It may.
    Free,
    /// A lock is in the way.
    Prevented,
    /// The parent has to be asked.
    Ask(Asked<()>),
}

/// Why the acknowledgment of a break is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoBreak;

/// A file opened with the parent's leave. Dropping it closes it.
#[derive(Debug)]
pub struct Held {
    port: Rc<Port>,
    open: OpenId,
    is_closed: Cell<bool>,
}

impl Held {
    /// Its number.
    pub fn id(&self) -> OpenId {
        self.open
    }

    /// The oplock that it has.
    pub fn oplock(&self) -> Oplock {
        self.port
            .with_open(self.open, |mine| mine.oplock)
            .unwrap_or(Oplock::None)
    }

    /// Whether the file is to be deleted.
    pub fn is_delete_pending(&self) -> bool {
        self.port
            .with_file(self.open, |file| file.restrictions & DELETED != 0)
            .unwrap_or(false)
    }

    /// Asks for ranges to be locked, all or none, waiting for them if need be.
    pub fn lock(&self, ranges: Vec<Range>, waits: bool) -> Asked<()> {
        let open = self.open;
        let about = About::Lock {
            open,
            ranges: ranges.clone(),
        };
        self.port.ask(
            open,
            about,
            |_, _, _| (),
            |ticket| Ask::Lock {
                ticket,
                open,
                waits,
                ranges,
            },
        )
    }

    /// Unlocks ranges that were locked exactly so, up to the first that was not. Returns how many
    /// that were.
    pub fn unlock(&self, ranges: &[(u64, u64)]) -> usize {
        let open = self.open;
        let unlocked = self.port.with_file(open, |file| {
            let mut ranges = ranges.iter();
            ranges.position(|&(offset, length)| !file.locks.unlock(open, offset, length))
        });
        let count = match unlocked {
            Some(first_left) => first_left.unwrap_or(ranges.len()),
            None => 0,
        };
        for ranges in ranges[..count].chunks(MAX_RANGES) {
            let ranges = ranges.to_vec();
            self.port.link.send(&Ask::Unlock { open, ranges });
        }
        count
    }

    /// Whether a range may be read, or written. Costs nothing unless another
    /// client has locks on the file.
    pub fn access(&self, offset: u64, length: u64, writes: bool) -> Access {
        let open = self.open;
        let known = self.port.with_file(open, |file| {
            let prevented = file.locks.prevent_access(open, offset, length, writes);
            (prevented, file.restrictions & LOCKS != 0)
        });
        match known {
            Some((false, false)) => Access::Free,
            Some((false, true)) => {
                let about = About::Nothing;
                let ask = |ticket| Ask::Check {
                    ticket,
                    open,
                    offset,
                    length,
                    writes,
                };
                Access::Ask(self.port.ask(open, about, |_, _, _| (), ask))
            }
            _ => Access::Prevented,
        }
    }

    /// To be called when the data is changed: ends all level II oplocks, this
    /// open's too.
    /// Costs nothing unless somebody has.
    pub fn changes_data(&self) {
        let open = self.open;
        let is_cached = self.port.with_file(open, |file| {
            file.restrictions & CACHED != 0
                || file
                    .opens
                    .values()
                    .any(|mine| mine.oplock == Oplock::LevelII)
        });
        if is_cached == Some(true) {
            self.port.link.send(&Ask::Announce { open });
        }
    }

    /// Has the file deleted when its last open ends, or not.
    pub fn set_delete(&self, delete: bool) -> Asked<()> {
        let open = self.open;
        self.port
            .with_open(open, |mine| mine.delete_on_close &= delete);
        let about = About::Nothing;
        self.port.ask(
            open,
            about,
            |_, _, _| (),
            |ticket| Ask::SetDelete {
                ticket,
                open,
                delete,
            },
        )
    }

    /// Asks whether the directory may get another name.
    pub fn may_move(&self) -> Asked<()> {
        let open = self.open;
        let about = About::Nothing;
        let ask = |ticket| Ask::Move { ticket, open };
        self.port.ask(open, about, |_, _, _| (), ask)
    }

    /// To be called when the file has got another name.
    pub fn renamed(&self, name: String) {
        let open = self.open;
        self.port.link.send(&Ask::Renamed { open, name });
    }

    /// The client has acknowledged a break. Returns the level that it keeps.
    ///
    /// # Errors
    ///
    /// None is under way, or the level is too high; if there was one, the oplock
    /// has ended.
    pub fn acknowledge(&self, level: Oplock) -> Result<Oplock, NoBreak> {
        let open = self.open;
        let kept = self.port.with_open(open, |mine| {
            let to = mine.breaking.take()?;
            mine.oplock = if level <= to { level } else { Oplock::None };
            Some(mine.oplock)
        });
        let oplock = kept.flatten().ok_or(NoBreak)?;
        self.port.link.send(&Ask::BreakDone { open, oplock });
        if oplock == level {
            Ok(oplock)
        } else {
            Err(NoBreak)
        }
    }

    /// Ends the open. The result is whether the file's name is to be removed;
    /// when that has been done, [`Removing`] is to be dropped.
    ///
    /// Costs nothing unless the file is to be deleted.
    pub async fn close(self) -> Option<Removing> {
        let open = self.open;
        let asks = self.port.with_file(open, |file| {
            file.restrictions & DELETED != 0
                || file
                    .opens
                    .get(&open)
                    .is_some_and(|mine| mine.delete_on_close)
        });
        if asks != Some(true) {
            return None; // closed by being dropped
        }
        self.is_closed.set(true);
        let port = Rc::clone(&self.port);
        port.forget(open);
        let finish = |port: &Rc<Port>, open, answer: &Notice| match answer {
            Notice::Closed { remove: true, .. } => Some(Removing {
                port: Rc::clone(port),
                open,
            }),
            _ => None,
        };
        port.ask(open, About::Nothing, finish, |ticket| Ask::Close {
            ticket,
            open,
        })
        .await
        .ok()
        .flatten()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_closed.get() {
            self.port.close(self.open);
        }
    }
}

/// A closed file whose name is being removed. Until this is dropped nobody
/// else opens it.
#[derive(Debug)]
pub struct Removing {
    port: Rc<Port>,
    open: OpenId,
}

impl Drop for Removing {
    fn drop(&mut self) {
        self.port.link.send(&Ask::Removed { open: self.open });
    }
}
