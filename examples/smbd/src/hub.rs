//! The parent's end of what clients share: a socket for each child, and the table that they ask.
//!
//! A child is never waited for. What it is told goes into a buffer and from there to its socket
//! when that takes it; one that lets too much pile up, sends nonsense, or doesn't acknowledge in
//! time is killed, and what it held is free at once.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use smbd::sharing::message::Stream;
use smbd::sharing::{Action, Ask, ClientId, Misbehaviour, SessionAsk, Summary, Table};
use tevent::{Context, Fd, FdFlags, Timer};

use crate::send_queue::SendQueue;

/// What may wait for a child to read it.
const MAX_QUEUED: usize = 4 * 1024 * 1024;
/// How much is read from a child at a time; the others get their turns in between. Not more than
/// needed: what the parent writes to after a fork, the child has a copy of.
const READ_LEN: usize = 1024;
/// How much is read from a child before another is told that it stands in its way.
const MAX_CAUGHT_UP: usize = 256 * 1024;

/// Which of two children is heard first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Those that stand in the way of the one that is read from.
    LookAround,
    /// The one that is read from.
    AsTheyCome,
}

/// All children that share.
pub(crate) struct Hub {
    table: RefCell<Table>,
    children: RefCell<BTreeMap<ClientId, Rc<Child>>>,
    /// Those with something to be sent.
    unsent: RefCell<BTreeSet<ClientId>>,
    timer: OnceCell<Timer>,
    on_logon: OnceCell<OnLogon>,
}

/// Hears of each logon of a client, and whether that was a good one.
type OnLogon = Box<dyn Fn(&Context, ClientId, bool)>;

struct Child {
    peer: Rc<str>,
    /// Missing before the fork.
    pid: Cell<Option<Pid>>,
    event: RefCell<Option<Fd<UnixStream>>>,
    /// What has been read of a message that is not complete yet.
    stream: RefCell<Stream>,
    queue: RefCell<SendQueue>,
}

impl Hub {
    /// Nobody, where the break of an oplock is over after `break_timeout`.
    pub(crate) fn new(context: &Context, break_timeout: Duration) -> Rc<Hub> {
        Rc::new(Hub {
            table: RefCell::new(Table::new(break_timeout, context.now())),
            children: RefCell::default(),
            unsent: RefCell::default(),
            timer: OnceCell::new(),
            on_logon: OnceCell::new(),
        })
    }

    /// Has all logons told, those that failed too. To be called once.
    pub(crate) fn on_logon(&self, hear: impl Fn(&Context, ClientId, bool) + 'static) {
        // It was empty.
        let _ = self.on_logon.set(Box::new(hear));
    }

    /// Takes over the parent's end of a client's socket pair, which doesn't block.
    ///
    /// # Errors
    ///
    /// It can't be watched.
    pub(crate) fn add(
        self: &Rc<Self>,
        context: &Context,
        socket: UnixStream,
        peer: &Rc<str>,
    ) -> io::Result<ClientId> {
        let id = self.table.borrow_mut().add_client();
        let child = Rc::new(Child {
            peer: Rc::clone(peer),
            pid: Cell::new(None),
            event: RefCell::default(),
            stream: RefCell::default(),
            queue: RefCell::default(),
        });
        let hub = Rc::downgrade(self);
        let added = context.add_fd(socket, FdFlags::READ, move |context, _, flags| {
            if let Some(hub) = hub.upgrade() {
                hub.ready(context, id, flags);
            }
        });
        match added {
            Ok(event) => {
                event.set_name("child");
                child.event.replace(Some(event));
                self.children.borrow_mut().insert(id, child);
                Ok(id)
            }
            Err(e) => {
                self.table.borrow_mut().remove_client(id, context.now());
                Err(e.into())
            }
        }
    }

    /// The client has a process, which is to be killed if it misbehaves.
    pub(crate) fn set_process(&self, id: ClientId, pid: u32) {
        if let Some(child) = self.children.borrow().get(&id) {
            child
                .pid
                .set(i32::try_from(pid).ok().and_then(Pid::from_raw));
        }
    }

    /// A client is gone: what it held is free.
    pub(crate) fn remove(self: &Rc<Self>, context: &Context, id: ClientId) {
        let child = self.children.borrow_mut().remove(&id);
        if child.is_some() {
            self.table.borrow_mut().remove_client(id, context.now());
            self.act(context);
        }
    }

    /// What a client has open.
    pub(crate) fn summary(&self, id: ClientId) -> Summary {
        self.table.borrow().summary(id)
    }

    /// How many bytes wait for a client's process to read them.
    pub(crate) fn queued(&self, id: ClientId) -> usize {
        let children = self.children.borrow();
        children
            .get(&id)
            .map_or(0, |child| child.queue.borrow().len())
    }

    fn ready(self: &Rc<Self>, context: &Context, id: ClientId, flags: FdFlags) {
        if flags.contains(FdFlags::WRITE) {
            self.unsent.borrow_mut().insert(id);
        }
        if flags.contains(FdFlags::READ) {
            self.read(context, id, Order::LookAround);
        }
        self.act(context);
    }

    /// Hears what a child has to say, and lets it go at its end. `false` if there was nothing.
    fn read(self: &Rc<Self>, context: &Context, id: ClientId, order: Order) -> bool {
        let child = self.children.borrow().get(&id).cloned();
        let Some(child) = child else { return false };
        let mut buffer = [0; READ_LEN];
        let received = match &*child.event.borrow() {
            Some(event) => event.get_ref().read(&mut buffer),
            None => return false,
        };
        let bytes = match received {
            Ok(count @ 1..) => &buffer[..count],
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return false;
            }
            Ok(0) | Err(_) => {
                self.remove(context, id);
                return false;
            }
        };
        child.stream.borrow_mut().extend(bytes);
        if let Err(Misbehaviour(what)) = self.hear(context, id, &child.stream, order) {
            self.evict(context, id, what);
            return false;
        }
        true
    }

    fn hear(
        self: &Rc<Self>,
        context: &Context,
        id: ClientId,
        stream: &RefCell<Stream>,
        order: Order,
    ) -> Result<(), Misbehaviour> {
        const NO_MESSAGE: Misbehaviour = Misbehaviour("what it sends is no message");
        loop {
            let ask = match stream.borrow_mut().next_message().map_err(|_| NO_MESSAGE)? {
                Some(message) => Ask::parse(message).map_err(|_| NO_MESSAGE)?,
                None => break,
            };
            if order == Order::LookAround {
                let in_the_way = self.table.borrow().in_the_way(id, &ask);
                for other in in_the_way {
                    self.catch_up(context, other);
                }
            }
            let is_good = match ask {
                Ask::Session(SessionAsk::Begun { .. }) => Some(true),
                Ask::Session(SessionAsk::Refused) => Some(false),
                _ => None,
            };
            self.table.borrow_mut().handle(id, ask, context.now())?;
            if let (Some(is_good), Some(hear)) = (is_good, self.on_logon.get()) {
                hear(context, id, is_good);
            }
        }
        stream.borrow_mut().release();
        Ok(())
    }

    /// Hears what a child has already said. Its client may have told another of a file that it has
    /// closed, and that one's request have been read before.
    fn catch_up(self: &Rc<Self>, context: &Context, id: ClientId) {
        // As much as a socket holds; one that sends for ever holds up nobody.
        for _ in 0..MAX_CAUGHT_UP / READ_LEN {
            if !self.read(context, id, Order::AsTheyCome) {
                break;
            }
        }
    }

    /// Does what the table wants done.
    fn act(self: &Rc<Self>, context: &Context) {
        loop {
            let action = self.table.borrow_mut().next_action();
            match action {
                Some((id, Action::Tell(notice))) => {
                    if let Some(child) = self.children.borrow().get(&id) {
                        let mut bytes = Vec::with_capacity(32);
                        notice.put(&mut bytes);
                        child.queue.borrow_mut().push(bytes);
                        self.unsent.borrow_mut().insert(id);
                    }
                }
                Some((id, Action::Evict)) => self.evict(context, id, "it hangs"),
                None => {
                    let Some(id) = self.unsent.borrow_mut().pop_first() else {
                        break;
                    };
                    self.flush(context, id);
                }
            }
        }
        self.set_timer(context);
    }

    fn flush(self: &Rc<Self>, context: &Context, id: ClientId) {
        let child = self.children.borrow().get(&id).cloned();
        let Some(child) = child else { return };
        let event = child.event.borrow();
        let Some(event) = &*event else { return };
        let (sent, waiting) = {
            let mut queue = child.queue.borrow_mut();
            (queue.send(event.get_ref()), queue.len())
        };
        match sent {
            Ok(_) if waiting > MAX_QUEUED => self.evict(context, id, "it reads nothing"),
            Ok(_) => event.set_writable(waiting > 0),
            Err(_) => self.remove(context, id),
        }
    }

    /// Tells a child to end.
    pub(crate) fn dismiss(&self, id: ClientId) {
        let child = self.children.borrow().get(&id).cloned();
        if let Some(pid) = child.and_then(|child| child.pid.get()) {
            // That it has ended by itself is as good.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Ends a child that can't be trusted any more.
    fn evict(self: &Rc<Self>, context: &Context, id: ClientId, why: &str) {
        let child = self.children.borrow().get(&id).cloned();
        if let Some(child) = child {
            log::error!("{}: killed: {why}", child.peer);
            if let Some(pid) = child.pid.get()
                && let Err(e) = kill_process(pid, Signal::KILL)
            {
                log::warn!("{}: {e}", child.peer);
            }
        }
        self.remove(context, id);
    }

    fn set_timer(self: &Rc<Self>, context: &Context) {
        match self.table.borrow().deadline() {
            Some(deadline) => {
                let timer = self.timer.get_or_init(|| {
                    let hub: Weak<Hub> = Rc::downgrade(self);
                    context.add_timer(deadline, move |context, _| {
                        if let Some(hub) = hub.upgrade() {
                            hub.table.borrow_mut().expire(context.now());
                            hub.act(context);
                        }
                    })
                });
                if timer.deadline() != Some(deadline) {
                    timer.set_deadline(deadline);
                }
            }
            None => {
                if let Some(timer) = self.timer.get() {
                    timer.disarm();
                }
            }
        }
    }
}
