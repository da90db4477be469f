//! What one ready descriptor costs: its share of the wait, and the call of a handler that does
//! nothing. The descriptors stay ready.

mod common;

use common::{Countdown, context, on_every_backend, pair, raise_descriptor_limit, readable};
use criterion::{Criterion, criterion_group, criterion_main};
use std::rc::Rc;
use tevent::FdFlags;

const SIZES: [(usize, usize); 4] = [(1, 1), (100, 100), (100, 1_000), (1, 9_000)];

fn dispatch(criterion: &mut Criterion) {
    on_every_backend(criterion, "dispatch", |group, kind| {
        for (ready, registered) in SIZES {
            if let Err(error) = raise_descriptor_limit(2 * registered as u64 + 64) {
                eprintln!("dispatch/{kind}/{ready} of {registered}: left out, {error}");
                continue;
            }
            let (context, calls) = (context(kind), Countdown::default());
            let mut peers = Vec::new();
            for number in 0..registered {
                // Spread evenly.
                let is_ready = number % (registered / ready) == 0;
                let (source, peer) = if is_ready { readable() } else { pair() };
                let calls = calls.clone();
                let event = context.add_fd(source, FdFlags::READ, move |context, _, _| {
                    calls.tick(context);
                });
                event.expect("an event").detach();
                peers.push(peer);
            }
            group.bench_function(format!("{ready} of {registered}"), |bencher| {
                bencher.iter_custom(|events| calls.time(&context, events));
            });
        }

        let (context, calls) = (context(kind), Countdown::default());
        let (source, _peer) = readable();
        let source = Rc::new(source);
        for flags in [FdFlags::READ, FdFlags::WRITE] {
            let calls = calls.clone();
            let event = context.add_fd(Rc::clone(&source), flags, move |context, _, _| {
                calls.tick(context);
            });
            event.expect("an event").detach();
        }
        group.bench_function("two events on a descriptor", |bencher| {
            bencher.iter_custom(|events| calls.time(&context, events));
        });
    });
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
