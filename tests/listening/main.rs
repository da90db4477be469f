//! Listeners and what is the process's: descriptors that run out, errors of the kernel, and `fork`.
//!
//! [`kernel`] counts the calls of `accept4`, and has them fail.

mod errors;
mod exhausted;
mod forks;
mod kernel;

#[path = "../process/mod.rs"]
mod process;

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{BackOff, Connection, Context, Listener};

fn main() {
    process::main(&[exhausted::TESTS, errors::TESTS, forks::TESTS])
}

/// A listener that keeps whom it accepts, and what it says when it backs off.
struct Keeping {
    listener: Listener<TcpListener>,
    address: SocketAddr,
    open: Rc<RefCell<Vec<Connection<TcpStream>>>>,
    told: Rc<RefCell<Vec<BackOff>>>,
}

impl Keeping {
    fn new(context: &Context) -> Keeping {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("bound");
        let (open, told) = (Rc::default(), Rc::default());
        let keep: Rc<RefCell<Vec<_>>> = Rc::clone(&open);
        let listener = context
            .add_listener(socket, move |_, _, connection| {
                keep.borrow_mut().push(connection);
            })
            .expect("it listens");
        let note: Rc<RefCell<Vec<_>>> = Rc::clone(&told);
        listener.on_back_off(move |back_off| note.borrow_mut().push(*back_off));
        Keeping {
            listener,
            address,
            open,
            told,
        }
    }

    fn open(&self) -> usize {
        assert_eq!(self.open.borrow().len(), self.listener.open());
        self.open.borrow().len()
    }
}

fn clients(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = |_| TcpStream::connect(address).expect("it listens");
    (0..count).map(connect).collect()
}

/// Runs the loop until `condition` holds. What doesn't happen is a hang, which the harness ends.
#[track_caller]
fn run_until(context: &Context, condition: impl FnMut() -> bool) {
    context.run_until(condition).expect("the loop runs");
}

/// How many turns the loop makes in a while in which nothing is to happen.
#[track_caller]
fn turns_in_a_while(context: &Context) -> u32 {
    let deadline = Instant::now() + Duration::from_millis(30);
    let _timer = context.add_timer(deadline, |_, _| ());
    let mut turns = 0;
    run_until(context, || {
        turns += 1;
        Instant::now() >= deadline
    });
    turns
}
