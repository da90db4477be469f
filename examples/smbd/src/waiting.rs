//! Connections that wait for a process.
//!
//! They cost a descriptor each, and no process. Only one whose first message is there can get one:
//! who connects and says nothing, or half of something, takes nothing that others need. There is a
//! bound; beyond it those make room that have come first and not said enough yet.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{RecvFlags, recv};
use rustix::process::{Resource, getrlimit};
use smbd::transport::{FRAME_HEADER_LEN, MAX_STRANGER_LEN};
use tevent::{Context, Fd, FdFlags, Timer};

/// The most connections that wait.
const MAX_WAITING: usize = 2048;
/// Those of one address.
const MAX_OF_ADDRESS: usize = 1024;
/// How long one may wait.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether time has made a difference.
const TICK: Duration = Duration::from_millis(100);
/// How often it is logged that connections were refused.
const REPORT: Duration = Duration::from_secs(1);
/// Why somebody is refused who has waited.
const TOO_MANY: &str = "too many haven't logged on";
/// So much of a first message is enough, as the socket may not take more.
const ENOUGH: usize = 4096;

/// A connection that waits.
struct Entry {
    peer: Rc<str>,
    address: IpAddr,
    since: Instant,
    event: Fd<TcpStream>,
    said: Cell<Said>,
}

/// What a client has said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    /// A part of a message.
    Part,
    /// A message, or what can't become one.
    Enough,
    /// It is gone.
    Farewell,
}

/// One that waits no longer.
pub(crate) struct Called {
    pub(crate) stream: TcpStream,
    pub(crate) peer: Rc<str>,
    pub(crate) address: IpAddr,
}

/// All that wait.
pub(crate) struct Waiting {
    /// In the order of arrival.
    entries: RefCell<BTreeMap<u64, Entry>>,
    last: Cell<u64>,
    limit: usize,
    refused: Cell<usize>,
    timer: OnceCell<Timer>,
    report: OnceCell<Timer>,
    on_change: OnceCell<OnChange>,
}

type OnChange = Box<dyn Fn(&Context)>;

impl Waiting {
    pub(crate) fn new() -> Rc<Waiting> {
        // There has to be something left for those who don't wait.
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 4;
        Rc::new(Waiting {
            entries: RefCell::default(),
            last: Cell::new(0),
            limit: usize::try_from(descriptors).map_or(MAX_WAITING, |n| n.min(MAX_WAITING)),
            refused: Cell::new(0),
            timer: OnceCell::new(),
            report: OnceCell::new(),
            on_change: OnceCell::new(),
        })
    }

    /// Has it told that somebody may be called, or that time has gone by and others wait. To be called
    /// once.
    pub(crate) fn on_change(&self, hear: impl Fn(&Context) + 'static) {
        // It was empty.
        let _ = self.on_change.set(Box::new(hear));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }

    /// Lets a connection wait, or closes it.
    pub(crate) fn add(
        self: &Rc<Self>,
        context: &Context,
        stream: TcpStream,
        peer: &Rc<str>,
        address: IpAddr,
    ) {
        if !self.make_room(context, address) {
            self.refuse(context, peer, format_args!("{TOO_MANY}"));
            return;
        }
        let key = self.last.get() + 1;
        self.last.set(key);
        let waiting = Rc::clone(self);
        let added = context.add_fd(stream, FdFlags::READ, move |context, event, _| {
            event.set_readable(false);
            waiting.listen(context, key);
        });
        match added {
            Ok(event) => {
                event.set_name("waiting");
                let entry = Entry {
                    peer: Rc::clone(peer),
                    address,
                    since: context.now(),
                    event,
                    said: Cell::new(Said::Nothing),
                };
                self.entries.borrow_mut().insert(key, entry);
                self.start_timer(context);
            }
            Err(e) => log::error!("{peer}: refused: {e}"),
        }
    }

    /// Calls the first that may be, by its address.
    pub(crate) fn call(&self, mut may: impl FnMut(IpAddr) -> bool) -> Option<Called> {
        let mut entries = self.entries.borrow_mut();
        let mut not = HashSet::new();
        let called = entries.iter().find(|(_, entry)| {
            let address = entry.address;
            let is_called =
                entry.said.get() == Said::Enough && !not.contains(&address) && may(address);
            if !is_called && entry.said.get() == Said::Enough {
                not.insert(address);
            }
            is_called
        });
        let key = called.map(|(&key, _)| key)?;
        let entry = entries.remove(&key)?;
        drop(entries);
        // It isn't called from a handler of its own.
        let stream = entry.event.into_source().ok()?;
        Some(Called {
            stream,
            peer: entry.peer,
            address: entry.address,
        })
    }

    /// Closes all of them.
    pub(crate) fn clear(&self) {
        let entries = self.entries.take();
        drop(entries);
    }

    /// Something has come.
    fn listen(&self, context: &Context, key: u64) {
        let entries = self.entries.borrow();
        let Some(entry) = entries.get(&key) else {
            return;
        };
        let said = said(entry.event.get_ref());
        entry.said.set(said);
        if said == Said::Nothing {
            entry.event.set_readable(true);
        }
        drop(entries);
        if said == Said::Farewell {
            let entry = self.entries.borrow_mut().remove(&key);
            drop(entry);
        }
        if said == Said::Enough {
            self.tell(context);
        }
    }

    fn tell(&self, context: &Context) {
        if let Some(hear) = self.on_change.get() {
            hear(context);
        }
    }

    /// Sends those away who have waited too long, and listens again to those who haven't said enough.
    fn tick(self: &Rc<Self>, context: &Context) {
        let now = context.now();
        let is_late = |entry: &Entry| now.saturating_duration_since(entry.since) >= TIMEOUT;
        let entries = self.entries.borrow();
        let late = entries.iter().take_while(|(_, entry)| is_late(entry));
        let late: Vec<u64> = late.map(|(&key, _)| key).collect();
        for entry in entries.values().filter(|e| e.said.get() == Said::Part) {
            entry.event.set_readable(true);
        }
        drop(entries);
        for key in late {
            self.send_away(context, key);
        }
        self.start_timer(context);
        self.tell(context);
    }

    fn send_away(self: &Rc<Self>, context: &Context, key: u64) {
        let entry = self.entries.borrow_mut().remove(&key);
        if let Some(entry) = entry {
            self.refuse(context, &entry.peer, format_args!("{TOO_MANY}"));
        }
    }

    /// Makes room for one more of this address.
    fn make_room(self: &Rc<Self>, context: &Context, address: IpAddr) -> bool {
        let entries = self.entries.borrow();
        let own = entries.values().filter(|entry| entry.address == address);
        let is_own = own.count() >= MAX_OF_ADDRESS;
        if !is_own && entries.len() < self.limit {
            return true;
        }
        let first = entries.iter().find(|(_, entry)| {
            entry.said.get() != Said::Enough && (!is_own || entry.address == address)
        });
        let first = first.map(|(&key, _)| key);
        drop(entries);
        if let Some(key) = first {
            self.send_away(context, key);
        }
        first.is_some()
    }

    /// Logs that somebody was refused: the first at once, the others together.
    pub(crate) fn refuse(
        self: &Rc<Self>,
        context: &Context,
        peer: &str,
        why: std::fmt::Arguments<'_>,
    ) {
        let refused = self.refused.get();
        self.refused.set(refused + 1);
        if refused > 0 {
            return;
        }
        log::warn!("{peer}: refused, {why}");
        let timer = self.report.get_or_init(|| {
            let waiting = Rc::downgrade(self);
            context.add_timer_after(REPORT, move |_, _| {
                if let Some(waiting) = waiting.upgrade() {
                    let refused = waiting.refused.replace(0);
                    if refused > 1 {
                        log::warn!("refused likewise: {} connections", refused - 1);
                    }
                }
            })
        });
        timer.set_after(REPORT);
    }

    fn start_timer(self: &Rc<Self>, context: &Context) {
        if self.is_empty() {
            return;
        }
        let timer = self.timer.get_or_init(|| {
            let waiting = Rc::downgrade(self);
            context.add_timer_after(TICK, move |context, _| {
                if let Some(waiting) = waiting.upgrade() {
                    waiting.tick(context);
                }
            })
        });
        if timer.deadline().is_none() {
            timer.set_after(TICK);
        }
    }
}

/// Looks at what a client has sent, without taking it.
fn said(stream: &TcpStream) -> Said {
    let mut head = [0; FRAME_HEADER_LEN];
    let there = match recv(stream, &mut head, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, 0)) => return Said::Farewell,
        Ok((_, count)) => count,
        Err(Errno::WOULDBLOCK | Errno::INTR) => return Said::Nothing,
        Err(_) => return Said::Farewell,
    };
    if head[0] != 0 {
        return Said::Enough;
    }
    if there < FRAME_HEADER_LEN {
        return Said::Part;
    }
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_STRANGER_LEN {
        return Said::Enough;
    }
    let wanted = (FRAME_HEADER_LEN + length).min(ENOUGH);
    match ioctl_fionread(stream) {
        Ok(count) if count < wanted as u64 => Said::Part,
        _ => Said::Enough,
    }
}
