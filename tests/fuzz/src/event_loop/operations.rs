//! The operations that a program is made of.

use super::model::{
    Armed, FdModel, ImmediateModel, MOST, MOST_SIGNALS, SignalModel, TimerModel, World, deadline,
    world,
};
use super::sources::{Object, Source};
use super::{ensure, violated};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::time::Duration;
use tevent::{Context, Fd, FdFlags, Immediate, Nesting, SignalFlags, Signum, Timer};

/// Ignored by default, so that one that nobody handles does nothing.
const SIGNALS: [i32; 3] = [libc::SIGURG, libc::SIGWINCH, libc::SIGCONT];

/// What a program's handlers panic with.
struct Expected;

/// Calls something that may call handlers. `None`: one of them has panicked.
pub(super) fn guarded<R>(run: impl FnOnce() -> R) -> Option<R> {
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => Some(result),
        Err(payload) if payload.is::<Expected>() => None,
        Err(_) => violated("nothing panics but the program's handlers"),
    }
}

/// What a closure owns: its destructor performs an operation.
struct Guard {
    /// The descriptor event whose handler the closure is.
    fd: Option<usize>,
}

impl Guard {
    fn new(world: &World) -> Guard {
        Guard::of(world, None)
    }

    fn of_fd(world: &World, id: usize) -> Guard {
        Guard::of(world, Some(id))
    }

    fn of(world: &World, fd: Option<usize>) -> Guard {
        world.guards.set(world.guards.get() + 1);
        Guard { fd }
    }

    /// To be called in a closure that is to own this.
    fn keep(&self) {}
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(world) = world() else {
            return;
        };
        world.guards.set(world.guards.get() - 1);
        if let Some(id) = self.fd {
            world.fds.borrow_mut()[id].being_dropped = true;
        }
        inside(&world, 1);
        if let Some(id) = self.fd {
            world.fds.borrow_mut()[id].being_dropped = false;
        }
    }
}

/// Performs operations in the middle of something, with the context if it is there.
fn inside(world: &World, most: u8) {
    if !world.may_go_deeper() {
        return;
    }
    world.depth.set(world.depth.get() + 1);
    world.inside.set(world.inside.get() + 1);
    let context = world.weak.upgrade();
    for _ in 0..world.next() % (most + 1) {
        perform(world, context.as_deref());
    }
    drop(context);
    world.inside.set(world.inside.get() - 1);
    world.depth.set(world.depth.get() - 1);
}

/// The body of every handler.
fn handler(world: &World, context: &Context) {
    if !world.may_go_deeper() {
        return;
    }
    world.depth.set(world.depth.get() + 1);
    let byte = world.next();
    for _ in 0..byte % 4 {
        perform(world, Some(context));
    }
    world.depth.set(world.depth.get() - 1);
    if byte >= 248 {
        // Without the hook that would end the process.
        panic::resume_unwind(Box::new(Expected));
    }
}

/// Calls its closure when a handler returns or panics.
struct OnReturn<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnReturn<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn flags(byte: u8) -> FdFlags {
    FdFlags::from_bits_truncate(byte)
}

/// One operation.
pub(super) fn perform(world: &World, context: Option<&Context>) {
    match world.next() % 40 {
        0 => {
            if world.objects.borrow().len() < MOST {
                let object = Rc::new(Object::new(world.next()));
                world.objects.borrow_mut().push(object);
            }
            add_fd(world, context);
        }
        1 | 2 => add_fd(world, context),
        3 => set_flags(world),
        4 => toggle(world),
        5 => with_fd(world, |id, handle| {
            world.fds.borrow_mut()[id].alive = false;
            handle.remove();
        }),
        6 => take_fd(world, |world, id, handle| {
            world.fds.borrow_mut()[id].alive = false;
            drop(handle);
        }),
        7 => take_fd(world, |_, _, handle| handle.detach()),
        8 => take_fd(world, into_source),
        9 => with_fd(world, |id, handle| on_close(world, id, handle)),
        10 => with_object(world, Object::feed),
        11 => with_object(world, Object::drain),
        12 => with_object(world, Object::fill),
        13 => with_object(world, Object::close_peer),
        14 => with_object(world, Object::drain_peer),
        15 => with_object(world, Object::half_close_peer),
        16 => forget_object(world),
        17 => add_timer(world, context),
        18 | 19 => with_timer(world, |id, handle| arm(world, id, handle)),
        20 => with_timer(world, |id, handle| {
            world.timers.borrow_mut()[id].armed = None;
            handle.disarm();
        }),
        21 => with_timer(world, |id, handle| {
            forget_timer(world, id);
            handle.remove();
        }),
        22 => end_timer(world),
        23 => add_immediate(world, context),
        24 | 25 => with_immediate(world, |id, handle| schedule(world, id, handle)),
        26 => with_immediate(world, |id, handle| {
            world.dequeue(id);
            handle.cancel();
            ensure(!handle.is_scheduled(), "what is cancelled isn't scheduled");
        }),
        27 => end_immediate(world),
        28 => defer(world, context),
        29 => post(world),
        30 => add_signal(world, context),
        31 => raise(world),
        32 => end_signal(world),
        33 | 34 => run(world, context),
        35 => reinitialise(world, context),
        36 => configure(world, context),
        37 => inject(world),
        38 => look(world, context),
        _ => keep_context(world, context),
    }
}

fn object(world: &World) -> Option<Rc<Object>> {
    let length = world.objects.borrow().len();
    let index = world.index(length)?;
    Some(Rc::clone(&world.objects.borrow()[index]))
}

fn with_object(world: &World, use_it: impl FnOnce(&Object)) {
    if let Some(object) = object(world) {
        use_it(&object);
    }
}

/// Leaves an object to the events that watch it.
fn forget_object(world: &World) {
    let length = world.objects.borrow().len();
    if let Some(index) = world.index(length) {
        let object = world.objects.borrow_mut().swap_remove(index);
        drop(object);
    }
}

// Descriptors.

fn add_fd(world: &World, context: Option<&Context>) {
    let (Some(context), Some(object)) = (context, object(world)) else {
        return;
    };
    let id = world.fds.borrow().len();
    if id == MOST {
        return;
    }
    let byte = world.next();
    let flags = flags(byte);
    world.fds.borrow_mut().push(FdModel {
        handle: None,
        object: Rc::downgrade(&object),
        alive: true,
        running: false,
        being_dropped: false,
        flags,
        on_close: None,
        closed: 0,
        given_back: false,
        dropped: 0,
    });
    let source = Source { object, event: id };
    let guard = Guard::of_fd(world, id);
    let added = context.add_fd(source, flags, move |context, handle, flags| {
        guard.keep();
        let Some(world) = world_of_handler() else {
            return;
        };
        ensure(
            handle.flags().contains(flags),
            "an event is told what it wants now",
        );
        world.fd_is_called(id, flags);
        let _return = OnReturn(|| world.fd_has_returned(id));
        if world.has_bytes() {
            handler(&world, context);
        } else {
            world.fds.borrow_mut()[id].flags = FdFlags::empty();
            handle.set_flags(FdFlags::empty());
        }
    });
    match added {
        Ok(handle) if byte & 0x88 == 0x88 => handle.detach(),
        Ok(handle) => world.fds.borrow_mut()[id].handle = Some(Rc::new(handle)),
        Err(error) => {
            {
                let fd = &mut world.fds.borrow_mut()[id];
                (fd.alive, fd.given_back) = (false, true);
            }
            let (source, error) = error.into_parts();
            ensure(source.event == id, "a refused source comes back");
            let was_told_to = world.faults.any.get();
            let is_file = context.backend_name() == "epoll";
            if !was_told_to && !is_file {
                violated(&format!(
                    "only files are refused, and only by epoll: {error}"
                ));
            }
            drop(source);
        }
    }
}

fn world_of_handler() -> Option<Rc<World>> {
    let world = world();
    ensure(
        world.is_some(),
        "handlers are called while the program runs",
    );
    world
}

fn fd(world: &World) -> Option<(usize, Rc<Fd<Source>>)> {
    let length = world.fds.borrow().len();
    let id = world.index(length)?;
    let handle = world.fds.borrow()[id].handle.clone()?;
    Some((id, handle))
}

fn with_fd(world: &World, use_it: impl FnOnce(usize, &Fd<Source>)) {
    if let Some((id, handle)) = fd(world) {
        use_it(id, &handle);
        let_go_of_fd(world, id, handle);
    }
}

/// Drops a second reference to a handle. The first may have been taken away meanwhile.
fn let_go_of_fd(world: &World, id: usize, handle: Rc<Fd<Source>>) {
    if Rc::strong_count(&handle) == 1 {
        world.fds.borrow_mut()[id].alive = false;
    }
    drop(handle);
}

/// Takes a handle out of its place, unless somebody is using it.
fn take_fd(world: &World, use_it: impl FnOnce(&World, usize, Fd<Source>)) {
    let length = world.fds.borrow().len();
    let Some(id) = world.index(length) else {
        return;
    };
    let handle = world.fds.borrow_mut()[id].handle.take();
    match handle.map(Rc::try_unwrap) {
        Some(Ok(handle)) => use_it(world, id, handle),
        Some(Err(shared)) => world.fds.borrow_mut()[id].handle = Some(shared),
        None => {}
    }
}

fn into_source(world: &World, id: usize, handle: Fd<Source>) {
    world.fds.borrow_mut()[id].alive = false;
    // Destructors that run meanwhile don't get at the handle, so nobody sets a close callback.
    let has_handler = {
        let fd = &world.fds.borrow()[id];
        fd.running || fd.being_dropped || world.wiping.get() > 0
    };
    match handle.into_source() {
        Ok(source) => {
            ensure(source.event == id, "a source comes back to its owner");
            world.fds.borrow_mut()[id].given_back = true;
            drop(source);
        }
        Err(handle) => {
            ensure(has_handler, "only a handler that is there keeps the source");
            world.fds.borrow_mut()[id].handle = Some(Rc::new(handle));
        }
    }
}

fn set_flags(world: &World) {
    with_fd(world, |id, handle| {
        let flags = flags(world.next());
        if world.fds.borrow()[id].alive {
            world.fds.borrow_mut()[id].flags = flags;
        }
        handle.set_flags(flags);
        ensure(
            !world.fds.borrow()[id].alive || handle.flags() == flags,
            "flags are set at once",
        );
    });
}

fn toggle(world: &World) {
    with_fd(world, |id, handle| {
        let byte = world.next();
        let wanted = byte & 8 != 0;
        let flag = [FdFlags::READ, FdFlags::WRITE, FdFlags::ERROR][usize::from(byte % 3)];
        let mut expected = handle.flags();
        match flag {
            FdFlags::READ => handle.set_readable(wanted),
            FdFlags::WRITE => handle.set_writable(wanted),
            _ => handle.set_want_error(wanted),
        }
        let mut fds = world.fds.borrow_mut();
        if fds[id].alive {
            expected.set(flag, wanted);
            ensure(handle.flags() == expected, "one flag is changed at once");
            fds[id].flags = expected;
        }
    });
}

fn on_close(world: &World, id: usize, handle: &Fd<Source>) {
    thread_local!(static NEXT: Cell<u32> = const { Cell::new(0) });
    let number = NEXT.get();
    NEXT.set(number.wrapping_add(1));
    let guard = Guard::new(world);
    world.fds.borrow_mut()[id].on_close = Some(number);
    handle.on_close(move |source| {
        guard.keep();
        let Some(world) = world_of_handler() else {
            return;
        };
        {
            let fd = &mut world.fds.borrow_mut()[id];
            ensure(source.event == id, "a close callback gets its source");
            ensure(
                fd.on_close == Some(number),
                "the close callback set last is called",
            );
            ensure(!fd.alive, "the close callback comes after the end");
            ensure(!fd.running, "the close callback comes after the handler");
            fd.closed += 1;
        }
        inside(&world, 2);
        drop(source);
    });
}

// Timers.

fn add_timer(world: &World, context: Option<&Context>) {
    let id = world.timers.borrow().len();
    let Some(context) = context.filter(|_| id < MOST) else {
        return;
    };
    let deadline = deadline(world);
    let armed = Some(Armed {
        deadline,
        sequence: world.next_sequence(),
        while_running: false,
    });
    world.timers.borrow_mut().push(TimerModel {
        handle: None,
        alive: true,
        running: false,
        detached: false,
        armed,
    });
    let guard = Guard::new(world);
    let timer = context.add_timer(deadline, move |context, timer| {
        guard.keep();
        let Some(world) = world_of_handler() else {
            return;
        };
        world.timer_is_called(id);
        let _return = OnReturn(|| world.timer_has_returned(id));
        if world.has_bytes() && world.next() & 3 == 0 {
            arm(&world, id, timer);
        }
        handler(&world, context);
    });
    world.timers.borrow_mut()[id].handle = Some(Rc::new(timer));
}

fn arm(world: &World, id: usize, timer: &Timer) {
    let deadline = deadline(world);
    let sequence = world.next_sequence();
    let is_there = {
        let timer = &mut world.timers.borrow_mut()[id];
        if timer.alive {
            timer.armed = Some(Armed {
                deadline,
                sequence,
                while_running: timer.running,
            });
        }
        timer.alive
    };
    ensure(
        timer.set_deadline(deadline) == is_there,
        "a timer that is there can be armed",
    );
}

fn with_timer(world: &World, use_it: impl FnOnce(usize, &Timer)) {
    let length = world.timers.borrow().len();
    let Some(id) = world.index(length) else {
        return;
    };
    let handle = world.timers.borrow()[id].handle.clone();
    if let Some(handle) = handle {
        use_it(id, &handle);
        if Rc::strong_count(&handle) == 1 {
            forget_timer(world, id);
        }
    }
}

fn forget_timer(world: &World, id: usize) {
    let timer = &mut world.timers.borrow_mut()[id];
    (timer.alive, timer.armed) = (false, None);
}

fn end_timer(world: &World) {
    let length = world.timers.borrow().len();
    let Some(id) = world.index(length) else {
        return;
    };
    let handle = world.timers.borrow_mut()[id].handle.take();
    match handle.map(Rc::try_unwrap) {
        Some(Ok(handle)) if world.next() & 1 == 0 => {
            forget_timer(world, id);
            drop(handle);
        }
        Some(Ok(handle)) => {
            {
                let timer = &mut world.timers.borrow_mut()[id];
                timer.detached = true;
                timer.alive &= timer.armed.is_some() || timer.running;
            }
            handle.detach();
        }
        Some(Err(shared)) => world.timers.borrow_mut()[id].handle = Some(shared),
        None => {}
    }
}

// Immediates.

fn new_immediate(world: &World, detached: bool) -> Option<usize> {
    let mut immediates = world.immediates.borrow_mut();
    let id = immediates.len();
    (id < 4 * MOST).then(|| {
        immediates.push(ImmediateModel {
            handle: None,
            alive: true,
            running: false,
            detached,
        });
        id
    })
}

fn immediate_handler(context: &Context, id: usize, immediate: Option<&Immediate>) {
    let Some(world) = world_of_handler() else {
        return;
    };
    world.immediate_is_called(id);
    let _return = OnReturn(|| world.immediate_has_returned(id));
    if let Some(immediate) = immediate.filter(|_| world.has_bytes()) {
        if world.next() & 3 == 0 {
            schedule(&world, id, immediate);
        }
    }
    handler(&world, context);
}

fn add_immediate(world: &World, context: Option<&Context>) {
    let Some(context) = context else {
        return;
    };
    let Some(id) = new_immediate(world, false) else {
        return;
    };
    let guard = Guard::new(world);
    let immediate = context.add_immediate(move |context, immediate| {
        guard.keep();
        immediate_handler(context, id, Some(immediate));
    });
    schedule(world, id, &immediate);
    world.immediates.borrow_mut()[id].handle = Some(Rc::new(immediate));
}

fn defer(world: &World, context: Option<&Context>) {
    let Some(context) = context else {
        return;
    };
    if let Some(id) = new_immediate(world, true) {
        let guard = Guard::new(world);
        world.enqueue(id);
        context.defer(move |context| {
            guard.keep();
            immediate_handler(context, id, None);
        });
    }
}

/// Schedules by the handle that other threads have. (The closure may not own a guard, which stays
/// on this thread.)
fn post(world: &World) {
    if let Some(id) = new_immediate(world, true) {
        world.posted.borrow_mut().push(id);
        let accepted = world
            .remote
            .schedule(move |context| immediate_handler(context, id, None));
        let is_there = world.weak.upgrade().is_some();
        ensure(
            accepted || !is_there,
            "a context that is there takes what is posted",
        );
        if !accepted {
            ensure(world.remote.is_closed(), "only a closed one refuses");
            world.posted.borrow_mut().pop();
        }
    }
}

fn schedule(world: &World, id: usize, immediate: &Immediate) {
    let is_there = world.immediates.borrow()[id].alive;
    if is_there {
        world.enqueue(id);
    }
    ensure(
        immediate.schedule() == is_there,
        "an immediate that is there can be scheduled",
    );
}

fn with_immediate(world: &World, use_it: impl FnOnce(usize, &Immediate)) {
    let length = world.immediates.borrow().len();
    let Some(id) = world.index(length) else {
        return;
    };
    let handle = world.immediates.borrow()[id].handle.clone();
    if let Some(handle) = handle {
        use_it(id, &handle);
        if Rc::strong_count(&handle) == 1 {
            forget_immediate(world, id);
        }
    }
}

fn forget_immediate(world: &World, id: usize) {
    world.dequeue(id);
    world.immediates.borrow_mut()[id].alive = false;
}

fn end_immediate(world: &World) {
    let length = world.immediates.borrow().len();
    let Some(id) = world.index(length) else {
        return;
    };
    let handle = world.immediates.borrow_mut()[id].handle.take();
    match (handle.map(Rc::try_unwrap), world.next() % 3) {
        (Some(Ok(handle)), 0) => {
            forget_immediate(world, id);
            drop(handle);
        }
        (Some(Ok(handle)), 1) => {
            forget_immediate(world, id);
            handle.remove();
            ensure(!handle.is_registered(), "what is removed is gone");
            drop(handle);
        }
        (Some(Ok(handle)), _) => {
            let is_queued = world.is_queued(id);
            {
                let immediate = &mut world.immediates.borrow_mut()[id];
                immediate.detached = true;
                immediate.alive &= is_queued || immediate.running;
            }
            handle.detach();
        }
        (Some(Err(shared)), _) => world.immediates.borrow_mut()[id].handle = Some(shared),
        (None, _) => {}
    }
}

// Signals.

fn add_signal(world: &World, context: Option<&Context>) {
    let id = world.signals.borrow().len();
    let Some(context) = context.filter(|_| id < MOST) else {
        return;
    };
    let byte = world.next();
    let number = SIGNALS[usize::from(byte % 3)];
    let flags = SignalFlags::from_bits_truncate(byte / 3);
    let Ok(signum) = Signum::new(number) else {
        violated("these signals can be handled");
    };
    world.signals.borrow_mut().push(SignalModel {
        handle: None,
        number,
        flags,
        alive: true,
        running: false,
        told: 0,
        raised: 0,
    });
    let guard = Guard::new(world);
    let added = context.add_signal(signum, flags, move |context, _, info| {
        guard.keep();
        let Some(world) = world_of_handler() else {
            return;
        };
        let wants_info = flags.contains(SignalFlags::SIGINFO);
        ensure(
            info.siginfo.is_some() == wants_info,
            "who asked for siginfo gets it",
        );
        world.signal_is_called(id, info.signum.number(), info.count);
        let _return = OnReturn(|| world.signal_has_returned(id));
        handler(&world, context);
    });
    match added {
        Ok(signal) => world.signals.borrow_mut()[id].handle = Some(Rc::new(signal)),
        Err(_) => {
            ensure(world.faults.any.get(), "a signal handler can be installed");
            world.signals.borrow_mut()[id].alive = false;
        }
    }
}

fn raise(world: &World) {
    if world.raised.get() == MOST_SIGNALS {
        return;
    }
    world.raised.set(world.raised.get() + 1);
    let number = SIGNALS[usize::from(world.next() % 3)];
    for signal in &mut *world.signals.borrow_mut() {
        signal.raised += u64::from(signal.number == number);
    }
    // SAFETY: no memory is involved; the handlers are the library's, or none.
    unsafe { libc::raise(number) };
}

fn end_signal(world: &World) {
    let length = world.signals.borrow().len();
    let Some(id) = world.index(length) else {
        return;
    };
    let handle = world.signals.borrow_mut()[id].handle.take();
    let how = world.next() % 3;
    match handle.map(Rc::try_unwrap) {
        Some(Ok(handle)) if how == 2 => handle.detach(),
        Some(Ok(handle)) => {
            world.signals.borrow_mut()[id].alive = false;
            if how == 1 {
                handle.remove();
                ensure(!handle.is_registered(), "what is removed is gone");
            }
            drop(handle);
        }
        Some(Err(shared)) => world.signals.borrow_mut()[id].handle = Some(shared),
        None => {}
    }
}

pub(super) fn dispositions_are_default() -> bool {
    SIGNALS.iter().all(|&signal| {
        // SAFETY: sigaction fills in the current action, of which zeros are a valid one.
        let current = unsafe {
            let mut current: libc::sigaction = std::mem::zeroed();
            let result = libc::sigaction(signal, std::ptr::null(), &mut current);
            ensure(result == 0, "the disposition can be read");
            current
        };
        current.sa_sigaction == libc::SIG_DFL
    })
}

// The loop.

fn run(world: &World, context: Option<&Context>) {
    let Some(context) = context.filter(|_| world.depth.get() < 6) else {
        return;
    };
    let outer = world.level.get();
    let is_allowed = outer == 0 || world.nesting_allowed.get();
    if is_allowed {
        world.level.set(outer + 1);
    }
    let depth = world.depth.replace(world.depth.get() + 1);
    let byte = world.next();
    let turns = Cell::new(byte / 8);
    // What would take away the stop of a loop that waits for it has to stay out.
    let in_run = world.in_run.get();
    let how = if in_run { 3 } else { byte % 8 };
    let result = guarded(|| match how {
        0 => {
            context.set_wait_timeout(Some(Duration::from_micros(20)));
            context.run_once().map(|_| ())
        }
        1 => context.run_until(|| {
            turns.set(turns.get().wrapping_sub(1));
            turns.get() >= 32
        }),
        2 => {
            // Stopped by what is scheduled last, if not by something else.
            if let Some(id) = new_immediate(world, true).filter(|_| is_allowed) {
                world.in_run.set(true);
                world.enqueue(id);
                context.defer(move |context| {
                    context.stop();
                    immediate_handler(context, id, None);
                });
                context.run()
            } else {
                context.run_once().map(|_| ())
            }
        }
        _ => context.run_once().map(|_| ()),
    });
    world.in_run.set(in_run);
    context.set_wait_timeout(Some(Duration::ZERO));
    if is_allowed {
        world.level.set(outer);
    }
    world.depth.set(depth);
    match result {
        Some(Err(error)) if error.kind() == std::io::ErrorKind::Deadlock => {
            ensure(!is_allowed, "a nested loop is refused only if not allowed");
        }
        Some(Err(_)) => {
            world.turn_has_failed();
            ensure(
                world.faults.any.get() || context.backend_name() == "epoll",
                "the loop fails only if the backend does",
            );
        }
        // Destructors may be run by a loop that is being left, and counts no more.
        Some(Ok(())) => ensure(
            is_allowed || world.inside.get() > 0,
            "a nested loop that isn't allowed is refused",
        ),
        None => {}
    }
}

fn reinitialise(world: &World, context: Option<&Context>) {
    let Some(context) = context else {
        return;
    };
    // Not too often, as little is left afterwards.
    if world.next() % 4 != 0 || world.in_run.get() {
        return;
    }
    world.forget_events();
    world.level.set(0);
    world.wiping.set(world.wiping.get() + 1);
    let result = context.reinitialise();
    world.wiping.set(world.wiping.get() - 1);
    ensure(
        result.is_ok() || world.faults.any.get(),
        "a context can be re-initialised",
    );
}

fn configure(world: &World, context: Option<&Context>) {
    let Some(context) = context else {
        return;
    };
    match world.next() % 8 {
        0 => {
            world.nesting_allowed.set(false);
            context.set_nesting_allowed(false);
        }
        1..=3 => {
            world.nesting_allowed.set(true);
            context.set_nesting_allowed(true);
        }
        4 => {
            let guard = Guard::new(world);
            context.set_nesting_hook(move |_: &Context, nesting: Nesting| {
                guard.keep();
                let (Nesting::Begin(level) | Nesting::End(level)) = nesting;
                ensure(level > 0, "levels begin with 1");
                // A loop begins and ends outside of what the model knows, so nothing is done here.
            });
        }
        5 => context.clear_nesting_hook(),
        6 => {
            let guard = Guard::new(world);
            context.set_slow_handler(Duration::ZERO, move |slow| {
                guard.keep();
                ensure(slow.location.file().ends_with(".rs"), "a place is named");
            });
        }
        _ => context.clear_slow_handler(),
    }
}

/// Has the backend fail.
fn inject(world: &World) {
    let faults = &world.faults;
    let byte = world.next();
    let errors = [libc::ENOMEM, libc::EBADF, libc::EINTR, libc::EPERM];
    let error = Some(errors[usize::from(byte / 8 % 4)]);
    faults.any.set(true);
    match byte % 8 {
        0 | 1 => faults.add.set(error),
        2 | 3 => faults.modify.set(error),
        4 => faults.wait.set(error),
        5 => faults.reopen.set(error),
        6 => faults.falls_back.set(2),
        _ => faults.clear(),
    }
}

/// What only looks, and so may be done at any time.
fn look(world: &World, context: Option<&Context>) {
    if let Some(context) = context {
        let debug = format!("{context:?}");
        ensure(debug.contains("Context"), "a context can be described");
        let _ = context.next_deadline();
        let _ = std::os::fd::AsFd::as_fd(context);
    }
    with_fd(world, |id, handle| {
        handle.set_tag(id as u64);
        handle.set_name("name");
        if world.fds.borrow()[id].alive {
            ensure(handle.tag() == id as u64, "a tag is kept");
            ensure(handle.name().as_deref() == Some("name"), "a name is kept");
        }
        ensure(handle.get_ref().event == id, "a handle lends its source");
    });
}

fn keep_context(world: &World, context: Option<&Context>) {
    if context.is_some() && world.keeper.borrow().is_none() {
        let keeper = world.weak.upgrade();
        ensure(keeper.is_some(), "a context that is there can be kept");
        *world.keeper.borrow_mut() = keeper;
    }
}

/// Uses handles whose context may be gone. Nothing of it may do harm.
pub(super) fn use_what_is_left(world: &World) {
    let keeper = world.keeper.take();
    if keeper.is_none() {
        world.forget_events();
        ensure(
            world.weak.upgrade().is_none(),
            "the last owner ends the context",
        );
    }
    let length = world.fds.borrow().len();
    for id in 0..length {
        let handle = world.fds.borrow()[id].handle.clone();
        if let Some(handle) = handle {
            let alive = world.fds.borrow()[id].alive;
            ensure(
                handle.is_registered() == alive,
                "an event ends with its context",
            );
            handle.set_flags(handle.flags());
            handle.set_readable(false);
            let mut fds = world.fds.borrow_mut();
            fds[id].flags = handle.flags();
        }
    }
    let length = world.timers.borrow().len();
    for id in 0..length {
        let handle = world.timers.borrow()[id].handle.clone();
        if let Some(handle) = handle {
            arm(world, id, &handle);
        }
    }
    let length = world.immediates.borrow().len();
    for id in 0..length {
        let handle = world.immediates.borrow()[id].handle.clone();
        if let Some(handle) = handle {
            schedule(world, id, &handle);
        }
    }
    post(world);
    if let Some(keeper) = keeper {
        let ran = guarded(|| keeper.run_once());
        ensure(
            ran.is_some_and(|ran| ran.is_ok()),
            "a context that is kept alive works",
        );
        *world.keeper.borrow_mut() = Some(keeper);
    }
}
