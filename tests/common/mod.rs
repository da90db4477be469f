//! What the behaviour tests share: a test per backend, guarded waiting, a log of what ran, and a
//! backend that writes down how it is used.

#![allow(dead_code, reason = "every test file uses a part of this")]

pub mod futures;
pub mod recording;
pub mod requests;

use rustix::process::Signal as ProcessSignal;
use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};
use tevent::{BackendKind, Builder, Context, Fd, FdFlags, Immediate, Signum, Timer};

/// Makes a test for each backend of each `fn behaviour(kind: BackendKind)` that is named.
#[macro_export]
macro_rules! on_every_backend {
    ($($behaviour:ident),* $(,)?) => {$(
        mod $behaviour {
            use tevent::BackendKind;

            #[test]
            fn standard() {
                super::$behaviour(BackendKind::Standard);
            }

            #[test]
            #[cfg(target_os = "linux")]
            fn epoll() {
                super::$behaviour(BackendKind::Epoll);
            }

            #[test]
            fn poll() {
                super::$behaviour(BackendKind::Poll);
            }
        }
    )*};
}

/// After how long something that was to happen has failed to. Nothing waits for as long unless a
/// test fails.
pub const GUARD: Duration = Duration::from_secs(20);

pub const READ: FdFlags = FdFlags::READ;
pub const WRITE: FdFlags = FdFlags::WRITE;
pub const ERROR: FdFlags = FdFlags::ERROR;
pub const NOTHING: FdFlags = FdFlags::empty();

pub fn builder(kind: BackendKind) -> Builder {
    Context::builder().backend(kind).wait_timeout(Some(GUARD))
}

#[track_caller]
pub fn context(kind: BackendKind) -> Context {
    builder(kind).build().expect("a context can be made")
}

/// A signal for each backend: signals go to all contexts of the process, and the tests run at the
/// same time.
pub fn signal_of(kind: BackendKind) -> (Signum, ProcessSignal) {
    match kind {
        BackendKind::Standard => (Signum::SIGWINCH, ProcessSignal::WINCH),
        BackendKind::Epoll => (Signum::SIGURG, ProcessSignal::URG),
        _ => (Signum::SIGUSR2, ProcessSignal::USR2),
    }
}

/// Turns until `condition` holds, or fails with `what` it was that didn't happen.
#[track_caller]
pub fn run_until(context: &Context, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    let result = context.run_until(|| condition() || start.elapsed() >= GUARD);
    result.unwrap_or_else(|error| panic!("{what}: the loop failed: {error}"));
    assert!(condition(), "{what}: it didn't happen");
    assert!(
        start.elapsed() < GUARD,
        "{what}: only the wait timeout made it happen"
    );
}

/// One turn that doesn't wait: whether a handler ran.
#[track_caller]
pub fn turn(context: &Context) -> bool {
    let timeout = context.wait_timeout();
    context.set_wait_timeout(Some(Duration::ZERO));
    let ran = context.run_once();
    context.set_wait_timeout(timeout);
    ran.expect("a turn that doesn't wait succeeds")
}

/// `count` turns that don't wait: how many of them ran a handler.
#[track_caller]
pub fn turns(context: &Context, count: usize) -> usize {
    (0..count).filter(|_| turn(context)).count()
}

/// Turns, without waiting, until three turns in a row had nothing to call. How many handlers ran.
#[track_caller]
pub fn settle(context: &Context) -> usize {
    let mut ran = 0;
    let mut idle = 0;
    while idle < 3 {
        if turn(context) {
            ran += 1;
            idle = 0;
        } else {
            idle += 1;
        }
        assert!(ran < 100_000, "the loop never has nothing to do");
    }
    ran
}

/// How many turns the loop makes until a timer that is due in a while has fired: a loop that spins
/// makes thousands.
#[track_caller]
pub fn turns_in_a_while(context: &Context) -> usize {
    let fired = Flag::new();
    let setter = fired.clone();
    let _timer = context.add_timer_after(Duration::from_millis(30), move |_, _| setter.set());
    // The caller may be a handler in a turn that doesn't wait.
    let timeout = context.wait_timeout();
    context.set_wait_timeout(Some(GUARD));
    let turns = Cell::new(0);
    run_until(context, "the timer fires", || {
        turns.set(turns.get() + 1);
        fired.is_set()
    });
    context.set_wait_timeout(timeout);
    turns.get()
}

#[track_caller]
pub fn assert_no_spin(context: &Context, what: &str) {
    let turns = turns_in_a_while(context);
    // The first may apply changes, the last ones fire the timer and look at the condition.
    assert!(turns <= 6, "{what}, but the loop spun: {turns} turns");
}

/// Two connected sockets, neither of which blocks.
pub fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    ours.set_nonblocking(true).expect("non-blocking");
    theirs.set_nonblocking(true).expect("non-blocking");
    (ours, theirs)
}

/// A readable socket, and its peer, which has to be kept.
pub fn readable() -> (UnixStream, UnixStream) {
    let (ours, mut theirs) = pair();
    theirs.write_all(b"x").expect("there is room");
    (ours, theirs)
}

/// Makes a socket unwritable.
pub fn fill(mut socket: &UnixStream) {
    while socket.write(&[0; 4096]).is_ok() {}
}

/// Reads what there is; whether that was the end.
pub fn drain(mut socket: &UnixStream) -> bool {
    use std::io::Read;
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

pub fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: pipe2() fills in the two numbers, which belong to nobody else yet.
    unsafe {
        assert_eq!(
            libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK),
            0
        );
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

/// A descriptor by its number, which isn't closed with this.
#[derive(Debug)]
pub struct Number(pub RawFd);

impl AsFd for Number {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: not what Rust calls safe, and so the tests of what happens to those who close
        // descriptors behind the loop's back need it; the loop uses only the number.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// Puts a descriptor at a number that nobody else in this process gets, also after it was closed.
pub fn number_of_our_own(source: impl AsFd) -> Number {
    static NEXT: AtomicI32 = AtomicI32::new(500);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    put_at(source, number);
    Number(number)
}

/// Makes a number that is [our own](number_of_our_own) stand for `source`.
pub fn put_at(source: impl AsFd, number: RawFd) {
    // SAFETY: no memory is involved, and nobody else uses the number.
    let result = unsafe { libc::dup2(source.as_fd().as_raw_fd(), number) };
    assert_eq!(result, number, "the number can be had");
}

/// Closes a number behind everybody's back.
pub fn close(number: RawFd) {
    // SAFETY: no memory is involved; the callers own the number through nothing but it.
    assert_eq!(unsafe { libc::close(number) }, 0, "the number was open");
}

/// The panic's message, if `run` panics with one.
#[track_caller]
pub fn panic_of<R>(run: impl FnOnce() -> R) -> String {
    let Err(payload) = catch_unwind(AssertUnwindSafe(run)) else {
        panic!("the panic didn't reach the caller of the loop");
    };
    let message = payload.downcast_ref::<&str>();
    (*message.expect("a panic with a literal")).to_owned()
}

/// What has happened, in order; clones write to the same log.
#[derive(Clone, Debug, Default)]
pub struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub fn new() -> Log {
        Log::default()
    }

    pub fn add(&self, entry: impl Into<String>) {
        self.0.borrow_mut().push(entry.into());
    }

    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub fn count(&self, entry: &str) -> usize {
        self.0.borrow().iter().filter(|&is| is == entry).count()
    }

    /// What is in the log, separated by blanks; it is empty afterwards.
    pub fn take(&self) -> String {
        self.0.take().join(" ")
    }

    /// A handler that writes `entry`, for a descriptor event: without its flags.
    pub fn fd<S>(&self, entry: &str) -> impl FnMut(&Context, &Fd<S>, FdFlags) + use<S> {
        let (log, entry) = (self.clone(), entry.to_owned());
        move |_, _, _| log.add(&entry)
    }

    /// One that writes the flags.
    pub fn flags<S>(&self, entry: &str) -> impl FnMut(&Context, &Fd<S>, FdFlags) + use<S> {
        let (log, entry) = (self.clone(), entry.to_owned());
        move |_, _, flags| log.add(format!("{entry}:{}", names(flags)))
    }

    pub fn timer(&self, entry: &str) -> impl FnMut(&Context, &Timer) + use<> {
        let (log, entry) = (self.clone(), entry.to_owned());
        move |_, _| log.add(&entry)
    }

    pub fn immediate(&self, entry: &str) -> impl FnMut(&Context, &Immediate) + use<> {
        let (log, entry) = (self.clone(), entry.to_owned());
        move |_, _| log.add(&entry)
    }

    pub fn once(&self, entry: &str) -> impl FnOnce(&Context) + use<> {
        let (log, entry) = (self.clone(), entry.to_owned());
        move |_| log.add(entry)
    }

    /// Something that writes `entry` when it is dropped.
    pub fn on_drop(&self, entry: &str) -> OnDrop<impl FnMut() + use<>> {
        let (log, entry) = (self.clone(), entry.to_owned());
        OnDrop(move || log.add(&entry))
    }
}

fn names(flags: FdFlags) -> String {
    let names: Vec<&str> = flags.iter_names().map(|(name, _)| name).collect();
    names.join("|")
}

/// Calls its closure when it is dropped.
pub struct OnDrop<F: FnMut()>(pub F);

impl<F: FnMut()> OnDrop<F> {
    /// To be called in a closure that is to own this.
    pub fn keep(&self) {}
}

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A source that does something when it is dropped, before it closes.
pub struct Source<F: FnMut()> {
    pub on_drop: OnDrop<F>,
    pub socket: UnixStream,
}

impl<F: FnMut()> Source<F> {
    pub fn new(socket: UnixStream, on_drop: F) -> Source<F> {
        Source {
            on_drop: OnDrop(on_drop),
            socket,
        }
    }
}

impl<F: FnMut()> AsFd for Source<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether something has happened; clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Flag(Rc<Cell<bool>>);

impl Flag {
    pub fn new() -> Flag {
        Flag::default()
    }

    pub fn set(&self) {
        self.0.set(true);
    }

    pub fn is_set(&self) -> bool {
        self.0.get()
    }
}

/// A place for a handle that its own handler, or another, is to take; clones are the same place.
pub struct Place<T>(Rc<RefCell<Option<T>>>);

impl<T> Clone for Place<T> {
    fn clone(&self) -> Place<T> {
        Place(Rc::clone(&self.0))
    }
}

impl<T> Place<T> {
    pub fn empty() -> Place<T> {
        Place(Rc::new(RefCell::new(None)))
    }

    pub fn put(&self, value: T) {
        let old = self.0.replace(Some(value));
        drop(old);
    }

    pub fn take(&self) -> Option<T> {
        self.0.take()
    }

    /// Drops what is there.
    pub fn clear(&self) {
        drop(self.take());
    }

    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.borrow().as_ref().map(look)
    }
}

/// Numbers that only look random: the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }
}
