//! What an immediate costs: one that schedules itself again, and closures that are deferred in
//! batches.

mod common;

use common::{Countdown, context, on_every_backend};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn immediates(criterion: &mut Criterion) {
    on_every_backend(criterion, "immediates", |group, kind| {
        let (context, calls) = (context(kind), Countdown::default());
        let handler_calls = calls.clone();
        let immediate = context.add_immediate(move |context, immediate| {
            handler_calls.tick(context);
            immediate.schedule();
        });
        immediate.schedule();
        group.bench_function("self-rescheduling", |bencher| {
            bencher.iter_custom(|events| calls.time(&context, events));
        });
        immediate.cancel();

        for batch in [10, 1_000] {
            group.throughput(Throughput::Elements(batch));
            group.bench_function(format!("{batch} deferred closures"), |bencher| {
                bencher.iter(|| {
                    for _ in 0..batch {
                        let calls = calls.clone();
                        context.defer(move |context| calls.tick(context));
                    }
                    calls.time(&context, batch)
                });
            });
        }
    });
}

criterion_group!(benches, immediates);
criterion_main!(benches);
