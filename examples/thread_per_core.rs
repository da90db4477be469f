//! A context a thread: a chat server whose rooms are all the same room.
//!
//!     cargo run --example thread_per_core -- 127.0.0.1:7007 4
//!
//! Each thread has a loop and a listening socket of its own on the same address (`SO_REUSEPORT`), so the
//! kernel deals out the clients, and nothing is shared or locked. What one client writes goes to all
//! clients of all threads: as a closure, by the `Remote` of each thread. SIGTERM and SIGINT end it: the
//! main thread's loop is told, and tells the others.

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use tevent::{Connection, Context, FdFlags, Remote, SignalFlags, Signum};

/// The loops of all threads.
type Loops = Arc<Vec<Remote>>;

thread_local! {
    /// The clients of this thread, by a number that means nothing elsewhere. A closure from another
    /// thread finds them here.
    static CLIENTS: RefCell<BTreeMap<u64, Rc<Connection<TcpStream>>>> = const {
        RefCell::new(BTreeMap::new())
    };
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:7007".to_owned());
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let threads = match arguments.next() {
        Some(count) => count.parse().ok().filter(|&count| count > 0),
        None => Some(cores()),
    };
    let (Ok(address), Some(threads), None) = (address.parse(), threads, arguments.next()) else {
        eprintln!("usage: thread_per_core [ADDRESS:PORT [THREADS]], such as 127.0.0.1:7007 4");
        return ExitCode::from(2);
    };
    match run(address, threads) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thread_per_core: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut address: SocketAddr, threads: usize) -> io::Result<()> {
    // All sockets are there before any thread is, so that what can't be had is known here.
    let mut sockets = Vec::new();
    for _ in 0..threads {
        let socket = listen(address)?;
        // Port 0 was for the first one to choose.
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    let mut workers = Vec::new();
    let mut loops = Vec::new();
    let mut begins = Vec::new();
    for (number, socket) in sockets.into_iter().enumerate() {
        let (remote, begin, worker) = start(number, socket)?;
        loops.push(remote);
        begins.push(begin);
        workers.push(worker);
    }
    let loops: Loops = Arc::new(loops);
    for begin in begins {
        // A thread that isn't there any more has said why, which is found out below.
        let _ = begin.send(Arc::clone(&loops));
    }
    let context = Context::new()?;
    for signum in [Signum::SIGTERM, Signum::SIGINT] {
        context
            .add_signal(signum, SignalFlags::RESTART, |context, _, _| context.stop())?
            .detach();
    }
    println!("listening on {address}");
    context.run()?;
    for remote in loops.iter() {
        remote.schedule(|context| context.stop());
    }
    for worker in workers {
        worker.join().expect("no panic")?;
    }
    Ok(())
}

/// One of several sockets that listen on the same address.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, 128)?;
    Ok(TcpListener::from(socket))
}

/// Starts a thread, and waits until its loop can be reached.
#[allow(clippy::type_complexity, reason = "three things of one thread")]
fn start(
    number: usize,
    socket: TcpListener,
) -> io::Result<(Remote, mpsc::Sender<Loops>, JoinHandle<io::Result<()>>)> {
    let (to_us, from_worker) = mpsc::channel();
    let (begin, loops) = mpsc::channel();
    let worker = thread::Builder::new()
        .name(format!("loop {number}"))
        .spawn(move || {
            let context = Context::new()?;
            to_us.send(context.remote()).expect("it is waited for");
            match loops.recv() {
                Ok(loops) => serve(&context, number, socket, loops),
                Err(_) => Ok(()), // another thread couldn't be started
            }
        })?;
    match from_worker.recv() {
        Ok(remote) => Ok((remote, begin, worker)),
        Err(_) => Err(worker
            .join()
            .expect("no panic")
            .expect_err("it has said nothing")),
    }
}

fn serve(context: &Context, number: usize, socket: TcpListener, loops: Loops) -> io::Result<()> {
    let mut last = 0;
    let listener = context.add_listener(socket, move |context, _, client| {
        last += 1;
        println!("thread {number}: client {}", client.peer());
        if let Err(error) = welcome(context, last, client, Arc::clone(&loops)) {
            eprintln!("thread {number}: {error}");
        }
    })?;
    listener.on_back_off(move |back_off| eprintln!("thread {number}: {back_off}"));
    context.run()
}

fn welcome(
    context: &Context,
    number: u64,
    client: Connection<TcpStream>,
    loops: Loops,
) -> io::Result<()> {
    let client = Rc::new(client);
    // The event and the list have the same connection.
    let event = context.add_fd(Rc::clone(&client), FdFlags::READ, move |_, event, _| {
        let mut chunk = [0; 4096];
        match (&**event.get_ref()).read(&mut chunk) {
            Ok(count @ 1..) => tell_all(&loops, chunk[..count].into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => {
                CLIENTS.with_borrow_mut(|clients| clients.remove(&number));
                event.remove();
            }
        }
    })?;
    event.detach();
    CLIENTS.with_borrow_mut(|clients| clients.insert(number, client));
    Ok(())
}

/// To all clients of all threads, this one included. One that can't be reached is one that ends.
fn tell_all(loops: &Loops, words: Arc<[u8]>) {
    for remote in loops.iter() {
        let words = Arc::clone(&words);
        remote.schedule(move |_| {
            CLIENTS.with_borrow(|clients| {
                for client in clients.values() {
                    // Who doesn't read has to do without.
                    let _ = (&**client).write(&words);
                }
            });
        });
    }
}
