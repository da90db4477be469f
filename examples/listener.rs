//! What a listener does about too many clients: a limit, a pause, and a report when the process has no
//! descriptors left.
//!
//!     cargo run --example listener -- 127.0.0.1:7007 3
//!
//! Each client is told how many are served, and stays until it closes. No more than so many (3 if not
//! given) are served at a time; others wait, and notice nothing but that. SIGUSR1 pauses the listener,
//! SIGUSR2 lets it go on, SIGTERM and SIGINT end it.
//!
//! With a limit of 100 under `ulimit -n 16` it shows the report.

use std::env;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::rc::Rc;
use tevent::{Connection, Context, FdFlags, SignalFlags, Signum};

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:7007".to_owned());
    let limit = arguments.next().unwrap_or("3".to_owned());
    let (Ok(address), Ok(limit), None) = (address.parse(), limit.parse(), arguments.next()) else {
        eprintln!("usage: listener [ADDRESS:PORT [CLIENTS]], such as 127.0.0.1:7007 3");
        return ExitCode::from(2);
    };
    match run(address, limit) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("listener: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(address: SocketAddr, limit: usize) -> io::Result<()> {
    let context = Context::new()?;
    let socket = TcpListener::bind(address)?;
    let address = socket.local_addr()?;
    let listener = context.add_listener(socket, |context, listener, client| {
        println!("{}: welcome, {} served", client.peer(), listener.open());
        let greeting = format!("you are one of {}\n", listener.open());
        if let Err(error) = serve(context, client, &greeting) {
            println!("{error}");
        }
    })?;
    listener.set_limit(Some(limit));
    listener.on_back_off(|back_off| println!("nobody is accepted: {back_off}"));
    // For the handlers of the signals; its own gets it as a parameter.
    let listener = Rc::new(listener);

    for signum in [Signum::SIGUSR1, Signum::SIGUSR2] {
        let listener = Rc::clone(&listener);
        let signal = context.add_signal(signum, SignalFlags::RESTART, move |_, _, info| {
            match info.signum {
                Signum::SIGUSR1 => listener.pause(),
                _ => listener.resume(),
            }
            println!("paused: {}", listener.is_paused());
        })?;
        signal.detach();
    }
    for signum in [Signum::SIGTERM, Signum::SIGINT] {
        context
            .add_signal(signum, SignalFlags::RESTART, |context, _, _| context.stop())?
            .detach();
    }
    println!("listening on {address}");
    context.run()
}

/// Watches a client until it closes. Its place is free when the connection is dropped, which is when
/// the event ends.
fn serve(context: &Context, client: Connection<TcpStream>, greeting: &str) -> io::Result<()> {
    (&client).write_all(greeting.as_bytes())?;
    let event = context.add_fd(client, FdFlags::READ, |_, event, _| {
        match event.get_ref().read(&mut [0; 512]) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => {
                println!("{}: goodbye", event.get_ref().peer());
                event.remove();
            }
        }
    })?;
    event.detach();
    Ok(())
}
