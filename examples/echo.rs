//! A TCP echo server in one process: every connection lives in the closure of its own event.
//!
//!     cargo run --example echo -- 127.0.0.1:7007
//!
//! Port 0 takes a free one; the address is printed. SIGTERM and SIGINT end it.

use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use tevent::{Connection, Context, FdFlags, SignalFlags, Signum};

/// The most that is held of a connection whose peer doesn't read.
const CHUNK: usize = 64 * 1024;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:7007".to_owned());
    let (Ok(address), None) = (address.parse(), arguments.next()) else {
        eprintln!("usage: echo [ADDRESS:PORT], such as 127.0.0.1:7007 or [::1]:0");
        return ExitCode::from(2);
    };
    match run(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
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
    println!("listening on {}", listener.local_addr()?);
    let listener = context.add_listener(listener, |context, _, client| {
        let peer = client.peer().clone();
        if let Err(error) = serve(context, client) {
            eprintln!("echo: {peer}: {error}");
        }
    })?;
    // When there is no descriptor left, clients wait until there is one.
    listener.on_back_off(|back_off| eprintln!("echo: can't accept for now: {back_off}"));
    context.run()
}

/// Adds a connection. Nobody keeps a handle: the event ends itself, and that closes the socket.
fn serve(context: &Context, client: Connection<TcpStream>) -> io::Result<()> {
    let mut unsent = Vec::new();
    let event = context.add_fd(client, FdFlags::READ, move |_, event, flags| {
        match echo(event.get_ref(), flags, &mut unsent) {
            Ok(Some(interest)) => event.set_flags(interest),
            Ok(None) => event.remove(),
            Err(error) if is_passing(&error) => {}
            // A reset, say: nobody is there to be told.
            Err(_) => event.remove(),
        }
    })?;
    event.detach();
    Ok(())
}

/// Moves what can be moved now. Returns what to wait for next; `None` when the client is done.
fn echo(
    mut client: &TcpStream,
    flags: FdFlags,
    unsent: &mut Vec<u8>,
) -> io::Result<Option<FdFlags>> {
    if flags.contains(FdFlags::ERROR) {
        return Ok(None);
    }
    if unsent.is_empty() {
        let mut chunk = [0; CHUNK];
        let count = client.read(&mut chunk)?;
        if count == 0 {
            // The client sends no more. It has been sent everything, or this wouldn't be reading.
            return Ok(None);
        }
        unsent.extend_from_slice(&chunk[..count]);
    }
    match client.write(unsent) {
        Ok(count) => drop(unsent.drain(..count)),
        Err(error) if is_passing(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(Some(if unsent.is_empty() {
        FdFlags::READ
    } else {
        // Nothing is read until this is written, so the client is held up by its own window. An
        // event that waits for WRITE alone isn't told of a dead peer and would stay for ever.
        FdFlags::WRITE | FdFlags::ERROR
    }))
}

/// Whether the loop is to try again when the descriptor is ready.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
