//! Listeners: who is accepted, when, how many, and what becomes of them.

mod common;

use common::*;
use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tevent::{
    BackendKind, Connection, Context, Listener, ListeningSocket, OsError, PeerAddr, Permit,
};

on_every_backend!(
    tcp_clients_reach_the_handler_with_their_address,
    unix_clients_reach_the_handler_with_their_address,
    any_descriptor_that_listens_will_do,
    a_connection_reads_writes_and_flushes_as_its_stream_does,
    accepted_sockets_do_not_block_and_exec_closes_them,
    a_socket_that_blocks_is_made_not_to,
    a_turn_accepts_so_many_and_no_more,
    another_descriptor_has_its_turn_between_batches,
    what_a_handler_schedules_goes_before_the_next_client,
    a_due_timer_goes_before_the_next_client,
    clients_of_a_paused_listener_wait,
    a_listener_can_pause_itself,
    clients_beyond_the_limit_wait_until_one_is_closed,
    a_limit_can_be_changed_at_any_time,
    a_permit_counts_until_it_is_dropped,
    a_stream_taken_out_of_its_connection_is_not_counted,
    a_listener_that_removes_itself_accepts_nobody_more,
    the_close_callback_gets_the_socket_once,
    connections_do_not_keep_the_socket_open,
    a_panic_in_the_handler_loses_one_client_only,
    a_nested_loop_does_not_call_the_listener_again,
    what_does_not_listen_is_refused_and_given_back,
    a_listener_has_name_tag_and_place,
    handles_and_permits_outlive_the_context,
    reinitialising_in_the_handler_ends_the_listener,
    two_listeners_on_one_socket_share_its_clients,
    a_socket_that_was_shut_down_does_not_spin,
    the_error_that_lasts_is_told_again_and_again_with_longer_pauses,
    a_report_may_replace_itself_or_panic,
    a_report_that_removes_the_listener_is_dropped,
    the_timer_of_a_pause_is_named_after_the_listener,
    an_idle_listener_does_not_spin,
    a_detached_listener_lives_with_its_context,
);

/// A listening socket on loopback and its address.
fn tcp() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

fn clients(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = |_| TcpStream::connect(address).expect("it listens");
    (0..count).map(connect).collect()
}

/// Where connections are kept; clones are the same place.
type Kept = Rc<RefCell<Vec<Connection<TcpStream>>>>;

/// A listener that keeps whom it accepts.
fn keeping(context: &Context) -> (Listener<TcpListener>, SocketAddr, Kept) {
    let (socket, address) = tcp();
    let kept = Kept::default();
    let keep = Rc::clone(&kept);
    let listener = context
        .add_listener(socket, move |_, _, connection| {
            keep.borrow_mut().push(connection);
        })
        .expect("it listens");
    (listener, address, kept)
}

/// A folder for sockets, removed with this.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, kind: BackendKind) -> Folder {
        let name = format!("tevent-{name}-{kind}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tcp_clients_reach_the_handler_with_their_address(kind: BackendKind) {
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let context = context(kind);
        let socket = match TcpListener::bind(loopback) {
            Ok(socket) => socket,
            Err(error) if loopback.starts_with('[') => {
                // Not every machine has IPv6.
                assert_eq!(error.kind(), ErrorKind::AddrNotAvailable, "{error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let address = socket.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let expected = client.local_addr().unwrap();
        let came = Rc::new(Cell::new(None));
        let note = Rc::clone(&came);
        let _listener = context.add_listener(socket, move |context, _, connection| {
            assert_eq!(connection.peer().to_string(), expected.to_string());
            assert_eq!(connection.peer_addr().unwrap(), expected, "of the stream");
            assert!(connection.peer().as_pathname().is_none());
            assert!(!connection.peer().is_unnamed());
            (&connection).write_all(b"hello").unwrap();
            note.set(connection.peer().as_socket());
            context.stop();
        });
        context.run().unwrap();
        assert_eq!(came.get(), Some(expected));
        let mut greeting = String::new();
        (&client).read_to_string(&mut greeting).unwrap();
        assert_eq!(greeting, "hello");
    }
}

fn unix_clients_reach_the_handler_with_their_address(kind: BackendKind) {
    let folder = Folder::new("peers", kind);
    let path = folder.0.join("listener");
    let context = context(kind);
    let socket = UnixListener::bind(&path).unwrap();
    let peers = Rc::new(RefCell::new(Vec::<PeerAddr>::new()));
    let note = Rc::clone(&peers);
    let _listener = context.add_listener(socket, move |_, _, connection| {
        note.borrow_mut().push(connection.peer().clone());
        (&connection).write_all(b"x").unwrap();
    });
    let _unnamed = UnixStream::connect(&path).unwrap();
    // The standard library has no way to bind a stream before it connects, but to listen.
    let bound = folder.0.join("client");
    let _bound = connect_from(&UnixAddr::from_pathname(&bound).unwrap(), &path);
    let name = format!("tevent-test-{}-{kind}", std::process::id());
    let address = UnixAddr::from_abstract_name(&name).unwrap();
    let _named = connect_from(&address, &path);
    run_until(&context, "three come", || peers.borrow().len() == 3);
    let peers = peers.take();
    assert!(peers[0].is_unnamed());
    assert_eq!(peers[0].to_string(), "unnamed");
    assert_eq!(peers[1].as_pathname(), Some(bound.as_path()));
    assert_eq!(peers[1].to_string(), bound.to_str().unwrap());
    assert_eq!(peers[2].as_abstract_name(), Some(name.as_bytes()));
    assert_eq!(peers[2].to_string(), format!("@{name}"));
    for peer in &peers {
        assert_eq!(peer.as_socket(), None);
    }
}

/// A stream that is bound to `from` and connected to `to`.
fn connect_from(from: &UnixAddr, to: &std::path::Path) -> OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, socket};
    let from = match (from.as_pathname(), from.as_abstract_name()) {
        (Some(path), _) => SocketAddrUnix::new(path),
        (_, Some(name)) => SocketAddrUnix::new_abstract_name(name),
        _ => unreachable!("a name"),
    };
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&socket, &from.unwrap()).unwrap();
    connect(&socket, &SocketAddrUnix::new(to).unwrap()).unwrap();
    socket
}

fn any_descriptor_that_listens_will_do(kind: BackendKind) {
    let context = context(kind);
    let (socket, address) = tcp();
    let client = TcpStream::connect(address).unwrap();
    let expected = client.local_addr().unwrap();
    let _listener = context.add_listener(OwnedFd::from(socket), move |context, _, connection| {
        assert_eq!(connection.peer().as_socket(), Some(expected));
        let stream = TcpStream::from(connection.into_stream());
        assert_eq!(stream.peer_addr().unwrap(), expected);
        context.stop();
    });
    context.run().unwrap();
    drop(client);

    // One that others refer to as well.
    let (socket, address) = tcp();
    let socket = Rc::new(socket);
    let _client = TcpStream::connect(address).unwrap();
    let _listener = context.add_listener(Rc::clone(&socket), move |context, _, connection| {
        let _stream: TcpStream = connection.into_stream();
        context.stop();
    });
    context.run().unwrap();
    assert_eq!(socket.local_addr().unwrap(), address);
}

/// A listening socket whose connections have a buffer, or say so.
struct Buffering(UnixListener);

struct Buffered(UnixStream);

impl AsFd for Buffering {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ListeningSocket for Buffering {
    type Stream = Buffered;
}

impl From<OwnedFd> for Buffered {
    fn from(socket: OwnedFd) -> Buffered {
        Buffered(socket.into())
    }
}

impl Read for &Buffered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&self.0).read_vectored(buffers)
    }
}

impl Write for &Buffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.0).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::Error::other("flushed"))
    }
}

fn a_connection_reads_writes_and_flushes_as_its_stream_does(kind: BackendKind) {
    let context = context(kind);
    let name = format!("tevent-test-buffered-{}-{kind}", std::process::id());
    let address = UnixAddr::from_abstract_name(name).unwrap();
    let socket = UnixListener::bind_addr(&address).unwrap();
    let accepted = Rc::new(RefCell::new(None));
    let keep = Rc::clone(&accepted);
    let _listener = context.add_listener(Buffering(socket), move |context, _, connection| {
        keep.replace(Some(connection));
        context.stop();
    });
    let mut client = UnixStream::connect_addr(&address).unwrap();
    context.run().unwrap();
    let accepted: Connection<Buffered> = accepted.take().expect("the client was accepted");
    reads_writes_and_flushes(&accepted, &mut client);
    // By value, as a `BufReader` takes it; it is closed with that.
    reads_writes_and_flushes(accepted, &mut client);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "it is closed");
}

fn reads_writes_and_flushes(mut connection: impl Read + Write, client: &mut UnixStream) {
    client.write_all(b"hello").unwrap();
    let (mut first, mut second) = ([0; 3], [0; 3]);
    let mut buffers = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    assert_eq!(connection.read_vectored(&mut buffers).unwrap(), 5);
    assert_eq!((&first, &second), (b"hel", b"lo\0"));
    client.write_all(b"you").unwrap();
    assert_eq!(connection.read(&mut first).unwrap(), 3);
    assert_eq!(&first, b"you");

    let buffers = [IoSlice::new(b"hello"), IoSlice::new(b" to")];
    assert_eq!(connection.write_vectored(&buffers).unwrap(), 8);
    assert_eq!(connection.write(b" you").unwrap(), 4);
    assert_eq!(connection.flush().unwrap_err().to_string(), "flushed");
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello to you");
}

fn flags(fd: impl AsFd) -> (i32, i32) {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: no memory is involved.
    unsafe {
        (
            libc::fcntl(fd, libc::F_GETFL),
            libc::fcntl(fd, libc::F_GETFD),
        )
    }
}

fn accepted_sockets_do_not_block_and_exec_closes_them(kind: BackendKind) {
    let context = context(kind);
    let (_listener, address, kept) = keeping(&context);
    let _clients = clients(address, 1);
    run_until(&context, "it is accepted", || kept.borrow().len() == 1);
    let (status, descriptor) = flags(&kept.borrow()[0]);
    assert_ne!(status & libc::O_NONBLOCK, 0, "it doesn't block");
    assert_ne!(descriptor & libc::FD_CLOEXEC, 0, "exec closes it");
    let read = (&kept.borrow()[0]).read(&mut [0]);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::WouldBlock);
}

fn a_socket_that_blocks_is_made_not_to(kind: BackendKind) {
    let context = context(kind);
    let (socket, _) = tcp();
    assert_eq!(flags(&socket).0 & libc::O_NONBLOCK, 0);
    let listener = context.add_listener(socket, |_, _, _| ()).unwrap();
    assert_ne!(flags(listener.get_ref()).0 & libc::O_NONBLOCK, 0);
    let socket = listener.into_source().unwrap();
    assert_eq!(socket.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

fn a_turn_accepts_so_many_and_no_more(kind: BackendKind) {
    let context = context(kind);
    let (listener, address, kept) = keeping(&context);
    let _clients = clients(address, 40);
    assert!(turn(&context));
    assert_eq!(kept.borrow().len(), 16, "the default");
    listener.set_accepts_per_turn(5);
    assert!(turn(&context));
    assert_eq!(kept.borrow().len(), 21);
    listener.set_accepts_per_turn(0);
    assert!(turn(&context));
    assert_eq!(kept.borrow().len(), 22, "0 counts as 1");
    listener.set_accepts_per_turn(usize::MAX);
    assert!(turn(&context));
    assert_eq!(kept.borrow().len(), 40);
    assert!(!turn(&context), "that was all");
}

fn another_descriptor_has_its_turn_between_batches(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (socket, address) = tcp();
    let note = log.clone();
    let listener = context
        .add_listener(socket, move |_, _, _| note.add("client"))
        .unwrap();
    listener.set_accepts_per_turn(3);
    let (ours, _theirs) = readable();
    let _fd = context.add_fd(ours, READ, log.fd("fd")).unwrap();
    let _clients = clients(address, 9);
    while log.count("client") < 9 {
        assert!(turn(&context));
    }
    // The other one is known to be ready, or not, when the first batch begins. From then on it has
    // a turn after each.
    let said = log.take();
    let in_a_row = said.split("fd").map(|run| run.matches("client").count());
    assert!(in_a_row.max() <= Some(3), "no more than 3 in a row: {said}");
    assert!(said.matches("fd").count() >= 2, "it has its turns: {said}");
}

fn what_a_handler_schedules_goes_before_the_next_client(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (socket, address) = tcp();
    let note = log.clone();
    let _listener = context.add_listener(socket, move |context, _, _| {
        note.add("client");
        context.defer(note.once("deferred"));
    });
    let _clients = clients(address, 3);
    run_until(&context, "all are accepted", || log.count("deferred") == 3);
    assert_eq!(
        log.take(),
        "client deferred client deferred client deferred"
    );
}

fn a_due_timer_goes_before_the_next_client(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (socket, address) = tcp();
    let note = log.clone();
    let _listener = context.add_listener(socket, move |context, _, _| {
        note.add("client");
        let timer = note.timer("timer");
        context.add_timer(context.now(), timer).detach();
    });
    let _clients = clients(address, 2);
    run_until(&context, "all are accepted", || log.count("timer") == 2);
    assert_eq!(log.take(), "client timer client timer");
}

fn clients_of_a_paused_listener_wait(kind: BackendKind) {
    let context = context(kind);
    let (listener, address, kept) = keeping(&context);
    listener.pause();
    assert!(listener.is_paused());
    let _clients = clients(address, 3);
    assert_no_spin(&context, "nobody is accepted");
    assert_eq!(kept.borrow().len(), 0);
    context.run().expect("there is nothing to wait for");
    listener.resume();
    assert!(!listener.is_paused());
    run_until(&context, "they are accepted", || kept.borrow().len() == 3);
}

fn a_listener_can_pause_itself(kind: BackendKind) {
    let context = context(kind);
    let (socket, address) = tcp();
    let log = Log::new();
    let note = log.clone();
    let listener = context.add_listener(socket, move |context, listener, _| {
        note.add("client");
        listener.pause();
        context.stop();
    });
    let listener = listener.unwrap();
    let _clients = clients(address, 3);
    for round in 1..=3 {
        context.run().unwrap();
        assert_eq!(log.len(), round, "one each time");
        assert_eq!(settle(&context), 0);
        listener.resume();
    }
}

fn clients_beyond_the_limit_wait_until_one_is_closed(kind: BackendKind) {
    let context = context(kind);
    let (listener, address, kept) = keeping(&context);
    listener.set_limit(Some(2));
    assert_eq!((listener.limit(), listener.open()), (Some(2), 0));
    let clients = clients(address, 5);
    assert_eq!(settle(&context), 1, "both in one turn");
    assert_eq!((kept.borrow().len(), listener.open()), (2, 2));
    assert_no_spin(&context, "three wait");
    assert_eq!(kept.borrow().len(), 2);

    // The first one goes: closed as the source of an event.
    let first = kept.borrow_mut().remove(0);
    let event = context.add_fd(first, READ, |_, event, _| {
        if let Ok(0) = event.get_ref().read(&mut [0; 8]) {
            event.remove();
        }
    });
    event.unwrap().detach();
    clients[0].shutdown(Shutdown::Write).unwrap();
    run_until(&context, "the next is accepted", || {
        kept.borrow().len() == 2
    });
    assert_eq!(listener.open(), 2);
    assert_eq!(settle(&context), 0);
    kept.borrow_mut().clear();
    run_until(&context, "so are the others", || kept.borrow().len() == 2);
    for (connection, client) in kept.borrow().iter().zip(&clients[3..]) {
        let address = client.local_addr().unwrap();
        assert_eq!(connection.peer().as_socket(), Some(address), "in order");
    }
}

fn a_limit_can_be_changed_at_any_time(kind: BackendKind) {
    let context = context(kind);
    let (listener, address, kept) = keeping(&context);
    let _clients = clients(address, 4);
    listener.set_limit(Some(0));
    assert_eq!(settle(&context), 0);
    listener.set_limit(Some(1));
    settle(&context);
    assert_eq!(listener.open(), 1);
    listener.set_limit(Some(3));
    settle(&context);
    assert_eq!(listener.open(), 3);
    listener.set_limit(Some(1));
    kept.borrow_mut().truncate(1);
    settle(&context);
    assert_eq!(listener.open(), 1, "no more than one");
    listener.set_limit(None);
    settle(&context);
    assert_eq!(kept.borrow().len(), 2);
}

fn a_permit_counts_until_it_is_dropped(kind: BackendKind) {
    let context = context(kind);
    let (socket, address) = tcp();
    let permits = Rc::new(RefCell::new(Vec::<Permit>::new()));
    let keep = Rc::clone(&permits);
    let listener = context.add_listener(socket, move |_, _, connection| {
        let (stream, permit) = connection.into_parts();
        drop(stream);
        keep.borrow_mut().push(permit);
    });
    let listener = listener.unwrap();
    listener.set_limit(Some(2));
    permits.borrow_mut().push(listener.permit());
    let _clients = clients(address, 3);
    settle(&context);
    assert_eq!((permits.borrow().len(), listener.open()), (2, 2));
    permits.borrow_mut().clear();
    settle(&context);
    assert_eq!((permits.borrow().len(), listener.open()), (2, 2));
    let beyond = listener.permit();
    assert_eq!(listener.open(), 3, "more than the limit");
    drop(beyond);
    permits.borrow_mut().clear();
    assert_eq!(listener.open(), 0);
}

fn a_stream_taken_out_of_its_connection_is_not_counted(kind: BackendKind) {
    let context = context(kind);
    let (socket, address) = tcp();
    let streams = Rc::new(RefCell::new(Vec::new()));
    let keep = Rc::clone(&streams);
    let listener = context.add_listener(socket, move |_, listener, connection| {
        assert_eq!(listener.open(), 1, "this one");
        keep.borrow_mut().push(connection.into_stream());
        assert_eq!(listener.open(), 0);
    });
    listener.as_ref().unwrap().set_limit(Some(1));
    let _clients = clients(address, 3);
    run_until(&context, "all are accepted", || streams.borrow().len() == 3);
}

fn a_listener_that_removes_itself_accepts_nobody_more(kind: BackendKind) {
    let context = context(kind);
    let (socket, address) = tcp();
    let log = Log::new();
    let note = log.clone();
    let listener = context.add_listener(socket, move |_, listener, _| {
        note.add("client");
        listener.remove();
        assert!(!listener.is_registered());
    });
    let listener = listener.unwrap();
    let _clients = clients(address, 3);
    context.run().expect("nothing is left to wait for");
    assert_eq!(log.take(), "client");
    let socket = listener.into_source().expect("nobody looks at it");
    assert!(socket.accept().is_ok() && socket.accept().is_ok());
    let error = socket.accept().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "the other two waited");
}

fn the_close_callback_gets_the_socket_once(kind: BackendKind) {
    let context = context(kind);
    let (socket, address) = tcp();
    let log = Log::new();
    let note = log.clone();
    let listener = context.add_listener(socket, move |_, listener, _| {
        listener.remove();
        note.add("removed");
    });
    let listener = listener.unwrap();
    let note = log.clone();
    listener.on_close(move |socket| {
        assert_eq!(socket.local_addr().unwrap(), address);
        note.add("closed");
    });
    listener.detach();
    let _clients = clients(address, 1);
    context.run().unwrap();
    assert_eq!(log.take(), "removed closed");
}

fn connections_do_not_keep_the_socket_open(kind: BackendKind) {
    let context = context(kind);
    let (listener, address, kept) = keeping(&context);
    let _clients = clients(address, 2);
    settle(&context);
    let log = Log::new();
    let note = log.clone();
    listener.on_close(move |_| note.add("closed"));
    drop(listener);
    assert_eq!(log.take(), "closed");
    assert_eq!(kept.borrow().len(), 2);
    kept.borrow_mut().clear();
    context.run().expect("no timer is left, nor anything else");
}

fn a_panic_in_the_handler_loses_one_client_only(kind: BackendKind) {
    let context = context(kind);
    let (socket, address) = tcp();
    let kept = Kept::default();
    let keep = Rc::clone(&kept);
    let mut first = true;
    let listener = context.add_listener(socket, move |_, _, connection| {
        if std::mem::take(&mut first) {
            panic!("the first");
        }
        keep.borrow_mut().push(connection);
    });
    let listener = listener.unwrap();
    let clients = clients(address, 3);
    assert_eq!(panic_of(|| context.run_once()), "the first");
    assert_eq!(listener.open(), 0, "its connection is closed");
    assert_eq!((&clients[0]).read(&mut [0]).unwrap(), 0);
    run_until(&context, "the others are served", || {
        kept.borrow().len() == 2
    });
    assert_eq!(listener.open(), 2);
}

fn a_nested_loop_does_not_call_the_listener_again(kind: BackendKind) {
    let context = builder(kind).nesting_allowed(true).build().unwrap();
    let (socket, address) = tcp();
    let log = Log::new();
    let note = log.clone();
    let _listener = context.add_listener(socket, move |context, _, _| {
        note.add("begin");
        assert_no_spin(context, "the listener is suspended");
        note.add("end");
    });
    let _clients = clients(address, 2);
    run_until(&context, "both are served", || log.count("end") == 2);
    assert_eq!(log.take(), "begin end begin end");
}

fn what_does_not_listen_is_refused_and_given_back(kind: BackendKind) {
    let context = context(kind);
    let (ours, _theirs) = pair();
    let number = ours.as_raw_fd();
    let error = context.add_listener(OwnedFd::from(ours), |_, _, _| unreachable!());
    let error = error.unwrap_err();
    assert_eq!(error.error().kind(), ErrorKind::InvalidInput);
    assert_eq!(error.into_source().as_raw_fd(), number);

    let file = OwnedFd::from(File::open("/dev/null").unwrap());
    let error = context.add_async_listener(file).unwrap_err();
    let (file, error) = error.into_parts();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let inner: &OsError = inner.expect("a system call has failed");
    assert_eq!(inner.operation(), "getsockopt");
    assert_eq!(inner.error().raw_os_error(), Some(libc::ENOTSOCK));
    assert!(File::from(file).metadata().is_ok());
}

fn a_listener_has_name_tag_and_place(kind: BackendKind) {
    let context = context(kind);
    let (socket, _) = tcp();
    let line = line!() + 1;
    let listener = context.add_listener(socket, |_, _, _| ()).unwrap();
    let place = listener.location().expect("it is there");
    assert_eq!((place.file(), place.line()), (file!(), line));
    assert_eq!((listener.name(), listener.tag()), (None, 0));
    listener.set_name("smb");
    listener.set_tag(445);
    assert_eq!(listener.name().as_deref(), Some("smb"));
    assert_eq!(listener.tag(), 445);
    assert!(listener.is_registered());
    let said = format!("{listener:?}");
    assert!(said.starts_with("Listener { source: TcpListener"), "{said}");
    assert!(
        said.contains("open: 0, limit: None, paused: false"),
        "{said}"
    );
    listener.remove();
    assert_eq!((listener.name(), listener.tag()), (None, 0));
    assert!(listener.location().is_none());

    let line = line!() + 1;
    let awaited = context.add_async_listener(tcp().0).unwrap();
    assert_eq!(awaited.location().expect("it is there").line(), line);
    assert!(format!("{awaited:?}").starts_with("AsyncListener { listener: Listener {"));
    assert_eq!(format!("{:?}", awaited.accept()), "Accept");
}

fn handles_and_permits_outlive_the_context(kind: BackendKind) {
    let context = context(kind);
    let (listener, address, kept) = keeping(&context);
    listener.set_limit(Some(1));
    let _clients = clients(address, 2);
    settle(&context);
    let permit = listener.permit();
    let said = format!("{:?} {permit:?}", kept.borrow()[0]);
    assert!(said.starts_with("Connection { stream: TcpStream"), "{said}");
    assert!(said.ends_with(", permit: Permit } Permit"), "{said}");
    drop(context);
    assert!(!listener.is_registered());
    drop(permit);
    kept.borrow_mut().clear();
    assert_eq!(listener.open(), 0);
    listener.pause();
    listener.resume();
    listener.set_limit(None);
    assert_eq!(listener.back_off(), None);
    let socket = listener.into_source().expect("nobody looks at it");
    assert_eq!(socket.local_addr().unwrap(), address);
}

fn reinitialising_in_the_handler_ends_the_listener(kind: BackendKind) {
    let context = context(kind);
    let (socket, address) = tcp();
    let log = Log::new();
    let note = log.clone();
    let listener = context.add_listener(socket, move |context, listener, connection| {
        note.add("client");
        context.reinitialise().unwrap();
        assert!(!listener.is_registered());
        let log = note.clone();
        let event = context.add_fd(connection, READ, move |_, event, _| {
            log.add("served");
            event.remove();
        });
        event.unwrap().detach();
    });
    let note = log.clone();
    let listener = listener.unwrap();
    listener.on_close(move |_| note.add("closed"));
    listener.detach();
    let clients = clients(address, 3);
    drop(clients);
    context.run().expect("the one client is served");
    assert_eq!(log.take(), "client closed served");
}

fn two_listeners_on_one_socket_share_its_clients(kind: BackendKind) {
    let context = context(kind);
    let (socket, address) = tcp();
    let socket = Rc::new(socket);
    let log = Log::new();
    let add = |name: &'static str| {
        let note = log.clone();
        let listener = context.add_listener(Rc::clone(&socket), move |_, _, _| note.add(name));
        let listener = listener.unwrap();
        listener.set_accepts_per_turn(1);
        listener
    };
    let (_first, second) = (add("first"), add("second"));
    let clients_of_both = clients(address, 6);
    run_until(&context, "all are accepted", || log.len() == 6);
    assert_eq!((log.count("first"), log.count("second")), (3, 3));
    log.take();
    second.pause();
    let _more = clients(address, 3);
    run_until(&context, "all are accepted", || log.count("first") == 3);
    drop(clients_of_both);
}

fn a_socket_that_was_shut_down_does_not_spin(kind: BackendKind) {
    let context = context(kind);
    let (listener, _, kept) = keeping(&context);
    let told = Rc::new(RefCell::new(Vec::new()));
    let note = Rc::clone(&told);
    listener.on_back_off(move |back_off| note.borrow_mut().push(*back_off));
    listener.set_back_off(GUARD, GUARD);
    rustix::net::shutdown(listener.get_ref(), rustix::net::Shutdown::Both).unwrap();
    assert_no_spin(&context, "it accepts no more");
    let told = told.take();
    assert_eq!(told.len(), 1, "once");
    assert_eq!(told[0].errno, libc::EINVAL);
    assert_eq!(listener.back_off(), Some(told[0]));
    assert_eq!(kept.borrow().len(), 0);
}

fn the_error_that_lasts_is_told_again_and_again_with_longer_pauses(kind: BackendKind) {
    let context = context(kind);
    let (listener, ..) = keeping(&context);
    let told = Rc::new(RefCell::new(Vec::new()));
    let note = Rc::clone(&told);
    listener.on_back_off(move |back_off| note.borrow_mut().push(*back_off));
    listener.set_back_off(Duration::ZERO, Duration::from_millis(7));
    rustix::net::shutdown(listener.get_ref(), rustix::net::Shutdown::Both).unwrap();
    let start = context.now();
    run_until(&context, "five attempts", || told.borrow().len() == 5);
    let told = told.take();
    let pauses: Vec<u128> = told.iter().map(|told| told.pause.as_millis()).collect();
    assert_eq!(pauses, [1, 2, 4, 7, 7], "from 1 ms on, up to the longest");
    let attempts: Vec<u32> = told.iter().map(|told| told.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5]);
    // Four pauses lie between five attempts.
    assert!(start.elapsed() >= Duration::from_millis(14));
    let said = told[1].to_string();
    assert!(said.starts_with("accept4: Invalid argument"), "{said}");
    assert!(said.ends_with(", next attempt in 2ms"), "{said}");
    assert_eq!(told[1].error().kind(), ErrorKind::InvalidInput);
    listener.set_back_off(Duration::from_millis(3), Duration::ZERO);
    run_until(&context, "another attempt", || {
        let back_off = listener.back_off();
        back_off.is_some_and(|back_off| back_off.pause == Duration::from_millis(3))
    });
    drop(listener);
    context.run().expect("no timer is left");
}

fn a_report_may_replace_itself_or_panic(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (listener, ..) = keeping(&context);
    let listener = Rc::new(listener);
    listener.set_back_off(Duration::from_millis(1), Duration::from_millis(1));
    let (note, weak) = (log.clone(), Rc::downgrade(&listener));
    let owned = log.on_drop("dropped");
    listener.on_back_off(move |_| {
        note.add("first");
        let note = note.clone();
        let listener = weak.upgrade().expect("it is there");
        listener.on_back_off(move |_| {
            note.add("second");
            panic!("told");
        });
        owned.keep();
    });
    rustix::net::shutdown(listener.get_ref(), rustix::net::Shutdown::Both).unwrap();
    run_until(&context, "it is told", || log.len() == 2);
    assert_eq!(log.take(), "first dropped");
    for _ in 0..2 {
        assert_eq!(panic_of(|| context.run()), "told");
        assert_eq!(log.take(), "second", "the report stays");
    }
    assert!(listener.back_off().is_some(), "and so does the pause");
}

fn a_report_that_removes_the_listener_is_dropped(kind: BackendKind) {
    let context = context(kind);
    let log = Log::new();
    let (listener, ..) = keeping(&context);
    let listener = Rc::new(listener);
    let (note, weak) = (log.clone(), Rc::downgrade(&listener));
    let owned = log.on_drop("dropped");
    listener.on_back_off(move |_| {
        weak.upgrade().expect("it is there").remove();
        note.add("told");
        owned.keep();
    });
    rustix::net::shutdown(listener.get_ref(), rustix::net::Shutdown::Both).unwrap();
    context.run().expect("nothing is left, not even a timer");
    assert_eq!(log.take(), "told dropped");
    assert!(!listener.is_registered());
}

fn the_timer_of_a_pause_is_named_after_the_listener(kind: BackendKind) {
    let context = context(kind);
    let names = Rc::new(RefCell::new(Vec::new()));
    let note = Rc::clone(&names);
    context.set_slow_handler(Duration::ZERO, move |slow| {
        note.borrow_mut().extend(slow.name.clone());
    });
    for (name, expected) in [(Some("smb"), "smb: back-off"), (None, "listener: back-off")] {
        let (listener, ..) = keeping(&context);
        if let Some(name) = name {
            listener.set_name(name);
        }
        listener.set_back_off(Duration::ZERO, Duration::ZERO);
        rustix::net::shutdown(listener.get_ref(), rustix::net::Shutdown::Both).unwrap();
        run_until(&context, "the pause is over", || {
            names.borrow().iter().any(|name| name == expected)
        });
    }
}

fn an_idle_listener_does_not_spin(kind: BackendKind) {
    let context = context(kind);
    let (_listener, address, kept) = keeping(&context);
    assert_no_spin(&context, "nobody comes");
    let clients = clients(address, 20);
    run_until(&context, "all are accepted", || kept.borrow().len() == 20);
    assert_no_spin(&context, "nobody comes any more");
    drop(clients);
    assert_no_spin(&context, "whoever went was somebody else's");
}

fn a_detached_listener_lives_with_its_context(kind: BackendKind) {
    let context = context(kind);
    let (listener, address, kept) = keeping(&context);
    let log = Log::new();
    let note = log.clone();
    listener.on_close(move |_| note.add("closed"));
    listener.detach();
    let _clients = clients(address, 2);
    run_until(&context, "they are accepted", || kept.borrow().len() == 2);
    assert_eq!(log.take(), "");
    drop(context);
    assert_eq!(log.take(), "closed");
}
