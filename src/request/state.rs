//! What a [`Request`](super::Request) and its [`Completer`]s share.
//!
//! # Implementation
//!
//! A request ends once, by [`Shared::end`] (it has an outcome), [`Node::abandon`] (nobody wants
//! one) or [`Shared::lose`] (its context is gone). Each of them first says so in the state, then
//! lets go of everything that works for the request, and then tells who waits.
//!
//! Every request has an immediate from its beginning until its outcome is handed over. It calls
//! back where that mustn't happen at once. And since it is in the context's table, its closure is
//! dropped when the context goes or is re-initialised, which is how the request learns of that.
//!
//! Strong references go from a request to its sub-requests, from a sub-request's callback to the
//! request (in the [`Completer`] that it is to be called with), and from the immediate to the
//! request. Each of these cycles ends with the request or the context. What leads up the tree is
//! weak.
//!
//! Invariant: nothing is borrowed while code of the user runs or is dropped. Trees are walked with
//! a list of what is to do, not by recursion, so they may be as deep as they like.

use super::completer::Completer;
use super::panics::Panics;
use super::tree;
use super::{RequestError, RequestState};
use crate::context::{Context, ContextRef, WeakContext};
use crate::immediate::Immediate;
use crate::key::Key;
use crate::timer::Timer;
use crate::wakers::WakerCell;
use std::any::Any;
use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

pub(super) type Outcome<T, E> = Result<T, RequestError<E>>;
type Callback<T, E> = Box<dyn FnOnce(&Context, Outcome<T, E>)>;
type CancelHandler<T, E> = Box<dyn FnOnce(&Context, &Completer<T, E>)>;

/// How many callbacks of requests may be on the stack inside each other. One more is called from
/// the loop, so that a tree of any depth can end.
const DEPTH_LIMIT: u32 = 64;

pub(super) struct Shared<T: 'static, E: 'static> {
    pub(super) core: Core,
    stage: Cell<Stage<T, E>>,
    callback: Cell<Option<Callback<T, E>>>,
    on_cancel: Cell<Option<CancelHandler<T, E>>>,
    waker: WakerCell,
}

enum Stage<T, E> {
    Pending,
    /// Nobody has taken it yet.
    Ended(Outcome<T, E>),
    /// The outcome was handed over, or there will be none as nobody wants it.
    Over,
}

/// What doesn't depend on the types of a request.
pub(super) struct Core {
    pub(super) context: WeakContext,
    /// Tells the requests of a thread apart, in the order in which they were made.
    pub(super) number: u64,
    pub(super) name: Cow<'static, str>,
    pub(super) location: &'static Location<'static>,
    pub(super) made: Instant,
    pub(super) state: Cell<RequestState>,
    /// Missing if the request was made when the context was gone.
    immediate: OnceCell<Immediate>,
    /// Its entry in the table of the thread's requests.
    pub(super) listed: Cell<Option<Key>>,
    pub(super) deadline: RefCell<Option<Timer>>,
    pub(super) parent: RefCell<Option<Weak<dyn Node>>>,
    pub(super) sub_requests: RefCell<BTreeMap<u64, Rc<dyn Node>>>,
    attached: RefCell<Vec<Box<dyn Any>>>,
    pub(super) completers: Cell<usize>,
    /// There is a [`Request`](super::Request) to take the outcome.
    pub(super) has_owner: Cell<bool>,
    /// The callback is always called from the loop.
    pub(super) is_deferred: Cell<bool>,
    /// Somebody has asked to cancel, and there was no handler to be told.
    pub(super) is_untold: Cell<bool>,
    /// The loop is to tell the cancel handler.
    is_due: Cell<bool>,
}

/// A request of any type, in a tree.
pub(super) trait Node {
    fn core(&self) -> &Core;

    /// Calls the cancel handler, if there is one.
    fn tell(self: Rc<Self>, context: &Context, panics: &mut Panics) -> bool;

    /// Nobody wants the outcome. Sub-requests are moved to `released`, for the caller to abandon.
    fn abandon(
        self: Rc<Self>,
        told: Option<&Context>,
        released: &mut Vec<Rc<dyn Node>>,
        panics: &mut Panics,
    );
}

impl Core {
    pub(super) fn is_pending(&self) -> bool {
        self.state.get().is_pending()
    }

    /// The context, unless it is gone or was re-initialised since the request was made.
    pub(super) fn live_context(&self) -> Option<ContextRef> {
        let is_live = self.immediate.get()?.is_registered();
        self.context.upgrade().filter(|_| is_live)
    }

    pub(super) fn schedule(&self) -> bool {
        self.immediate
            .get()
            .is_some_and(Immediate::schedule_and_tell)
    }

    pub(super) fn clear_deadline(&self) {
        drop(self.deadline.take());
    }

    /// Drops `value` when the request ends.
    pub(super) fn attach(&self, value: Box<dyn Any>) -> bool {
        let is_pending = self.is_pending();
        if is_pending {
            self.attached.borrow_mut().push(value);
        }
        is_pending
    }

    fn pop_attached(&self) -> Option<Box<dyn Any>> {
        self.attached.borrow_mut().pop()
    }

    /// Nothing is left to be done for the request.
    fn retire(&self) {
        tree::unlist(self);
        if let Some(immediate) = self.immediate.get() {
            immediate.remove();
        }
        let parent = self.parent.take().and_then(|parent| parent.upgrade());
        if let Some(parent) = parent {
            let left = parent.core().sub_requests.borrow_mut().remove(&self.number);
            drop(left);
        }
    }
}

/// Owned by the request's immediate.
struct Keeper<T: 'static, E: 'static>(Rc<Shared<T, E>>);

impl<T, E> Drop for Keeper<T, E> {
    fn drop(&mut self) {
        self.0.lose();
    }
}

/// A callback that is on the stack.
struct Nested;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

impl Nested {
    fn depth() -> u32 {
        DEPTH.try_with(Cell::get).unwrap_or(DEPTH_LIMIT)
    }

    fn enter() -> Nested {
        let _ = DEPTH.try_with(|depth| depth.set(depth.get() + 1));
        Nested
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        let _ = DEPTH.try_with(|depth| depth.set(depth.get() - 1));
    }
}

impl<T, E> Shared<T, E> {
    #[track_caller]
    pub(super) fn new(
        context: Option<&Context>,
        weak: WeakContext,
        name: Cow<'static, str>,
    ) -> Rc<Shared<T, E>> {
        let is_there = context.is_some();
        let made = weak.now();
        let shared = Rc::new(Shared {
            core: Core {
                context: weak,
                number: tree::next_number(),
                name,
                location: Location::caller(),
                made,
                state: Cell::new(match is_there {
                    true => RequestState::Pending,
                    false => RequestState::Abandoned,
                }),
                immediate: OnceCell::new(),
                listed: Cell::new(None),
                deadline: RefCell::default(),
                parent: RefCell::default(),
                sub_requests: RefCell::default(),
                attached: RefCell::default(),
                completers: Cell::new(0),
                has_owner: Cell::new(true),
                is_deferred: Cell::new(false),
                is_untold: Cell::new(false),
                is_due: Cell::new(false),
            },
            stage: Cell::new(match is_there {
                true => Stage::Pending,
                false => Stage::Ended(Err(RequestError::Abandoned)),
            }),
            callback: Cell::new(None),
            on_cancel: Cell::new(None),
            waker: WakerCell::default(),
        });
        if let Some(context) = context {
            let keeper = Keeper(Rc::clone(&shared));
            let immediate = context.add_immediate(move |context, _| keeper.0.run(context));
            // It was empty.
            let _ = shared.core.immediate.set(immediate);
            tree::list(&shared.core, &(Rc::clone(&shared) as Rc<dyn Node>));
        }
        shared
    }

    /// Ends the request, unless it has ended. Returns whether it was this that has.
    pub(super) fn end(self: &Rc<Self>, outcome: Outcome<T, E>, from_loop: bool) -> bool {
        let core = &self.core;
        if !core.is_pending() {
            return false;
        }
        let is_late = matches!(outcome, Err(RequestError::TimedOut));
        core.state.set(RequestState::of(&outcome));
        self.stage.set(Stage::Ended(outcome));
        let mut panics = Panics::default();
        let context = core.live_context();
        let told = context.as_deref();
        let mut released = Vec::new();
        self.let_go(told.filter(|_| is_late), &mut released, &mut panics);
        abandon_all(released, told, &mut panics);
        self.deliver(told, from_loop || core.is_deferred.get(), &mut panics);
        panics.finish(&core.context);
        true
    }

    /// Lets go of all that works for the request, which has ended.
    fn let_go(
        self: &Rc<Self>,
        told: Option<&Context>,
        released: &mut Vec<Rc<dyn Node>>,
        panics: &mut Panics,
    ) {
        let core = &self.core;
        core.clear_deadline();
        if let Some(handler) = self.on_cancel.take() {
            panics.catch(|| match told {
                Some(context) => handler(context, &Completer::new(self)),
                None => drop(handler),
            });
        }
        if !core.sub_requests.borrow().is_empty() {
            released.extend(core.sub_requests.take().into_values().rev());
        }
        while let Some(value) = core.pop_attached() {
            panics.catch(|| drop(value));
        }
    }

    /// Tells who waits that there is an outcome.
    fn deliver(self: &Rc<Self>, context: Option<&Context>, from_loop: bool, panics: &mut Panics) {
        let core = &self.core;
        let Some(callback) = self.callback.take() else {
            if core.has_owner.get() {
                panics.catch(|| self.waker.wake());
            } else {
                let unwanted = self.stage.replace(Stage::Over);
                core.retire();
                panics.catch(|| drop(unwanted));
            }
            return;
        };
        match context {
            Some(context) if !from_loop && Nested::depth() < DEPTH_LIMIT => {
                self.call_back(context, callback, panics);
            }
            _ => {
                self.callback.set(Some(callback));
                if !core.schedule() {
                    self.give_up_callback(panics);
                }
            }
        }
    }

    fn call_back(&self, context: &Context, callback: Callback<T, E>, panics: &mut Panics) {
        let stage = self.stage.replace(Stage::Over);
        self.core.retire();
        if let Stage::Ended(outcome) = stage {
            let _nested = Nested::enter();
            panics.catch(|| callback(context, outcome));
        }
        panics.catch(|| self.waker.wake());
    }

    /// There is no loop any more to call it.
    fn give_up_callback(&self, panics: &mut Panics) {
        if let Some(callback) = self.callback.take() {
            panics.catch(|| drop(callback));
            panics.catch(|| self.waker.wake());
        }
    }

    /// What the loop calls.
    fn run(self: &Rc<Self>, context: &Context) {
        let mut panics = Panics::default();
        let core = &self.core;
        if core.is_due.take() {
            // If it has ended since, there is no handler.
            Rc::clone(self).tell(context, &mut panics);
        }
        if !core.is_pending() {
            if let Some(callback) = self.callback.take() {
                self.call_back(context, callback, &mut panics);
            }
        }
        panics.finish(&core.context);
    }

    /// The context is gone or was re-initialised. Nothing is called any more.
    fn lose(self: &Rc<Self>) {
        let core = &self.core;
        let mut panics = Panics::default();
        if core.is_pending() {
            core.state.set(RequestState::Abandoned);
            self.stage.set(match core.has_owner.get() {
                true => Stage::Ended(Err(RequestError::Abandoned)),
                false => Stage::Over,
            });
            let mut released = Vec::new();
            self.let_go(None, &mut released, &mut panics);
            abandon_all(released, None, &mut panics);
            panics.catch(|| self.waker.wake());
        }
        self.give_up_callback(&mut panics);
        tree::unlist(core);
        // This is a destructor, and others of the same table may panic too.
        panics.surface(&core.context);
    }

    /// The handle is gone.
    pub(super) fn disown(self: &Rc<Self>) {
        let mut panics = Panics::default();
        panics.catch(|| self.waker.clear());
        let context = self.core.live_context();
        let told = context.as_deref();
        let mut released = Vec::new();
        Rc::clone(self).abandon(told, &mut released, &mut panics);
        abandon_all(released, told, &mut panics);
        panics.finish(&self.core.context);
    }

    /// Nobody will take the outcome, but a callback may.
    pub(super) fn detach(&self) {
        let core = &self.core;
        core.has_owner.set(false);
        self.waker.clear();
        let callback = self.callback.take();
        if !core.is_pending() && callback.is_none() {
            let unwanted = self.stage.replace(Stage::Over);
            core.retire();
            drop(unwanted);
        }
        self.callback.set(callback);
    }

    pub(super) fn set_callback(&self, callback: Callback<T, E>) -> bool {
        let stage = self.stage.replace(Stage::Over);
        let is_over = matches!(stage, Stage::Over);
        let has_ended = matches!(stage, Stage::Ended(_));
        self.stage.set(stage);
        if is_over || (has_ended && !self.core.schedule()) {
            return false;
        }
        let replaced = self.callback.replace(Some(callback));
        drop(replaced);
        true
    }

    pub(super) fn set_cancel_handler(&self, handler: CancelHandler<T, E>) -> bool {
        let core = &self.core;
        if !core.is_pending() {
            return false;
        }
        let replaced = self.on_cancel.replace(Some(handler));
        if core.is_untold.take() {
            core.is_due.set(true);
            core.schedule();
        }
        drop(replaced);
        true
    }

    /// The outcome, if there is one and no callback is to get it.
    pub(super) fn take(&self) -> Option<Outcome<T, E>> {
        let callback = self.callback.take();
        let is_the_callbacks = callback.is_some();
        self.callback.set(callback);
        if is_the_callbacks {
            return None;
        }
        match self.stage.replace(Stage::Over) {
            Stage::Pending => {
                self.stage.set(Stage::Pending);
                None
            }
            Stage::Ended(outcome) => {
                self.core.retire();
                Some(outcome)
            }
            Stage::Over => None,
        }
    }

    pub(super) fn poll(&self, context: &mut task::Context<'_>) -> Poll<Outcome<T, E>> {
        if let Some(outcome) = self.take() {
            return Poll::Ready(outcome);
        }
        let stage = self.stage.replace(Stage::Over);
        let is_over = matches!(stage, Stage::Over);
        self.stage.set(stage);
        if is_over {
            return Poll::Ready(Err(RequestError::Abandoned));
        }
        self.waker.set(context.waker());
        Poll::Pending
    }

    #[track_caller]
    pub(super) fn set_timeout(self: &Rc<Self>, timeout: Duration) -> bool {
        self.set_deadline(self.core.context.after(timeout))
    }

    pub(super) fn set_deadline(self: &Rc<Self>, deadline: Instant) -> bool {
        let core = &self.core;
        if !core.is_pending() {
            return false;
        }
        let Some(context) = core.live_context() else {
            return false;
        };
        let timer = core.deadline.take();
        let timer = match timer {
            Some(timer) => {
                timer.set_deadline(deadline);
                timer
            }
            None => {
                let weak = Rc::downgrade(self);
                context.add_timer(deadline, move |_, _| {
                    if let Some(shared) = weak.upgrade() {
                        shared.end(Err(RequestError::TimedOut), false);
                    }
                })
            }
        };
        let none = core.deadline.replace(Some(timer));
        drop(none);
        context.inner.tell_if_left();
        true
    }
}

impl<T, E> Node for Shared<T, E> {
    fn core(&self) -> &Core {
        &self.core
    }

    fn tell(self: Rc<Self>, context: &Context, panics: &mut Panics) -> bool {
        let Some(handler) = self.on_cancel.take() else {
            return false;
        };
        panics.catch(|| handler(context, &Completer::new(&self)));
        true
    }

    fn abandon(
        self: Rc<Self>,
        told: Option<&Context>,
        released: &mut Vec<Rc<dyn Node>>,
        panics: &mut Panics,
    ) {
        let core = &self.core;
        core.has_owner.set(false);
        let callback = self.callback.take();
        let stage = self.stage.replace(Stage::Over);
        if core.is_pending() {
            core.state.set(RequestState::Abandoned);
            self.let_go(told, released, panics);
        }
        core.retire();
        panics.catch(|| drop(callback));
        panics.catch(|| drop(stage));
    }
}

/// Nobody wants the outcomes of `nodes`, nor of what is below them.
fn abandon_all(mut nodes: Vec<Rc<dyn Node>>, told: Option<&Context>, panics: &mut Panics) {
    while let Some(node) = nodes.pop() {
        node.abandon(told, &mut nodes, panics);
    }
}

/// Asks to cancel `node`, or where nobody is to be told, what is below it. Returns whether somebody
/// was told.
pub(super) fn cancel(node: Rc<dyn Node>) -> bool {
    let weak = node.core().context.clone();
    let Some(context) = node.core().live_context() else {
        return false;
    };
    let mut panics = Panics::default();
    let was_told = ask_all(vec![node], &context, &mut panics);
    panics.finish(&weak);
    was_told
}

/// Asks to cancel what is below `core`.
pub(super) fn cancel_sub_requests(core: &Core) -> bool {
    let Some(context) = core.live_context() else {
        return false;
    };
    let mut panics = Panics::default();
    let was_told = ask_all(sub_requests_reversed(core), &context, &mut panics);
    panics.finish(&core.context);
    was_told
}

fn ask_all(mut nodes: Vec<Rc<dyn Node>>, context: &Context, panics: &mut Panics) -> bool {
    let mut was_told = false;
    while let Some(node) = nodes.pop() {
        let core = node.core();
        if !core.is_pending() {
            continue;
        }
        core.state.set(RequestState::Cancelling);
        // Before, as the handler may set another one.
        core.is_untold.set(false);
        if Rc::clone(&node).tell(context, panics) {
            was_told = true;
        } else {
            core.is_untold.set(true);
            nodes.extend(sub_requests_reversed(core));
        }
    }
    was_told
}

/// So that the one made first is the last.
pub(super) fn sub_requests_reversed(core: &Core) -> Vec<Rc<dyn Node>> {
    core.sub_requests.borrow().values().rev().cloned().collect()
}

/// Makes `child` a sub-request of `parent`. Refuses what would be a cycle.
pub(super) fn adopt(parent: &Rc<dyn Node>, child: Rc<dyn Node>) -> bool {
    let mut ancestor = Some(Rc::clone(parent));
    while let Some(node) = ancestor {
        if node.core().number == child.core().number {
            return false;
        }
        let above = node.core().parent.borrow();
        ancestor = above.as_ref().and_then(Weak::upgrade);
    }
    *child.core().parent.borrow_mut() = Some(Rc::downgrade(parent));
    let mut sub_requests = parent.core().sub_requests.borrow_mut();
    let none = sub_requests.insert(child.core().number, child);
    drop(sub_requests);
    drop(none);
    true
}
