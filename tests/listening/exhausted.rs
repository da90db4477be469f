//! No descriptors left: the listener backs off and says so, and nobody is lost.

use crate::process::{self, context, sys, tests};
use crate::{Keeping, clients, kernel, run_until, turns_in_a_while};
use std::io::{Read, Write};
use std::time::Duration;
use tevent::BackendKind;

pub const TESTS: &[process::Test] = tests![
    emfile_on_accept_does_not_spin_and_is_told,
    pauses_grow_until_there_is_a_descriptor_and_nobody_is_lost,
    closing_a_connection_ends_the_pause,
    the_last_descriptor_is_no_reason_to_back_off,
    a_paused_listener_does_not_try,
    a_listener_that_backs_off_may_be_removed,
    the_handler_of_the_report_may_make_room,
    somebody_else_is_served_meanwhile,
];

const LONG: Duration = Duration::from_secs(3600);

/// The need: `EMFILE` on accept leaves the listener readable, and the loop of a server that does
/// nothing about it takes all of a processor.
fn emfile_on_accept_does_not_spin_and_is_told(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    server.listener.set_back_off(LONG, LONG);
    let clients = clients(server.address, 3);
    kernel::take_calls();
    sys::without_descriptors(|| {
        // The first turn finds out, the next ones tell the kernel, end with the timer and look.
        let turns = turns_in_a_while(&context);
        assert!(turns <= 6, "{turns} turns in which nothing happens");
        assert_eq!(kernel::take_calls(), 1, "one attempt, then a pause");
        let told = server.told.borrow();
        assert_eq!(told.len(), 1, "told once");
        assert_eq!((told[0].errno, told[0].attempt), (libc::EMFILE, 1));
        assert_eq!(told[0].pause, LONG);
        assert_eq!(server.listener.back_off(), Some(told[0]));
        let said = told[0].to_string();
        assert!(said.starts_with("accept4: Too many open files"), "{said}");
    });
    assert_eq!(server.open(), 0);
    drop(clients);
}

fn pauses_grow_until_there_is_a_descriptor_and_nobody_is_lost(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    let (shortest, longest) = (Duration::from_millis(1), Duration::from_millis(5));
    server.listener.set_back_off(shortest, longest);
    let clients = clients(server.address, 5);
    kernel::take_calls();
    sys::without_descriptors(|| {
        run_until(&context, || server.told.borrow().len() == 6);
        assert_eq!(kernel::take_calls(), 6, "one attempt for each pause");
    });
    let told = server.told.take();
    let pauses: Vec<u128> = told.iter().map(|told| told.pause.as_millis()).collect();
    assert_eq!(pauses, [1, 2, 4, 5, 5, 5]);
    run_until(&context, || server.open() == 5);
    assert_eq!(server.listener.back_off(), None);
    let open = server.open.borrow();
    for (connection, client) in open.iter().zip(&clients) {
        let address = client.local_addr().unwrap();
        assert_eq!(connection.peer().as_socket(), Some(address), "in order");
    }
    drop(open);
    assert_eq!(server.told.take(), []);

    // What went well begins anew.
    let _more = crate::clients(server.address, 1);
    sys::without_descriptors(|| run_until(&context, || !server.told.borrow().is_empty()));
    assert_eq!(server.told.take()[0].attempt, 1);
}

fn closing_a_connection_ends_the_pause(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    server.listener.set_back_off(LONG, LONG);
    let _first = clients(server.address, 1);
    run_until(&context, || server.open() == 1);
    let second = clients(server.address, 1);
    sys::without_descriptors(|| {
        run_until(&context, || server.told.borrow().len() == 1);
        assert_eq!(server.open(), 1);
        server.open.borrow_mut().clear();
        assert_eq!(server.listener.back_off(), None, "at once");
        run_until(&context, || server.open() == 1);
        let address = second[0].local_addr().unwrap();
        let open = server.open.borrow();
        assert_eq!(open[0].peer().as_socket(), Some(address));
    });
    assert_eq!(server.told.take().len(), 1);
    server.open.borrow_mut().clear();
    drop(server);
    // The timer of that pause doesn't keep the loop.
    context.run().unwrap();
}

/// The kernel refuses for want of a descriptor before it looks whether anybody waits.
fn the_last_descriptor_is_no_reason_to_back_off(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    let clients = clients(server.address, 1);
    let spare = clients[0].try_clone().unwrap();
    sys::without_descriptors(|| {
        // So there is one.
        drop(spare);
        run_until(&context, || server.open() == 1);
        let turns = turns_in_a_while(&context);
        assert!(turns <= 6, "{turns} turns in which nothing happens");
    });
    assert_eq!(server.told.take(), [], "nobody was refused");
}

fn a_paused_listener_does_not_try(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    let pause = Duration::from_millis(1);
    server.listener.set_back_off(pause, pause);
    let _clients = clients(server.address, 1);
    sys::without_descriptors(|| {
        run_until(&context, || server.told.borrow().len() == 1);
        server.listener.pause();
        run_until(&context, || server.listener.back_off().is_none());
        kernel::take_calls();
        turns_in_a_while(&context);
        assert_eq!(kernel::take_calls(), 0);
        server.listener.resume();
        run_until(&context, || server.told.borrow().len() == 2);
        // This doesn't end the pause.
        server.listener.resume();
        assert!(server.listener.back_off().is_some());
    });
    run_until(&context, || server.open() == 1);
}

fn a_listener_that_backs_off_may_be_removed(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    server.listener.set_back_off(LONG, LONG);
    let _clients = clients(server.address, 1);
    sys::without_descriptors(|| run_until(&context, || server.told.borrow().len() == 1));
    server.listener.remove();
    assert_eq!(server.listener.back_off(), None);
    context.run().expect("nothing is left to wait for");
}

fn the_handler_of_the_report_may_make_room(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    server.listener.set_back_off(LONG, LONG);
    let open = server.open.clone();
    server.listener.on_back_off(move |_| {
        let oldest = open.borrow_mut().remove(0);
        drop(oldest);
    });
    let _first = clients(server.address, 1);
    run_until(&context, || server.open() == 1);
    let second = clients(server.address, 1);
    let address = second[0].local_addr().unwrap();
    sys::without_descriptors(|| {
        run_until(&context, || {
            let open = server.open.borrow();
            open.first().and_then(|first| first.peer().as_socket()) == Some(address)
        });
    });
}

fn somebody_else_is_served_meanwhile(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    server.listener.set_back_off(LONG, LONG);
    let mut clients = clients(server.address, 1);
    run_until(&context, || server.open() == 1);
    let served = server.open.borrow_mut().remove(0);
    let event = context.add_fd(served, tevent::FdFlags::READ, |_, event, _| {
        let mut byte = [0];
        let mut connection = event.get_ref();
        connection.read_exact(&mut byte).unwrap();
        connection.write_all(&byte).unwrap();
    });
    let _waiting = crate::clients(server.address, 1);
    sys::without_descriptors(|| {
        run_until(&context, || server.told.borrow().len() == 1);
        for round in 0..10 {
            clients[0].write_all(&[round]).unwrap();
            context.run_once().unwrap();
            let mut byte = [0xff];
            clients[0].read_exact(&mut byte).unwrap();
            assert_eq!(byte, [round]);
        }
    });
    drop(event.unwrap());
    run_until(&context, || server.open() == 1);
}
