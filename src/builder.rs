//! [`Builder`]: what can be chosen when a context is made.

use crate::backend::{AnyBackend, Backend, BackendKind};
use crate::clock::Clock;
use crate::context::Context;
use crate::sys::timeout::Timeout;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

/// Configures a [`Context`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::time::Duration;
/// use tevent::{BackendKind, Context};
///
/// let context = Context::builder()
///     .backend(BackendKind::Poll)
///     .batch(64)
///     .wait_timeout(Some(Duration::from_secs(5)))
///     .build()?;
/// # Ok(())
/// # }
/// ```
pub struct Builder {
    backend: Result<BackendKind, Box<dyn Backend>>,
    batch: usize,
    /// Missing unless it was chosen.
    wait_timeout: Option<Timeout>,
    starvation_budget: Option<NonZeroU32>,
    nesting_allowed: bool,
    virtual_time: bool,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            backend: Ok(BackendKind::default()),
            batch: 256,
            wait_timeout: None,
            starvation_budget: NonZeroU32::new(1024),
            nesting_allowed: false,
            virtual_time: false,
        }
    }
}

impl Builder {
    /// Chooses one of the crate's backends.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{BackendKind, Context};
    ///
    /// let context = Context::builder().backend(BackendKind::Poll).build()?;
    /// assert_eq!(context.backend_name(), "poll");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_context_init_byname")]
    pub fn backend(mut self, kind: BackendKind) -> Builder {
        self.backend = Ok(kind);
        self
    }

    /// Plugs in a backend of your own; [`Backend`] has an example.
    #[doc(alias = "tevent_register_backend")]
    pub fn custom_backend(mut self, backend: Box<dyn Backend>) -> Builder {
        self.backend = Err(backend);
        self
    }

    /// How many ready descriptors one wait fetches at most. The default is 256; more than 65,535
    /// are taken for 65,535.
    ///
    /// The fetched ones are handed out one a turn, in an order of precedence that doesn't depend
    /// on this number, and nothing is called that was removed or disarmed in between. But a
    /// handler may be told of readiness that an earlier handler of the same batch has used up
    /// (by reading from that descriptor, say), so descriptors should be non-blocking. With 1 the
    /// kernel is asked before every handler, as tevent does.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::builder().batch(1).build()?;
    /// assert!(tevent::Context::builder().batch(0).build().is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch(mut self, descriptors: usize) -> Builder {
        self.batch = descriptors;
        self
    }

    /// See [`Context::set_wait_timeout`].
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::builder().wait_timeout(None).build()?;
    /// assert_eq!(context.wait_timeout(), None);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_context_set_wait_timeout")]
    pub fn wait_timeout(mut self, timeout: Option<Duration>) -> Builder {
        self.wait_timeout = Some(Timeout::new(timeout));
        self
    }

    /// After how many handlers of immediates and timers in a row a due timer and a ready
    /// descriptor get a turn. The default is 1024. `None` is tevent's way: immediates that
    /// schedule each other keep everything else waiting.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::builder().starvation_budget(None).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn starvation_budget(mut self, handlers: Option<NonZeroU32>) -> Builder {
        self.starvation_budget = handlers;
        self
    }

    /// See [`Context::set_nesting_allowed`].
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::builder().nesting_allowed(true).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_loop_allow_nesting")]
    pub fn nesting_allowed(mut self, allowed: bool) -> Builder {
        self.nesting_allowed = allowed;
        self
    }

    /// Gives the loop a clock of its own, for tests: it stands still while handlers run, and when
    /// nothing is ready it jumps to the deadline of the first timer instead of waiting for it. So a
    /// day of timers is over in milliseconds, in order, and the same every time.
    ///
    /// - [`Context::now`] follows that clock; so do `add_timer_after`, [`Timer::set_after`],
    ///   sleeps, timeouts and deadlines of requests. `Instant::now()` does not. What is slow, and
    ///   times that are [measured](Context::set_times_measured), are real.
    /// - Descriptors, signals and other threads are real. Before each jump the loop asks the
    ///   backend what is ready, without waiting. It doesn't know of what is on its way: of another
    ///   process or thread that will answer soon.
    /// - Without an armed timer there is nothing to jump to, and the loop waits as usual.
    /// - A timer that is later than the [wait timeout](Context::set_wait_timeout) is reached in
    ///   several jumps, as it would be in several waits.
    ///
    /// [`Timer::set_after`]: crate::Timer::set_after
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    /// use tevent::Context;
    ///
    /// let context = Context::builder().virtual_time().build()?;
    /// let start = context.now();
    /// context.add_timer_after(Duration::from_secs(86_400), |_, _| println!("a day later")).detach();
    /// context.run()?;
    /// assert_eq!(context.now() - start, Duration::from_secs(86_400));
    /// # Ok(())
    /// # }
    /// ```
    pub fn virtual_time(mut self) -> Builder {
        self.virtual_time = true;
        self
    }

    /// Makes the context.
    ///
    /// # Errors
    ///
    /// The batch is 0, the backend doesn't exist on this system, or there are no descriptors or no
    /// memory left. With [`BackendKind::Epoll`], which has nothing to fall back to, also that the
    /// kernel has no room for another watch (`ENOSPC`).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::builder().build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn build(self) -> io::Result<Context> {
        if self.batch == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a batch of 0 descriptors would never get anywhere",
            ));
        }
        let backend = match self.backend {
            Ok(kind) => kind.open()?,
            Err(custom) => AnyBackend::Custom(custom),
        };
        let options = Options {
            batch: self.batch,
            wait_timeout: Cell::new(self.wait_timeout),
            starvation_budget: Cell::new(self.starvation_budget),
            nesting_allowed: Cell::new(self.nesting_allowed),
        };
        Context::open(backend, options, Clock::new(self.virtual_time))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = match &self.backend {
            Ok(kind) => kind.to_string(),
            Err(custom) => custom.name().to_owned(),
        };
        formatter
            .debug_struct("Builder")
            .field("backend", &backend)
            .field("batch", &self.batch)
            .field(
                "wait_timeout",
                &self.wait_timeout.unwrap_or(Timeout::TEVENT).limit(),
            )
            .field("starvation_budget", &self.starvation_budget)
            .field("nesting_allowed", &self.nesting_allowed)
            .field("virtual_time", &self.virtual_time)
            .finish()
    }
}

/// What can be set by [`Builder`] and changed later.
pub(crate) struct Options {
    pub(crate) batch: usize,
    /// Missing unless somebody has chosen it.
    pub(crate) wait_timeout: Cell<Option<Timeout>>,
    pub(crate) starvation_budget: Cell<Option<NonZeroU32>>,
    pub(crate) nesting_allowed: Cell<bool>,
}

impl Options {
    /// For how long a turn waits at most, of a loop that `is_run`: that is made by
    /// [`Context::run`], which returns to nobody when a wait is over.
    pub(crate) fn wait_timeout(&self, is_run: bool) -> Timeout {
        let default = if is_run {
            Timeout::FOREVER
        } else {
            Timeout::TEVENT
        };
        self.wait_timeout.get().unwrap_or(default)
    }
}
