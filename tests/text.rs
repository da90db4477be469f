//! What errors, handles and numbers say of themselves: in messages, logs and debuggers.

mod common;

use common::recording::recording;
use common::*;
use std::error::Error;
use std::fs::File;
use std::time::Duration;
use tevent::{BackendKind, Context, EventKind, OsError, Signum, TimedOut};

on_every_backend!(
    contexts_and_handles_say_what_they_are_in_debug_output,
    futures_say_what_they_are_in_debug_output,
);

fn contexts_and_handles_say_what_they_are_in_debug_output(kind: BackendKind) {
    let context = context(kind);
    let idle = format!("{context:?}");
    assert!(idle.contains(&format!("backend: \"{kind}\"")), "{idle}");
    assert!(idle.contains("level: 0"), "{idle}");
    assert!(idle.contains("enabled_fds: 0"), "{idle}");
    assert!(idle.contains("armed_timers: 0"), "{idle}");
    assert!(idle.contains("has_immediates: false"), "{idle}");

    let (ours, _theirs) = pair();
    let fd = context.add_fd(ours, READ, |_, _, _| ()).unwrap();
    let said = format!("{fd:?}");
    assert!(said.starts_with("Fd { source: UnixStream"), "{said}");
    assert!(said.contains("flags: FdFlags(READ)"), "{said}");

    let deadline = context.now() + Duration::from_secs(60);
    let timer = context.add_timer(deadline, |_, _| ());
    let expected = format!("Timer {{ deadline: {:?}, .. }}", Some(deadline));
    assert_eq!(format!("{timer:?}"), expected);

    let immediate = context.add_immediate(|_, _| ());
    assert_eq!(
        format!("{immediate:?}"),
        "Immediate { scheduled: false, .. }"
    );
    immediate.schedule();
    assert_eq!(
        format!("{immediate:?}"),
        "Immediate { scheduled: true, .. }"
    );

    let busy = format!("{context:?}");
    assert!(busy.contains("enabled_fds: 1"), "{busy}");
    assert!(busy.contains("armed_timers: 1"), "{busy}");
    assert!(busy.contains("has_immediates: true"), "{busy}");

    assert_eq!(format!("{:?}", context.downgrade()), "WeakContext");

    let remote = context.remote();
    assert_eq!(format!("{remote:?}"), "Remote { is_closed: false }");
    drop(context);
    assert_eq!(format!("{remote:?}"), "Remote { is_closed: true }");
}

fn futures_say_what_they_are_in_debug_output(kind: BackendKind) {
    let context = context(kind);
    let deadline = context.now() + Duration::from_secs(60);
    let sleep = context.sleep_until(deadline);
    let said = format!("{sleep:?}");
    assert!(said.contains(&format!("deadline: {deadline:?}")), "{said}");

    let (ours, _theirs) = pair();
    let fd = context.add_async_fd(ours).unwrap();
    assert!(fd.is_registered());
    let said = format!("{fd:?}");
    assert!(said.starts_with("AsyncFd { source: UnixStream"), "{said}");
    let said = format!("{:?}", fd.ready(READ));
    assert!(said.starts_with("Ready { flags: FdFlags(READ)"), "{said}");

    let task = context.spawn(async {});
    assert_eq!(format!("{task:?}"), "Task { finished: false, .. }");
    assert!(turn(&context));
    assert_eq!(format!("{task:?}"), "Task { finished: true, .. }");
    let cancel = task.cancel();
    assert_eq!(format!("{cancel:?}"), "Task { finished: true, .. }");
    assert_eq!(TimedOut.to_string(), "timed out");
}

#[test]
fn a_builder_shows_what_was_chosen() {
    let builder = Context::builder()
        .backend(BackendKind::Poll)
        .batch(7)
        .wait_timeout(None);
    let said = format!("{builder:?}");
    assert!(said.starts_with("Builder { backend: "), "{said}");
    assert!(said.contains("batch: 7, wait_timeout: None"), "{said}");
    let said = format!("{:?}", recording().0);
    assert!(said.contains("backend: \"recording\""), "{said}");
}

#[test]
fn a_system_call_that_failed_is_named_and_its_error_the_source() {
    let context = context(BackendKind::Poll);
    // Nobody has it.
    let error = context
        .add_fd(Number(1 << 20), READ, |_, _, _| ())
        .unwrap_err();
    let source = error.source().expect("the reason");
    assert_eq!(source.to_string(), error.error().to_string());
    assert_eq!(
        error.to_string(),
        format!("can't watch the descriptor: {source}")
    );
    let said = format!("{error:?}");
    assert!(said.starts_with("AddFdError { error: "), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn the_name_of_a_system_call_stands_before_what_the_system_says() {
    let context = context(BackendKind::Epoll);
    let file = File::open("/proc/self/exe").unwrap();
    let error = context.add_fd(file, READ, |_, _, _| ()).unwrap_err();
    let system_says = std::io::Error::from_raw_os_error(libc::EPERM).to_string();
    let error = std::io::Error::from(error);
    assert_eq!(error.to_string(), format!("epoll_ctl: {system_says}"));
    let inner = error.get_ref().unwrap();
    let inner: &OsError = inner.downcast_ref().expect("a system call has failed");
    let source = Error::source(inner).expect("what the system said");
    assert_eq!(source.to_string(), system_says);
}

#[test]
fn an_unknown_backend_is_named_and_so_are_those_that_there_are() {
    let error = "kqueue".parse::<BackendKind>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "no backend is called \"kqueue\" (there are epoll, poll, standard)"
    );
}

#[test]
fn signals_are_called_by_their_names() {
    assert_eq!(Signum::SIGTERM.to_string(), "SIGTERM");
    assert_eq!(format!("{:>8}", Signum::SIGHUP), "  SIGHUP");
    assert_eq!(format!("{:?}", Signum::SIGTERM), "Signum(15: SIGTERM)");
    assert_eq!(Signum::try_from(15).unwrap(), Signum::SIGTERM);
    assert!(Signum::try_from(0).is_err());
}

#[test]
#[cfg(target_os = "linux")]
fn signals_without_a_name_are_called_by_their_place() {
    let named = |number: i32| Signum::new(number).unwrap().to_string();
    let first = libc::SIGRTMIN();
    assert_eq!(named(first), "SIGRTMIN+0");
    assert_eq!(named(first + 2), "SIGRTMIN+2");
    assert_eq!(named(libc::SIGSYS), "signal 31");
    assert_eq!(Signum::realtime(2).unwrap().number(), first + 2);
    let last = libc::SIGRTMAX();
    assert!(Signum::new(last).is_ok() && Signum::new(last + 1).is_err());
}

#[test]
fn kinds_of_events_have_names() {
    let kinds = [
        EventKind::Fd,
        EventKind::Timer,
        EventKind::Signal,
        EventKind::Immediate,
    ];
    let names = kinds.map(|kind| kind.to_string());
    assert_eq!(names, ["fd", "timer", "signal", "immediate"]);
}
