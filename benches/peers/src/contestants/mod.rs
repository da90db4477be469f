//! Who takes part. Each does the same work in its own best way; what that is, and why, is at the
//! top of its file.

pub mod bare;
mod calloop;
mod libev;
mod libevent;
mod libtevent;
mod libuv;
mod mio;
mod ours;
mod polling;
mod tokio;

use crate::run::{Performed, Run};
use crate::workload::Work;

pub struct Contestant {
    pub name: &'static str,
    /// Does the work, or says why it can't.
    pub perform: fn(Work, &mut Run) -> Performed,
}

/// The floor: what the work costs without a library. It is no competitor.
pub const FLOOR: &str = "bare";
pub const OURS: &str = "tevent";

pub const CONTESTANTS: &[Contestant] = &[
    Contestant {
        name: FLOOR,
        perform: bare::perform,
    },
    Contestant {
        name: OURS,
        perform: ours::perform,
    },
    Contestant {
        name: "calloop",
        perform: calloop::perform,
    },
    Contestant {
        name: "mio",
        perform: mio::perform,
    },
    Contestant {
        name: "polling",
        perform: polling::perform,
    },
    Contestant {
        name: "tokio",
        perform: tokio::perform,
    },
    Contestant {
        name: "libev",
        perform: libev::perform,
    },
    Contestant {
        name: "libuv",
        perform: libuv::perform,
    },
    Contestant {
        name: "libevent",
        perform: libevent::perform,
    },
    Contestant {
        name: "libtevent",
        perform: libtevent::perform,
    },
];

pub fn find(name: &str) -> Option<&'static Contestant> {
    CONTESTANTS
        .iter()
        .find(|contestant| contestant.name == name)
}
