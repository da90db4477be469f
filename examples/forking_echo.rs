//! Accept, fork, process: a TCP echo server with a process for every connection.
//!
//!     cargo run --example forking_echo -- 127.0.0.1:7007
//!
//! The parent listens, forks, and reaps. A child keeps nothing of its parent's events and runs the
//! loop for its one client from inside the handler that forked. SIGTERM and SIGINT end the parent;
//! its children serve their clients to the end.

use rustix::process::{Pid, WaitOptions, waitpid};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{self, ExitCode};
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use tevent::{Context, FdFlags, Fork, SignalFlags, Signum};

/// The children that haven't been reaped. Only these are waited for, so that the server can share
/// its process with others that have children.
type Children = Rc<RefCell<BTreeSet<u32>>>;

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
    let children = Children::default();
    for signum in [Signum::SIGTERM, Signum::SIGINT] {
        context
            .add_signal(signum, SignalFlags::RESTART, |context, _, _| context.stop())?
            .detach();
    }
    let flags = SignalFlags::RESTART | SignalFlags::NOCLDSTOP;
    let known = Rc::clone(&children);
    context
        .add_signal(Signum::SIGCHLD, flags, move |_, _, _| reap(&known))?
        .detach();

    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    println!("listening on {}", listener.local_addr()?);
    let known = Rc::clone(&children);
    let listening = context.add_fd(listener, FdFlags::READ, move |context, event, _| {
        match event.get_ref().accept() {
            // An event's source stays until its handler has returned. So the fork is left to a
            // handler that is not the listener's: there the child can close the listener.
            Ok((client, _)) => {
                let known = Rc::clone(&known);
                context.defer(move |context| serve(context, client, &known));
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
fn serve(context: &Context, client: TcpStream, children: &Children) {
    match context.fork() {
        Ok(Fork::Parent(pid)) => {
            children.borrow_mut().insert(pid);
            println!("{pid}: started, {} running", children.borrow().len());
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

/// Forgets the children that have ended.
fn reap(children: &Children) {
    children.borrow_mut().retain(|&child| {
        match to_pid(child).map(|pid| waitpid(Some(pid), WaitOptions::NOHANG)) {
            // It is running still.
            Some(Ok(None)) => true,
            Some(Ok(Some((_, status)))) => {
                match status.exit_status() {
                    Some(code) => println!("{child}: ended with {code}"),
                    None => println!("{child}: ended by a signal"),
                }
                false
            }
            // Somebody else has reaped it.
            Some(Err(_)) | None => false,
        }
    });
}

fn to_pid(child: u32) -> Option<Pid> {
    Pid::from_raw(child.try_into().ok()?)
}
