//! Tasks in forked processes.

use crate::process::{self, context, sys, tests};
use crate::{BY, Flag, fork, in_child, run_what_is_ready};
use std::future::pending;
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;
use tevent::{BackendKind, FdFlags, yield_now};

pub const TESTS: &[process::Test] = tests![
    tasks_go_on_in_both,
    a_waker_of_before_wakes_in_both,
    a_future_that_blocks_goes_on_in_both,
    reinitialise_drops_tasks_in_the_child_only,
    a_task_that_is_awaited_in_the_child_is_cancelled_by_reinitialise,
    a_task_forks_and_its_child_blocks_on_another_future,
    a_task_serves_its_client_in_a_child,
];

const MOMENT: Duration = Duration::from_millis(2);

fn tasks_go_on_in_both(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let (ours, mut theirs) = sys::pair();
        let fd = context.add_async_fd(ours).unwrap();
        let weak = context.downgrade();
        let reader = context.spawn(async move {
            weak.sleep(MOMENT).await;
            fd.io(FdFlags::READ, |mut socket| socket.read(&mut [0]))
                .await
                .unwrap()
        });
        run_what_is_ready(&context);
        // One byte for each: both are told, as the kernel's sets are two.
        theirs.write_all(b"xx").unwrap();
        let pid = fork(&context, by);
        let read = || context.block_on(reader).unwrap();
        match pid {
            None => process::end_with(|| assert_eq!(read(), Ok(1), "{by:?}")),
            Some(pid) => {
                assert_eq!(read(), Ok(1), "{by:?}");
                sys::assert_succeeds(pid);
            }
        }
    }
}

fn a_waker_of_before_wakes_in_both(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let (sender, receiver) = async_channel::bounded(1);
        let task = context.spawn(async move { receiver.recv().await });
        run_what_is_ready(&context);
        let check = || {
            sender.try_send(42).unwrap();
            context.run().unwrap();
            assert!(task.is_finished(), "{by:?}");
        };
        in_child(&context, by, check);
        assert!(!task.is_finished(), "what the child does is its own");
        check();
    }
}

fn a_future_that_blocks_goes_on_in_both(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let pid = context
            .block_on(async {
                context.sleep(MOMENT).await;
                let pid = fork(&context, by);
                yield_now().await;
                context.sleep(MOMENT).await;
                pid
            })
            .unwrap();
        match pid {
            None => process::end_with(|| ()),
            Some(pid) => sys::assert_succeeds(pid),
        }
    }
}

fn reinitialise_drops_tasks_in_the_child_only(kind: BackendKind) {
    struct Guard(Flag);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.raise();
        }
    }

    for by in BY {
        let context = context(kind);
        let dropped = Flag::default();
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let guard = Guard(dropped.clone());
                context.spawn(async move {
                    let _guard = guard;
                    pending::<()>().await;
                })
            })
            .collect();
        run_what_is_ready(&context);
        in_child(&context, by, || {
            context.reinitialise().unwrap();
            assert_eq!(dropped.count(), 10, "{by:?}");
            assert!(tasks.iter().all(|task| task.is_finished()));
            let again = context.spawn(async { 42 });
            assert_eq!(context.block_on(again).unwrap(), Ok(42));
        });
        assert_eq!(dropped.count(), 0, "{by:?}");
        assert!(!tasks.iter().any(|task| task.is_finished()));
    }
}

fn a_task_that_is_awaited_in_the_child_is_cancelled_by_reinitialise(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let waiting = context.spawn(pending::<()>());
        let result = context.block_on(async {
            let pid = fork(&context, by);
            if let Some(pid) = pid {
                sys::assert_succeeds(pid);
                return None;
            }
            context.defer(|context| context.reinitialise().unwrap());
            Some(waiting.await)
        });
        match result.unwrap() {
            None => {}
            Some(result) => process::end_with(|| assert!(result.is_err(), "{by:?}")),
        }
    }
}

fn a_task_forks_and_its_child_blocks_on_another_future(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let weak = context.downgrade();
        let _other = context.spawn(pending::<()>());
        let task = context.spawn(async move {
            let context = weak.upgrade().unwrap();
            match fork(&context, by) {
                Some(pid) => pid,
                // The way of smbd: the loop runs again inside what the former one has called.
                None => process::end_with(|| {
                    context.reinitialise().unwrap();
                    let inner = context.spawn(async { 42 });
                    let output = context.block_on(async {
                        context.sleep(MOMENT).await;
                        inner.await
                    });
                    assert_eq!(output.unwrap(), Ok(42));
                }),
            }
        });
        let pid = context.block_on(task).unwrap().unwrap();
        sys::assert_succeeds(pid);
    }
}

fn a_task_serves_its_client_in_a_child(kind: BackendKind) {
    for by in BY {
        let context = context(kind);
        let (client, server) = sys::pair();
        let server = Rc::new(server);
        let (weak, socket) = (context.downgrade(), Rc::clone(&server));
        let accepting = context.add_async_fd(Rc::clone(&server)).unwrap();
        let task = context.spawn(async move {
            accepting.ready(FdFlags::READ).await.unwrap();
            let context = weak.upgrade().unwrap();
            match fork(&context, by) {
                Some(pid) => pid,
                None => process::end_with(|| {
                    context.reinitialise().unwrap();
                    let fd = context.add_async_fd(Rc::clone(&socket)).unwrap();
                    let served = context.block_on(async {
                        let mut buffer = [0; 16];
                        let count = fd
                            .io(FdFlags::READ, |socket| (&**socket).read(&mut buffer))
                            .await?;
                        fd.io(FdFlags::WRITE, |socket| (&**socket).write(&buffer[..count]))
                            .await
                    });
                    assert_eq!(served.unwrap().unwrap(), 5);
                }),
            }
        });
        (&client).write_all(b"hello").unwrap();
        let pid = context.block_on(task).unwrap().unwrap();
        let client = context.add_async_fd(client).unwrap();
        let mut buffer = [0; 16];
        let answer = client.io(FdFlags::READ, |mut socket| socket.read(&mut buffer));
        assert_eq!(context.block_on(answer).unwrap().unwrap(), 5);
        sys::assert_succeeds(pid);
    }
}
