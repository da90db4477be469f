//! The loop inside a loop that a program has already: here one made of epoll by hand.
//!
//!     cargo run --example embedding_epoll -- 127.0.0.1:7007
//!
//! The outer loop reads its standard input, the old part of the program. The new part, a server that
//! counts its clients and a timer, is a context, which to the outer loop is one descriptor and a
//! deadline. The end of the input, SIGTERM and SIGINT end it.

use rustix::event::{Timespec, epoll};
use std::cell::Cell;
use std::env;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use tevent::{Context, SignalFlags, Signum};

/// How the outer loop calls its descriptors.
const INPUT: u64 = 1;
const CONTEXT: u64 = 2;

/// How many handlers run before the outer loop has a turn.
const MOST: usize = 100;

/// In bytes. A longer line is taken in pieces.
const LONGEST_LINE: usize = 4096;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:7007".to_owned());
    let (Ok(address), None) = (address.parse(), arguments.next()) else {
        eprintln!("usage: embedding_epoll [ADDRESS:PORT], such as 127.0.0.1:7007 or [::1]:0");
        return ExitCode::from(2);
    };
    match run(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embedding_epoll: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(address: SocketAddr) -> io::Result<()> {
    let context = Context::new()?;
    let is_over = Rc::new(Cell::new(false));
    new_part(&context, address, &is_over)?;

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let add = |number, fd: &dyn std::os::fd::AsFd| {
        let data = epoll::EventData::new_u64(number);
        epoll::add(&epoll, fd.as_fd(), data, epoll::EventFlags::IN)
    };
    add(INPUT, &io::stdin())?;
    add(CONTEXT, &context)?;
    let mut line = Vec::new();
    while !is_over.get() {
        // Asked anew before every wait: whatever was called meanwhile may have changed it.
        let deadline = context.next_deadline();
        let limit = deadline.map(|deadline| deadline.saturating_duration_since(context.now()));
        // Rounded up to milliseconds, which is what epoll_wait takes: too early would be a spin.
        let limit = limit.map(|limit| limit + Duration::from_nanos(999_999));
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_millis()) * 1_000_000,
        });
        let mut events = Vec::with_capacity(16);
        match epoll::wait(
            &epoll,
            rustix::buffer::spare_capacity(&mut events),
            limit.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            // Nothing is to be done here for the context: it is turned below, as it has to be when a
            // deadline has ended the wait.
            if event.data.u64() == INPUT && !old_part(&mut line)? {
                is_over.set(true);
            }
        }
        for _ in 0..MOST {
            if !context.run_ready()? {
                break;
            }
        }
    }
    Ok(())
}

/// Reads what there is, and keeps in `line` what is not a whole line yet. Returns false at the end of
/// the input.
fn old_part(line: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; 512];
    // Not by io::stdin(), whose buffer would hold what the outer loop can't see.
    let count = match rustix::io::read(rustix::stdio::stdin(), &mut chunk) {
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(true),
        count => count?,
    };
    for byte in &chunk[..count] {
        if *byte == b'\n' || line.len() == LONGEST_LINE {
            println!("input: {}", String::from_utf8_lossy(line));
            line.clear();
        }
        if *byte != b'\n' {
            line.push(*byte);
        }
    }
    if count == 0 && !line.is_empty() {
        println!("input: {}", String::from_utf8_lossy(line));
    }
    Ok(count > 0)
}

fn new_part(context: &Context, address: SocketAddr, is_over: &Rc<Cell<bool>>) -> io::Result<()> {
    let socket = TcpListener::bind(address)?;
    let address = socket.local_addr()?;
    let mut clients = 0;
    context
        .add_listener(socket, move |_, _, client| {
            clients += 1;
            let _ = writeln!(&client, "you are client {clients}");
        })?
        .detach();
    let mut ticks = 0;
    let period = Duration::from_millis(20);
    context
        .add_timer_after(period, move |_, timer| {
            ticks += 1;
            if ticks % 50 == 1 {
                println!("tick {ticks}");
            }
            timer.set_after(period);
        })
        .detach();
    for signum in [Signum::SIGTERM, Signum::SIGINT] {
        let is_over = Rc::clone(is_over);
        context
            .add_signal(signum, SignalFlags::RESTART, move |_, _, _| {
                is_over.set(true)
            })?
            .detach();
    }
    println!("listening on {address}");
    Ok(())
}
