//! What clients share, for connections without processes and sockets around them.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{self, Waker};
use std::time::{Duration, Instant};

use smbd::config::Config;
use smbd::server::Connection;
use smbd::server::NoHost;
use smbd::sharing::{Action, Ask, BREAK_TIMEOUT, ClientId, Link, Notice, Table};

/// The parent. Messages go through their bytes, as between processes.
#[derive(Debug)]
pub struct Hub {
    table: RefCell<Table>,
    now: Cell<Instant>,
    connections: RefCell<HashMap<ClientId, Weak<Connection>>>,
    asked: RefCell<VecDeque<(ClientId, Vec<u8>)>>,
    /// What connections do on their own.
    working: RefCell<Vec<Work>>,
    /// How many messages processes have sent.
    pub messages: Cell<usize>,
}

struct Work(Pin<Box<dyn Future<Output = ()>>>);

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Work")
    }
}

#[derive(Debug)]
struct Line {
    hub: Rc<Hub>,
    client: ClientId,
}

impl Link for Line {
    fn send(&self, ask: &Ask) {
        let mut bytes = Vec::new();
        ask.put(&mut bytes);
        self.hub.messages.set(self.hub.messages.get() + 1);
        self.hub.asked.borrow_mut().push_back((self.client, bytes));
    }
}

impl Hub {
    pub fn new() -> Rc<Hub> {
        let now = Instant::now();
        Rc::new(Hub {
            table: RefCell::new(Table::new(BREAK_TIMEOUT, now)),
            now: Cell::new(now),
            connections: RefCell::default(),
            asked: RefCell::default(),
            working: RefCell::default(),
            messages: Cell::new(0),
        })
    }

    /// A connection of one more client.
    pub fn connect(self: &Rc<Self>, config: &Arc<Config>) -> Rc<Connection> {
        let client = self.table.borrow_mut().add_client();
        let line = Line {
            hub: Rc::clone(self),
            client,
        };
        let connection =
            Connection::new(Arc::clone(config), "test", Rc::new(line), Box::new(NoHost));
        self.connections
            .borrow_mut()
            .insert(client, Rc::downgrade(&connection));
        connection
    }

    /// Brings all messages to where they are to go. `false` if there are none.
    pub fn run(&self) -> bool {
        let mut has_run = false;
        loop {
            let mut working = self.working.take();
            working.retain_mut(|work| {
                let mut context = task::Context::from_waker(Waker::noop());
                work.0.as_mut().poll(&mut context).is_pending()
            });
            self.working.borrow_mut().append(&mut working);
            let asked = self.asked.borrow_mut().pop_front();
            if let Some((client, bytes)) = asked {
                has_run = true;
                if !self.connections.borrow().contains_key(&client) {
                    continue; // its process is gone
                }
                let ask = Ask::parse(&bytes[4..]).expect("a message that is none");
                let handled = self.table.borrow_mut().handle(client, ask, self.now.get());
                handled.expect("a connection misbehaves");
            }
            let action = self.table.borrow_mut().next_action();
            match action {
                Some((client, Action::Tell(notice))) => {
                    has_run = true;
                    let mut bytes = Vec::new();
                    notice.put(&mut bytes);
                    let notice = Notice::parse(&bytes[4..]).expect("a message that is none");
                    let connection = self.connections.borrow().get(&client).cloned();
                    if let Some(connection) = connection.and_then(|weak| weak.upgrade()) {
                        let work = connection.deliver(notice);
                        self.working.borrow_mut().extend(work.map(Work));
                    }
                }
                Some((_, Action::Evict)) => panic!("a connection hangs"),
                None if self.asked.borrow().is_empty() => return has_run,
                None => {}
            }
        }
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.table.borrow_mut().expire(self.now.get());
        self.run();
    }

    /// The process of the client that came as the `index`th is gone.
    pub fn kill(&self, index: u64) {
        let client = ClientId(index + 1);
        self.connections.borrow_mut().remove(&client);
        self.asked
            .borrow_mut()
            .retain(|(other, _)| *other != client);
        self.table
            .borrow_mut()
            .remove_client(client, self.now.get());
        self.run();
    }

    /// Whether nobody has anything.
    pub fn is_empty(&self) -> bool {
        self.table.borrow().is_empty()
    }
}
