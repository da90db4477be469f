//! The loop: the one place where the order of things is decided.

use crate::backend::mux;
use crate::context::{Busy, Context, Inner, Streak};
use crate::error::{self, OsError};
use crate::fds::{FdHandler, ReadyFd, Removed};
use crate::flags::FdFlags;
use crate::key::Key;
use crate::sys::doorbell::{FORK, REMOTE, SIGNAL};
use crate::sys::timeout::Timeout;
use crate::trace::{EventKind, Severity};
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A closure that is told when a loop begins and ends.
pub(crate) type NestingHook = Box<dyn FnMut(&Context, Nesting)>;

/// What a nesting hook is told, with the level: 1 for a loop that isn't inside another, 2 for one
/// inside a handler of that, and so on.
///
/// ```
/// use tevent::Nesting;
///
/// fn level(nesting: Nesting) -> u32 {
///     match nesting {
///         Nesting::Begin(level) | Nesting::End(level) => level,
///     }
/// }
/// # assert_eq!(level(Nesting::Begin(1)), 1);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Nesting {
    /// A loop of this level is about to run.
    Begin(u32),
    /// It has returned.
    End(u32),
}

/// Of a loop that doesn't look how far away its timers are, in milliseconds: a day.
const LONGEST_WAIT: u128 = 86_400_000;

/// What became of one turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// A handler ran.
    Ran,
    /// The wait ended, but there was nothing to call.
    Idle,
    /// There is nothing to wait for, so there was no wait.
    Empty,
}

impl Context {
    /// Makes one turn: calls the handler that is first in order, waiting for one if need be, and
    /// returns whether a handler ran. (All pending signals count as one.)
    ///
    /// It returns false when the [wait timeout](Context::set_wait_timeout) was over, or when
    /// something ended the wait that no handler wanted.
    ///
    /// # Errors
    ///
    /// - [`io::ErrorKind::Deadlock`]: the loop runs already, and nesting isn't
    ///   [allowed](Context::set_nesting_allowed).
    /// - The backend failed; [`OsError`](crate::OsError) names the call. The context can be run
    ///   again. If it was a changed interest that the backend refused, the events on that
    ///   descriptor are disarmed, that is, their flags are empty.
    ///
    /// # Panics
    ///
    /// Only when a handler does: its panic comes through, and the context can be run again.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// context.defer(|_| println!("first"));
    /// context.defer(|_| println!("second"));
    /// assert!(context.run_once()?);
    /// assert!(context.run_once()?);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_loop_once")]
    pub fn run_once(&self) -> io::Result<bool> {
        self.make_turn(None)
    }

    /// Makes one turn that doesn't wait: calls the handler that is first in order if there is one to
    /// call now, and returns whether there was. (All pending signals count as one.)
    ///
    /// This is the turn for a loop inside another one, which does the waiting: see
    /// [`AsFd`](Context#impl-AsFd-for-Context) and [`next_deadline`](Context::next_deadline). It is
    /// [`run_once`](Context::run_once) with a wait timeout of zero, but that the timeout that was set
    /// holds for loops that handlers run.
    ///
    /// # Errors
    ///
    /// As [`run_once`](Context::run_once).
    ///
    /// # Panics
    ///
    /// As [`run_once`](Context::run_once).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// context.defer(|_| println!("first"));
    /// assert!(context.run_ready()?);
    /// assert!(!context.run_ready()?, "there is nothing else to do");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_loop_once")]
    pub fn run_ready(&self) -> io::Result<bool> {
        self.make_turn(Some(Timeout::ZERO))
    }

    /// Runs until there is nothing left to wait for: no armed timer, no scheduled immediate, no
    /// signal handler, and no descriptor event that wants something; or until
    /// [`stop`](Context::stop) is called.
    ///
    /// An event whose handler runs this loop doesn't count as something to wait for.
    ///
    /// # Errors
    ///
    /// As [`run_once`](Context::run_once).
    ///
    /// # Panics
    ///
    /// As [`run_once`](Context::run_once).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// context.defer(|context| context.defer(|_| println!("both run")));
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "tevent_loop_wait")]
    pub fn run(&self) -> io::Result<()> {
        self.make_turns(|| false, true)
    }

    /// Runs until `finished` returns true, which is asked before every turn, or until
    /// [`stop`](Context::stop) is called.
    ///
    /// While there is nothing to call it goes on waiting, and asks again after every
    /// [wait timeout](Context::set_wait_timeout).
    ///
    /// # Errors
    ///
    /// As [`run_once`](Context::run_once).
    ///
    /// # Panics
    ///
    /// As [`run_once`](Context::run_once), or when `finished` does.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// let context = tevent::Context::new()?;
    /// let done = Rc::new(Cell::new(false));
    /// let setter = Rc::clone(&done);
    /// context.defer(move |_| setter.set(true));
    /// context.run_until(|| done.get())
    /// # }
    /// ```
    #[doc(alias = "tevent_loop_until")]
    pub fn run_until(&self, finished: impl FnMut() -> bool) -> io::Result<()> {
        self.make_turns(finished, false)
    }

    /// Makes the innermost [`run`](Context::run) or [`run_until`](Context::run_until) return when
    /// the handler that calls this has. Without one of them it does nothing.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// context.defer(|context| context.stop());
    /// context.defer(|_| unreachable!("the loop was stopped"));
    /// context.run()
    /// # }
    /// ```
    pub fn stop(&self) {
        self.inner.end_sole_immediate();
        self.inner.state.stop.set(true);
        self.inner.state.set_busy();
    }

    /// When the next turn has something to do even if the [descriptor](Context#impl-AsFd-for-Context)
    /// isn't readable: the deadline of the first timer; now, if something is scheduled or
    /// changed; `None` if there is neither.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::time::Duration;
    ///
    /// let context = tevent::Context::new()?;
    /// assert_eq!(context.next_deadline(), None);
    /// let timer = context.add_timer_after(Duration::from_secs(60), |_, _| ());
    /// assert_eq!(context.next_deadline(), timer.deadline());
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_deadline(&self) -> Option<Instant> {
        let inner = &*self.inner;
        let has_changes = {
            let fds = inner.fds.borrow();
            fds.has_ready() || fds.mux.is_dirty()
        };
        if has_changes || inner.immediates().has_runnable() || inner.doorbell.attention() != 0 {
            return Some(self.now());
        }
        inner.timers.borrow_mut().next_deadline()
    }

    /// Whether the loop may be run inside its own handlers. By default it may not.
    ///
    /// In a nested loop an event whose handler runs it is not called, nor watched by the kernel,
    /// until that handler has returned.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// context.set_nesting_allowed(true);
    /// context.defer(|context| {
    ///     context.defer(|_| println!("inside"));
    ///     context.run_once().expect("nesting is allowed");
    /// });
    /// context.run()
    /// # }
    /// ```
    #[doc(alias = "tevent_loop_allow_nesting")]
    pub fn set_nesting_allowed(&self, allowed: bool) {
        self.inner.options.nesting_allowed.set(allowed);
    }

    /// Sets a closure that is told of the begin and end of every loop, in place of the one before. It
    /// may do so itself, or [take itself away](Context::clear_nesting_hook). One that panics is taken
    /// away too.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{Context, Nesting};
    ///
    /// let context = Context::new()?;
    /// context.set_nesting_hook(|_: &Context, nesting| println!("{nesting:?}"));
    /// context.run()?; // prints Begin(1) and End(1)
    /// context.clear_nesting_hook();
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_loop_set_nesting_hook")]
    pub fn set_nesting_hook(&self, hook: impl FnMut(&Context, Nesting) + 'static) {
        let old = self.inner.state.nesting_hook.replace(Some(Box::new(hook)));
        drop(old);
    }

    /// Takes away what [`set_nesting_hook`](Context::set_nesting_hook) has set.
    pub fn clear_nesting_hook(&self) {
        let old = self.inner.state.nesting_hook.replace(None);
        drop(old);
    }

    fn enter(&self) -> io::Result<Level<'_>> {
        let inner = &*self.inner;
        let outer = inner.state.level.get();
        if outer == 0 {
            inner.doorbell.stay_awake();
        } else if !inner.options.nesting_allowed.get() {
            return Err(error::nested());
        }
        // Also at level 0: the loop that called the running handler counts no more after a
        // re-initialisation, but goes on.
        let outer_fd = inner.state.running_fd.take();
        let suspended = inner.suspend_running(outer_fd);
        inner.state.level.set(outer + 1);
        let level = Level {
            context: self,
            number: outer + 1,
            start: inner.state.starts.get(),
            _entered: Entered {
                inner,
                outer,
                outer_fd,
                suspended,
            },
        };
        self.call_nesting_hook(Nesting::Begin(outer + 1));
        Ok(level)
    }

    /// Makes one turn, with a limit of its own for the wait if need be. Returns whether a handler ran.
    fn make_turn(&self, limit: Option<Timeout>) -> io::Result<bool> {
        let _level = self.enter()?;
        let turn = self.turn_within(false, limit)?;
        // Before the nesting hook is told.
        self.inner.drop_ended();
        Ok(turn == Turn::Ran)
    }

    fn call_nesting_hook(&self, nesting: Nesting) {
        let hook = &self.inner.state.nesting_hook;
        hook.call(|hook| hook(self, nesting));
    }

    /// Makes turns until `finished` says that it is enough, or somebody stops the loop; or, in a loop
    /// that `is_run`, until there is nothing to wait for.
    ///
    /// Most turns of a busy server have to do with descriptors only: nothing rang, nobody has said
    /// that there is anything else, and no event has changed what it wants. Such a turn is made
    /// here, in one piece.
    #[inline(always)]
    fn make_turns(&self, mut finished: impl FnMut() -> bool, is_run: bool) -> io::Result<()> {
        let _level = self.enter()?;
        let stop = StopScope::new(&self.inner);
        let inner = &*self.inner;
        let doorbell = inner.doorbell;
        // Whether `finished` was asked before this turn already.
        let mut was_asked = false;
        'turns: loop {
            let turn = 'turn: {
                if inner.state.busy() != Busy::No && inner.is_busy_now() {
                    inner.state.running_fd.set(None);
                    inner.drop_ended();
                    if stop.is_set() || (!mem::take(&mut was_asked) && finished()) {
                        return Ok(());
                    }
                    if self.turn_of_immediate(is_run) {
                        continue 'turns;
                    }
                    break 'turn self.turn_in_full(is_run);
                }
                if !is_run && !mem::take(&mut was_asked) {
                    inner.state.running_fd.set(None);
                    if finished() {
                        return Ok(());
                    }
                }
                let mut fds = inner.fds.borrow_mut();
                let ready = match fds.next() {
                    Some(ready) => ready,
                    None => {
                        let Some(wait) = fds.mux.settled() else {
                            drop(fds);
                            match inner.settle_anew() {
                                Ok(true) => {
                                    was_asked = !is_run;
                                    continue 'turns;
                                }
                                Ok(false) => break 'turn self.turn_in_full(is_run),
                                Err(error) => break 'turn Err(error),
                            }
                        };
                        // Only a loop that blocks has to be woken.
                        if !doorbell.fall_asleep() {
                            doorbell.stay_awake();
                            drop(fds);
                            break 'turn self.turn_in_full(is_run);
                        }
                        inner.counters.waits.count();
                        let first = fds.wait_plainly(wait, is_run);
                        doorbell.stay_awake();
                        match first {
                            Ok(ready) => ready,
                            Err(result) => {
                                drop(fds);
                                inner.counters.full_turns.count();
                                break 'turn self.serve_after_wait(result);
                            }
                        }
                    }
                };
                if !doorbell.is_quiet() {
                    drop(fds);
                    break 'turn self.turn_in_full(is_run);
                }
                let Some(ready) = fds.take_single(ready) else {
                    drop(fds);
                    inner.counters.full_turns.count();
                    break 'turn self.serve_after_wait(Ok(()));
                };
                drop(fds);
                inner.counters.short_turns.count();
                self.call_fd(ready);
                continue 'turns;
            };
            if turn? == Turn::Empty {
                return Ok(());
            }
        }
    }

    /// The turn, if it is one that calls an immediate and does nothing else.
    #[inline(always)]
    fn turn_of_immediate(&self, is_run: bool) -> bool {
        let inner = &*self.inner;
        inner.doorbell.is_quiet()
            && !inner.others_are_overdue()
            && !inner.watch.is_watched()
            && (self.run_next_once()
                || inner.has_immediates()
                    && self.run_immediate(!is_run, || inner.counters.full_turns.count()))
    }

    /// One turn, whatever there is to do.
    #[inline(always)]
    fn turn_in_full(&self, is_run: bool) -> io::Result<Turn> {
        self.turn_within(is_run, None)
    }

    /// The same with a limit of its own for the wait.
    #[inline(always)]
    fn turn_within(&self, is_run: bool, limit: Option<Timeout>) -> io::Result<Turn> {
        let inner = &*self.inner;
        inner.state.running_fd.set(None);
        inner.counters.full_turns.count();
        if inner.watch.is_traced() {
            inner.trace_turn(|| self.turn(is_run, limit))
        } else {
            self.turn(is_run, limit)
        }
    }

    /// The steps of a turn are those of tevent's `tevent_loop_once`.
    #[inline(never)]
    fn turn(&self, is_run: bool, limit: Option<Timeout>) -> io::Result<Turn> {
        let inner = &*self.inner;

        // 1. and 2. Signals; what other threads have scheduled goes to the end of the immediates.
        if inner.doorbell.attention() != 0 && self.attend()? {
            return Ok(Turn::Ran);
        }

        // 3. One immediate; unless there were so many that the others are to have a turn.
        let overdue = inner.others_are_overdue();
        if !overdue && inner.has_immediates() && self.run_immediate(!is_run, || ()) {
            return Ok(Turn::Ran);
        }

        // 4. One due timer. The clock is read only if there are timers.
        let mut now = None;
        let had_their_turn = overdue && inner.state.streak.get().timers_had_their_turn;
        if !had_their_turn && inner.has_timers() && self.run_due_timer(&mut now) {
            inner.timers_had_their_turn(overdue);
            return Ok(Turn::Ran);
        }

        // 5. One descriptor of those that the latest wait has found ready; else the wait.
        inner.state.streak.set(Streak::default());
        inner.clear_busy_if_idle();
        if self.run_ready_fd() {
            return Ok(Turn::Ran);
        }
        if is_run && !inner.has_something_to_wait_for() {
            return Ok(Turn::Empty);
        }
        let result = inner.wait(now, is_run, limit)?;
        self.serve_after_wait(result)
    }

    /// The rest of step 5: what the wait has brought, that is a signal, else a descriptor, else a
    /// timer that became due, or what was passed over for the others' sake.
    #[inline(never)]
    fn serve_after_wait(&self, result: io::Result<()>) -> io::Result<Turn> {
        let inner = &*self.inner;
        inner.state.running_fd.set(None);
        if let Err(error) = result {
            inner.after_failed_wait(error)?;
        }
        if inner.doorbell.attention() != 0 && self.attend()? {
            return Ok(Turn::Ran);
        }
        if self.run_ready_fd() {
            return Ok(Turn::Ran);
        }
        let ran = self.run_immediate(true, || ()) || self.run_due_timer(&mut None);
        Ok(if ran { Turn::Ran } else { Turn::Idle })
    }

    /// Looks at what rang. Returns whether a signal handler ran.
    #[cold]
    fn attend(&self) -> io::Result<bool> {
        let inner = &*self.inner;
        if inner.doorbell.attention() & FORK != 0 {
            inner
                .recover_from_fork()
                .map_err(|error| OsError::wrap("reopening after fork", error))?;
        }
        if inner.doorbell.attention() & SIGNAL != 0 {
            inner.doorbell.attend(SIGNAL);
            if self.run_signals() {
                return Ok(true);
            }
        }
        if inner.doorbell.attention() & REMOTE != 0 {
            inner.doorbell.attend(REMOTE);
            inner.accept_remote();
        }
        Ok(false)
    }

    /// Calls one ready descriptor event.
    #[inline]
    fn run_ready_fd(&self) -> bool {
        let inner = &*self.inner;
        let ready = {
            let mut fds = inner.fds.borrow_mut();
            let single = fds.next().and_then(|ready| fds.take_single(ready));
            single.or_else(|| fds.take_ready())
        };
        let Some(ready) = ready else {
            return false;
        };
        inner.counters.fds.count();
        if inner.watch.is_watched() {
            self.call_fd_watched(ready);
        } else {
            self.call_fd(ready);
        }
        true
    }

    #[cold]
    fn call_fd_watched(&self, ready: ReadyFd) {
        let inner = &*self.inner;
        let call = inner.begin_call(|| Some(ready.handler.meta().traced(EventKind::Fd, ready.key)));
        self.call_fd(ready);
        inner.state.running_fd.set(None);
        inner.end_call(call);
    }

    /// It is left to the caller to say that the handler doesn't run any more, before other code of
    /// the user does. (Should the handler panic, the end of this loop does.)
    #[inline(always)]
    fn call_fd(&self, ready: ReadyFd) {
        self.inner.state.running_fd.set(Some(ready.key));
        ready.handler.call(self, ready.flags);
    }
}

impl Inner {
    /// Waits until a descriptor is ready, a timer is due, something rings, or the wait timeout is
    /// over (or the `limit`, in place of it and of timers). `now` is the time of this turn, if it was
    /// read. The inner result is the wait's.
    fn wait(
        &self,
        now: Option<Instant>,
        is_run: bool,
        limit: Option<Timeout>,
    ) -> io::Result<io::Result<()>> {
        let timeout = self.prepare_wait(now, is_run, limit)?;
        self.counters.waits.count();
        let result = if self.watch.is_watched() {
            self.watch_wait(timeout.limit(), || -> io::Result<io::Result<()>> {
                // The tracer, which was just told, may have changed everything, or forked.
                if self.doorbell.attention() != 0 {
                    return Ok(Ok(()));
                }
                let timeout = self.prepare_wait(None, is_run, limit)?;
                Ok(self.wait_by_the_clock(timeout))
            })?
        } else {
            self.wait_by_the_clock(timeout)
        };
        self.settle(now);
        Ok(result)
    }

    /// Tells the backend what events want now. Returns for how long to wait.
    #[inline(always)]
    fn prepare_wait(
        &self,
        now: Option<Instant>,
        is_run: bool,
        limit: Option<Timeout>,
    ) -> io::Result<Timeout> {
        if !self.has_wakeup() {
            // The backend fell back, and then refused it.
            self.add_wakeup()?;
        }
        if self.fds.borrow().mux.is_dirty() {
            self.flush()?;
        }
        Ok(if self.immediates().has_runnable() {
            Timeout::ZERO
        } else {
            limit.unwrap_or_else(|| self.time_to_wait(now, is_run))
        })
    }

    #[inline(always)]
    fn wait_by_the_clock(&self, timeout: Timeout) -> io::Result<()> {
        if self.clock.is_virtual() && timeout != Timeout::ZERO {
            self.wait_virtually(timeout)
        } else {
            self.wait_for(timeout)
        }
    }

    /// Tells the backend what events want now, if that is what has unsettled the loop. Returns whether
    /// that has settled it.
    #[inline(never)]
    fn settle_anew(&self) -> io::Result<bool> {
        // In a forked child the backend is the parent's until a turn in full has attended to that.
        if !self.doorbell.is_quiet() || !self.has_wakeup() || !self.fds.borrow().mux.is_dirty() {
            return Ok(false);
        }
        self.flush()?;
        Ok(match self.state.busy() {
            Busy::No => self.settle_for(None),
            Busy::Later => self.settle_for(Some(self.state.quiet_limit.get())),
            Busy::Yes => false,
        })
    }

    /// Finds out whether the next turns can be short ones that wait for the wait timeout, or for this
    /// long if that is less.
    fn settle_for(&self, limit: Option<Duration>) -> bool {
        let timeouts = [false, true].map(|is_run| {
            let timeout = self.options.wait_timeout(is_run);
            limit.map_or(timeout, |limit| timeout.at_most(limit))
        });
        self.fds.borrow_mut().settle(timeouts)
    }

    /// Finds out whether the next turns can be short ones.
    fn settle(&self, now: Option<Instant>) {
        if self.state.busy() == Busy::No {
            self.settle_for(None);
            return;
        }
        if self.has_immediates() || self.watch.is_watched() || self.clock.is_virtual() {
            return;
        }
        let Some(deadline) = self.timers.borrow_mut().next_deadline() else {
            return;
        };
        // While it takes more than half of the time to the first timer, a wait may last for the other
        // half, whenever it begins: there is no need to know how much is left. It may end too early,
        // and then the next one is exact.
        let now = now.unwrap_or_else(|| self.clock.now());
        let half = deadline.saturating_duration_since(now) / 2;
        let limit = Duration::from_millis(half.as_millis().min(LONGEST_WAIT) as u64);
        if limit.is_zero() {
            return;
        }
        if self.settle_for(Some(limit)) {
            self.state.set_quiet_until(now + half, limit);
        }
    }

    /// Whether a loop that is busy, now or later, is so now.
    #[cold]
    fn is_busy_now(&self) -> bool {
        self.state.busy() == Busy::Yes || self.clock.now() >= self.state.quiet_until.get()
    }

    #[inline(always)]
    fn wait_for(&self, mut timeout: Timeout) -> io::Result<()> {
        // Only a loop that blocks has to be woken.
        if timeout != Timeout::ZERO && !self.doorbell.fall_asleep() {
            timeout = Timeout::ZERO;
        }
        let result = self.fds.borrow_mut().wait(timeout);
        self.doorbell.stay_awake();
        result
    }

    /// The same on a virtual clock: if there is nothing to call and a timer is armed, as much time
    /// passes at once as would pass in the wait.
    #[cold]
    fn wait_virtually(&self, timeout: Timeout) -> io::Result<()> {
        let has_timers = self.has_timers();
        let wait = if has_timers { Timeout::ZERO } else { timeout };
        self.wait_for(wait)?;
        let has_nothing = !self.fds.borrow().has_ready() && self.doorbell.attention() == 0;
        if let (true, true, Some(limit)) = (has_timers, has_nothing, timeout.limit()) {
            self.clock.advance(limit);
        }
        Ok(())
    }

    #[cold]
    fn after_failed_wait(&self, error: io::Error) -> io::Result<()> {
        if error.kind() == io::ErrorKind::Interrupted {
            return Ok(());
        }
        if !self.fds.borrow_mut().backend.fall_back() {
            self.trace_message(Severity::Error, || format!("waiting has failed: {error}"));
            return Err(OsError::wrap("wait", error));
        }
        self.trace_fall_back("waiting", &error);
        self.register_anew()
    }

    /// The backend has fallen back to another mechanism, because of an error.
    #[cold]
    pub(crate) fn trace_fall_back(&self, operation: &str, error: &io::Error) {
        self.trace_message(Severity::Warning, || {
            format!(
                "{operation} has failed ({error}); the backend has fallen back to another mechanism"
            )
        });
    }

    /// Tells the backend what the events want.
    fn flush(&self) -> io::Result<()> {
        let mut refused = None;
        loop {
            let flushed = {
                let fds = &mut *self.fds.borrow_mut();
                fds.mux.flush(&mut *fds.backend)
            };
            refused = refused.or(flushed.refused);
            let Some(reason) = flushed.fell_back else {
                break;
            };
            self.trace_fall_back("changing an interest", &reason);
            if let Err(error) = self.register_anew() {
                refused.get_or_insert(error);
                break;
            }
        }
        match refused {
            Some(error) => {
                self.trace_message(Severity::Error, || {
                    format!("the kernel has refused a changed interest: {error}")
                });
                Err(OsError::wrap("changing an interest", error))
            }
            None => Ok(()),
        }
    }

    /// The backend has fallen back to another mechanism, which knows nothing yet: adds the wake-up
    /// descriptor, and leaves the others to the next flush.
    fn register_anew(&self) -> io::Result<()> {
        self.fds.borrow_mut().mux.forget_registrations();
        self.add_wakeup()
    }

    fn time_to_wait(&self, now: Option<Instant>, is_run: bool) -> Timeout {
        let timeout = self.options.wait_timeout(is_run);
        let Some(deadline) = self.timers.borrow_mut().next_deadline() else {
            return timeout;
        };
        let now = now.unwrap_or_else(|| self.clock.now());
        timeout.at_most(deadline.saturating_duration_since(now))
    }

    /// Lets the next turns be short if they need look at nothing but the doorbell and descriptors.
    fn clear_busy_if_idle(&self) {
        // Whoever has ended an event or asked to stop was heard before this turn.
        if !(self.has_timers() || self.has_immediates() || self.watch.is_watched()) {
            self.state.clear_busy();
        }
    }

    /// Whether the next turn of [`Context::run`] would call the [sole
    /// immediate](Inner::immediates) again: signals, other threads, `fork` and the budget are what
    /// a turn looks at before it.
    #[inline(always)]
    pub(crate) fn next_turn_is_the_sole_immediates(&self) -> bool {
        self.state.sole_is_scheduled.get()
            && self.doorbell.attention() == 0
            && !self.others_are_overdue()
    }

    #[inline]
    fn has_timers(&self) -> bool {
        self.timers.borrow().armed() > 0
    }

    /// Whether so many immediates and timers ran in a row that the others are to have a turn.
    #[inline]
    fn others_are_overdue(&self) -> bool {
        let budget = self.options.starvation_budget.get();
        budget.is_some_and(|budget| self.state.streak.get().length >= budget.get())
    }

    #[inline]
    pub(crate) fn lengthen_streak(&self) {
        let mut streak = self.state.streak.get();
        streak.length = streak.length.wrapping_add(1);
        self.state.streak.set(streak);
    }

    fn timers_had_their_turn(&self, they_had: bool) {
        let mut streak = self.state.streak.get();
        streak.timers_had_their_turn = they_had;
        self.state.streak.set(streak);
    }

    fn has_something_to_wait_for(&self) -> bool {
        self.timers.borrow().armed() > 0
            || self.fds.borrow().mux.enabled() > 0
            || self.signals.borrow().callable() > 0
            || self.immediates().has_runnable()
    }

    /// A handler is about to run a loop: its own event is not to be called there. Returns what is to
    /// be resumed when that loop has ended.
    fn suspend_running(&self, fd: Option<Key>) -> Option<Key> {
        if let Some(key) = self.state.running_timer.get() {
            self.timers.borrow_mut().suspend(key);
        }
        if self.signals.borrow().is_handed_out() {
            self.announce_signals_left();
        }
        fd.filter(|&key| self.fds.borrow_mut().mux.suspend(key))
    }

    /// Registers a descriptor event, with the kernel too. When that fails the handler comes back,
    /// to be dropped when nothing is borrowed.
    pub(crate) fn add_fd_event(
        &self,
        fd: RawFd,
        flags: FdFlags,
        mut handler: Rc<dyn FdHandler>,
    ) -> Result<Key, (Removed, io::Error)> {
        loop {
            if let Err(error) = self.recover_from_fork() {
                return Err((Removed::new(handler), error));
            }
            let mut borrowed = self.fds.borrow_mut();
            let fds = &mut *borrowed;
            let (refused, error) = match fds.mux.add(&mut *fds.backend, fd, flags, handler) {
                Ok(key) => return Ok(key),
                Err(refused) => refused,
            };
            if mux::concerns_what_is_added(&error) || !fds.backend.fall_back() {
                drop(borrowed);
                return Err((Removed::new(refused), error));
            }
            drop(borrowed);
            self.trace_fall_back("adding a descriptor", &error);
            if let Err(error) = self.register_anew() {
                return Err((Removed::new(refused), error));
            }
            handler = refused;
        }
    }
}

/// Saves what [`Context::stop`] has said to an outer loop, while an inner one runs.
struct StopScope<'a> {
    inner: &'a Inner,
    outer: bool,
}

impl<'a> StopScope<'a> {
    fn new(inner: &'a Inner) -> StopScope<'a> {
        let outer = inner.state.stop.replace(false);
        StopScope { inner, outer }
    }

    #[inline]
    fn is_set(&self) -> bool {
        self.inner.state.stop.get()
    }
}

impl Drop for StopScope<'_> {
    fn drop(&mut self) {
        self.inner.state.stop.set(self.outer);
        self.inner.state.set_busy();
    }
}

/// A loop that is running.
struct Level<'a> {
    context: &'a Context,
    number: u32,
    /// Of those of the context.
    start: u32,
    /// Dropped after the hook was told, also when that panicked.
    _entered: Entered<'a>,
}

struct Entered<'a> {
    inner: &'a Inner,
    outer: u32,
    /// The descriptor event whose handler runs this loop.
    outer_fd: Option<Key>,
    /// The same, if this loop has suspended it.
    suspended: Option<Key>,
}

impl Drop for Level<'_> {
    fn drop(&mut self) {
        // A hook that was set since the context was re-initialised wasn't told that this began.
        if self.context.inner.state.starts.get() == self.start {
            self.context.call_nesting_hook(Nesting::End(self.number));
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let state = &self.inner.state;
        state.level.set(self.outer);
        state.running_fd.set(self.outer_fd);
        // What was suspended meanwhile goes on.
        state.set_busy();
        if let Some(key) = self.suspended {
            self.inner.fds.borrow_mut().mux.resume(key);
        }
        if self.outer == 0 {
            self.inner.doorbell.leave();
        }
        // There are some only if a handler has panicked.
        self.inner.drop_ended();
    }
}
