//! What tells the loop which descriptors are ready: the contract of [`Backend`], and the backends
//! that come with the crate.

#[cfg(target_os = "linux")]
mod epoll;
pub(crate) mod mux;
mod numbers;
mod poll;
#[cfg(target_os = "linux")]
mod standard;

use crate::flags::FdFlags;
use crate::sys::ready::Event;
use crate::sys::timeout::Timeout;
use bitflags::bitflags;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{OwnedFd, RawFd};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// What the context calls a registered descriptor. A backend only hands it back.
///
/// Each registration has its own, so that what a kernel reports for a former one, even of the same
/// descriptor number, is recognised.
///
/// ```
/// use tevent::Token;
///
/// let token = Token::from_bits(7);
/// assert_eq!(token.to_bits(), 7);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(u64);

impl Token {
    /// The token as the 64 bits of user data that most kernels carry along.
    #[inline]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The inverse of [`Token::to_bits`].
    #[inline]
    pub fn from_bits(bits: u64) -> Token {
        Token(bits)
    }
}

bitflags! {
    /// The state that a backend reports of a descriptor.
    ///
    /// The values are those of the `POLL…` constants that every system has.
    ///
    /// ```
    /// use tevent::Readiness;
    ///
    /// let readiness = Readiness::READABLE | Readiness::HANGUP;
    /// assert!(readiness.intersects(Readiness::HANGUP | Readiness::ERROR));
    /// ```
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Readiness: u8 {
        /// A read wouldn't block (`POLLIN`).
        const READABLE = 0x01;
        /// A write wouldn't block (`POLLOUT`).
        const WRITABLE = 0x04;
        /// The descriptor has failed (`POLLERR`).
        const ERROR = 0x08;
        /// Both directions are closed (`POLLHUP`).
        const HANGUP = 0x10;
        /// There is no such descriptor any more (`POLLNVAL`): its events are disarmed.
        const INVALID = 0x20;
    }
}

/// The readiness that an event can be told of without a closer look: it wants it, and nothing else
/// is reported or was served before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Plain {
    /// Whatever it is not, as epoll's bits, of which a report has at least one.
    others: u32,
}

impl Plain {
    const READABLE: u32 = Readiness::READABLE.bits() as u32;
    const WRITABLE: u32 = Readiness::WRITABLE.bits() as u32;

    /// Every report needs the closer look.
    const NONE: Plain = Plain { others: u32::MAX };

    /// For an event that wants `flags`, and has its descriptor for itself.
    fn of(flags: FdFlags) -> Plain {
        let mut others = u32::MAX;
        if flags.contains(FdFlags::READ) {
            others &= !Plain::READABLE;
        }
        if flags.contains(FdFlags::WRITE) {
            others &= !Plain::WRITABLE;
        }
        Plain { others }
    }
}

/// One ready descriptor, and which of its flags some event was told already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready(Event);

impl Ready {
    /// Where the flags are that were served.
    const SERVED: u32 = 16;

    fn new(token: Token, readiness: Readiness) -> Ready {
        Ready(Event {
            events: u32::from(readiness.bits()),
            data: token.to_bits(),
        })
    }

    #[inline]
    pub(crate) fn token(self) -> Token {
        Token::from_bits(self.0.data)
    }

    #[inline]
    fn readiness(self) -> Readiness {
        Readiness::from_bits_truncate(self.0.events as u8)
    }

    fn served(self) -> FdFlags {
        FdFlags::from_bits_truncate((self.0.events >> Ready::SERVED) as u8)
    }

    fn serve(&mut self, flags: FdFlags) {
        self.0.events |= u32::from(flags.bits()) << Ready::SERVED;
    }

    /// The flags that stand for the readiness, if all of it is [plain](Plain).
    #[inline(always)]
    fn plain_flags(self, plain: Plain) -> Option<FdFlags> {
        const fn flags(events: u32) -> FdFlags {
            // Cheaper than to look at each.
            FdFlags::from_bits_retain(((events + 1) >> 1) as u8)
        }
        const {
            assert!(flags(Plain::READABLE).bits() == FdFlags::READ.bits());
            assert!(flags(Plain::WRITABLE).bits() == FdFlags::WRITE.bits());
            let both = FdFlags::READ.bits() | FdFlags::WRITE.bits();
            assert!(flags(Plain::READABLE | Plain::WRITABLE).bits() == both);
        }
        let events = self.0.events;
        if events & plain.others != 0 {
            return None;
        }
        Some(flags(events))
    }
}

/// Where [`Backend::wait`] leaves the ready descriptors, in the order in which the loop serves
/// them.
///
/// ```
/// use tevent::{Readiness, ReadyList, Token};
///
/// fn report(ready: &mut ReadyList, token: Token) {
///     if ready.room() > 0 {
///         ready.push(token, Readiness::READABLE);
///     }
/// }
/// ```
#[derive(Debug)]
pub struct ReadyList {
    events: Vec<Event>,
    limit: u16,
}

impl ReadyList {
    /// A wait may always report fewer than it is asked for, so the limit has a limit.
    pub(crate) fn new(limit: usize) -> ReadyList {
        ReadyList {
            events: Vec::new(),
            limit: u16::try_from(limit).unwrap_or(u16::MAX),
        }
    }

    /// Whether epoll can be given the list as it is: all of its memory is what may be filled.
    #[cfg(target_os = "linux")]
    fn is_as_long_as_its_memory(&self) -> bool {
        self.events.capacity() == usize::from(self.limit)
    }

    #[inline]
    pub(crate) fn limit(&self) -> u16 {
        self.limit
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> Option<Ready> {
        self.events.get(index).copied().map(Ready)
    }

    pub(crate) fn set(&mut self, index: usize, ready: Ready) {
        if let Some(event) = self.events.get_mut(index) {
            *event = ready.0;
        }
    }

    /// Moves the last `count` before the others.
    #[cfg(target_os = "linux")]
    fn move_to_front(&mut self, count: usize) {
        let count = count.min(self.events.len());
        self.events.rotate_right(count);
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        self.events.clear();
    }

    /// How many more descriptors are wanted. Those left out are reported by the next wait.
    #[inline]
    pub fn room(&self) -> usize {
        usize::from(self.limit).saturating_sub(self.events.len())
    }

    /// Adds a ready descriptor. One that there is no room for is left out, and one of which nothing
    /// is said.
    #[inline]
    #[doc(alias = "tevent_common_invoke_fd_handler")]
    pub fn push(&mut self, token: Token, readiness: Readiness) {
        if self.room() > 0 && !readiness.is_empty() {
            self.events.push(Ready::new(token, readiness).0);
        }
    }
}

/// How a wake-up descriptor is reported, see [`Backend::add_wakeup`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WakeupTrigger {
    /// For as long as it is readable: the context reads it empty.
    Level,
    /// Once for each write: the context saves the read.
    Edge,
}

/// What tells the loop which descriptors are ready.
///
/// [`BackendKind`] names those that come with the crate; a program can plug in its own by
/// [`Builder::custom_backend`](crate::Builder::custom_backend).
///
/// # The contract
///
/// - The context registers every descriptor number at most once, with the union of what the
///   events on it want, and calls it by a [`Token`]. It keeps the descriptor open until it has
///   called [`remove`](Backend::remove). (A program that closes it all the same breaks Rust's I/O
///   safety; a backend answers with `EBADF`, `ENOENT` or [`Readiness::INVALID`] and goes on.)
/// - An interest is never empty: an event that wants nothing is removed, and added again later.
/// - Readiness is level-triggered: a descriptor that stays ready is reported by every wait, and
///   when more are ready than there is [room](ReadyList::room) for, all get their turn.
/// - [`Readiness::HANGUP`] and [`Readiness::ERROR`] are reported whatever the interest is.
/// - It doesn't call back into the context, whose tables are borrowed meanwhile.
/// - A backend holds no loop logic: no order of precedence, no clock, no signals. An interruption
///   by a signal is returned as [`io::ErrorKind::Interrupted`].
/// - After an error of `add`, `modify` or `remove` the registration is as it was before.
///
/// ```
/// use std::io;
/// use std::os::fd::RawFd;
/// use std::time::Duration;
/// use tevent::{Backend, Context, FdFlags, ReadyList, Token};
///
/// /// A loop with timers, immediates and signals, but no descriptors.
/// struct Sleep;
///
/// impl Backend for Sleep {
///     fn name(&self) -> &str {
///         "sleep"
///     }
///     fn add(&mut self, _: RawFd, _: Token, _: FdFlags) -> io::Result<()> {
///         // The wake-up descriptor is the first to come; signals interrupt a sleep anyway.
///         Ok(())
///     }
///     fn modify(&mut self, _: RawFd, _: Token, _: FdFlags) -> io::Result<()> {
///         Ok(())
///     }
///     fn remove(&mut self, _: RawFd, _: Token) -> io::Result<()> {
///         Ok(())
///     }
///     fn wait(&mut self, timeout: Option<Duration>, _: &mut ReadyList) -> io::Result<()> {
///         std::thread::sleep(timeout.unwrap_or(Duration::from_secs(1)));
///         Ok(())
///     }
///     fn reopen(&mut self) -> io::Result<()> {
///         Ok(())
///     }
/// }
///
/// # fn main() -> io::Result<()> {
/// let context = Context::builder().custom_backend(Box::new(Sleep)).build()?;
/// let _timer = context.add_timer_after(Duration::from_millis(1), |_, _| println!("woken"));
/// context.run()
/// # }
/// ```
#[doc(alias = "tevent_ops")]
#[doc(alias = "tevent_register_backend")]
pub trait Backend {
    /// A short name, for messages.
    fn name(&self) -> &str;

    /// Starts to watch a descriptor that isn't watched.
    ///
    /// # Errors
    ///
    /// The descriptor can't be watched; the error reaches the caller of
    /// [`add_fd`](crate::Context::add_fd).
    #[doc(alias = "tevent_common_add_fd")]
    fn add(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()>;

    /// Replaces the interest in a watched descriptor.
    ///
    /// # Errors
    ///
    /// The events on the descriptor are disarmed, and the error reaches the caller of `run` unless
    /// it says that the descriptor was closed.
    #[doc(alias = "tevent_common_fd_get_flags")]
    #[doc(alias = "tevent_common_fd_set_flags")]
    fn modify(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()>;

    /// Stops to watch a descriptor.
    ///
    /// # Errors
    ///
    /// They are ignored when the descriptor is about to go. When it stays, as its events have no
    /// flags any more, they are treated as those of [`modify`](Backend::modify).
    #[doc(alias = "tevent_common_fd_destructor")]
    #[doc(alias = "tevent_common_fd_set_close_fn")]
    fn remove(&mut self, fd: RawFd, token: Token) -> io::Result<()>;

    /// Waits for ready descriptors, for at most `timeout` (`None`: for ever, zero: not at all),
    /// and never for less unless something is ready or a signal arrives.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Interrupted`] after a signal. Others reach the caller of `run`.
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut ReadyList) -> io::Result<()>;

    /// Forgets all registrations without touching them in the kernel, and starts anew with kernel
    /// objects of its own. Called in a child after `fork`, and when the context is re-initialised;
    /// the context then adds everything again.
    ///
    /// # Errors
    ///
    /// They reach the caller of the method that noticed the fork, and it is tried again with the
    /// next use.
    fn reopen(&mut self) -> io::Result<()>;

    /// Starts to watch the context's wake-up descriptor for reading. The default is
    /// [`add`](Backend::add).
    ///
    /// # Errors
    ///
    /// As for [`add`](Backend::add).
    #[doc(alias = "tevent_common_wakeup")]
    #[doc(alias = "tevent_common_wakeup_fd")]
    #[doc(alias = "tevent_common_wakeup_init")]
    fn add_wakeup(&mut self, fd: RawFd, token: Token) -> io::Result<WakeupTrigger> {
        self.add(fd, token, FdFlags::READ)?;
        Ok(WakeupTrigger::Level)
    }

    /// The call before has failed: switches to another mechanism if there is one. Returns whether
    /// it did; then all registrations are forgotten, and the context adds them again.
    fn fall_back(&mut self) -> bool {
        false
    }

    /// A descriptor that is readable while a wait would find something ready, for embedding the
    /// loop in another. Its number stays the same for the backend's life.
    fn pollable(&self) -> Option<Arc<OwnedFd>> {
        None
    }
}

/// A backend of a context. Those of the crate are called directly where it counts: at the wait.
pub(crate) enum AnyBackend {
    #[cfg(target_os = "linux")]
    Epoll(epoll::Epoll),
    #[cfg(target_os = "linux")]
    Standard(standard::Standard),
    Poll(poll::Poll),
    Custom(Box<dyn Backend>),
}

/// A wait in epoll, which has nothing else to look at.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainWait(crate::sys::epoll::Waiter);

#[cfg(not(target_os = "linux"))]
#[derive(Clone, Copy, Debug)]
pub(crate) enum PlainWait {}

impl PlainWait {
    /// Fills the list anew, waiting for at most so many milliseconds (-1: for ever). `None` if
    /// there is something in it then; else the wait's result.
    #[cfg(target_os = "linux")]
    #[inline(always)]
    pub(crate) fn wait(self, limit: i32, ready: &mut ReadyList) -> Option<io::Result<()>> {
        self.0.wait(&mut ready.events, limit)
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn wait(self, _limit: i32, _ready: &mut ReadyList) -> Option<io::Result<()>> {
        match self {}
    }
}

impl AnyBackend {
    /// How to wait as [`wait_for`](AnyBackend::wait_for) would, in fewer steps. It holds until the
    /// backend is told something.
    #[cfg(target_os = "linux")]
    pub(crate) fn plain_wait(&self, ready: &ReadyList) -> Option<PlainWait> {
        let waiter = match self {
            AnyBackend::Epoll(epoll) => epoll.waiter(),
            AnyBackend::Standard(standard) => standard.waiter()?,
            _ => return None,
        };
        ready
            .is_as_long_as_its_memory()
            .then_some(PlainWait(waiter))
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn plain_wait(&self, _ready: &ReadyList) -> Option<PlainWait> {
        None
    }

    /// Fills the list anew.
    pub(crate) fn wait_for(&mut self, timeout: Timeout, ready: &mut ReadyList) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            AnyBackend::Standard(standard) => standard.wait_for(timeout, ready),
            #[cfg(target_os = "linux")]
            AnyBackend::Epoll(epoll) => epoll.wait_for(timeout, ready, ready.limit()),
            AnyBackend::Poll(poll) => poll.wait_for(timeout, ready, ready.limit()),
            AnyBackend::Custom(custom) => {
                ready.clear();
                custom.wait(timeout.limit(), ready)
            }
        }
    }
}

impl Deref for AnyBackend {
    type Target = dyn Backend;

    fn deref(&self) -> &Self::Target {
        match self {
            #[cfg(target_os = "linux")]
            AnyBackend::Epoll(epoll) => epoll,
            #[cfg(target_os = "linux")]
            AnyBackend::Standard(standard) => standard,
            AnyBackend::Poll(poll) => poll,
            AnyBackend::Custom(custom) => &**custom,
        }
    }
}

impl DerefMut for AnyBackend {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            #[cfg(target_os = "linux")]
            AnyBackend::Epoll(epoll) => epoll,
            #[cfg(target_os = "linux")]
            AnyBackend::Standard(standard) => standard,
            AnyBackend::Poll(poll) => poll,
            AnyBackend::Custom(custom) => &mut **custom,
        }
    }
}

/// The backends that come with the crate.
///
/// ```
/// use tevent::{BackendKind, Context};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// for kind in BackendKind::available() {
///     let context = Context::builder().backend(*kind).build()?;
///     assert_eq!(context.backend_name(), kind.to_string());
/// }
/// let kind: BackendKind = "poll".parse()?;
/// assert_eq!(kind, BackendKind::Poll);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "tevent_backend_list")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum BackendKind {
    /// `epoll(7)`, Linux only. Refuses regular files.
    Epoll,
    /// `poll(2)`, on every POSIX system. Each wait costs time in proportion to the number of
    /// descriptors.
    Poll,
    /// epoll that serves what epoll can't watch as always ready, and moves everything to poll
    /// should epoll fail. Where there is no epoll it is poll.
    #[default]
    Standard,
}

impl BackendKind {
    /// The backends that work on this system.
    ///
    /// ```
    /// assert!(tevent::BackendKind::available().contains(&tevent::BackendKind::Standard));
    /// ```
    pub fn available() -> &'static [BackendKind] {
        #[cfg(target_os = "linux")]
        return &[BackendKind::Standard, BackendKind::Epoll, BackendKind::Poll];
        #[cfg(not(target_os = "linux"))]
        return &[BackendKind::Standard, BackendKind::Poll];
    }

    pub(crate) fn open(self) -> io::Result<AnyBackend> {
        #[cfg(target_os = "linux")]
        match self {
            BackendKind::Epoll => return Ok(AnyBackend::Epoll(epoll::Epoll::new()?)),
            BackendKind::Standard => return Ok(AnyBackend::Standard(standard::Standard::new())),
            BackendKind::Poll => {}
        }
        #[cfg(not(target_os = "linux"))]
        if self == BackendKind::Epoll {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this system has no epoll",
            ));
        }
        Ok(AnyBackend::Poll(poll::Poll::named(self.name())))
    }

    fn name(self) -> &'static str {
        match self {
            BackendKind::Epoll => "epoll",
            BackendKind::Poll => "poll",
            BackendKind::Standard => "standard",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for BackendKind {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<BackendKind, UnknownBackend> {
        [BackendKind::Epoll, BackendKind::Poll, BackendKind::Standard]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownBackend {
                name: name.to_owned(),
            })
    }
}

/// There is no backend of that name.
///
/// ```
/// let error = "kqueue".parse::<tevent::BackendKind>().unwrap_err();
/// assert_eq!(error.to_string(), "no backend is called \"kqueue\" (there are epoll, poll, standard)");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownBackend {
    name: String,
}

impl fmt::Display for UnknownBackend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "no backend is called {:?} (there are epoll, poll, standard)",
            self.name
        )
    }
}

impl std::error::Error for UnknownBackend {}
