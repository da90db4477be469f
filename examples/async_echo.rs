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
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;
use tevent::{
    AsyncFd, AsyncListener, Connection, Context, FdFlags, SignalFlags, Signum, WeakContext,
};

/// The most that is held of a connection whose peer doesn't read.
const CHUNK: usize = 64 * 1024;

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
    let listener = context.add_async_listener(TcpListener::bind(address)?)?;
    println!("listening on {}", listener.get_ref().local_addr()?);
    // When there is no descriptor left, clients wait until there is one.
    listener.on_back_off(|back_off| eprintln!("async_echo: can't accept for now: {back_off}"));
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

/// Starts a task for every client.
async fn accept(
    context: WeakContext,
    listener: AsyncListener<TcpListener>,
    idle: Duration,
) -> io::Result<()> {
    loop {
        let client = listener.accept().await?;
        let peer = client.peer().clone();
        if let Err(error) = start(&context, client, idle) {
            eprintln!("async_echo: {peer}: {error}");
        }
    }
}

fn start(context: &WeakContext, client: Connection<TcpStream>, idle: Duration) -> io::Result<()> {
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
async fn serve(
    context: WeakContext,
    client: AsyncFd<Connection<TcpStream>>,
    idle: Duration,
) -> io::Result<()> {
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
