//! What a fork costs whose child goes on with its parent's events: the fork, the child's first turn,
//! in which it registers them anew, its exit, and the parent's wait for it.

mod common;

use common::{context, on_every_backend, pair, raise_descriptor_limit};
use criterion::{Criterion, criterion_group, criterion_main};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::time::Duration;
use tevent::{Context, FdFlags, Fork};

fn fork(criterion: &mut Criterion) {
    on_every_backend(criterion, "fork", |group, kind| {
        for events in [10, 1_000] {
            raise_descriptor_limit(2 * events + 64).expect("descriptors");
            let context = context(kind);
            context.set_wait_timeout(Some(Duration::ZERO));
            let mut peers = Vec::new();
            for _ in 0..events {
                let (source, peer) = pair();
                let event = context.add_fd(source, FdFlags::READ, |_, _, _| ());
                event.expect("an event").detach();
                peers.push(peer);
            }
            group.bench_function(format!("with {events} events"), |bencher| {
                bencher.iter(|| child_makes_a_turn(&context));
            });
        }
    });
}

fn child_makes_a_turn(context: &Context) {
    match context.fork().expect("forked") {
        Fork::Child => {
            let turn = context.run_once();
            let status = i32::from(turn.is_err());
            // SAFETY: it ends this process, without what its parent would have done at exit.
            unsafe { libc::_exit(status) };
        }
        Fork::Parent(pid) => {
            let pid = Pid::from_raw(pid as i32);
            let ended = waitpid(pid, WaitOptions::empty()).expect("a child");
            let status = ended.and_then(|(_, status)| status.exit_status());
            assert_eq!(status, Some(0), "the child made its turn");
        }
    }
}

criterion_group!(benches, fork);
criterion_main!(benches);
