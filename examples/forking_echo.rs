//! Accept, fork, process: a TCP echo server with a process for every connection.
//!
//!     cargo run --example forking_echo -- 127.0.0.1:7007
//!
//! The parent listens, forks, and reaps. A child keeps nothing of its parent's events and returns from
//! the handler that forked: the loop that called it goes on, in the child, for its one client. SIGTERM
//! and SIGINT end the parent; its children serve their clients to the end.

use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{self, ExitCode, ExitStatus};
use tevent::{Connection, Context, FdFlags, Fork, Listener, SignalFlags, Signum};

/// How many children there may be. Clients beyond wait.
const MOST_CHILDREN: usize = 500;

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

/// Returns in the parent when a signal has ended it, and in each child when its client has gone.
fn run(address: SocketAddr) -> io::Result<()> {
    let context = Context::new()?;
    for signum in [Signum::SIGTERM, Signum::SIGINT] {
        context
            .add_signal(signum, SignalFlags::RESTART, |context, _, _| context.stop())?
            .detach();
    }

    let socket = TcpListener::bind(address)?;
    println!("listening on {}", socket.local_addr()?);
    let listener = context.add_listener(socket, |context, listener, client| {
        let peer = client.peer().clone();
        if let Err(error) = serve(context, listener, client) {
            eprintln!("forking_echo: {peer}: {error}");
        }
    })?;
    listener.set_limit(Some(MOST_CHILDREN));
    listener.on_back_off(|back_off| eprintln!("forking_echo: can't accept for now: {back_off}"));
    listener.on_close(|socket| {
        println!("{}: listening no more", process::id());
        drop(socket);
    });
    // Left to the context, which closes it when a child re-initialises. While there is a handle,
    // the socket stays.
    listener.detach();

    context.run()
}

/// Gives the client a process.
fn serve(
    context: &Context,
    listener: &Listener<TcpListener>,
    client: Connection<TcpStream>,
) -> io::Result<()> {
    match context.fork()? {
        Fork::Parent(pid) => {
            // This copy of the socket goes; its place is taken until the process has ended.
            let (stream, permit) = client.into_parts();
            drop(stream);
            println!("{pid}: started, {} running", listener.open());
            context
                .add_child(pid, move |_, _, result| {
                    drop(permit);
                    match result.as_ref().map(ExitStatus::code) {
                        Ok(Some(code)) => println!("{pid}: ended with {code}"),
                        Ok(None) => println!("{pid}: ended by a signal"),
                        Err(error) => println!("{pid}: ended, somebody else knows how: {error}"),
                    }
                })?
                .detach();
            Ok(())
        }
        Fork::Child => {
            // All that was the parent's is closed: the listener when its handler has returned.
            context.reinitialise()?;
            // A process for itself can afford to block in a write.
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
            Ok(())
        }
    }
}
