//! Clients that are awaited: who gets which, and what a dropped future leaves to others.

mod common;

use common::futures::block_on;
use common::*;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tevent::{AsyncListener, BackendKind, Connection, Context};

on_every_backend!(
    clients_are_awaited_one_by_one,
    nobody_is_accepted_while_nobody_awaits,
    several_tasks_await_in_the_order_in_which_they_came,
    a_dropped_future_loses_no_client,
    a_future_that_was_served_and_dropped_leaves_its_client_to_the_next,
    a_client_of_a_dropped_future_wakes_the_task_that_is_next,
    a_task_that_gives_up_loses_no_place_but_its_own,
    a_future_that_is_ready_awaits_nobody_more,
    a_client_that_was_accepted_for_nobody_waits_for_the_next_who_awaits,
    removing_the_listener_is_told_to_those_who_await,
    reinitialising_is_told_and_closes_who_was_not_taken,
    the_end_of_the_context_is_told,
    limit_and_pause_hold_for_those_who_await,
    a_listener_that_fails_backs_off_and_the_task_goes_on_waiting,
    a_server_of_tasks_serves_everybody,
);

fn listener(context: &Context) -> (AsyncListener<TcpListener>, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    let listener = context.add_async_listener(socket).expect("it listens");
    (listener, address)
}

fn client(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).expect("it listens")
}

#[track_caller]
fn assert_is_of(connection: &Connection<TcpStream>, client: &TcpStream) {
    let address = client.local_addr().expect("connected");
    assert_eq!(connection.peer().as_socket(), Some(address));
}

/// Polls a future once in a loop that then goes on until nothing is left to do.
fn poll_and_settle<F: Future + Unpin>(context: &Context, future: &mut F) -> Poll<F::Output> {
    let mut future = pin!(future);
    let first = poll_fn(|poll| Poll::Ready(future.as_mut().poll(poll)));
    let polled = block_on(context, "one poll", first);
    settle(context);
    polled
}

fn clients_are_awaited_one_by_one(kind: BackendKind) {
    let context = context(kind);
    let (listener, address) = listener(&context);
    let clients = [client(address), client(address), client(address)];
    for client in &clients {
        let connection = block_on(&context, "a client", listener.accept()).unwrap();
        assert_is_of(&connection, client);
        assert_eq!(listener.open(), 1, "nobody is accepted for nobody");
    }
    assert_eq!(listener.open(), 0);
    let late = block_on(&context, "a late client", async {
        let mut accept = pin!(listener.accept());
        let mut client_of_later = None;
        poll_fn(|poll| {
            let polled = accept.as_mut().poll(poll);
            // From the second poll on somebody is there.
            client_of_later.get_or_insert_with(|| client(address));
            polled
        })
        .await
    });
    drop(late.unwrap());
}

fn nobody_is_accepted_while_nobody_awaits(kind: BackendKind) {
    let context = context(kind);
    let (listener, address) = listener(&context);
    let _client = client(address);
    context.run().expect("there is nothing to wait for");
    assert_no_spin(&context, "nobody awaits");
    assert_eq!(listener.open(), 0);
}

fn several_tasks_await_in_the_order_in_which_they_came(kind: BackendKind) {
    let context = context(kind);
    let (listener, address) = listener(&context);
    let listener = Rc::new(listener);
    let served = Rc::new(RefCell::new(Vec::new()));
    for number in 0..4 {
        let (listener, served) = (Rc::clone(&listener), Rc::clone(&served));
        context
            .spawn(async move {
                let connection = listener.accept().await.expect("a client");
                served.borrow_mut().push((number, connection));
            })
            .detach();
    }
    settle(&context);
    let clients: Vec<TcpStream> = (0..4).map(|_| client(address)).collect();
    run_until(&context, "all are served", || served.borrow().len() == 4);
    for (place, (number, connection)) in served.borrow().iter().enumerate() {
        assert_eq!(place, *number);
        assert_is_of(connection, &clients[place]);
    }
    assert_eq!(listener.open(), 4);
}

fn a_dropped_future_loses_no_client(kind: BackendKind) {
    let context = context(kind);
    let (listener, address) = listener(&context);
    let accept = block_on(
        &context,
        "the time is over",
        context.timeout(Duration::from_millis(1), listener.accept()),
    );
    assert!(accept.is_err(), "nobody has come");
    let client = client(address);
    assert_eq!(settle(&context), 0, "nobody awaits any more");
    let connection = block_on(&context, "a client", listener.accept()).unwrap();
    assert_is_of(&connection, &client);
}

fn a_future_that_was_served_and_dropped_leaves_its_client_to_the_next(kind: BackendKind) {
    let context = context(kind);
    let (listener, address) = listener(&context);
    let mut first = Box::pin(listener.accept());
    let mut second = Box::pin(listener.accept());
    assert!(poll_and_settle(&context, &mut first).is_pending());
    assert!(poll_and_settle(&context, &mut second).is_pending());
    let client = client(address);
    settle(&context);
    assert_eq!(listener.open(), 1, "it was accepted for the first");
    drop(first);
    let connection = block_on(&context, "the second is woken", second).unwrap();
    assert_is_of(&connection, &client);
}

fn a_client_of_a_dropped_future_wakes_the_task_that_is_next(kind: BackendKind) {
    let context = context(kind);
    let (listener, address) = listener(&context);
    let listener = Rc::new(listener);
    let mut first = Box::pin(listener.accept());
    assert!(poll_and_settle(&context, &mut first).is_pending());
    let waiting = Rc::clone(&listener);
    let second = context.spawn(async move { waiting.accept().await });
    settle(&context);
    let client = client(address);
    settle(&context);
    assert_eq!(listener.open(), 1, "it was accepted for the first");
    assert!(!second.is_finished());
    drop(first);
    run_until(&context, "the next is woken", || second.is_finished());
    let connection = block_on(&context, "the task", second).unwrap();
    assert_is_of(&connection.unwrap(), &client);
}

fn a_task_that_gives_up_loses_no_place_but_its_own(kind: BackendKind) {
    let context = context(kind);
    let (listener, address) = listener(&context);
    let listener = Rc::new(listener);
    let served = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..3 {
        let (listener, served) = (Rc::clone(&listener), Rc::clone(&served));
        tasks.push(context.spawn(async move {
            let connection = listener.accept().await.expect("a client");
            served.borrow_mut().push((number, connection));
        }));
    }
    settle(&context);
    drop(tasks.remove(1));
    settle(&context);
    let clients = [client(address), client(address)];
    run_until(&context, "the others are served", || {
        served.borrow().len() == 2
    });
    for (place, (number, connection)) in served.borrow().iter().enumerate() {
        assert_eq!(*number, [0, 2][place]);
        assert_is_of(connection, &clients[place]);
    }
}

fn a_future_that_is_ready_awaits_nobody_more(kind: BackendKind) {
    let context = context(kind);
    let (listener, address) = listener(&context);
    let mut ready = Box::pin(listener.accept());
    assert!(poll_and_settle(&context, &mut ready).is_pending());
    let clients = [client(address), client(address), client(address)];
    settle(&context);
    let Poll::Ready(first) = poll_and_settle(&context, &mut ready) else {
        panic!("a client was accepted for it");
    };
    assert_is_of(first.as_ref().unwrap(), &clients[0]);
    let mut second = Box::pin(listener.accept());
    assert!(poll_and_settle(&context, &mut second).is_pending());
    assert_eq!(listener.open(), 2, "the third isn't awaited");
    drop(ready);
    let second = block_on(&context, "the second client", second).unwrap();
    assert_is_of(&second, &clients[1]);
}

fn a_client_that_was_accepted_for_nobody_waits_for_the_next_who_awaits(kind: BackendKind) {
    let context = context(kind);
    let (listener, address) = listener(&context);
    let mut only = Box::pin(listener.accept());
    assert!(poll_and_settle(&context, &mut only).is_pending());
    let first = client(address);
    settle(&context);
    drop(only);
    let second = client(address);
    assert_eq!(settle(&context), 0, "nobody awaits");
    for client in [&first, &second] {
        let connection = block_on(&context, "a client", listener.accept()).unwrap();
        assert_is_of(&connection, client);
    }
}

fn removing_the_listener_is_told_to_those_who_await(kind: BackendKind) {
    let context = context(kind);
    let (listener, _) = listener(&context);
    let listener = Rc::new(listener);
    let waiting = Rc::clone(&listener);
    let task = context.spawn(async move { waiting.accept().await.unwrap_err().kind() });
    settle(&context);
    listener.remove();
    let told = block_on(&context, "the task ends", task);
    assert_eq!(told, Ok(ErrorKind::NotConnected));
    let later = block_on(&context, "at once", listener.accept());
    assert_eq!(later.unwrap_err().kind(), ErrorKind::NotConnected);
    let listener = Rc::try_unwrap(listener).expect("the task has ended");
    assert!(listener.into_source().is_ok());
}

fn reinitialising_is_told_and_closes_who_was_not_taken(kind: BackendKind) {
    let context = context(kind);
    let (listener, address) = listener(&context);
    let mut served = Box::pin(listener.accept());
    let mut waiting = Box::pin(listener.accept());
    assert!(poll_and_settle(&context, &mut served).is_pending());
    assert!(poll_and_settle(&context, &mut waiting).is_pending());
    let client = client(address);
    settle(&context);
    assert_eq!(listener.open(), 1);
    context.reinitialise().unwrap();
    assert_eq!(listener.open(), 0);
    assert_eq!(std::io::Read::read(&mut &client, &mut [0]).unwrap(), 0);
    for accept in [served, waiting] {
        let result = block_on(&context, "it is told", accept);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected);
    }
}

fn the_end_of_the_context_is_told(kind: BackendKind) {
    let other = context(kind);
    let context = context(kind);
    let weak = context.downgrade();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = weak.add_async_listener(socket).unwrap();
    let accept = listener.accept();
    drop(context);
    let result = block_on(&other, "it is told", accept);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected);
    let socket = listener.into_source().expect("nobody looks at it");
    let refused = weak.add_async_listener(socket).unwrap_err();
    assert_eq!(refused.error().kind(), ErrorKind::NotConnected);
}

fn limit_and_pause_hold_for_those_who_await(kind: BackendKind) {
    let context = context(kind);
    let (listener, address) = listener(&context);
    let clients = [client(address), client(address)];
    listener.set_limit(Some(1));
    let first = block_on(&context, "a client", listener.accept()).unwrap();
    let mut accept = Box::pin(listener.accept());
    assert!(poll_and_settle(&context, &mut accept).is_pending());
    listener.pause();
    drop(first);
    assert_eq!(settle(&context), 0, "it is paused");
    listener.resume();
    let second = block_on(&context, "the other client", accept).unwrap();
    assert_is_of(&second, &clients[1]);
}

fn a_listener_that_fails_backs_off_and_the_task_goes_on_waiting(kind: BackendKind) {
    let context = context(kind);
    let (listener, _) = listener(&context);
    let told = Flag::new();
    let note = told.clone();
    listener.on_back_off(move |_| note.set());
    rustix::net::shutdown(listener.get_ref(), rustix::net::Shutdown::Both).unwrap();
    let listener = Rc::new(listener);
    let waiting = Rc::clone(&listener);
    let task = context.spawn(async move { waiting.accept().await.is_err() });
    run_until(&context, "it is told", || told.is_set());
    assert!(listener.back_off().is_some());
    assert!(!task.is_finished());
    listener.remove();
    assert_eq!(block_on(&context, "the end", task), Ok(true));
}

fn a_server_of_tasks_serves_everybody(kind: BackendKind) {
    const CLIENTS: usize = 100;
    let context = context(kind);
    let (listener, address) = listener(&context);
    listener.set_limit(Some(3));
    let weak = context.downgrade();
    let server = context.spawn(async move {
        let mut most = 0;
        for _ in 0..CLIENTS {
            let connection = listener.accept().await.expect("it listens");
            most = most.max(listener.open());
            let stream = weak.add_async_fd(connection).expect("a socket");
            let echo = async move {
                let mut byte = [0];
                let read = |mut socket: &Connection<TcpStream>| {
                    std::io::Read::read(&mut socket, &mut byte)
                };
                let count = stream.io(READ, read).await.expect("a byte");
                let mut socket = stream.get_ref();
                std::io::Write::write_all(&mut socket, &byte[..count]).expect("room");
            };
            weak.spawn(echo).detach();
        }
        most
    });
    let remote = context.remote();
    let clients = std::thread::spawn(move || {
        for number in 0..CLIENTS {
            let mut stream = client(address);
            let mut byte = [0];
            std::io::Write::write_all(&mut stream, &[number as u8]).expect("a peer");
            std::io::Read::read_exact(&mut stream, &mut byte).expect("an answer");
            assert_eq!(byte, [number as u8]);
        }
        remote.schedule(|context| context.stop());
    });
    let most = block_on(&context, "all are served", server).unwrap();
    assert!(most <= 3, "the limit: {most}");
    // The last one may still be served.
    context.run_until(|| false).unwrap();
    clients.join().unwrap();
}
