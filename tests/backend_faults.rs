//! A backend of which every method fails in turn, with whatever number, at every call: nothing
//! panics, hangs or gets lost, and the error that comes out is the one that went in.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tevent::{
    AddFdError, Backend, Context, Fd, FdFlags, OsError, Readiness, ReadyList, Token, WakeupTrigger,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    Add,
    Modify,
    Remove,
    Wait,
    Reopen,
    AddWakeup,
}

use Method::*;

const METHODS: [Method; 6] = [Add, Modify, Remove, Wait, Reopen, AddWakeup];

const NUMBERS: [i32; 14] = [
    libc::EINTR,
    libc::EAGAIN,
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOMEM,
    libc::EBADF,
    libc::ENOSPC,
    libc::EPERM,
    libc::ENOENT,
    libc::EEXIST,
    libc::EINVAL,
    libc::ELOOP,
    libc::ENOSYS,
    libc::EIO,
];

/// What fails, and how often it did.
#[derive(Debug)]
struct Plan {
    /// Each from its `nth` call on, for `length` calls, with a number.
    faults: Vec<(Method, u32, i32)>,
    length: u32,
    calls: RefCell<[u32; METHODS.len()]>,
    failures: Cell<u32>,
    /// Whether there is another mechanism, of which the same fails.
    falls_back: bool,
    fallbacks: Cell<u32>,
}

impl Plan {
    fn call(&self, method: Method) -> io::Result<()> {
        let count = {
            let count = &mut self.calls.borrow_mut()[method as usize];
            *count += 1;
            *count
        };
        let fault = self.faults.iter().find(|&&(failing, nth, _)| {
            failing == method && (nth..nth + self.length).contains(&count)
        });
        let Some(&(_, _, number)) = fault else {
            return Ok(());
        };
        self.failures.set(self.failures.get() + 1);
        Err(io::Error::from_raw_os_error(number))
    }
}

/// Over `poll(2)`.
struct Faulty {
    plan: Rc<Plan>,
    watches: Vec<(RawFd, Token, FdFlags)>,
}

impl Faulty {
    fn position(&self, fd: RawFd, token: Token) -> io::Result<usize> {
        let found = self
            .watches
            .iter()
            .position(|watch| (watch.0, watch.1) == (fd, token));
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn insert(&mut self, fd: RawFd, token: Token, interest: FdFlags) {
        assert!(!interest.is_empty(), "an interest is never empty");
        assert!(
            self.watches
                .iter()
                .all(|watch| watch.0 != fd && watch.1 != token),
            "every descriptor is registered at most once, by a token of its own"
        );
        self.watches.push((fd, token, interest));
    }
}

impl Backend for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    fn add(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        self.plan.call(Add)?;
        self.insert(fd, token, interest);
        Ok(())
    }

    fn modify(&mut self, fd: RawFd, token: Token, interest: FdFlags) -> io::Result<()> {
        self.plan.call(Modify)?;
        let position = self.position(fd, token)?;
        self.watches[position].2 = interest;
        Ok(())
    }

    fn remove(&mut self, fd: RawFd, token: Token) -> io::Result<()> {
        // The descriptor isn't watched afterwards, whatever is said.
        let position = self.position(fd, token)?;
        self.watches.remove(position);
        self.plan.call(Remove)
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut ReadyList) -> io::Result<()> {
        self.plan.call(Wait)?;
        let mut fds: Vec<libc::pollfd> = Vec::new();
        for &(fd, _, interest) in &self.watches {
            let mut events = 0;
            if interest.contains(FdFlags::READ) {
                events |= libc::POLLIN;
            }
            if interest.contains(FdFlags::WRITE) {
                events |= libc::POLLOUT;
            }
            fds.push(libc::pollfd {
                fd,
                events,
                revents: 0,
            });
        }
        let limit = timeout.map_or(-1, |limit| limit.as_nanos().div_ceil(1_000_000) as i32);
        // SAFETY: the pointer and the length are those of a vector that we own.
        let count = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit) };
        if count == -1 {
            return Err(io::Error::last_os_error());
        }
        for (fd, watch) in fds.iter().zip(&self.watches) {
            assert_eq!(
                fd.revents & libc::POLLNVAL,
                0,
                "a closed descriptor is watched"
            );
            if fd.revents != 0 {
                ready.push(watch.1, Readiness::from_bits_truncate(fd.revents as u8));
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.plan.call(Reopen)?;
        self.watches.clear();
        Ok(())
    }

    fn add_wakeup(&mut self, fd: RawFd, token: Token) -> io::Result<WakeupTrigger> {
        self.plan.call(AddWakeup)?;
        self.insert(fd, token, FdFlags::READ);
        Ok(WakeupTrigger::Level)
    }

    fn fall_back(&mut self) -> bool {
        if self.plan.falls_back {
            self.plan.fallbacks.set(self.plan.fallbacks.get() + 1);
            self.watches.clear();
        }
        self.plan.falls_back
    }
}

/// What is done, and what its errors have to be.
struct Scenario {
    plan: Rc<Plan>,
    /// Errors seen.
    errors: Cell<u32>,
    start: Instant,
}

impl Scenario {
    #[track_caller]
    fn check(&self, error: &io::Error) {
        self.errors.set(self.errors.get() + 1);
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<OsError>());
        let number = match inner {
            Some(inner) => inner.error().raw_os_error(),
            None => error.raw_os_error(),
        };
        let mut numbers = self.plan.faults.iter().map(|fault| Some(fault.2));
        assert!(
            numbers.any(|known| known == number),
            "{error:?}, {:?}",
            self.plan
        );
        assert!(
            self.errors.get() <= self.plan.failures.get(),
            "more errors than failures: {:?}",
            self.plan
        );
    }

    #[track_caller]
    fn attempt<T, E: Into<io::Error>>(&self, mut work: impl FnMut() -> Result<T, E>) -> T {
        for _ in 0..=self.plan.faults.len() as u32 * self.plan.length {
            match work() {
                Ok(result) => return result,
                Err(error) => self.check(&error.into()),
            }
        }
        panic!("it goes on failing: {:?}", self.plan);
    }

    fn add_fd<S: std::os::fd::AsFd + 'static>(
        &self,
        context: &Context,
        source: S,
        flags: FdFlags,
        handler: impl FnMut(&Context, &Fd<S>, FdFlags) + Clone + 'static,
    ) -> Fd<S> {
        let mut source = Some(source);
        self.attempt(|| {
            let given = source.take().expect("it came back");
            let keep = |refused: AddFdError<S>| {
                let (back, error) = refused.into_parts();
                source = Some(back);
                error
            };
            context.add_fd(given, flags, handler.clone()).map_err(keep)
        })
    }

    /// Runs until `done`; what was disarmed is armed again.
    #[track_caller]
    fn run(
        &self,
        context: &Context,
        what: &str,
        rearm: impl Fn() -> bool,
        done: impl Fn() -> bool,
    ) {
        loop {
            let ran = context.run_until(|| done() || rearm() || self.start.elapsed() >= GUARD);
            if let Err(error) = ran {
                self.check(&error);
            }
            assert!(
                self.start.elapsed() < GUARD,
                "{what}: never, {:?}",
                self.plan
            );
            if done() {
                return;
            }
        }
    }

    fn play(&self) {
        let plan = &self.plan;
        let context = self.attempt(|| {
            let watches = Vec::new();
            let backend = Faulty {
                plan: Rc::clone(plan),
                watches,
            };
            let backend = Box::new(backend);
            Context::builder()
                .custom_backend(backend)
                .nesting_allowed(true)
                .build()
        });
        // A registration that is refused as that of a closed descriptor is disarmed without a word.
        let mut numbers = plan.faults.iter().map(|fault| fault.2);
        let silent = numbers.any(|number| matches!(number, libc::EBADF | libc::ENOENT));
        context.set_wait_timeout(Some(if silent {
            Duration::from_millis(1)
        } else {
            GUARD
        }));
        self.serve(&context);
        self.attempt(|| context.reinitialise());
        self.serve(&context);
        self.serve_nested(&context);
        // Once, and left as it is: the next use tries again.
        if let Err(error) = context.reinitialise() {
            self.check(&error);
        }
        self.be_woken(&context);
        self.serve(&context);
    }

    /// Two events on one descriptor and one on another, with changes of interest and removals.
    fn serve(&self, context: &Context) {
        let told = [(); 3].map(|()| Rc::new(Cell::new(0u32)));
        let (ours, mut peer) = pair();
        let ours = Rc::new(ours);
        let note = |told: &Rc<Cell<u32>>| {
            let told = Rc::clone(told);
            move |_: &Context, event: &Fd<Rc<UnixStream>>, _: FdFlags| {
                drain(event.get_ref());
                told.set(told.get() + 1);
                event.set_flags(NOTHING);
            }
        };
        let (other, mut other_peer) = pair();
        let events = [
            self.add_fd(context, Rc::clone(&ours), READ, note(&told[0])),
            self.add_fd(context, Rc::clone(&ours), NOTHING, note(&told[1])),
            self.add_fd(context, Rc::new(other), READ, note(&told[2])),
        ];
        for round in 1..=2 {
            peer.write_all(b"x").expect("there is room");
            other_peer.write_all(b"x").expect("there is room");
            let wanted = [READ, WRITE, READ | ERROR];
            let arm = || {
                let mut armed = false;
                for ((event, told), flags) in events.iter().zip(&told).zip(wanted) {
                    if told.get() < round && event.flags() != flags {
                        event.set_flags(flags);
                        armed = true;
                    }
                }
                armed
            };
            arm();
            self.run(context, "every event is served", arm, || {
                told.iter().all(|told| told.get() == round)
            });
        }
        assert!(told.iter().all(|told| told.get() == 2), "and none twice");
        self.be_woken(context);
        let [first, second, third] = events;
        drop(first);
        let ours = second.into_source().expect("no handler runs");
        let again = self.add_fd(context, ours, WRITE, note(&told[0]));
        drop((third, again));
    }

    /// A loop inside the handler of a descriptor that stays ready.
    fn serve_nested(&self, context: &Context) {
        let (ours, _peer) = readable();
        let depth = Rc::new(Cell::new(0));
        let inner = Rc::new(Cell::new(0));
        let (entered, ran) = (Rc::clone(&depth), Rc::clone(&inner));
        let plan = Rc::clone(&self.plan);
        let event = self.add_fd(context, ours, READ, move |context, event, _| {
            let scenario = Scenario {
                plan: Rc::clone(&plan),
                errors: Cell::new(0),
                start: Instant::now(),
            };
            assert_eq!(entered.replace(1), 0, "it isn't called inside itself");
            scenario.serve(context);
            ran.set(ran.get() + 1);
            entered.set(0);
            event.set_flags(NOTHING);
        });
        let arm = || {
            let disarmed = inner.get() == 0 && event.flags().is_empty();
            if disarmed {
                event.set_flags(READ);
            }
            disarmed
        };
        self.run(context, "the handler runs", arm, || inner.get() == 1);
    }

    /// Another thread wakes the loop, which has nothing else to wait for.
    fn be_woken(&self, context: &Context) {
        let count = Arc::new(AtomicU32::new(0));
        let remote = context.remote();
        let counter = Arc::clone(&count);
        let worker = std::thread::spawn(move || {
            // The loop is asleep by then, more often than not.
            for _ in 0..50 {
                std::thread::yield_now();
            }
            remote.schedule(move |_| {
                counter.fetch_add(1, Ordering::SeqCst);
            })
        });
        let woken = || count.load(Ordering::SeqCst) == 1;
        self.run(context, "another thread wakes the loop", || false, woken);
        assert!(worker.join().expect("no panic"));
    }
}

fn plan(faults: &[(Method, u32, i32)], length: u32, falls_back: bool) -> Rc<Plan> {
    Rc::new(Plan {
        faults: faults.to_vec(),
        length,
        calls: RefCell::default(),
        failures: Cell::new(0),
        falls_back,
        fallbacks: Cell::new(0),
    })
}

/// Plays the scenario with these faults. Returns how many there were.
fn play(faults: &[(Method, u32, i32)], length: u32, falls_back: bool) -> u32 {
    let plan = plan(faults, length, falls_back);
    let scenario = Scenario {
        plan: Rc::clone(&plan),
        errors: Cell::new(0),
        start: Instant::now(),
    };
    scenario.play();
    plan.failures.get()
}

fn every_call_fails(method: Method, numbers: &[i32]) {
    for falls_back in [false, true] {
        for (position, &number) in numbers.iter().enumerate() {
            let lengths = if position == 0 { &[1, 3][..] } else { &[1] };
            for &length in lengths {
                let meets = |&nth: &u32| play(&[(method, nth, number)], length, falls_back) > 0;
                let met = (1..).take_while(meets).count();
                assert!(met >= 2, "{method:?} is called at least twice");
            }
        }
    }
}

#[test]
fn adding_fails() {
    every_call_fails(Add, &NUMBERS);
}

#[test]
fn modifying_fails() {
    every_call_fails(Modify, &NUMBERS);
}

#[test]
fn removing_fails() {
    every_call_fails(Remove, &NUMBERS);
}

#[test]
fn waiting_fails() {
    every_call_fails(Wait, &NUMBERS);
}

#[test]
fn reopening_fails() {
    every_call_fails(Reopen, &NUMBERS);
}

#[test]
fn adding_the_wakeup_descriptor_fails() {
    every_call_fails(AddWakeup, &NUMBERS);
}

/// What is tried after one failure fails too.
#[test]
fn two_methods_fail() {
    for falls_back in [false, true] {
        for first in METHODS {
            for second in METHODS {
                for (nth, after) in (1..5).flat_map(|nth| (1..4).map(move |after| (nth, after))) {
                    let faults = [(first, nth, libc::ENOMEM), (second, after, libc::EINVAL)];
                    play(&faults, 1, falls_back);
                }
            }
        }
    }
}

/// A refusal that disarms events is reported also when the backend falls back for another's sake.
#[test]
fn a_refusal_before_a_fallback_is_reported() {
    for order in [[libc::EPERM, libc::ENOMEM], [libc::ENOMEM, libc::EPERM]] {
        let faults = [(Modify, 1, order[0]), (Modify, 2, order[1])];
        let plan = plan(&faults, 1, true);
        let faulty = Faulty {
            plan: Rc::clone(&plan),
            watches: Vec::new(),
        };
        let backend = Box::new(faulty);
        let context = Context::builder().custom_backend(backend).build().unwrap();
        context.set_wait_timeout(Some(Duration::ZERO));
        let (sockets, _peers): (Vec<_>, Vec<_>) = (0..2).map(|_| pair()).unzip();
        let add = |socket| context.add_fd(socket, READ, |_, _, _| ()).unwrap();
        let events: Vec<_> = sockets.into_iter().map(add).collect();
        events
            .iter()
            .for_each(|event| event.set_flags(READ | ERROR));
        let ran = context.run_once();
        let disarmed = events
            .iter()
            .filter(|event| event.flags().is_empty())
            .count();
        assert_eq!(plan.fallbacks.get(), 1, "ENOMEM isn't about one descriptor");
        // After the fall-back everything is added, so nothing is modified any more.
        assert_eq!(disarmed, usize::from(order[0] == libc::EPERM));
        assert_eq!(ran.is_err(), disarmed > 0, "{ran:?}, {order:?}");
    }
}
