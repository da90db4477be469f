//! Requests with sub-requests and deadlines: a question by UDP, asked again until it is answered.
//!
//!     cargo run --example request -- 2 1000
//!
//! asks a server (in the same process) that loses the first 2 datagrams, and gives up after 1000 ms.
//! A single attempt takes 100 ms at most. SIGINT cancels, SIGUSR1 prints what is being waited for.
//!
//! Nothing in here is asynchronous but the requests: `ask` returns at once.

use std::cell::Cell;
use std::env;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use tevent::{Completer, Context, Fd, FdFlags, Request, RequestError, SignalFlags, Signum};

const ATTEMPT: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let Some((lost, limit)) = arguments() else {
        eprintln!("usage: request [LOST [MILLISECONDS]], such as 2 1000");
        return ExitCode::from(2);
    };
    match run(lost, limit) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("request: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Option<(u32, Duration)> {
    let mut arguments = env::args().skip(1);
    let lost = arguments.next().unwrap_or("2".to_owned());
    let limit = arguments.next().unwrap_or("1000".to_owned());
    let limit = Duration::from_millis(limit.parse().ok()?);
    arguments
        .next()
        .is_none()
        .then_some((lost.parse().ok()?, limit))
}

/// Returns whether there was an answer.
fn run(lost: u32, limit: Duration) -> io::Result<bool> {
    let context = Context::new()?;
    let (address, _server) = serve(&context, lost)?;

    // This is all that a user of `ask` has to do.
    let request = Rc::new(ask(&context, address, "how are you?"));
    request.set_timeout(limit);
    let answered = Rc::new(Cell::new(false));
    let inner = Rc::clone(&answered);
    request.on_complete(move |context, outcome| {
        match outcome {
            Ok(answer) => {
                println!("answer: {answer}");
                inner.set(true);
            }
            Err(error) => println!("no answer: {error}"),
        }
        context.stop();
    });

    let asked = Rc::clone(&request);
    let _cancel = context.add_signal(Signum::SIGINT, SignalFlags::RESTART, move |_, _, _| {
        asked.cancel();
    })?;
    let _dump = context.add_signal(Signum::SIGUSR1, SignalFlags::RESTART, |context, _, _| {
        println!("{}", context.requests());
    })?;
    // Once in any case, to see what it looks like.
    let _look = context.add_timer_after(ATTEMPT / 2, |context, _| {
        println!("{}", context.requests());
    });
    context.run()?;
    Ok(answered.get())
}

/// Asks until there is an answer. The deadline is the caller's to set.
fn ask(context: &Context, server: SocketAddr, question: &str) -> Request<String, io::Error> {
    let (request, completer) = context.request("ask");
    attempt(context, &completer, server, question.to_owned(), 1);
    request
}

/// One attempt, and what comes after it. Every branch ends the request, or leaves it to a
/// sub-request; if one were forgotten, the request would end as abandoned.
fn attempt(
    context: &Context,
    completer: &Completer<String, io::Error>,
    server: SocketAddr,
    question: String,
    number: u32,
) {
    let exchange = exchange(context, server, &question);
    exchange.set_timeout(ATTEMPT);
    completer.then(exchange, move |context, completer, outcome| match outcome {
        Ok(answer) => _ = completer.done(format!("{answer} (attempt {number})")),
        Err(RequestError::TimedOut) => {
            println!("attempt {number} timed out");
            attempt(context, completer, server, question, number + 1);
        }
        Err(error) => _ = completer.finish(Err(error)),
    });
}

/// Sends one datagram and waits for one.
fn exchange(context: &Context, server: SocketAddr, question: &str) -> Request<String, io::Error> {
    let (request, completer) = context.request("exchange");
    completer.on_cancel(|_, completer| _ = completer.cancelled());
    match start_exchange(context, server, question, completer.clone()) {
        // When the request ends, by whatever, the socket is closed.
        Ok(event) => _ = request.attach(event),
        Err(error) => _ = completer.fail(error),
    }
    request
}

fn start_exchange(
    context: &Context,
    server: SocketAddr,
    question: &str,
    completer: Completer<String, io::Error>,
) -> io::Result<Fd<UdpSocket>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(question.as_bytes())?;
    let event = context.add_fd(socket, FdFlags::READ, move |_, event, _| {
        let mut buffer = [0; 512];
        match event.get_ref().recv(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            received => {
                let text = |count| String::from_utf8_lossy(&buffer[..count]).into_owned();
                completer.finish(received.map(text));
            }
        }
    })?;
    Ok(event)
}

/// A server that loses the first datagrams.
fn serve(context: &Context, mut lost: u32) -> io::Result<(SocketAddr, Fd<UdpSocket>)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let event = context.add_fd(socket, FdFlags::READ, move |_, event, _| {
        let Ok((_, client)) = event.get_ref().recv_from(&mut [0; 512]) else {
            return;
        };
        if lost > 0 {
            lost -= 1;
            return;
        }
        if let Err(error) = event.get_ref().send_to(b"fine", client) {
            eprintln!("request: can't answer {client}: {error}");
        }
    })?;
    Ok((address, event))
}
