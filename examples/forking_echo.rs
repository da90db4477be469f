//! Accept, fork, process: a TCP echo server with a process for every connection.
//!
//!     cargo run --example forking_echo -- 127.0.0.1:7007
//!
//! The parent listens, forks, and reaps. A child keeps nothing of its parent's events and runs the
//! loop for its one client from inside the handler that forked. SIGTERM and SIGINT end the parent;
//! its children serve their clients to the end.

use std::cell::Cell;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{self, ExitCode, ExitStatus};
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use tevent::{Context, FdFlags, Fork, SignalFlags, Signum};

/// How many children are running.
type Running = Rc<Cell<usize>>;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:7007".to_owned());
    let (Ok(address), None) = (address.parse(), arguments.next()) else {
        eprintln!("usage: forking_echo [ADDRESS:PORT], such as 127.0.0.1:7007 or [::1]:0");
        return ExitCode::from(2);
    };
    match run(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forking_echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(address: SocketAddr) -> io::Result<()> {
    let context = Context::new()?;
    for signum in [Signum::SIGTERM, Signum::SIGINT] {
        context
            .add_signal(signum, SignalFlags::RESTART, |context, _, _| context.stop())?
            .detach();
    }

    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    println!("listening on {}", listener.local_addr()?);
    let running = Running::default();
    let listening = context.add_fd(listener, FdFlags::READ, move |context, event, _| {
        match event.get_ref().accept() {
            // An event's source stays until its handler has returned. So the fork is left to a
            // handler that is not the listener's: there the child can close the listener.
            Ok((client, _)) => {
                let running = Rc::clone(&running);
                context.defer(move |context| serve(context, client, &running));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The system has no descriptor left, say, and the client stays in the backlog: not
            // again at once. The parent has nothing better to do; echo.rs has, and uses a timer.
            Err(error) => {
                eprintln!("forking_echo: can't accept for now: {error}");
                thread::sleep(Duration::from_millis(100));
            }
        }
    })?;
    listening.on_close(|listener| {
        println!("{}: listening no more", process::id());
        drop(listener);
    });
    // Left to the context, which closes it when a child re-initialises. While there is a handle,
    // the source stays.
    listening.detach();

    context.run()
}

/// Gives the client a process. This copy of the socket is closed when it is dropped: at the end of
/// this function, in the parent.
fn serve(context: &Context, client: TcpStream, running: &Running) {
    match context.fork() {
        Ok(Fork::Parent(pid)) => {
            running.set(running.get() + 1);
            println!("{pid}: started, {} running", running.get());
            if let Err(error) = watch(context, pid, running) {
                eprintln!("forking_echo: {pid} can't be waited for: {error}");
            }
        }
        Ok(Fork::Child) => process::exit(match be_child(context, client) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{}: {error}", process::id());
                1
            }
        }),
        Err(error) => eprintln!("forking_echo: no process for a client: {error}"),
    }
}

/// In the child: closes what was the parent's, and serves until the client has gone. A process for
/// itself can afford to block in a write.
fn be_child(context: &Context, client: TcpStream) -> io::Result<()> {
    context.reinitialise()?;
    client.set_nonblocking(false)?;
    let event = context.add_fd(client, FdFlags::READ, |_, event, _| {
        let mut chunk = [0; 64 * 1024];
        let mut client = event.get_ref();
        match client.read(&mut chunk) {
            Ok(count @ 1..) if client.write_all(&chunk[..count]).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => event.remove(),
        }
    })?;
    event.detach();
    context.run()
}

/// Says how the child has ended. It is reaped then, and nobody else's child is: the server can share
/// its process with others that have children.
fn watch(context: &Context, pid: u32, running: &Running) -> io::Result<()> {
    let running = Rc::clone(running);
    let child = context.add_child(pid, move |_, _, result| {
        running.set(running.get() - 1);
        match result.as_ref().map(ExitStatus::code) {
            Ok(Some(code)) => println!("{pid}: ended with {code}"),
            Ok(None) => println!("{pid}: ended by a signal"),
            Err(error) => println!("{pid}: ended, and somebody else knows how: {error}"),
        }
    })?;
    child.detach();
    Ok(())
}
