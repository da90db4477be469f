//! Processes that share a listening socket: a parent that starts them, and starts them again.
//!
//!     cargo run --example prefork -- 127.0.0.1:7007 4
//!
//! The parent opens the socket and forks so many children (4 if not given); each has a loop of its own
//! and accepts from the same socket. A client is told which process serves it. When a child dies the
//! parent starts another one: at once, or after a pause if they die young. SIGTERM and SIGINT end the
//! parent, and with it the children: they hold one end of a socket pair, the parent the other, which
//! closes whatever becomes of the parent.

use std::cell::RefCell;
use std::env;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::process::{self, ExitCode, ExitStatus};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{Context, FdFlags, Fork, SignalFlags, Signum};

/// A child that has lived for less has failed to start.
const YOUNG: Duration = Duration::from_secs(1);

/// How long the pause is before the next attempt, and how long it gets.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

struct Server {
    socket: Rc<TcpListener>,
    /// What the parent holds, and what the children watch.
    leash: RefCell<Option<UnixStream>>,
    collar: Rc<UnixStream>,
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:7007".to_owned());
    let children = arguments.next().unwrap_or("4".to_owned());
    let (Ok(address), Ok(children), None) = (address.parse(), children.parse(), arguments.next())
    else {
        eprintln!("usage: prefork [ADDRESS:PORT [PROCESSES]], such as 127.0.0.1:7007 4");
        return ExitCode::from(2);
    };
    match run(address, children) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("prefork: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(address: SocketAddr, children: u32) -> io::Result<()> {
    let context = Context::new()?;
    let (leash, collar) = UnixStream::pair()?;
    let server = Rc::new(Server {
        socket: Rc::new(TcpListener::bind(address)?),
        leash: RefCell::new(Some(leash)),
        collar: Rc::new(collar),
    });
    for signum in [Signum::SIGTERM, Signum::SIGINT] {
        context
            .add_signal(signum, SignalFlags::RESTART, |context, _, _| context.stop())?
            .detach();
    }
    println!("listening on {}", server.socket.local_addr()?);
    for _ in 0..children {
        start(&context, &server, SHORTEST_PAUSE);
    }
    context.run_until(|| false)?;
    // The children end when they notice; whoever started this process reaps those that are later.
    println!("stopping");
    Ok(())
}

/// Starts a child, and another one when that has ended. `pause` is for when it can't be started, or
/// dies young.
fn start(context: &Context, server: &Rc<Server>, pause: Duration) {
    match context.fork() {
        Ok(Fork::Parent(pid)) => {
            println!("{pid}: started");
            let (server, born) = (Rc::clone(server), Instant::now());
            let watched = context.add_child(pid, move |context, _, result| {
                println!("{pid}: {}", describe(&result));
                match born.elapsed() {
                    age if age < YOUNG => start_later(context, &server, pause),
                    _ => start(context, &server, SHORTEST_PAUSE),
                }
            });
            match watched {
                Ok(child) => child.detach(),
                Err(error) => eprintln!("prefork: {pid} can't be waited for: {error}"),
            }
        }
        Ok(Fork::Child) => process::exit(match be_child(context, server) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{}: {error}", process::id());
                1
            }
        }),
        Err(error) => {
            eprintln!("prefork: no process: {error}");
            start_later(context, server, pause);
        }
    }
}

fn start_later(context: &Context, server: &Rc<Server>, pause: Duration) {
    let server = Rc::clone(server);
    context
        .add_timer_after(pause, move |context, _| {
            start(context, &server, (pause * 2).min(LONGEST_PAUSE));
        })
        .detach();
}

fn describe(result: &io::Result<ExitStatus>) -> String {
    match result {
        Ok(status) => format!("ended, {status}"),
        Err(error) => format!("ended, and somebody else knows how: {error}"),
    }
}

/// In the child: nothing of the parent's but the socket, until the parent goes.
fn be_child(context: &Context, server: &Server) -> io::Result<()> {
    drop(server.leash.take());
    context.reinitialise()?;
    let collar = Rc::clone(&server.collar);
    context
        .add_fd(collar, FdFlags::READ, |context, _, _| context.stop())?
        .detach();
    let listener = context.add_listener(Rc::clone(&server.socket), |_, _, client| {
        // A process that does something would add an event for the client here.
        let _ = writeln!(&client, "served by {}", process::id());
    })?;
    // The next client is for whoever has nothing to do.
    listener.set_accepts_per_turn(1);
    listener.on_back_off(|back_off| eprintln!("{}: {back_off}", process::id()));
    context.run()
}
