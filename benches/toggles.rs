//! What a change of interest costs: one that is taken back in the same handler, and one for each
//! call that lasts until the next.

mod common;

use common::{Countdown, context, on_every_backend, readable};
use criterion::{Criterion, criterion_group, criterion_main};
use tevent::FdFlags;

fn toggles(criterion: &mut Criterion) {
    on_every_backend(criterion, "toggles", |group, kind| {
        for (name, lasting) in [("on and off", false), ("one lasting change", true)] {
            let (context, calls) = (context(kind), Countdown::default());
            let (source, _peer) = readable();
            let handler_calls = calls.clone();
            let event = context.add_fd(source, FdFlags::READ, move |context, event, _| {
                if lasting {
                    event.set_writable(!event.flags().contains(FdFlags::WRITE));
                } else {
                    event.set_writable(true);
                    event.set_writable(false);
                }
                handler_calls.tick(context);
            });
            let _event = event.expect("an event");
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|events| calls.time(&context, events));
            });
        }
    });
}

criterion_group!(benches, toggles);
criterion_main!(benches);
