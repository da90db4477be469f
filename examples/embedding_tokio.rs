//! The loop inside tokio.
//!
//!     cargo run --example embedding_tokio -- 127.0.0.1:7007
//!
//! tokio has the sockets; the context has what tokio's users miss or what was written for it: here
//! signals, the ends of child processes, and a queue of jobs. A client sends lines, each a command for a
//! shell, and gets the exit code of each; commands of all clients take turns. SIGUSR1 prints how many
//! there were. SIGTERM and SIGINT end it.

use std::cell::Cell;
use std::env;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use tevent::{Context, SignalFlags, Signum};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// How many handlers run before tokio's tasks have their turns.
const MOST: usize = 100;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:7007".to_owned());
    let (Ok(address), None) = (address.parse(), arguments.next()) else {
        eprintln!("usage: embedding_tokio [ADDRESS:PORT], such as 127.0.0.1:7007 or [::1]:0");
        return ExitCode::from(2);
    };
    match run(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embedding_tokio: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A context stays on its thread, so what uses it is spawned in a `LocalSet`. On a runtime of several
/// threads the rest may be anywhere.
fn run(address: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let context = Rc::new(Context::new()?);
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        let over = Rc::new(Cell::new(false));
        let commands = Rc::new(Cell::new(0));
        handle_signals(&context, &over, &commands)?;
        let listener = TcpListener::bind(address).await?;
        println!("listening on {}", listener.local_addr()?);
        tokio::select! {
            result = drive(&context, || over.get()) => result,
            result = serve(&context, listener, &commands) => result,
        }
    }))
}

/// Drives the context until `is_over`.
///
/// Handlers, tasks and wakers of the context need nothing else, and nor do its futures that tokio's
/// tasks await. Only who calls its methods from outside (`add_timer`, `defer`, `set_flags`) has to say
/// so, by `context.remote().schedule(|_| ())`.
async fn drive(context: &Context, is_over: impl Fn() -> bool) -> io::Result<()> {
    #[allow(
        deprecated,
        reason = "newer versions ask for a promise in its place, as they do not see the borrow"
    )]
    let descriptor = AsyncFd::with_interest(std::os::fd::AsFd::as_fd(context), Interest::READABLE)?;
    loop {
        let mut is_idle = false;
        for _ in 0..MOST {
            if !context.run_ready()? {
                is_idle = true;
                break;
            }
        }
        if is_over() {
            return Ok(());
        }
        if !is_idle {
            tokio::task::yield_now().await;
            continue;
        }
        let deadline = context.next_deadline();
        let due = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // tokio is told once for each time the descriptor becomes readable. So this is cleared
            // before the turns, and the turns go on until there is nothing to do.
            ready = descriptor.readable() => ready?.clear_ready(),
            () = due => {}
        }
    }
}

fn handle_signals(
    context: &Context,
    over: &Rc<Cell<bool>>,
    commands: &Rc<Cell<u32>>,
) -> io::Result<()> {
    for signum in [Signum::SIGTERM, Signum::SIGINT] {
        let over = Rc::clone(over);
        context
            .add_signal(signum, SignalFlags::RESTART, move |_, _, _| over.set(true))?
            .detach();
    }
    let commands = Rc::clone(commands);
    context
        .add_signal(Signum::SIGUSR1, SignalFlags::RESTART, move |_, _, _| {
            println!("{} commands so far", commands.get());
        })?
        .detach();
    Ok(())
}

async fn serve(
    context: &Rc<Context>,
    listener: TcpListener,
    commands: &Rc<Cell<u32>>,
) -> io::Result<()> {
    let turns = Rc::new(context.queue("commands"));
    loop {
        let (client, address) = listener.accept().await?;
        let (context, turns) = (Rc::clone(context), Rc::clone(&turns));
        let commands = Rc::clone(commands);
        tokio::task::spawn_local(async move {
            if let Err(error) = converse(&context, &turns, &commands, client).await {
                eprintln!("{address}: {error}");
            }
        });
    }
}

async fn converse(
    context: &Context,
    turns: &tevent::Queue,
    commands: &Cell<u32>,
    client: TcpStream,
) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        let Some(end) = received.iter().position(|&byte| byte == b'\n') else {
            client.readable().await?;
            let mut chunk = [0; 512];
            match client.try_read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            continue;
        };
        let line: Vec<u8> = received.drain(..=end).collect();
        let command = String::from_utf8_lossy(&line).trim().to_owned();
        // Both are futures of the context, awaited by a task of tokio's.
        let turn = turns.wait().await;
        let code = execute(context, &command).await;
        drop(turn);
        commands.set(commands.get() + 1);
        let answer = match code {
            Ok(Some(code)) => format!("{code}\n"),
            Ok(None) => "killed\n".to_owned(),
            Err(error) => format!("{error}\n"),
        };
        let mut unsent = answer.as_bytes();
        while !unsent.is_empty() {
            client.writable().await?;
            match client.try_write(unsent) {
                Ok(count) => unsent = &unsent[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

async fn execute(context: &Context, command: &str) -> io::Result<Option<i32>> {
    let process = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let child = context.add_child(process.id(), |_, _, _| ())?;
    Ok(child.wait().await?.code())
}
