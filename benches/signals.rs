//! What a signal costs, from its raising to its handler.

mod common;

use common::{Countdown, context, on_every_backend};
use criterion::{Criterion, criterion_group, criterion_main};
use rustix::process::{Signal, getpid, kill_process};
use tevent::{SignalFlags, Signum};

fn signals(criterion: &mut Criterion) {
    on_every_backend(criterion, "signals", |group, kind| {
        let (context, calls) = (context(kind), Countdown::default());
        let raise = || kill_process(getpid(), Signal::USR1).expect("raised");
        let handler_calls = calls.clone();
        let event = context.add_signal(
            Signum::SIGUSR1,
            SignalFlags::RESTART,
            move |context, _, _| {
                raise();
                handler_calls.tick(context);
            },
        );
        let _event = event.expect("an event");
        raise();
        group.bench_function("raise and handle", |bencher| {
            bencher.iter_custom(|events| calls.time(&context, events));
        });
    });
}

criterion_group!(benches, signals);
criterion_main!(benches);
