//! One client's connection as events: what the child process does.
//!
//! The connection is a descriptor event. Its handler reads what is there, has complete messages
//! processed, and sends the replies; it never blocks. The writable flag is on only while replies
//! wait. While more of them wait than [`HIGH_WATER`], nothing is read: a client that doesn't read
//! its replies can't make them pile up.
//!
//! A message is processed by a future. It is polled at once, in a place that is used again for the
//! next one; most are ready then. One that has to wait becomes a task. While
//! [the connection is busy](Connection::is_busy) with it, the messages behind it wait too.
//!
//! When the transport has failed both flags go off first, so that nothing is tried on it again;
//! then the connection is torn down.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Poll, Waker};
use std::time::Duration;

use smbd::config::Config;
use smbd::server::{Connection, ProtocolError, leaves_files_alone};
use smbd::sharing::Link;
use smbd::transport::{FrameReader, Message};
use tevent::{Context, Fd, FdFlags, SignalFlags, Signum, Timer, WeakContext};

use crate::isolation::{self, SystemUsers};
use crate::send_queue::SendQueue;
use crate::uplink::Uplink;

/// No message is processed and nothing is read while this many bytes of replies wait. What goes out is
/// in the CPU's cache then, and its buffers are soon used again; the kernel's queue is long enough.
const HIGH_WATER: usize = 256 * 1024;
/// Reading goes on when no more than this many wait.
const LOW_WATER: usize = 64 * 1024;
/// Nor is anything read while messages of this many bytes wait for other clients.
const MAX_HELD: usize = 16 * 1024 * 1024;

/// When nothing has come or gone for so long, large buffers are given back.
const SILENCE: Duration = Duration::from_secs(1);

/// How long a client may take to log on.
const LOGON_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The client has closed it, and has got all replies.
    Closed,
    /// It is broken, or what came over it can't be understood.
    Failed(String),
}

/// What belongs to the client; it lives in the handler of its descriptor event, and in the tasks of
/// requests that wait.
struct Client<F> {
    context: WeakContext,
    peer: String,
    event: OnceCell<Fd<TcpStream>>,
    /// Changes of directories that the client watches.
    changes: OnceCell<Fd<Rc<OwnedFd>>>,
    frames: RefCell<FrameReader>,
    connection: Rc<Connection>,
    /// Makes the future that processes a message.
    process: fn(Rc<Connection>, Message) -> F,
    /// Where futures are polled first; elsewhere while that is done.
    place: RefCell<Option<Place<F>>>,
    /// The bytes of messages whose requests wait.
    held: Cell<usize>,
    replies: RefCell<SendQueue>,
    /// The socket takes nothing until its event says so.
    is_full: Cell<bool>,
    /// The client sends nothing more.
    at_end: Cell<bool>,
    /// Everything is being closed.
    is_finishing: Cell<bool>,
    idle: OnceCell<(Timer, Duration)>,
    /// Gives memory back; made when there is some for the first time.
    tidying: OnceCell<Timer>,
    /// The timer runs.
    is_tidying: Cell<bool>,
    /// Something has come or gone since it was set.
    is_active: Cell<bool>,
}

type Place<F> = Pin<Box<Option<F>>>;

/// Serves `stream` in this process until the client is gone, or has nothing open and was silent for
/// `idle_timeout`; then stops the loop. So does SIGTERM.
///
/// # Errors
///
/// The events could not be set up.
pub(crate) fn serve(
    context: &Context,
    stream: TcpStream,
    link: UnixStream,
    peer: String,
    config: Arc<Config>,
    idle_timeout: Option<Duration>,
    users: Rc<SystemUsers>,
) -> std::io::Result<()> {
    let uplink = Uplink::new(link);
    let port = Rc::clone(&uplink) as Rc<dyn Link>;
    let process = isolation::enter(
        context.downgrade(),
        &peer,
        Arc::clone(&config),
        users,
        Rc::clone(&port),
    )?;
    let client = Rc::new(Client {
        context: context.downgrade(),
        event: OnceCell::new(),
        changes: OnceCell::new(),
        frames: RefCell::new(FrameReader::for_stranger()),
        connection: Connection::new(config, &peer, port, Box::new(process)),
        process: Connection::process,
        place: RefCell::new(Some(Box::pin(None))),
        held: Cell::new(0),
        replies: RefCell::default(),
        is_full: Cell::new(false),
        at_end: Cell::new(false),
        is_finishing: Cell::new(false),
        idle: OnceCell::new(),
        tidying: OnceCell::new(),
        is_tidying: Cell::new(false),
        is_active: Cell::new(false),
        peer: peer.clone(),
    });
    if let Some(timeout) = idle_timeout {
        let idle = Rc::downgrade(&client);
        let timer = context.add_timer_after(timeout, move |context, timer| {
            let Some(client) = idle.upgrade() else { return };
            if client.connection.open_count() > 0 && client.replies.borrow().is_empty() {
                // It would lose what it has open, and keepalive tells when it is gone.
                timer.set_after(timeout);
            } else {
                log::info!("{}: idle, disconnected", client.peer);
                client.finish(context);
            }
        });
        // It was empty.
        let _ = client.idle.set((timer, timeout));
    }
    let handler = Rc::clone(&client);
    // ERROR, so that a broken connection is told also while reading is off.
    let event = context.add_fd(
        stream,
        FdFlags::READ | FdFlags::ERROR,
        move |context, event, flags| {
            let result = handler.handle(context, event, flags);
            handler.settle(context, event, result);
        },
    )?;
    event.set_name("client");
    // It was empty.
    let _ = client.event.set(event);
    let stranger = Rc::downgrade(&client);
    let timer = context.add_timer_after(LOGON_TIMEOUT, move |context, _| {
        if let Some(client) = stranger.upgrade()
            && !client.connection.is_authenticated()
        {
            log::warn!("{}: hasn't logged on, disconnected", client.peer);
            context.stop();
        }
    });
    timer.set_name("logon");
    timer.detach();
    let listener = Rc::downgrade(&client);
    uplink.listen(context, move |context, notices| {
        let Some(client) = listener.upgrade() else {
            return;
        };
        match notices {
            Some(notices) => {
                // Others may cut files short from now on.
                let result = client.load();
                for notice in notices {
                    if let Some(work) = client.connection.deliver(notice) {
                        let task = context.spawn(work);
                        task.set_name("end of a session");
                        task.detach();
                    }
                }
                client.go_on(result);
            }
            // Without it nothing is known of what the others do.
            None => context.stop(),
        }
    })?;
    for signum in [Signum::SIGTERM, Signum::SIGINT] {
        let client = Rc::clone(&client);
        context
            .add_signal(signum, SignalFlags::empty(), move |context, _, _| {
                client.finish(context);
            })?
            .detach();
    }
    // They are for the parent; the default would end this process.
    for signum in [Signum::SIGHUP, Signum::SIGUSR1] {
        context
            .add_signal(signum, SignalFlags::empty(), |_, _, _| ())?
            .detach();
    }
    Ok(())
}

impl<F> Client<F>
where
    F: Future<Output = Result<(), ProtocolError>> + 'static,
{
    /// The descriptor is ready.
    fn handle(
        self: &Rc<Self>,
        context: &Context,
        event: &Fd<TcpStream>,
        flags: FdFlags,
    ) -> Result<(), End> {
        if flags.contains(FdFlags::ERROR) {
            return Err(match event.get_ref().take_error() {
                Ok(Some(e)) => End::Failed(e.to_string()),
                _ => End::Closed,
            });
        }
        if flags.contains(FdFlags::WRITE) {
            self.is_full.set(false);
        }
        if flags.contains(FdFlags::READ) {
            if self.connection.is_busy() {
                // Switched on again when it isn't.
                event.set_readable(false);
            } else {
                self.read(event.get_ref())?;
            }
        }
        self.process(context, event)
    }

    /// Reads once; the event comes again if there is more.
    fn read(&self, mut stream: &TcpStream) -> Result<(), End> {
        let mut frames = self.frames.borrow_mut();
        match stream.read(frames.spare()) {
            Ok(0) if frames.is_mid_message() => {
                Err(End::Failed("closed in the middle of a message".into()))
            }
            Ok(0) => {
                self.at_end.set(true);
                Ok(())
            }
            Ok(count) => {
                frames.filled(count);
                self.note_progress();
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(e) => Err(End::Failed(e.to_string())),
        }
    }

    /// Processes the messages that are there and sends the replies, until one of the two has to
    /// wait.
    fn process(self: &Rc<Self>, context: &Context, event: &Fd<TcpStream>) -> Result<(), End> {
        loop {
            let answered = self.answer(context);
            // Also before a message that can't be understood: what came before it was answered.
            let sent = self.send(event.get_ref())?;
            let has_to_wait = answered?;
            if sent == 0 || has_to_wait {
                break;
            }
        }
        self.update_flags(event);
        self.tidy_later(context);
        if self.is_finishing.get() {
            return Ok(());
        }
        let is_done = !self.connection.is_busy() && self.replies.borrow().is_empty();
        if self.at_end.get() && is_done {
            return Err(End::Closed);
        }
        Ok(())
    }

    /// Processes messages until there are none or they have to wait, which is `true`, or too many
    /// replies wait.
    fn answer(self: &Rc<Self>, context: &Context) -> Result<bool, End> {
        self.collect();
        while self.replies.borrow().weight() < HIGH_WATER {
            if self.is_finishing.get() || self.connection.is_busy() || self.held.get() >= MAX_HELD {
                return Ok(true);
            }
            let mut frames = self.frames.borrow_mut();
            if self.connection.is_authenticated() {
                frames.accept_long();
            }
            let message = frames
                .next_message()
                .map_err(|e| End::Failed(e.to_string()))?;
            drop(frames);
            let Some(message) = message else {
                return Ok(true);
            };
            if !leaves_files_alone(&message) {
                self.load()?;
            }
            let result = self.start(context, message);
            self.watch_changes(context);
            self.collect();
            result.map_err(|e| End::Failed(e.to_string()))?;
        }
        Ok(false)
    }

    /// Processes a message, now or in a task.
    fn start(self: &Rc<Self>, context: &Context, message: Message) -> Result<(), ProtocolError> {
        let length = message.len();
        let future = (self.process)(Rc::clone(&self.connection), message);
        let mut place = self.place.take().unwrap_or_else(|| Box::pin(None));
        place.as_mut().set(Some(future));
        let mut noop = task::Context::from_waker(Waker::noop());
        if let Some(result) = poll(&mut place, &mut noop) {
            self.place.replace(Some(place));
            return result;
        }
        self.held.set(self.held.get() + length);
        let client = Rc::clone(self);
        let work = poll_fn(move |context| {
            let loaded = client.load();
            let result = poll(&mut place, context);
            let is_ready = result.is_some();
            if is_ready {
                client.held.set(client.held.get() - length);
            }
            let processed = result
                .unwrap_or(Ok(()))
                .map_err(|e| End::Failed(e.to_string()));
            client.go_on(loaded.and(processed));
            match is_ready {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        let task = context.spawn(work);
        task.set_name("request");
        task.detach();
        Ok(())
    }

    /// A task has done something.
    fn go_on(self: &Rc<Self>, mut result: Result<(), End>) {
        let (Some(context), Some(event)) = (self.context.upgrade(), self.event.get()) else {
            return;
        };
        if !event.is_registered() {
            return; // torn down
        }
        if result.is_ok() {
            result = self.process(&context, event);
        } else {
            self.collect();
            // What was answered before it goes out; that this fails as well changes nothing.
            let _ = self.send(event.get_ref());
        }
        self.settle(&context, event, result);
    }

    /// Waits for changes of directories from the first watch on.
    fn watch_changes(self: &Rc<Self>, context: &Context) {
        if self.changes.get().is_some() {
            return;
        }
        let Some(source) = self.connection.changes_source() else {
            return;
        };
        let client = Rc::downgrade(self);
        let added = context.add_fd(source, FdFlags::READ, move |_, _, _| {
            if let Some(client) = client.upgrade() {
                client.connection.read_changes();
                client.go_on(Ok(()));
            }
        });
        match added {
            Ok(event) => {
                event.set_name("changes");
                // It was empty.
                let _ = self.changes.set(event);
            }
            Err(e) => log::error!("{}: changes of directories: {e}", self.peer),
        }
    }

    /// Takes over what the connection has to send.
    fn collect(&self) {
        let mut replies = self.replies.borrow_mut();
        while let Some(frame) = self.connection.next_reply() {
            replies.push(frame);
        }
    }

    /// Reads the data of replies that is still in files, as what is done next may cut them short.
    fn load(&self) -> Result<(), End> {
        let loaded = self.replies.borrow_mut().load();
        loaded.map_err(|e| End::Failed(e.to_string()))
    }

    fn send(&self, stream: &TcpStream) -> Result<usize, End> {
        if self.is_full.get() {
            return Ok(0);
        }
        let mut replies = self.replies.borrow_mut();
        let sent = replies
            .send(stream)
            .map_err(|e| End::Failed(e.to_string()))?;
        self.is_full.set(!replies.is_empty());
        drop(replies);
        if sent > 0 {
            self.note_progress();
        }
        Ok(sent)
    }

    fn update_flags(&self, event: &Fd<TcpStream>) {
        let waiting = self.replies.borrow().weight();
        event.set_writable(waiting > 0);
        let is_full = waiting >= HIGH_WATER || self.held.get() >= MAX_HELD;
        if self.at_end.get() || self.is_finishing.get() || is_full {
            event.set_readable(false);
        } else if waiting <= LOW_WATER && !self.connection.is_busy() {
            event.set_readable(true);
        }
    }

    fn note_progress(&self) {
        self.is_active.set(true);
        if let Some((timer, timeout)) = self.idle.get() {
            timer.set_after(*timeout);
        }
    }

    /// Has large buffers given back when the connection falls silent.
    fn tidy_later(self: &Rc<Self>, context: &Context) {
        if self.is_tidying.get() || !self.is_large() {
            return;
        }
        self.is_tidying.set(true);
        self.is_active.set(false);
        if let Some(timer) = self.tidying.get() {
            timer.set_after(SILENCE);
            return;
        }
        let client = Rc::downgrade(self);
        let timer = context.add_timer_after(SILENCE, move |_, timer| {
            let Some(client) = client.upgrade() else {
                return;
            };
            if client.is_active.replace(false) {
                timer.set_after(SILENCE);
                return;
            }
            client.is_tidying.set(false);
            client.frames.borrow_mut().release();
            client.connection.buffers().release();
        });
        timer.set_name("silence");
        // It was empty.
        let _ = self.tidying.set(timer);
    }

    fn is_large(&self) -> bool {
        self.connection.buffers().is_large() || self.frames.borrow().is_large()
    }

    /// Tears the connection down if it has ended.
    fn settle(self: &Rc<Self>, context: &Context, event: &Fd<TcpStream>, result: Result<(), End>) {
        let Err(end) = result else { return };
        event.set_flags(FdFlags::empty());
        match end {
            End::Closed => {}
            End::Failed(reason) => log::warn!("{}: {reason}", self.peer),
        }
        event.remove();
        self.finish(context);
    }

    /// Closes what the client has open, answers what waits, and ends the loop.
    fn finish(self: &Rc<Self>, context: &Context) {
        if self.is_finishing.replace(true) {
            return;
        }
        let client = Rc::clone(self);
        let weak = context.downgrade();
        let closing = async move {
            Rc::clone(&client.connection).shut_down().await;
            // The requests that waited get their answers in this turn.
            tevent::yield_now().await;
            client.collect();
            let last = client.event.get().filter(|event| event.is_registered());
            if let Some(event) = last {
                // As much as the socket takes at once.
                client.is_full.set(false);
                let _ = client.send(event.get_ref());
            }
            if let Some(context) = weak.upgrade() {
                context.stop();
            }
        };
        let task = context.spawn(closing);
        task.set_name("closing");
        task.detach();
    }
}

/// Polls what is in `place`, and empties it when that is ready.
fn poll<F: Future>(place: &mut Place<F>, context: &mut task::Context<'_>) -> Option<F::Output> {
    let future = place.as_mut().as_pin_mut()?;
    match future.poll(context) {
        Poll::Ready(output) => {
            place.as_mut().set(None);
            Some(output)
        }
        Poll::Pending => None,
    }
}
