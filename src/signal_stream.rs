//! Signals that are awaited one after the other.
//!
//! # Implementation
//!
//! A signal event whose handler puts what it is told into a queue. A plain event's signals are
//! counted, so what comes while there is something in the queue is added to that.

use crate::context::{self, Context, WeakContext};
use crate::flags::SignalFlags;
use crate::signal::{Signal, SignalInfo};
use crate::signum::Signum;
use crate::wakers::WakerCell;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::panic::Location;
use std::rc::Rc;
use std::task::{self, Poll};

/// The signals of one number, to be awaited one after the other; made by
/// [`Context::add_signal_stream`].
///
/// From the moment it is made none is lost, whether or not anybody awaits it. Dropping it ends it,
/// as it ends a [`Signal`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use tevent::{Context, SignalFlags, Signum};
///
/// let context = Context::new()?;
/// let mut hangups = context.add_signal_stream(Signum::SIGHUP, SignalFlags::empty())?;
/// # unsafe extern "C" { safe fn raise(signal: i32) -> i32; }
/// raise(Signum::SIGHUP.number());
/// raise(Signum::SIGHUP.number());
/// let info = context.block_on(hangups.next())?.expect("it has not ended");
/// assert_eq!((info.signum, info.count), (Signum::SIGHUP, 2));
/// # Ok(())
/// # }
/// ```
#[doc(alias = "tevent_signal")]
#[must_use = "dropping it ends it"]
pub struct SignalStream {
    signal: Signal,
    signum: Signum,
    arrived: Rc<Arrived>,
}

#[derive(Default)]
struct Arrived {
    infos: RefCell<VecDeque<SignalInfo>>,
    /// The event was removed, or its context is gone or was re-initialised.
    is_over: Cell<bool>,
    waker: WakerCell,
}

impl Arrived {
    fn add(&self, info: SignalInfo) {
        let mut infos = self.infos.borrow_mut();
        match infos.back_mut() {
            Some(last) if info.siginfo.is_none() => {
                last.count = last.count.saturating_add(info.count);
            }
            _ => infos.push_back(info),
        }
    }
}

/// Owned by the event's closure, to tell of its end.
struct Source(Rc<Arrived>);

impl Drop for Source {
    fn drop(&mut self) {
        self.0.is_over.set(true);
        self.0.waker.wake();
    }
}

impl Context {
    /// Makes a stream of the signals of one number: of all that came since it was last awaited
    /// one [`SignalInfo`] with their count, or with [`SignalFlags::SIGINFO`] one for each.
    ///
    /// What [`add_signal`](Context::add_signal) says of dispositions, other handlers and signal
    /// masks goes for this too. The downside of `SIGINFO` here: signals that nobody awaits take
    /// memory.
    ///
    /// # Errors
    ///
    /// The system refuses to install the handler.
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 signal events already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, SignalFlags, Signum};
    ///
    /// let context = Context::new()?;
    /// let mut end = context.add_signal_stream(Signum::SIGTERM, SignalFlags::RESTART)?;
    /// # unsafe extern "C" { safe fn raise(signal: i32) -> i32; }
    /// # raise(15);
    /// context.block_on(async {
    ///     end.next().await;
    ///     println!("asked to end");
    /// })
    /// # }
    /// ```
    #[doc(alias = "tevent_add_signal")]
    #[track_caller]
    pub fn add_signal_stream(
        &self,
        signum: Signum,
        flags: SignalFlags,
    ) -> io::Result<SignalStream> {
        let arrived = Rc::new(Arrived::default());
        let source = Source(Rc::clone(&arrived));
        let signal = self.add_signal(signum, flags, move |_, _, info| {
            source.0.add(*info);
            source.0.waker.wake();
        })?;
        Ok(SignalStream {
            signal,
            signum,
            arrived,
        })
    }
}

impl WeakContext {
    /// As [`Context::add_signal_stream`].
    ///
    /// # Errors
    ///
    /// Also [`io::ErrorKind::NotConnected`]: the context is gone.
    ///
    /// # Panics
    ///
    /// As [`Context::add_signal_stream`].
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{SignalFlags, Signum};
    ///
    /// let context = tevent::Context::new()?;
    /// let weak = context.downgrade();
    /// let task = context.spawn(async move {
    ///     let mut reload = weak.add_signal_stream(Signum::SIGHUP, SignalFlags::RESTART)?;
    /// #   unsafe extern "C" { safe fn raise(signal: i32) -> i32; }
    /// #   raise(1);
    ///     reload.next().await;
    ///     Ok::<_, std::io::Error>("asked to reload")
    /// });
    /// assert_eq!(context.block_on(task)?.expect("nobody cancels it")?, "asked to reload");
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn add_signal_stream(
        &self,
        signum: Signum,
        flags: SignalFlags,
    ) -> io::Result<SignalStream> {
        match self.upgrade() {
            Some(context) => context.add_signal_stream(signum, flags),
            None => Err(context::closed()),
        }
    }
}

impl SignalStream {
    /// Waits for the next signal. `None`: there will be no more, as the event has ended (by
    /// [`SignalFlags::RESETHAND`] after the first), or the context is gone or was re-initialised.
    ///
    /// Dropping the future loses nothing: what it would have returned is left to the next.
    pub async fn next(&mut self) -> Option<SignalInfo> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// What [`next`](SignalStream::next) is made of, for traits such as `Stream`.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::future::poll_fn;
    /// use tevent::{Context, SignalFlags, Signum};
    ///
    /// let context = Context::new()?;
    /// let mut stream = context.add_signal_stream(Signum::SIGHUP, SignalFlags::empty())?;
    /// # unsafe extern "C" { safe fn raise(signal: i32) -> i32; }
    /// # raise(1);
    /// let info = context.block_on(poll_fn(|context| stream.poll_next(context)))?;
    /// assert!(info.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_next(&mut self, context: &mut task::Context<'_>) -> Poll<Option<SignalInfo>> {
        let info = self.arrived.infos.borrow_mut().pop_front();
        if info.is_some() || self.arrived.is_over.get() {
            return Poll::Ready(info);
        }
        self.arrived.waker.set(context.waker());
        Poll::Pending
    }

    /// Which signal.
    pub fn signum(&self) -> Signum {
        self.signum
    }

    /// Ends the event. What has come before is still to be had by [`next`](SignalStream::next), and
    /// then `None`. Whoever awaits it is woken.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, SignalFlags, Signum};
    ///
    /// let context = Context::new()?;
    /// let mut stream = context.add_signal_stream(Signum::SIGHUP, SignalFlags::empty())?;
    /// stream.remove();
    /// assert!(!stream.is_registered());
    /// assert!(context.block_on(stream.next())?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove(&self) {
        self.signal.remove();
    }

    /// Whether the event is there still: it wasn't removed, no [`SignalFlags::RESETHAND`] has ended
    /// it, and its context is neither gone nor re-initialised.
    pub fn is_registered(&self) -> bool {
        self.signal.is_registered()
    }

    /// The number that [`set_tag`](SignalStream::set_tag) has set, 0 before.
    #[doc(alias = "tevent_signal_get_tag")]
    pub fn tag(&self) -> u64 {
        self.signal.tag()
    }

    /// Gives the event a number, which means nothing to the loop.
    #[doc(alias = "tevent_signal_set_tag")]
    pub fn set_tag(&self, tag: u64) {
        self.signal.set_tag(tag);
    }

    /// The name that [`set_name`](SignalStream::set_name) has set.
    pub fn name(&self) -> Option<String> {
        self.signal.name()
    }

    /// Gives the event a name, for whoever looks at the loop.
    pub fn set_name(&self, name: &str) {
        self.signal.set_name(name);
    }

    /// Where the event was added; `None` when it is over.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.signal.location()
    }
}

impl fmt::Debug for SignalStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SignalStream")
            .field("signum", &self.signum)
            .field("is_over", &!self.signal.is_registered())
            .finish_non_exhaustive()
    }
}
