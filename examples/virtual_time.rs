//! A day of a small daemon in a few milliseconds: timers on a virtual clock, which jumps to the next
//! deadline when nothing is ready.
//!
//!     cargo run --example virtual_time -- 24
//!
//! A cache is refreshed every 15 minutes; when that fails it is tried again after 1, 2, 4 … seconds.
//! An upstream server is down for a while each day. What happens is the same every time.

use std::cell::Cell;
use std::env;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use tevent::Context;

const PERIOD: Duration = Duration::from_secs(15 * 60);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let hours = arguments
        .next()
        .map_or(Some(24), |hours| hours.parse().ok());
    let hours = hours.filter(|hours| (1..=8_760).contains(hours));
    let (Some(hours), None) = (hours, arguments.next()) else {
        eprintln!("usage: virtual_time [HOURS], at most 8760");
        return ExitCode::from(2);
    };
    match run(hours) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("virtual_time: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(hours: u32) -> io::Result<()> {
    let context = Context::builder().virtual_time().build()?;
    let start = context.now();
    let is_up = Rc::new(Cell::new(true));

    // The upstream goes down at 3:00:30 each day, for 20 minutes.
    let switch = Rc::clone(&is_up);
    let down = Duration::from_secs(3 * 3_600 + 30);
    let upstream = context.add_timer_after(down, move |_, timer| {
        switch.set(!switch.get());
        let minutes = if switch.get() { 24 * 60 - 20 } else { 20 };
        timer.set_after(Duration::from_secs(minutes * 60));
    });
    upstream.set_name("upstream");

    // The daemon. Its code would be the same on a real clock.
    let (mut pause, mut refreshed) = (Duration::from_secs(1), 0);
    let refresh = context.add_timer(start, move |context, timer| {
        let time = (context.now() - start).as_secs();
        let time = format!("{:02}:{:02}:{:02}", time / 3_600, time / 60 % 60, time % 60);
        if is_up.get() {
            refreshed += 1;
            if pause > Duration::from_secs(1) {
                println!("{time} refreshed again, number {refreshed}");
            }
            pause = Duration::from_secs(1);
            timer.set_after(PERIOD);
        } else {
            println!("{time} no answer, next attempt in {} s", pause.as_secs());
            timer.set_after(pause);
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    });
    refresh.set_name("refresh");

    let total = Duration::from_secs(3_600) * hours;
    let _end = context.add_timer_after(total, |context, _| context.stop());
    context.run()?;
    println!(
        "{} hours: {}",
        (context.now() - start).as_secs() / 3_600,
        context.stats()
    );
    Ok(())
}
