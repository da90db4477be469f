//! More signals than anybody sends, from another process, while descriptors and timers are busy.
//!
//! `TEVENT_TEST_SIGNALS` says how many (each backend gets as many).

use crate::process::{self, context, sys, tests};
use crate::{Log, counting, realtime};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tevent::{BackendKind, Context, FdFlags, SignalFlags, Signum};

pub const TESTS: &[process::Test] = tests![
    every_signal_of_a_storm_is_told,
    every_signal_of_a_storm_is_told_when_the_kernel_has_little_room,
    a_storm_that_another_thread_receives_is_told_when_the_kernel_has_little_room,
    errno_is_what_it_was_before_the_storm,
];

const NUMBERS: u8 = 4;

fn storm() -> usize {
    let set = std::env::var("TEVENT_TEST_SIGNALS").ok();
    set.map_or(30_000, |count| count.parse().expect("a number of signals"))
}

/// What takes longer hangs. A storm may be as long as somebody likes.
pub fn guard() -> Duration {
    Duration::from_secs(60 + storm() as u64 / 5000)
}

/// Sends one standard signal for every four real-time ones, which take turns at their numbers and
/// count for themselves. Returns how often the kernel had no room.
fn send(pid: u32, count: usize) -> usize {
    let mut refused = 0;
    for value in 0..count {
        let number = (value % usize::from(NUMBERS)) as u8;
        let own = value / usize::from(NUMBERS);
        while !sys::try_sigqueue(pid, realtime(number), own) {
            refused += 1;
            thread::yield_now();
        }
        if number == 0 {
            sys::kill(pid, Signum::SIGUSR1);
        }
    }
    sys::kill(pid, Signum::SIGUSR1);
    refused
}

/// A descriptor and a timer that always have something to do.
fn keep_busy(context: &Context) -> Rc<Cell<u64>> {
    let calls = Rc::new(Cell::new(0));
    let (ours, theirs) = sys::pair();
    (&theirs).write_all(b"x").unwrap();
    let counter = Rc::clone(&calls);
    let event = context.add_fd(ours, FdFlags::READ, move |_, event, _| {
        event.get_ref().read_exact(&mut [0]).expect("readable");
        (&theirs).write_all(b"x").expect("there is room");
        counter.set(counter.get() + 1);
    });
    event.unwrap().detach();
    let timer = context.add_timer_after(Duration::ZERO, |_, timer| {
        timer.set_after(Duration::from_micros(10));
    });
    timer.detach();
    calls
}

/// Adds a handler for each number. The log has the values of each.
fn listen(context: &Context) -> Vec<Rc<RefCell<Vec<u32>>>> {
    (0..NUMBERS)
        .map(|number| {
            let values = Rc::new(RefCell::new(Vec::new()));
            let log = Rc::clone(&values);
            let handler = move |_: &Context, _: &_, info: &tevent::SignalInfo| {
                let value = info.siginfo.and_then(|info| info.value());
                log.borrow_mut().push(value.expect("a value") as u32);
            };
            let flags = SignalFlags::SIGINFO;
            context
                .add_signal(realtime(number), flags, handler)
                .unwrap()
                .detach();
            values
        })
        .collect()
}

fn told(values: &[Rc<RefCell<Vec<u32>>>]) -> usize {
    values.iter().map(|values| values.borrow().len()).sum()
}

/// The storm itself: all real-time signals in order, and a standard one after the last.
fn weather(kind: BackendKind, count: usize) -> usize {
    let context = context(kind);
    let values = listen(&context);
    let last = Log::new();
    let log: Log<usize> = last.clone();
    let seen = values.clone();
    let plain = context.add_signal(Signum::SIGUSR1, SignalFlags::empty(), move |_, _, info| {
        assert!(info.count > 0);
        log.push(told(&seen));
    });
    let busy = keep_busy(&context);
    let me = std::process::id();
    let (ours, mut theirs) = sys::channel();
    let sender = sys::fork(|| {
        let refused = send(me, count);
        theirs.write_all(&refused.to_ne_bytes()).unwrap();
    });
    context.run_until(|| told(&values) == count).unwrap();
    sys::assert_succeeds(sender);
    // The last of the standard ones was sent after all others.
    sys::raise(Signum::SIGUSR1);
    let before = last.len();
    context.run_until(|| last.len() > before).unwrap();
    for values in &values {
        let values = values.borrow();
        assert!(
            values.iter().copied().eq(0..values.len() as u32),
            "all, in order"
        );
    }
    assert_eq!(told(&values), count);
    // Signals go first, so perhaps they have waited for the end of the storm.
    context.run_until(|| busy.get() > 0).unwrap();
    sys::assert_masks_are_clean();
    drop(plain);
    let mut refused = [0; size_of::<usize>()];
    (&ours).read_exact(&mut refused).unwrap();
    usize::from_ne_bytes(refused)
}

fn every_signal_of_a_storm_is_told(kind: BackendKind) {
    weather(kind, storm());
}

fn every_signal_of_a_storm_is_told_when_the_kernel_has_little_room(kind: BackendKind) {
    sys::limit_pending_signals(40);
    let refused = weather(kind, storm() / 10);
    assert!(refused > 0, "there was always room");
}

fn a_storm_that_another_thread_receives_is_told_when_the_kernel_has_little_room(kind: BackendKind) {
    sys::limit_pending_signals(40);
    let count = storm() / 10;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        });
        let context = context(kind);
        let values = listen(&context);
        let me = std::process::id();
        let sender = sys::fork(|| {
            send_values(me, count);
        });
        context.run_until(|| told(&values) == count).unwrap();
        sys::assert_succeeds(sender);
        for values in &values {
            let mut values = values.borrow_mut();
            values.sort_unstable();
            assert!(
                values.iter().copied().eq(0..values.len() as u32),
                "each once"
            );
        }
        done.store(true, Ordering::SeqCst);
    });
    sys::assert_masks_are_clean();
}

/// Without the standard ones, which the kernel has always room for.
fn send_values(pid: u32, count: usize) {
    for value in 0..count {
        let number = (value % usize::from(NUMBERS)) as u8;
        while !sys::try_sigqueue(pid, realtime(number), value / usize::from(NUMBERS)) {
            thread::yield_now();
        }
    }
}

fn errno_is_what_it_was_before_the_storm(kind: BackendKind) {
    let context = context(kind);
    let values = listen(&context);
    let (_plain, counts) = counting(&context, Signum::SIGUSR1);
    let me = std::process::id();
    let count = storm() / 10;
    let sender = sys::fork(|| {
        send(me, count);
    });
    // The handlers interrupt this wherever it is; each wakes a loop that seems to sleep, or sends on.
    let mut looks = 0u64;
    while told(&values) < count {
        for number in 1..1000 {
            sys::set_errno(number);
            std::hint::black_box(number);
            assert_eq!(sys::errno(), number, "a handler has changed it");
            looks += 1;
        }
        context.set_wait_timeout(Some(Duration::ZERO));
        context.run_once().unwrap();
    }
    assert!(looks > 0);
    sys::assert_succeeds(sender);
    assert!(counts.len() > 0);
}
