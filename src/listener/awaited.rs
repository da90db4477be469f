//! Connections to await.
//!
//! # Implementation
//!
//! An [`AsyncListener`] is a [`Listener`] whose handler puts the connection where those who await
//! can take it, and wakes one of them. It is armed while more of them wait than there are
//! connections in that place, so it accepts for those who wait only. A connection whose waiter was
//! dropped before it took it goes to the next one.

use super::state::State;
use super::{Connection, Listener, ListeningSocket};
use crate::context::{Context, WeakContext};
use crate::error::AddFdError;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll, Waker};

/// A listening socket whose clients are awaited, made by [`Context::add_async_listener`].
///
/// It derefs to a [`Listener`]: limit, pause, back-off, name and all that are the same.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::net::{TcpListener, TcpStream};
/// use tevent::Context;
///
/// let context = Context::new()?;
/// let listener = context.add_async_listener(TcpListener::bind("127.0.0.1:0")?)?;
/// listener.set_limit(Some(1000));
/// listener.on_back_off(|back_off| eprintln!("{back_off}"));
/// let address = listener.get_ref().local_addr()?;
///
/// let client = TcpStream::connect(address)?;
/// let connection = context.block_on(listener.accept())??;
/// assert_eq!(connection.peer().as_socket(), Some(client.local_addr()?));
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it closes the socket"]
pub struct AsyncListener<S: ListeningSocket + 'static> {
    listener: Listener<S>,
    hall: Rc<Hall<S>>,
}

/// Where those meet who have come and those who await them.
struct Hall<S: ListeningSocket + 'static> {
    state: Rc<State<S>>,
    accepted: RefCell<VecDeque<Connection<S::Stream>>>,
    /// Those who wait longest come first. One without a waker was woken.
    waiting: RefCell<Vec<(u64, Option<Waker>)>>,
    last: Cell<u64>,
    is_over: Cell<bool>,
}

impl<S: ListeningSocket + 'static> Hall<S> {
    /// Who awaits, or what has come, has changed.
    fn update(&self) {
        let wanted = self.waiting.borrow().len() > self.accepted.borrow().len();
        self.state.set_wanted(wanted);
    }

    fn enter(&self, connection: Connection<S::Stream>) {
        self.accepted.borrow_mut().push_back(connection);
        self.update();
        self.wake_next();
    }

    fn wake_next(&self) {
        let waker = {
            let mut waiting = self.waiting.borrow_mut();
            waiting.iter_mut().find_map(|(_, waker)| waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn wait(&self, number: &mut Option<u64>, waker: &Waker) {
        let waker = Some(waker.clone());
        let mut waiting = self.waiting.borrow_mut();
        let place = number.and_then(|number| {
            let mut places = waiting.iter_mut();
            places.find(|(other, _)| *other == number)
        });
        let replaced = match place {
            Some((_, place)) => std::mem::replace(place, waker),
            None => {
                self.last.set(self.last.get() + 1);
                *number = Some(self.last.get());
                waiting.push((self.last.get(), waker));
                None
            }
        };
        drop(waiting);
        drop(replaced);
        self.update();
        self.state.tell_if_left();
    }

    fn leave(&self, number: &mut Option<u64>) {
        let Some(number) = number.take() else {
            return;
        };
        let removed = {
            let mut waiting = self.waiting.borrow_mut();
            let position = waiting.iter().position(|&(other, _)| other == number);
            position.map(|position| waiting.remove(position))
        };
        drop(removed);
        self.update();
    }
}

/// Owned by the event's closure, to tell of its end.
struct Door<S: ListeningSocket + 'static>(Rc<Hall<S>>);

impl<S: ListeningSocket + 'static> Drop for Door<S> {
    fn drop(&mut self) {
        let hall = &self.0;
        hall.is_over.set(true);
        let accepted = hall.accepted.take();
        let wakers: Vec<Waker> = {
            let mut waiting = hall.waiting.borrow_mut();
            let wakers = waiting.iter_mut().filter_map(|(_, waker)| waker.take());
            wakers.collect()
        };
        drop(accepted);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Context {
    /// Accepts the clients of a listening socket for tasks that [await](AsyncListener::accept)
    /// them.
    ///
    /// What `source` may be, and what becomes of it, is as with
    /// [`add_listener`](Context::add_listener). While nobody awaits, it counts as nothing to wait
    /// for.
    ///
    /// # Errors
    ///
    /// As [`add_listener`](Context::add_listener).
    ///
    /// # Panics
    ///
    /// When there are 2³² - 1 descriptor events already.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # use std::net::TcpStream;
    /// use std::net::TcpListener;
    /// use tevent::Context;
    ///
    /// let context = Context::new()?;
    /// let socket = TcpListener::bind("127.0.0.1:0")?;
    /// # let client = TcpStream::connect(socket.local_addr()?)?;
    /// let listener = context.add_async_listener(socket)?;
    /// let weak = context.downgrade();
    /// let server = context.spawn(async move {
    ///     loop {
    ///         let connection = listener.accept().await?;
    ///         let stream = weak.add_async_fd(connection)?;
    ///         weak.spawn(async move { drop(stream) }).detach();
    /// #       return std::io::Result::Ok(());
    ///     }
    /// #   #[allow(unreachable_code)]
    /// #   std::io::Result::Ok(())
    /// });
    /// # context.block_on(server)??
    /// # }
    /// ```
    #[doc(alias = "accept4")]
    #[track_caller]
    pub fn add_async_listener<S>(&self, source: S) -> Result<AsyncListener<S>, AddFdError<S>>
    where
        S: ListeningSocket + 'static,
    {
        let hall = Rc::new(Hall {
            state: State::new(false),
            accepted: RefCell::default(),
            waiting: RefCell::default(),
            last: Cell::new(0),
            is_over: Cell::new(false),
        });
        let state = Rc::clone(&hall.state);
        let door = Door(Rc::clone(&hall));
        let listener = Listener::add(self, source, state, move |context, fd, watched| {
            let mut enter = |_: &Context, _: &Listener<S>, connection| door.0.enter(connection);
            watched.0.accept_some(context, fd, &mut enter);
        })?;
        Ok(AsyncListener { listener, hall })
    }
}

impl WeakContext {
    /// As [`Context::add_async_listener`].
    ///
    /// # Errors
    ///
    /// Also when the context is gone.
    #[track_caller]
    pub fn add_async_listener<S>(&self, source: S) -> Result<AsyncListener<S>, AddFdError<S>>
    where
        S: ListeningSocket + 'static,
    {
        match self.upgrade() {
            Some(context) => context.add_async_listener(source),
            None => Err(AddFdError::new(source, over())),
        }
    }
}

impl<S: ListeningSocket + 'static> AsyncListener<S> {
    /// Waits for the next client.
    ///
    /// Any number of tasks may wait; who waits longest is served first. Dropping the future loses
    /// nothing: a client that was accepted for it goes to the next who waits.
    ///
    /// What goes wrong on the way is dealt with as by [`Listener`], so that a loop of this needs to
    /// care about nothing. Each client takes a turn of the loop.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotConnected`]: the listener was [removed](Listener::remove), or the
    /// context is gone or was re-initialised.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::io::ErrorKind;
    /// use std::net::TcpListener;
    ///
    /// let context = tevent::Context::new()?;
    /// let listener = context.add_async_listener(TcpListener::bind("127.0.0.1:0")?)?;
    /// listener.remove();
    /// let result = context.block_on(listener.accept())?;
    /// assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected);
    /// # Ok(())
    /// # }
    /// ```
    pub fn accept(&self) -> Accept<'_, S> {
        Accept {
            hall: &self.hall,
            number: None,
        }
    }

    /// Ends the event and gives the socket back. Whoever awaits gets an error.
    ///
    /// # Errors
    ///
    /// While the event is waking somebody, which only a waker of another executor can notice, the
    /// handle comes back, as from [`Listener::into_source`]. The event has ended nevertheless.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use std::net::TcpListener;
    ///
    /// let context = tevent::Context::new()?;
    /// let listener = context.add_async_listener(TcpListener::bind("127.0.0.1:0")?)?;
    /// let socket: TcpListener = listener.into_source().expect("nobody is being woken");
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_source(self) -> Result<S, AsyncListener<S>> {
        let AsyncListener { listener, hall } = self;
        let source = listener.into_source();
        source.map_err(|listener| AsyncListener { listener, hall })
    }
}

impl<S: ListeningSocket + 'static> Deref for AsyncListener<S> {
    type Target = Listener<S>;

    fn deref(&self) -> &Listener<S> {
        &self.listener
    }
}

impl<S: ListeningSocket + fmt::Debug + 'static> fmt::Debug for AsyncListener<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AsyncListener")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

/// Waits for a client, made by [`AsyncListener::accept`].
#[must_use = "futures do nothing unless they are polled"]
pub struct Accept<'a, S: ListeningSocket + 'static> {
    hall: &'a Rc<Hall<S>>,
    /// Its waiter's, while there is one.
    number: Option<u64>,
}

impl<S: ListeningSocket + 'static> Future for Accept<'_, S> {
    type Output = io::Result<Connection<S::Stream>>;

    fn poll(mut self: Pin<&mut Self>, poll: &mut task::Context<'_>) -> Poll<Self::Output> {
        let hall = self.hall;
        let connection = hall.accepted.borrow_mut().pop_front();
        if connection.is_some() || hall.is_over.get() {
            hall.leave(&mut self.number);
            return Poll::Ready(connection.ok_or_else(over));
        }
        hall.wait(&mut self.number, poll.waker());
        Poll::Pending
    }
}

impl<S: ListeningSocket + 'static> Drop for Accept<'_, S> {
    fn drop(&mut self) {
        if self.number.is_some() {
            self.hall.leave(&mut self.number);
            // It may have been woken for what it hasn't taken.
            if !self.hall.accepted.borrow().is_empty() {
                self.hall.wake_next();
            }
        }
    }
}

impl<S: ListeningSocket + 'static> fmt::Debug for Accept<'_, S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Accept")
    }
}

fn over() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the listener accepts nobody any more",
    )
}
