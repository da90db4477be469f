//! A context with events of all kinds, which knows what their handlers have to be told.

use crate::kernel::{self, Call};
use crate::process::sys;
use crate::{LONGEST, assert_names_the_call, attempt, watch_for_hangs_in_child};
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use tevent::{
    BackendKind, Child, Context, Fd, FdFlags, Immediate, Signal, SignalFlags, Signum, Timer,
};

/// What the handlers were told since the round began.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Told {
    bytes: u32,
    shared_bytes: u32,
    writable: u32,
    file: u32,
    plain: u32,
    values: Vec<usize>,
    immediates: u32,
    deferred: u32,
    timers: u32,
    remote: u32,
    children: u32,
}

type Notes = Rc<RefCell<Told>>;

pub struct Scene {
    told: Notes,
    remote: Arc<AtomicU32>,
    reader: Fd<UnixStream>,
    peer: UnixStream,
    /// Two events on one descriptor.
    siblings: [Fd<Rc<UnixStream>>; 2],
    shared_peer: UnixStream,
    file: Option<Fd<File>>,
    writes: Rc<Cell<bool>>,
    _plain: Signal,
    _info: Signal,
    immediate: Immediate,
    timers: [Timer; 2],
}

const VALUES: [usize; 3] = [1, 2, 3];

fn realtime() -> Signum {
    Signum::realtime(2).expect("a real-time signal")
}

/// A context whose waits have no limit, so that what gets lost is a hang.
pub fn build(kind: BackendKind) -> Context {
    let context = attempt(|| Context::builder().backend(kind).wait_timeout(None).build());
    context.set_wait_timeout(limit());
    context
}

/// A registration that fails with `EBADF` is one whose descriptor was closed: the event is disarmed
/// without a word, and who doesn't look wouldn't notice.
fn limit() -> Option<Duration> {
    let fault = kernel::fault()?;
    (fault.call == Call::EpollAdd && fault.errno == libc::EBADF).then_some(Duration::from_millis(1))
}

/// Adds a descriptor, of which a failure gives the source back.
fn add_fd<S: std::os::fd::AsFd + 'static>(
    context: &Context,
    source: S,
    flags: FdFlags,
    handler: impl FnMut(&Context, &Fd<S>, FdFlags) + Clone + 'static,
) -> Fd<S> {
    let mut source = Some(source);
    attempt(|| {
        let given = source.take().expect("it came back");
        context
            .add_fd(given, flags, handler.clone())
            .map_err(|refused| {
                let (back, error) = refused.into_parts();
                source = Some(back);
                error
            })
    })
}

impl Scene {
    pub fn set(context: &Context) -> Scene {
        let told = Notes::default();
        let (ours, peer) = sys::pair();
        let notes = Rc::clone(&told);
        let reader = add_fd(context, ours, FdFlags::READ, move |_, event, _| {
            notes.borrow_mut().bytes += read_all(event.get_ref());
        });
        let (ours, shared_peer) = sys::pair();
        let ours = Rc::new(ours);
        let notes = Rc::clone(&told);
        let first = add_fd(
            context,
            Rc::clone(&ours),
            FdFlags::READ,
            move |_, event, _| {
                notes.borrow_mut().shared_bytes += read_all(event.get_ref());
            },
        );
        let writes = Rc::new(Cell::new(false));
        let (notes, wanted) = (Rc::clone(&told), Rc::clone(&writes));
        let second = add_fd(context, ours, FdFlags::empty(), move |_, event, flags| {
            assert_eq!(flags, FdFlags::WRITE);
            notes.borrow_mut().writable += 1;
            wanted.set(false);
            event.set_flags(FdFlags::empty());
        });
        let notes = Rc::clone(&told);
        let file = (context.backend_name() != "epoll").then(|| {
            add_fd(
                context,
                sys::memory_file(),
                FdFlags::empty(),
                move |_, event, _| {
                    notes.borrow_mut().file += 1;
                    event.set_flags(FdFlags::empty());
                },
            )
        });
        let plain = attempt(|| {
            let notes = Rc::clone(&told);
            context.add_signal(Signum::SIGUSR1, SignalFlags::empty(), move |_, _, info| {
                notes.borrow_mut().plain += info.count;
            })
        });
        let info = attempt(|| {
            let notes = Rc::clone(&told);
            context.add_signal(realtime(), SignalFlags::SIGINFO, move |_, _, info| {
                let value = info.siginfo.and_then(|info| info.value()).expect("a value");
                notes.borrow_mut().values.push(value);
            })
        });
        let notes = Rc::clone(&told);
        let immediate = context.add_immediate(move |_, _| notes.borrow_mut().immediates += 1);
        let timers = [(); 2].map(|()| {
            let notes = Rc::clone(&told);
            let timer = context.add_timer_after(Duration::ZERO, move |_, _| {
                notes.borrow_mut().timers += 1;
            });
            timer.disarm();
            timer
        });
        Scene {
            told,
            remote: Arc::default(),
            reader,
            peer,
            siblings: [first, second],
            shared_peer,
            file,
            writes,
            _plain: plain,
            _info: info,
            immediate,
            timers,
        }
    }

    /// Makes something happen to every event, and runs until all handlers were told of it. Then
    /// nothing is left to be told.
    pub fn play(&self, context: &Context) {
        self.make_happen(context);
        self.run(context);
        self.assert_quiet(context);
    }

    /// Makes something happen to every event.
    pub fn make_happen(&self, context: &Context) {
        self.told.take();
        self.remote.store(0, SeqCst);
        for mut peer in [&self.peer, &self.shared_peer] {
            peer.write_all(b"hello").expect("there is room");
        }
        self.writes.set(true);
        self.siblings[1].set_flags(FdFlags::WRITE);
        if let Some(file) = &self.file {
            file.set_flags(FdFlags::READ);
        }
        sys::raise(Signum::SIGUSR1);
        for value in VALUES {
            sys::sigqueue_to_this_thread(realtime(), value);
        }
        sys::raise(Signum::SIGUSR1);
        self.immediate.schedule();
        let notes = Rc::clone(&self.told);
        context.defer(move |_| notes.borrow_mut().deferred += 1);
        // One that is due, and one for which the loop has to sleep, by nanoseconds.
        self.timers[0].set_deadline(context.now());
        self.timers[1].set_after(Duration::from_nanos(20_001));
        let count = Arc::clone(&self.remote);
        context.remote().schedule(move |_| {
            count.fetch_add(1, SeqCst);
        });
    }

    /// Runs until all that was made happen was told.
    pub fn run(&self, context: &Context) {
        let expected = Told {
            bytes: 5,
            shared_bytes: 5,
            writable: 1,
            file: u32::from(self.file.is_some()),
            plain: 2,
            values: VALUES.to_vec(),
            immediates: 1,
            deferred: 1,
            timers: 2,
            remote: 1,
            children: 0,
        };
        self.run_until(context, || {
            let mut told = self.told.borrow_mut();
            told.remote = self.remote.load(SeqCst);
            *told == expected
        });
    }

    /// Runs until `done`. What a failure has disarmed is armed again, as the documentation says.
    pub fn run_until(&self, context: &Context, mut done: impl FnMut() -> bool) {
        let mut failures = 0;
        loop {
            self.rearm();
            let mut is_done = false;
            let ran = context.run_until(|| {
                is_done = done();
                is_done || self.is_disarmed()
            });
            match ran {
                Ok(()) if is_done => return,
                Ok(()) => failures += 1,
                Err(error) => {
                    assert_names_the_call(&error);
                    failures += 1;
                }
            }
            assert!(failures <= 2 * LONGEST, "told: {:?}", self.told);
        }
    }

    fn is_disarmed(&self) -> bool {
        self.reader.flags().is_empty()
            || self.siblings[0].flags().is_empty()
            || self.writes.get() && self.siblings[1].flags().is_empty()
            || self
                .file
                .as_ref()
                .is_some_and(|file| file.flags().is_empty() && self.told.borrow().file == 0)
    }

    fn rearm(&self) {
        self.reader.set_flags(FdFlags::READ);
        self.siblings[0].set_flags(FdFlags::READ);
        if self.writes.get() {
            self.siblings[1].set_flags(FdFlags::WRITE);
        }
        if let Some(file) = self.file.as_ref().filter(|_| self.told.borrow().file == 0) {
            file.set_flags(FdFlags::READ);
        }
    }

    /// Nothing is told twice, and nothing makes the loop spin.
    fn assert_quiet(&self, context: &Context) {
        let told = self.told.borrow().clone();
        let before = kernel::waits();
        self.timers[1].set_after(Duration::from_nanos(50_001));
        self.run_until(context, || self.told.borrow().timers > told.timers);
        // Without a limit.
        (&self.peer).write_all(b"!").expect("there is room");
        self.run_until(context, || self.told.borrow().bytes > told.bytes);
        // A wake-up that wasn't looked at yet, the changes of a failure, what a limit ends.
        let waited = kernel::waits() - before;
        assert!(waited <= 10, "the loop spins: {waited} waits");
        let mut after = self.told.borrow().clone();
        after.timers -= 1;
        after.bytes -= 1;
        assert_eq!(after, told, "something was told twice");
    }

    /// What the context lends is readable for what is ready here, and is nobody else's.
    pub fn assert_lends_its_own(&self, context: &Context) {
        assert!(!sys::is_readable(context), "nothing is ready");
        // There is none when epoll is given up.
        let falls_back = kernel::fault().is_some_and(|fault| match fault.call {
            Call::EpollCreate | Call::Dup3 => {
                matches!(fault.errno, libc::ENOSYS | libc::EPERM | libc::EBADF)
            }
            Call::EpollAdd | Call::EpollModify | Call::EpollWait | Call::EpollPwait2 => true,
            _ => false,
        });
        if falls_back || !kernel::undisturbed(|| sys::is_epoll_instance(context)) {
            return;
        }
        (&self.peer).write_all(b"!").expect("there is room");
        assert!(sys::is_readable(context), "it isn't this process's");
        read_all(self.reader.get_ref());
        assert!(!sys::is_readable(context), "nothing is ready any more");
    }

    /// As [`play`](Scene::play), with a thread that schedules while the loop may be asleep, and a
    /// child that ends.
    pub fn play_with_others(&self, context: &Context) {
        self.play(context);
        let count = Arc::new(AtomicU32::new(0));
        let remote = context.remote();
        let worker = {
            let count = Arc::clone(&count);
            std::thread::spawn(move || {
                for _ in 0..3 {
                    let count = Arc::clone(&count);
                    assert!(remote.schedule(move |_| {
                        count.fetch_add(1, SeqCst);
                    }));
                    std::thread::yield_now();
                }
            })
        };
        self.run_until(context, || count.load(SeqCst) == 3);
        worker.join().expect("no panic");
        // The next fork wants no other thread.
        kernel::undisturbed(|| {
            sys::wait_until("the thread is gone", || sys::thread_count() == 1);
        });
        self.await_child(context);
    }

    /// A child that ends with 3 is added, and told of.
    pub fn await_child(&self, context: &Context) {
        let pid = kernel::undisturbed(|| sys::fork(|| sys::end(3)));
        let ended: Rc<RefCell<Vec<io::Result<ExitStatus>>>> = Rc::default();
        let added = add_child(context, pid, &ended);
        let is_known = match added {
            Some(child) => {
                self.run_until(context, || !ended.borrow().is_empty());
                assert!(!child.is_registered());
                true
            }
            None => false,
        };
        match ended.borrow_mut().pop() {
            Some(Ok(status)) => assert_eq!(status.code(), Some(3)),
            // It was the system's answer to whoever has waited, so nobody has.
            Some(Err(error)) => {
                assert!(is_known);
                assert_names_the_call(&error);
                kernel::undisturbed(|| assert_eq!(sys::reap(pid), sys::Status::Exited(3)));
            }
            None => kernel::undisturbed(|| assert_eq!(sys::reap(pid), sys::Status::Exited(3))),
        }
        assert!(ended.borrow().is_empty(), "it is told once");
    }

    /// Ends every event, and looks whether its source comes back.
    pub fn end(self, context: &Context) {
        let Scene {
            reader,
            siblings,
            file,
            ..
        } = self;
        let source = reader.into_source().expect("no handler runs");
        // It can be added anew, so it isn't registered any more.
        let again = add_fd(context, source, FdFlags::READ, |_, _, _| ());
        again.remove();
        let [first, second] = siblings;
        drop(first);
        second.remove();
        drop((file, again));
    }
}

/// Adds a child. If it goes on failing, because that is what waiting for it does, it isn't added.
fn add_child(
    context: &Context,
    pid: u32,
    ended: &Rc<RefCell<Vec<io::Result<ExitStatus>>>>,
) -> Option<Child> {
    for _ in 0..=LONGEST {
        let notes = Rc::clone(ended);
        let added = context.add_child(pid, move |_, child, result| {
            assert_eq!(child.pid(), pid);
            notes.borrow_mut().push(result);
        });
        match added {
            Ok(child) => return Some(child),
            Err(error) => assert_names_the_call(&error),
        }
    }
    None
}

fn read_all(mut socket: &UnixStream) -> u32 {
    let mut buffer = [0; 64];
    match socket.read(&mut buffer) {
        Ok(count) => count as u32,
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
            0
        }
    }
}

/// How a process is forked.
#[derive(Clone, Copy, Debug)]
pub enum By {
    Context,
    Somebody,
}

/// Forks, and does `work` in the child, which ends with it. Returns its id.
pub fn fork(context: &Context, by: By, work: impl FnOnce()) -> u32 {
    let pid = attempt(|| match by {
        By::Context => context.fork().map(|fork| match fork {
            tevent::Fork::Parent(pid) => Some(pid),
            tevent::Fork::Child => None,
        }),
        // Not ours to name.
        By::Somebody => kernel::undisturbed(|| match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(None),
            pid => Ok(Some(pid as u32)),
        }),
    });
    pid.unwrap_or_else(|| {
        watch_for_hangs_in_child();
        crate::process::end_with(|| {
            work();
            kernel::stop_failing();
        })
    })
}

/// Waits for a child that has something to assert.
#[track_caller]
pub fn assert_succeeds(pid: u32) {
    kernel::undisturbed(|| sys::assert_succeeds(pid));
}
