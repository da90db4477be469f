//! A TCP echo server in one process: every connection is a task.
//!
//!     cargo run --example async_echo -- 127.0.0.1:7007 60
//!
//! Port 0 takes a free one; the address is printed. A client that neither sends nor reads for so
//! many seconds (60 if not given) is dropped. SIGTERM and SIGINT end the server.
//!
//! `echo` does the same with closures.

use futures_lite::future::or;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;
use tevent::{AsyncFd, Context, FdFlags, SignalFlags, Signum, WeakContext};

/// The most that is held of a connection whose peer doesn't read.
const CHUNK: usize = 64 * 1024;

/// How long nobody is accepted after the system had no descriptor left.
const BACK_OFF: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:7007".to_owned());
    let idle = arguments.next().unwrap_or("60".to_owned());
    let (Ok(address), Ok(idle), None) = (address.parse(), idle.parse(), arguments.next()) else {
        eprintln!("usage: async_echo [ADDRESS:PORT [SECONDS]], such as 127.0.0.1:7007 60");
        return ExitCode::from(2);
    };
    match run(address, Duration::from_secs(idle)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("async_echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(address: SocketAddr, idle: Duration) -> io::Result<()> {
    let context = Context::new()?;
    let mut terminated = context.add_signal_stream(Signum::SIGTERM, SignalFlags::RESTART)?;
    let mut interrupted = context.add_signal_stream(Signum::SIGINT, SignalFlags::RESTART)?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    println!("listening on {}", listener.local_addr()?);
    let listener = context.add_async_fd(listener)?;
    // It ends with an error only. Its clients' tasks are the context's, and go with that.
    let accepting = context.spawn(accept(context.downgrade(), listener, idle));
    context.block_on(or(
        async {
            or(terminated.next(), interrupted.next()).await;
            Ok(())
        },
        async { accepting.await? },
    ))?
}

/// Starts a task for every client. Waiting before each is what gives the clients their turns.
async fn accept(
    context: WeakContext,
    listener: AsyncFd<TcpListener>,
    idle: Duration,
) -> io::Result<()> {
    loop {
        listener.ready(FdFlags::READ).await?;
        match listener.get_ref().accept() {
            Ok((client, address)) => {
                if let Err(error) = start(&context, client, idle) {
                    eprintln!("async_echo: {address}: {error}");
                }
            }
            // Whoever it was has gone.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) => {}
            // No descriptor (EMFILE), most likely. The client stays in the backlog and the listener
            // readable, so going on would be a spin.
            Err(error) => {
                eprintln!("async_echo: can't accept for now: {error}");
                context.sleep(BACK_OFF).await;
            }
        }
    }
}

fn start(context: &WeakContext, client: TcpStream, idle: Duration) -> io::Result<()> {
    client.set_nonblocking(true)?;
    let client = context.add_async_fd(client)?;
    let serving = serve(context.clone(), client, idle);
    context
        .spawn(async move {
            // A reset, or nothing for too long: nobody is there to be told.
            let _ = serving.await;
        })
        .detach();
    Ok(())
}

/// Sends back what comes, until the client sends no more. That closes the socket.
async fn serve(context: WeakContext, client: AsyncFd<TcpStream>, idle: Duration) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        context.timeout(idle, client.ready(FdFlags::READ)).await??;
        let read = client.io(FdFlags::READ, |mut client| client.read(&mut chunk));
        let count = context.timeout(idle, read).await??;
        if count == 0 {
            return Ok(());
        }
        let mut unsent = &chunk[..count];
        // Nothing is read until this is written, so the client is held up by its own window.
        while !unsent.is_empty() {
            let write = client.io(FdFlags::WRITE, |mut client| client.write(unsent));
            let sent = context.timeout(idle, write).await??;
            unsent = &unsent[sent..];
        }
    }
}
