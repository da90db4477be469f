//! What requests are waiting: a picture of the trees, for people.
//!
//! # Implementation
//!
//! The thread's requests are in a table, weakly. A tree is copied into a flat list, as one of trees
//! would be dropped and printed by recursion.

use super::RequestState;
use super::state::{Core, Node, sub_requests_reversed};
use crate::context::Context;
use crate::key::Slots;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// What is deeper isn't indented any further.
const DEEPEST_INDENT: usize = 64;

/// Requests and what they wait for, at one moment; made by [`Request::tree`](super::Request::tree)
/// and [`Context::requests`].
///
/// Its `Display` has a line for each request, and below it, indented, its sub-requests in the order
/// in which they were made:
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::convert::Infallible;
///
/// let context = tevent::Context::new()?;
/// let (fetch, completer) = context.request::<(), Infallible>("fetch");
/// let (resolve, _resolver) = context.request::<(), Infallible>("resolve");
/// completer.then(resolve, |_, completer, _| _ = completer.done(()));
/// // fetch: pending for 31.2µs, made at src/main.rs:5:35
/// //   resolve: pending for 8.1µs, made at src/main.rs:6:38
/// println!("{}", fetch.tree());
/// # let text = fetch.tree().to_string();
/// # assert!(text.starts_with("fetch: pending for ") && text.contains("\n  resolve: pending"), "{text}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[doc(alias = "tevent_req_print")]
#[doc(alias = "tevent_req_profile")]
pub struct RequestTree {
    entries: Vec<RequestInfo>,
}

/// A request in a [`RequestTree`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::time::Duration;
///
/// let context = tevent::Context::new()?;
/// let (request, _completer) = context.request::<(), std::io::Error>("idle");
/// request.set_timeout(Duration::from_secs(60));
/// let tree = request.tree();
/// let info = &tree.entries()[0];
/// assert_eq!((info.depth, &*info.name), (0, "idle"));
/// assert!(info.time_left > Some(Duration::from_secs(50)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RequestInfo {
    /// How many requests are above it in the tree.
    pub depth: usize,
    /// What it was called when it was made.
    #[doc(alias = "tevent_req_profile_get_name")]
    pub name: String,
    /// How far it is. One that has ended is in the tree until its outcome is taken.
    #[doc(alias = "tevent_req_profile_get_status")]
    pub state: RequestState,
    /// How long ago it was made.
    #[doc(alias = "tevent_req_profile_get_start")]
    pub age: Duration,
    /// How long until its deadline, if it has one: zero when that has passed.
    pub time_left: Option<Duration>,
    /// Where it was made.
    pub location: &'static Location<'static>,
}

impl RequestTree {
    /// The requests, each followed by its sub-requests.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let context = tevent::Context::new()?;
    /// let (_request, _completer) = context.request::<(), std::io::Error>("idle");
    /// let names: Vec<_> = context.requests().entries().iter().map(|info| info.name.clone()).collect();
    /// assert_eq!(names, ["idle"]);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_profile_get_subprofiles")]
    #[doc(alias = "tevent_req_profile_next")]
    pub fn entries(&self) -> &[RequestInfo] {
        &self.entries
    }

    /// Whether there is no request in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The trees below `roots`, of which the first is the last.
    pub(super) fn of(roots: Vec<Rc<dyn Node>>) -> RequestTree {
        let mut entries = Vec::new();
        let mut nodes: Vec<(usize, Rc<dyn Node>)> =
            roots.into_iter().map(|root| (0, root)).collect();
        while let Some((depth, node)) = nodes.pop() {
            let core = node.core();
            entries.push(RequestInfo::of(core, depth));
            let below = sub_requests_reversed(core);
            nodes.extend(below.into_iter().map(|node| (depth + 1, node)));
        }
        RequestTree { entries }
    }
}

impl RequestInfo {
    fn of(core: &Core, depth: usize) -> RequestInfo {
        let now = core.context.now();
        let timer = core.deadline.borrow();
        let deadline = timer.as_ref().and_then(|timer| timer.last_deadline());
        RequestInfo {
            depth,
            name: core.name.to_string(),
            state: core.state.get(),
            age: now.saturating_duration_since(core.made),
            time_left: deadline.map(|deadline| deadline.saturating_duration_since(now)),
            location: core.location,
        }
    }
}

impl fmt::Display for RequestTree {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, info) in self.entries.iter().enumerate() {
            if number > 0 {
                writeln!(formatter)?;
            }
            for _ in 0..info.depth.min(DEEPEST_INDENT) {
                formatter.write_str("  ")?;
            }
            write!(formatter, "{info}")?;
        }
        Ok(())
    }
}

impl fmt::Display for RequestInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RequestInfo { name, state, .. } = self;
        write!(formatter, "{name}: {state}")?;
        // The age of one that has ended says nothing of how long it took.
        if state.is_pending() {
            write!(formatter, " for {:.1?}", self.age)?;
        }
        if let Some(left) = self.time_left {
            write!(formatter, ", {left:.1?} left")?;
        }
        write!(formatter, ", made at {}", self.location)
    }
}

impl Context {
    /// All requests of this context that have not ended, or whose outcome nobody has taken yet, in
    /// the order in which they were made: what a daemon that seems stuck is waiting for. A handler
    /// for a signal is a good place to print it.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use tevent::{SignalFlags, Signum};
    ///
    /// let context = tevent::Context::new()?;
    /// let _dump = context.add_signal(Signum::SIGUSR1, SignalFlags::RESTART, |context, _, _| {
    ///     eprintln!("{}", context.requests());
    /// })?;
    /// # assert!(context.requests().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tevent_req_print")]
    pub fn requests(&self) -> RequestTree {
        let is_ours = |node: &Rc<dyn Node>| {
            let context = node.core().context.upgrade();
            context.is_some_and(|context| Rc::ptr_eq(&context.inner, &self.inner))
        };
        let is_root = |node: &Rc<dyn Node>| node.core().parent.borrow().is_none();
        let mut roots: Vec<_> = all().into_iter().filter(is_ours).filter(is_root).collect();
        roots.sort_by_key(|node| std::cmp::Reverse(node.core().number));
        RequestTree::of(roots)
    }
}

struct Table {
    last: Cell<u64>,
    nodes: RefCell<Slots<Weak<dyn Node>>>,
}

thread_local! {
    static TABLE: Table = const {
        Table {
            last: Cell::new(0),
            nodes: RefCell::new(Slots::new()),
        }
    };
}

fn all() -> Vec<Rc<dyn Node>> {
    let upgrade = |table: &Table| {
        let nodes = table.nodes.borrow();
        let node = |key| nodes.get(key)?.upgrade();
        nodes.keys().filter_map(node).collect()
    };
    // While the thread ends, there may be no table any more.
    TABLE.try_with(upgrade).unwrap_or_default()
}

pub(super) fn next_number() -> u64 {
    let count = |table: &Table| {
        table.last.set(table.last.get() + 1);
        table.last.get()
    };
    TABLE.try_with(count).unwrap_or(u64::MAX)
}

pub(super) fn list(core: &Core, node: &Rc<dyn Node>) {
    let insert = |table: &Table| table.nodes.borrow_mut().insert(Rc::downgrade(node));
    core.listed.set(TABLE.try_with(insert).ok());
}

pub(super) fn unlist(core: &Core) {
    if let Some(key) = core.listed.take() {
        let remove = |table: &Table| table.nodes.borrow_mut().remove(key);
        drop(TABLE.try_with(remove));
    }
}
