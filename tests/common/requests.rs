//! What the tests of requests and queues share.

use super::Log;
use tevent::{Completer, Context, Request, RequestError};

pub type Fault = &'static str;
pub type Pair = (Request<i32, Fault>, Completer<i32, Fault>);
pub type Outcome = Result<i32, RequestError<Fault>>;

#[track_caller]
pub fn pair_of(context: &Context) -> Pair {
    context.request("test")
}

/// An outcome in one word.
pub fn text(outcome: &Outcome) -> String {
    match outcome {
        Ok(value) => value.to_string(),
        Err(RequestError::Failed(fault)) => format!("failed:{fault}"),
        Err(RequestError::TimedOut) => "timed-out".to_owned(),
        Err(RequestError::Cancelled) => "cancelled".to_owned(),
        Err(RequestError::Abandoned) => "abandoned".to_owned(),
    }
}

/// A callback that writes the outcome.
pub fn writes(log: &Log) -> impl FnOnce(&Context, Outcome) + use<> {
    let log = log.clone();
    move |_, outcome| log.add(text(&outcome))
}
