//! Runs commands at the same time, and says how each has ended. All in one thread, and without
//! touching anybody else's children.
//!
//!     cargo run --example children -- 5000 "sleep 1" "exit 3" "kill -9 $$" "sleep 100"
//!
//! gives them 5 seconds; what runs for longer is asked to end, and a second later killed. The exit
//! status is how many didn't succeed.

use std::cell::Cell;
use std::env;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{Child, Context};

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let limit = arguments.next().and_then(|limit| limit.parse().ok());
    let commands: Vec<String> = arguments.collect();
    let Some(limit) = limit.filter(|_| !commands.is_empty()) else {
        eprintln!("usage: children MILLISECONDS COMMAND...");
        return ExitCode::from(2);
    };
    match run(Duration::from_millis(limit), &commands) {
        Ok(failed) => ExitCode::from(u8::try_from(failed).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("children: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How many commands didn't succeed.
fn run(limit: Duration, commands: &[String]) -> io::Result<usize> {
    let context = Context::new()?;
    let failed = Rc::new(Cell::new(0));
    let running = Rc::new(Cell::new(commands.len()));
    let mut children = Vec::new();
    for command in commands {
        let child = start(&context, command, &failed, &running);
        children.push(child.inspect_err(|_| end(&children, rustix::process::Signal::KILL))?);
    }
    let children = Rc::new(children);
    // First a request, then an order.
    let mut signals = [rustix::process::Signal::TERM, rustix::process::Signal::KILL].into_iter();
    let timer = context.add_timer_after(limit, move |_, timer| {
        if let Some(signal) = signals.next() {
            end(&children, signal);
            timer.set_after(Duration::from_secs(1));
        }
    });
    timer.set_name("limit");
    context.run_until(|| running.get() == 0)?;
    Ok(failed.get())
}

fn start(
    context: &Context,
    command: &str,
    failed: &Rc<Cell<usize>>,
    running: &Rc<Cell<usize>>,
) -> io::Result<Child> {
    // A group of its own, so that what the command starts is ended with it.
    let pid = Command::new("sh")
        .args(["-c", command])
        .process_group(0)
        .spawn()?
        .id();
    let (failed, running) = (Rc::clone(failed), Rc::clone(running));
    let (command, start) = (command.to_owned(), Instant::now());
    context.add_child(pid, move |_, _, result| {
        running.set(running.get() - 1);
        if !result.as_ref().is_ok_and(ExitStatus::success) {
            failed.set(failed.get() + 1);
        }
        let took = start.elapsed().as_millis();
        println!("{command:?} {}, after {took} ms", describe(result));
    })
}

fn describe(result: io::Result<ExitStatus>) -> String {
    match result {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("has exited with {code}"),
            (_, Some(signal)) if status.core_dumped() => {
                format!("was ended by signal {signal} and has left a core")
            }
            (_, Some(signal)) => format!("was ended by signal {signal}"),
            _ => format!("has ended: {status}"),
        },
        Err(error) => format!("can't be waited for: {error}"),
    }
}

/// Sends a signal to those that are still running.
fn end(children: &[Child], signal: rustix::process::Signal) {
    for child in children.iter().filter(|child| child.is_registered()) {
        let pid = i32::try_from(child.pid()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // It may just have ended, which its handler will say.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}
