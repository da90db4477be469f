//! What a timer costs: to add and cancel it, to postpone it, to add it and have it fired. The
//! deadlines are random.

mod common;

use common::{Random, context, on_every_backend};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{Context, Timer};

const OUTSTANDING: [usize; 3] = [0, 1_000, 1_000_000];

fn armed(context: &Context, count: usize) -> Vec<Timer> {
    let (now, mut random) = (context.now(), Random::new());
    (0..count)
        .map(|_| context.add_timer(now + random.far(), |_, _| ()))
        .collect()
}

fn timers(criterion: &mut Criterion) {
    on_every_backend(criterion, "timers", |group, kind| {
        let context = context(kind);
        for outstanding in OUTSTANDING {
            let timers = armed(&context, outstanding);
            let (start, mut random) = (context.now(), Random::new());
            group.bench_function(format!("add and cancel among {outstanding}"), |bencher| {
                bencher.iter(|| drop(context.add_timer(start + random.far(), |_, _| ())));
            });
            // Too much for the timer's own entry.
            let captured = [0_u64; 3];
            group.bench_function(
                format!("add and cancel a large closure among {outstanding}"),
                |bencher| {
                    bencher.iter(|| {
                        let handler = move |_: &Context, _: &Timer| {
                            black_box(captured);
                        };
                        drop(context.add_timer(start + random.far(), handler));
                    });
                },
            );
            if !timers.is_empty() {
                let mut deadline = start + Duration::from_secs(7200);
                group.bench_function(format!("postpone one of {outstanding}"), |bencher| {
                    bencher.iter(|| {
                        deadline += Duration::from_micros(1);
                        let chosen = random.below(outstanding as u64) as usize;
                        timers[chosen].set_deadline(deadline)
                    });
                });
            }
        }

        for count in [1_000, 100_000] {
            group.throughput(Throughput::Elements(count));
            group.bench_function(format!("add and fire {count}"), |bencher| {
                let mut random = Random::new();
                bencher.iter(|| add_and_fire(&context, count, &mut random));
            });
        }
    });
}

/// All are due when the loop is run; in what order isn't known.
fn add_and_fire(context: &Context, count: u64, random: &mut Random) {
    let now = Instant::now();
    let fired = Rc::new(Cell::new(0));
    for _ in 0..count {
        let fired = Rc::clone(&fired);
        let ago = Duration::from_nanos(random.below(1_000_000));
        let deadline = now.checked_sub(ago).unwrap_or(now);
        context
            .add_timer(deadline, move |_, _| fired.set(fired.get() + 1))
            .detach();
    }
    context.run().expect("the loop runs");
    assert_eq!(fired.get(), count, "every timer has fired");
}

criterion_group!(benches, timers);
criterion_main!(benches);
