//! A queue: messages that are larger than a socket takes at once, each written in one piece.
//!
//!     cargo run --example queue -- 5 1000000
//!
//! writes 5 messages of 1,000,000 bytes to a socket, all started at once, and reads them at the other
//! end in the same process. Without the queue they would be mixed up.

use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::rc::Rc;
use tevent::{Completer, Context, Fd, FdFlags, Queue, Request};

fn main() -> ExitCode {
    let Some((count, length)) = arguments() else {
        eprintln!("usage: queue [MESSAGES [BYTES]], at most 256 messages of at least 1 byte");
        return ExitCode::from(2);
    };
    match run(count, length) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("queue: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Option<(u16, usize)> {
    let mut arguments = env::args().skip(1);
    let count = arguments.next().unwrap_or("5".to_owned());
    let length = arguments.next().unwrap_or("1000000".to_owned());
    let count = count.parse().ok().filter(|&count| count <= 256)?;
    let length = length.parse().ok().filter(|&length| length > 0)?;
    arguments.next().is_none().then_some((count, length))
}

fn run(count: u16, length: usize) -> io::Result<()> {
    let context = Context::new()?;
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let reading = read(&context, theirs, length)?;

    let socket = Rc::new(ours);
    let queue = context.queue("writes");
    for number in 0..count {
        let message = vec![number as u8; length];
        let request = write(&context, &queue, Rc::clone(&socket), message);
        request.on_complete(move |_, outcome| match outcome {
            Ok(pieces) => println!("message {number} is written, in {pieces} pieces"),
            Err(error) => println!("message {number}: {error}"),
        });
        request.detach();
    }
    println!("{} messages in the queue", queue.len());
    drop(socket); // so that the last write is the end of the stream
    let received = context.block_on(reading)??;
    println!("{received} messages came in one piece each");
    if received != usize::from(count) {
        return Err(io::Error::other("not as many as were sent"));
    }
    Ok(())
}

/// Writes `message` when its turn has come. Returns in how many pieces.
fn write(
    context: &Context,
    queue: &Queue,
    socket: Rc<UnixStream>,
    message: Vec<u8>,
) -> Request<u32, io::Error> {
    let (request, completer) = context.request("write");
    queue.add(&completer, move |context, completer| {
        if let Err(error) = start_writing(context, completer, socket, message) {
            completer.fail(error);
        }
    });
    request
}

fn start_writing(
    context: &Context,
    completer: &Completer<u32, io::Error>,
    socket: Rc<UnixStream>,
    message: Vec<u8>,
) -> io::Result<()> {
    let mut sent = 0;
    let mut pieces = 0;
    let owned = completer.clone();
    let flags = FdFlags::WRITE | FdFlags::ERROR;
    let event =
        context.add_fd(
            socket,
            flags,
            move |_, event: &Fd<Rc<UnixStream>>, _| match (&**event.get_ref())
                .write(&message[sent..])
            {
                Ok(count) => {
                    sent += count;
                    pieces += 1;
                    if sent == message.len() {
                        owned.done(pieces);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => _ = owned.fail(error),
            },
        )?;
    // The event ends with the request, and then the queue goes on.
    completer.attach(event);
    Ok(())
}

/// Reads to the end. Returns how many messages came: runs of `length` equal bytes.
fn read(
    context: &Context,
    socket: UnixStream,
    length: usize,
) -> io::Result<Request<usize, io::Error>> {
    let (request, completer) = context.request("read");
    let mut buffer = vec![0; 64 * 1024];
    let mut at = 0;
    let event = context.add_fd(socket, FdFlags::READ, move |_, event, _| {
        match event.get_ref().read(&mut buffer) {
            Ok(0) => _ = completer.done(at / length),
            Ok(count) => {
                for byte in &buffer[..count] {
                    if *byte != (at / length) as u8 {
                        completer.fail(io::Error::other("messages are mixed up"));
                        return;
                    }
                    at += 1;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => _ = completer.fail(error),
        }
    })?;
    request.attach(event);
    Ok(request)
}
