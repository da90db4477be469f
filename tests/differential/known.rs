//! In what the two are known to differ, and what the comparison does about it. There is nothing
//! else that it leaves out.

use crate::process::{Test, tests};
use tevent::BackendKind;

pub const TESTS: &[Test] = tests![every_known_difference_is_documented];

struct Difference {
    /// How it begins in the list in `docs/porting.md`.
    documented: &'static str,
    /// What the comparison does.
    #[allow(dead_code, reason = "for the reader")]
    handled: &'static str,
}

const KNOWN: &[Difference] = &[
    Difference {
        documented: "**An event's end and its source's end are two moments.**",
        handled: "what the library closes inside the event's own handler is written down when that \
                  has returned, and if a descriptor is closed the handler does nothing more",
    },
    Difference {
        documented: "**Changes of interest reach the kernel when the loop is about to wait**",
        handled: "descriptors are reported one by one in an order of the test's own (kernel.rs); \
                  without such changes epoll's own order is compared (kernel_order); a \
                  descriptor isn't closed behind an event while a change waits",
    },
    Difference {
        documented: "**Which of several ready descriptors comes first**",
        handled: "the same order of the test's own",
    },
    Difference {
        documented: "**Siblings.**",
        handled: "one event's share of the readiness is reported at a time; under poll, in programs \
                  without signals, events on a descriptor may want the same",
    },
    Difference {
        documented: "**When an event that waits for `WRITE` alone loses it**",
        handled: "where events share a dead descriptor, or were told of its end, the program clears \
                  the flag before the next turn",
    },
    Difference {
        documented: "**A closed descriptor can't be registered**",
        handled: "one is closed behind its event only if it is the only one, the kernel knows what it \
                  wants, and it isn't running; and not in a child",
    },
    Difference {
        documented: "**In a nested loop, the event whose handler runs it is suspended**",
        handled: "the test takes its flags away in the library, and gives them back; an immediate \
                  isn't rescheduled in a loop inside its own handler, nor is such a loop run then",
    },
    Difference {
        documented: "**The nesting hook is told of each loop**",
        handled: "what it is told is compared in single turns; it is set once, outside of handlers",
    },
    Difference {
        documented: "**Regular files**",
        handled: "under epoll and standard, files are left to the checks that need no library",
    },
    Difference {
        documented: "**When the context goes first**",
        handled: "what detached events close when all are freed is compared in no order; they never \
                  share a descriptor, nor want WRITE alone, and are freed by the test in the library",
    },
    Difference {
        documented: "**The wake-up descriptor costs no turn.**",
        handled: "it isn't reported; as no wait lasts, none has to be ended",
    },
    Difference {
        documented: "**`run_once` returns `Ok(false)`**",
        handled: "only whether a turn failed is compared; whether ours says rightly that a handler \
                  ran is checked apart",
    },
    Difference {
        documented: "**Starvation budget.**",
        handled: "it is off",
    },
    Difference {
        documented: "**Batches.**",
        handled: "traces are compared with a batch of 1; with the default batch, what holds whatever \
                  the batch is checked without the library",
    },
    Difference {
        documented: "**Monotonic clock.**",
        handled: "deadlines are long past or never come",
    },
    Difference {
        documented: "**A timer that is moved**",
        handled: "none is moved to the zero time; others are, and compared",
    },
    Difference {
        documented: "**A timer stays after it fired**",
        handled: "its handle is dropped then; it isn't moved in its own handler",
    },
    Difference {
        documented: "**`RESTART`, `NODEFER` and `NOCLDSTOP`**",
        handled: "events for one number have the same flags, and a signal that is to be handled once \
                  is raised once",
    },
    Difference {
        documented: "**A signal of which nobody was told**",
        handled: "the last event for a number isn't removed while one is pending",
    },
    Difference {
        documented: "**A child forgets what its parent had counted**",
        handled: "there is no fork while a signal is pending, nor in a signal handler",
    },
    Difference {
        documented: "**A full siginfo queue**",
        handled: "it is filled outside of signal handlers, and until three turns have drained it no \
                  signal is raised, nor the last event for one removed",
    },
    Difference {
        documented: "**A loop in a signal handler**",
        handled: "there is none where traces are compared; what holds there is checked apart",
    },
    Difference {
        documented: "**A handler that removes the one to be called next for the same signal**",
        handled: "it removes others",
    },
    Difference {
        documented: "**What aborts tevent 0.14.1 does not abort here.**",
        handled: "it isn't done: a fork with two events on a descriptor under epoll; re-initialising \
                  in a signal handler, or in handlers twice",
    },
    Difference {
        documented: "**Any number of events on a descriptor**",
        handled: "under epoll there are two, which don't want the same",
    },
];

fn every_known_difference_is_documented(_: BackendKind) {
    let porting = include_str!("../../docs/porting.md");
    let (_, list) = porting
        .split_once("## Known differences")
        .expect("the list is there");
    for difference in KNOWN {
        let is_there = list.contains(difference.documented);
        assert!(
            is_there,
            "not in docs/porting.md: {}",
            difference.documented
        );
    }
}
