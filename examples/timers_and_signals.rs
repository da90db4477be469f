//! A timer that repeats without drift, an idle timeout that is postponed, and signals.
//!
//!     cargo run --example timers_and_signals -- 500 10000
//!
//! ticks every 500 ms, and ends when no signal has come for 10 s. Send it SIGUSR1 (they are
//! counted), SIGUSR2 (it tells who sent each), and SIGTERM or SIGINT, which end it.

use std::env;
use std::io;
use std::process::{self, ExitCode};
use std::rc::Rc;
use std::time::Duration;
use tevent::{Context, SignalFlags, Signum};

fn main() -> ExitCode {
    let Some((period, idle)) = arguments() else {
        eprintln!("usage: timers_and_signals [PERIOD [IDLE]], in milliseconds, at least 1");
        return ExitCode::from(2);
    };
    match run(period, idle) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("timers_and_signals: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Option<(Duration, Duration)> {
    let mut times = [500, 10_000];
    let mut arguments = env::args().skip(1);
    for (time, argument) in times.iter_mut().zip(&mut arguments) {
        *time = argument.parse().ok().filter(|&time| time > 0)?;
    }
    let [period, idle] = times.map(Duration::from_millis);
    arguments.next().is_none().then_some((period, idle))
}

fn run(period: Duration, idle: Duration) -> io::Result<()> {
    let context = Context::new()?;

    // The next deadline is counted from the latest one, not from when the handler got to run, so
    // delays don't add up. Deadlines that were missed (in a stopped process) are made up for in a
    // row; whoever wants to leave them out starts from `context.now()`.
    let mut ticks = 0u64;
    let _ticker = context.add_timer_after(period, move |context, timer| {
        ticks += 1;
        let Some(deadline) = timer.last_deadline() else {
            return;
        };
        let late = context.now().saturating_duration_since(deadline);
        println!("tick {ticks}, {} us late", late.as_micros());
        timer.set_deadline(deadline + period);
    });

    // Postponing a timer is a store, so it may be done for every request.
    let idle_timer = Rc::new(context.add_timer_after(idle, |context, _| {
        println!("idle");
        context.stop();
    }));

    // Signals that come before the loop looks are one call, with their count. (The kernel itself
    // makes one of several that come before the process has run at all.)
    let timer = Rc::clone(&idle_timer);
    let _usr1 = context.add_signal(
        Signum::SIGUSR1,
        SignalFlags::RESTART,
        move |_, _, signal| {
            println!("{}, {} times", signal.signum, signal.count);
            timer.set_after(idle);
        },
    )?;

    // With SIGINFO, each is a call of its own.
    let timer = Rc::clone(&idle_timer);
    let flags = SignalFlags::RESTART | SignalFlags::SIGINFO;
    let _usr2 = context.add_signal(Signum::SIGUSR2, flags, move |_, _, signal| {
        let sender = signal.siginfo.and_then(|siginfo| siginfo.sender_pid());
        match sender {
            Some(pid) => println!("{} from process {pid}", signal.signum),
            None => println!("{} from the kernel", signal.signum),
        }
        timer.set_after(idle);
    })?;

    for signum in [Signum::SIGTERM, Signum::SIGINT] {
        context
            .add_signal(signum, SignalFlags::RESTART, |context, _, signal| {
                println!("{}, ending", signal.signum);
                context.stop();
            })?
            .detach();
    }

    println!("process {}", process::id());
    context.run()
}
