//! Errors of `accept4`: which are about one client, and which about all.

use crate::process::{self, context, tests};
use crate::{Keeping, clients, kernel, run_until, turns_in_a_while};
use std::time::Duration;
use tevent::BackendKind;

pub const TESTS: &[process::Test] = tests![
    errors_of_one_client_are_skipped_in_silence,
    many_of_them_among_clients_are_skipped,
    an_error_that_should_pass_and_does_not_is_told,
    errors_of_the_process_and_the_system_back_off,
    an_unknown_error_backs_off_too,
    nobody_there_is_no_error,
    idle_and_held_up_listeners_make_no_calls,
];

const PASSING: &[i32] = &[
    libc::ECONNABORTED,
    libc::EINTR,
    libc::EPROTO,
    libc::EPERM,
    libc::ENETDOWN,
    libc::ENOPROTOOPT,
    libc::EHOSTDOWN,
    libc::ENONET,
    libc::EHOSTUNREACH,
    libc::EOPNOTSUPP,
    libc::ENETUNREACH,
    libc::ENETRESET,
    libc::ECONNRESET,
    libc::ETIMEDOUT,
    libc::ENOSR,
    libc::ESOCKTNOSUPPORT,
    libc::EPROTONOSUPPORT,
];

fn errors_of_one_client_are_skipped_in_silence(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    for &errno in PASSING {
        let _client = clients(server.address, 1);
        kernel::fail(errno, 3);
        assert!(context.run_once().unwrap());
        assert_eq!(kernel::failures_left(), 0);
        assert_eq!(server.open(), 1, "in the same turn, after errno {errno}");
        server.open.borrow_mut().clear();
    }
    assert_eq!(server.told.take(), []);
}

/// 32 are too many in a row only if nobody is accepted in between.
fn many_of_them_among_clients_are_skipped(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    for _ in 0..10 {
        let _client = clients(server.address, 1);
        kernel::fail(libc::ECONNABORTED, 32);
        run_until(&context, || server.open() == 1);
        server.open.borrow_mut().clear();
    }
    // They have gone, and nobody is there.
    for _ in 0..10 {
        let client = clients(server.address, 1);
        kernel::fail(libc::ECONNABORTED, 15);
        run_until(&context, || kernel::failures_left() == 0);
        drop(client);
        run_until(&context, || server.open() == 1);
        server.open.borrow_mut().clear();
    }
    assert_eq!(server.told.take(), []);
}

/// A firewall, or a sandbox, that refuses and goes on refusing.
fn an_error_that_should_pass_and_does_not_is_told(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    let pause = Duration::from_secs(3600);
    server.listener.set_back_off(pause, pause);
    let _client = clients(server.address, 1);
    kernel::take_calls();
    kernel::fail(libc::EPERM, u32::MAX);
    run_until(&context, || !server.told.borrow().is_empty());
    let turns = turns_in_a_while(&context);
    assert!(turns <= 6, "{turns} turns in which nothing happens");
    assert_eq!(kernel::take_calls(), 33);
    let told = server.told.take();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].errno, libc::EPERM);
}

fn errors_of_the_process_and_the_system_back_off(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    let pause = Duration::from_millis(1);
    server.listener.set_back_off(pause, pause);
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        let _client = clients(server.address, 1);
        kernel::take_calls();
        kernel::fail(errno, 2);
        run_until(&context, || server.open() == 1);
        server.open.borrow_mut().clear();
        let told = server.told.take();
        let told: Vec<_> = told.iter().map(|told| (told.errno, told.attempt)).collect();
        assert_eq!(told, [(errno, 1), (errno, 2)]);
        let calls = kernel::take_calls();
        assert!((3..=4).contains(&calls), "two fail: {calls}");
    }
}

fn an_unknown_error_backs_off_too(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    let _client = clients(server.address, 1);
    kernel::fail(libc::EILSEQ, 1);
    run_until(&context, || server.open() == 1);
    assert_eq!(server.told.take()[0].errno, libc::EILSEQ);
}

fn nobody_there_is_no_error(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    let _client = clients(server.address, 1);
    kernel::fail(libc::EAGAIN, 1);
    assert!(context.run_once().unwrap());
    assert_eq!(server.open(), 0);
    run_until(&context, || server.open() == 1);
    assert_eq!(server.told.take(), []);
}

fn idle_and_held_up_listeners_make_no_calls(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    kernel::take_calls();
    turns_in_a_while(&context);
    assert_eq!(kernel::take_calls(), 0, "nobody comes");
    let _clients = clients(server.address, 3);
    server.listener.pause();
    turns_in_a_while(&context);
    assert_eq!(kernel::take_calls(), 0, "it is paused");
    server.listener.set_limit(Some(2));
    server.listener.resume();
    run_until(&context, || server.open() == 2);
    assert_eq!(kernel::take_calls(), 2, "no attempt beyond the limit");
    turns_in_a_while(&context);
    assert_eq!(kernel::take_calls(), 0, "the limit is reached");
    server.listener.set_limit(None);
    run_until(&context, || server.open() == 3);
    assert_eq!(kernel::take_calls(), 2, "the last one, and nobody");
}
