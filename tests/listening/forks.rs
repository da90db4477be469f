//! Listeners and `fork`: a child for each client, and several processes with one socket.

use crate::process::{self, context, sys, tests};
use crate::{Keeping, clients, kernel, run_until, turns_in_a_while};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::exit;
use std::rc::Rc;
use tevent::{BackendKind, Connection, Context, FdFlags, Fork, Listener, Signum};

pub const TESTS: &[process::Test] = tests![
    a_child_forked_in_the_handler_serves_its_client_and_returns_into_the_same_loop,
    a_child_forked_in_the_handler_serves_its_client_from_there,
    a_child_that_reinitialises_accepts_nobody,
    the_limit_counts_children_until_they_have_ended,
    processes_that_share_a_socket_share_its_clients,
    a_child_counts_for_itself,
];

/// Sends back what comes until the client sends no more, and calls `done`.
fn echo(context: &Context, connection: Connection<TcpStream>, done: impl Fn() + 'static) {
    let event = context.add_fd(connection, FdFlags::READ, move |_, event, _| {
        let mut bytes = [0; 64];
        let mut connection = event.get_ref();
        match connection.read(&mut bytes) {
            Ok(count @ 1..) => connection.write_all(&bytes[..count]).unwrap(),
            _ => {
                event.remove();
                done();
            }
        }
    });
    event.unwrap().detach();
}

/// The end of a child that has an event for its client only.
fn run_and_exit(context: &Context, connection: Connection<TcpStream>) -> ! {
    echo(context, connection, || ());
    exit(i32::from(context.run().is_err()))
}

/// Has each client echo something, and be done.
fn finish(clients: Vec<TcpStream>) {
    for client in &clients {
        (&*client).write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "hello");
    }
}

fn exchange(client: &mut TcpStream) {
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

/// The children.
#[derive(Clone, Default)]
struct Counted {
    started: Rc<Cell<usize>>,
    ended: Rc<Cell<usize>>,
}

impl Counted {
    fn started(&self) -> usize {
        self.started.get()
    }

    fn ended(&self) -> usize {
        self.ended.get()
    }
}

/// A server with a child for each client. What `serve` does in the child is followed by a return
/// from the handler, unless it ends the process.
fn forking(
    context: &Context,
    counted: &Counted,
    serve: impl Fn(&Context, &Listener<TcpListener>, Connection<TcpStream>) + 'static,
) -> (Listener<TcpListener>, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let counted = counted.clone();
    let listener = context.add_listener(socket, move |context, listener, connection| match context
        .fork()
        .expect("a child")
    {
        Fork::Parent(pid) => {
            let (stream, permit) = connection.into_parts();
            drop(stream);
            counted.started.set(counted.started() + 1);
            let ended = Rc::clone(&counted.ended);
            let child = context.add_child(pid, move |_, _, result| {
                drop(permit);
                assert_eq!(result.expect("ours").code(), Some(0));
                ended.set(ended.get() + 1);
            });
            child.unwrap().detach();
        }
        Fork::Child => {
            context.reinitialise().unwrap();
            serve(context, listener, connection);
        }
    });
    (listener.unwrap(), address)
}

fn a_child_forked_in_the_handler_serves_its_client_and_returns_into_the_same_loop(
    kind: BackendKind,
) {
    let context = context(kind);
    let counted = Counted::default();
    let (listener, address) = forking(&context, &counted, |context, listener, connection| {
        assert!(!listener.is_registered());
        let number = listener.get_ref().as_raw_fd();
        // The loop that has called this goes on for it.
        echo(context, connection, move || {
            assert!(!sys::is_open(number), "the listener is closed");
            exit(0);
        });
    });
    listener.detach();
    // All wait at once, so that a child that didn't notice would accept the others.
    let clients = clients(address, 5);
    run_until(&context, || counted.started() == 5);
    finish(clients);
    run_until(&context, || counted.ended() == 5);
}

fn a_child_forked_in_the_handler_serves_its_client_from_there(kind: BackendKind) {
    let context = context(kind);
    let counted = Counted::default();
    let (_listener, address) = forking(&context, &counted, |context, _, connection| {
        run_and_exit(context, connection);
    });
    let clients = clients(address, 3);
    run_until(&context, || counted.started() == 3);
    finish(clients);
    run_until(&context, || counted.ended() == 3);
}

fn a_child_that_reinitialises_accepts_nobody(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    let number = server.listener.get_ref().as_raw_fd();
    let waiting = clients(server.address, 3);
    let pid = sys::fork(|| {
        context.reinitialise().unwrap();
        assert!(!server.listener.is_registered());
        kernel::take_calls();
        turns_in_a_while(&context);
        assert_eq!(kernel::take_calls(), 0);
        assert!(sys::is_open(number), "somebody has a handle");
        drop(server.listener);
        assert!(!sys::is_open(number));
    });
    sys::assert_succeeds(pid);
    drop(waiting);
}

/// The need: a server's processes are as good as connections, and are to be as few as wanted.
fn the_limit_counts_children_until_they_have_ended(kind: BackendKind) {
    let context = context(kind);
    let counted = Counted::default();
    let (listener, address) = forking(&context, &counted, |context, _, connection| {
        run_and_exit(context, connection);
    });
    listener.set_limit(Some(2));
    let mut clients = clients(address, 4);
    run_until(&context, || listener.open() == 2);
    turns_in_a_while(&context);
    assert_eq!((listener.open(), counted.ended()), (2, 0));
    exchange(&mut clients[0]);
    exchange(&mut clients[1]);
    // A place is free when the process has ended, not when the parent's copy is closed.
    // (The children have copies of the clients' ends.)
    clients[0].shutdown(Shutdown::Both).unwrap();
    run_until(&context, || counted.ended() == 1 && listener.open() == 2);
    exchange(&mut clients[2]);
    for client in &clients[1..] {
        client.shutdown(Shutdown::Both).unwrap();
    }
    run_until(&context, || counted.ended() == 4);
    assert_eq!(listener.open(), 0);
}

fn processes_that_share_a_socket_share_its_clients(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    server.listener.set_accepts_per_turn(1);
    let (to_child, from_parent) = sys::channel();
    let child = sys::fork(|| {
        sys::close_in_child(&to_child);
        // Serves until the parent says that it is over.
        let event = context.add_fd(from_parent, FdFlags::READ, |context, _, _| context.stop());
        event.unwrap().detach();
        context.run_until(|| false).unwrap();
        assert_eq!(server.open(), 3);
    });
    // This process doesn't run its loop, so these are the child's.
    let first = clients(server.address, 3);
    sys::wait_until("the child has accepted", || {
        !sys::is_readable(server.listener.get_ref())
    });
    // Now the child is stopped.
    sys::kill(child, Signum::SIGTSTP);
    sys::await_stop(child);
    let _second = clients(server.address, 1);
    run_until(&context, || server.open() == 1);
    sys::kill(child, Signum::SIGCONT);
    sys::tell(&to_child);
    sys::assert_succeeds(child);
    drop(first);
}

fn a_child_counts_for_itself(kind: BackendKind) {
    let context = context(kind);
    let server = Keeping::new(&context);
    server.listener.set_limit(Some(1));
    let _clients = clients(server.address, 2);
    run_until(&context, || server.open() == 1);
    let pid = sys::fork(|| {
        assert_eq!(server.open(), 1, "a copy");
        server.open.borrow_mut().clear();
        run_until(&context, || server.open() == 1);
    });
    sys::assert_succeeds(pid);
    assert_eq!(server.open(), 1, "what the child closes is nothing to us");
    let _late = clients(server.address, 1);
    turns_in_a_while(&context);
    assert_eq!(server.open(), 1);
    server.open.borrow_mut().clear();
    run_until(&context, || server.open() == 1);
}
