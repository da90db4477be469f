//! The parent process: listening sockets, children, signals.
//!
//! Every listening socket is a listener with a close callback. Its handler gets a client's connection
//! and forks. The child re-initialises the context, closes all that was the parent's, and
//! adds its one client; then the handler returns, and the loop that called it goes on in the
//! child with the client's events alone. The parent closes its copy of the connection, counts the
//! child, and has its end reported by an event.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use smbd::args::Options;
use smbd::config::Config;
use smbd::sharing::{BREAK_TIMEOUT, ClientId, OpenSummary, Summary};
use tevent::{Child, Context, Fork, Listener, SignalFlags, Signum, Timer};

use crate::client;
use crate::gate::{Gate, Verdict, network};
use crate::hub::Hub;
use crate::isolation::SystemUsers;
use crate::sockets;
use crate::waiting::Waiting;

/// How long accepting rests when the process or the system is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long children have to end after they were told to, before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often they are told until then. A child just forked forgets, with all else that was its
/// parent's, also the signals that came before it had handlers of its own.
const STOP_REPEAT: Duration = Duration::from_millis(100);

/// Makes the configuration that later clients get.
pub(crate) type Reload = Box<dyn Fn() -> Result<Config, Box<dyn std::error::Error>>>;

/// The server as the parent sees it. In a child it is only a memory of the parent.
pub(crate) struct Daemon {
    options: Options,
    config: RefCell<Arc<Config>>,
    users: RefCell<Rc<SystemUsers>>,
    reload: Reload,
    listeners: RefCell<Vec<Listener<TcpListener>>>,
    /// What the clients share.
    hub: Rc<Hub>,
    /// By process id.
    children: RefCell<BTreeMap<u32, Served>>,
    gate: RefCell<Gate>,
    waiting: Rc<Waiting>,
    /// Those who wait are going to be called.
    is_calling: Cell<bool>,
    /// This is a client's process.
    is_child: Cell<bool>,
    /// The client that this process serves.
    served: OnceCell<Rc<str>>,
    stopping: Cell<bool>,
    stop_timer: RefCell<Option<Timer>>,
}

/// A client with a process of its own.
struct Served {
    peer: Rc<str>,
    address: IpAddr,
    id: ClientId,
    /// Reports the end of the process.
    _event: Child,
}

impl Daemon {
    /// # Errors
    ///
    /// The system refuses a process.
    pub(crate) fn new(
        context: &Context,
        options: Options,
        config: Config,
        reload: Reload,
    ) -> io::Result<Rc<Daemon>> {
        let users = SystemUsers::new(context, options.run_as.as_deref(), &config)?;
        let daemon = Rc::new(Daemon {
            hub: Hub::new(context, BREAK_TIMEOUT),
            users: RefCell::new(users),
            options,
            config: RefCell::new(Arc::new(config)),
            reload,
            listeners: RefCell::default(),
            children: RefCell::default(),
            gate: RefCell::default(),
            waiting: Waiting::new(),
            is_calling: Cell::new(false),
            is_child: Cell::new(false),
            served: OnceCell::new(),
            stopping: Cell::new(false),
            stop_timer: RefCell::default(),
        });
        let weak = Rc::downgrade(&daemon);
        daemon.hub.on_logon(move |context, id, is_good| {
            if let Some(daemon) = weak.upgrade() {
                daemon.heard_of_logon(context, id, is_good);
            }
        });
        let weak = Rc::downgrade(&daemon);
        daemon.waiting.on_change(move |context| {
            if let Some(daemon) = weak.upgrade() {
                daemon.call_waiting(context);
            }
        });
        Ok(daemon)
    }

    /// Opens the listening sockets, and returns the addresses they got. One that can't be opened
    /// is reported and left out.
    ///
    /// # Errors
    ///
    /// The last reason, when none could be opened.
    pub(crate) fn listen(self: &Rc<Self>, context: &Context) -> io::Result<Vec<SocketAddr>> {
        let mut addresses = Vec::new();
        let mut failure = None;
        for &address in &self.options.listen {
            match self.listen_on(context, address) {
                Ok(address) => addresses.push(address),
                Err(e) => {
                    log::error!("can't listen on {address}: {e}");
                    failure = Some(e);
                }
            }
        }
        match failure {
            Some(e) if addresses.is_empty() => Err(e),
            _ => Ok(addresses),
        }
    }

    fn listen_on(
        self: &Rc<Self>,
        context: &Context,
        address: SocketAddr,
    ) -> io::Result<SocketAddr> {
        let listener = sockets::listen(address, &self.options.socket_options)?;
        let address = listener.local_addr()?;
        let daemon = Rc::clone(self);
        let listener = context.add_listener(listener, move |context, _, connection| {
            let peer = connection.peer().to_string().into();
            daemon.connected(context, connection.into_stream(), &peer);
        })?;
        // What is short is the system's, not this socket's: a longer pause than one gets by default.
        listener.set_back_off(ACCEPT_PAUSE, ACCEPT_PAUSE);
        listener.on_back_off(|back_off| log::error!("{back_off}; pausing"));
        listener.set_name("listener");
        listener.on_close(move |_socket| log::debug!("listening socket on {address} closed"));
        self.listeners.borrow_mut().push(listener);
        Ok(address)
    }

    /// The client that this process has served.
    pub(crate) fn served(&self) -> Option<&str> {
        self.served.get().map(|peer| &**peer)
    }

    /// Whether this is a client's process by now.
    pub(crate) fn is_child(&self) -> bool {
        self.is_child.get()
    }

    /// Somebody has connected: they get a process, or wait for one, or are refused.
    fn connected(self: &Rc<Self>, context: &Context, stream: TcpStream, peer: &Rc<str>) {
        if let Err(e) = sockets::set_options(&stream, &self.options.socket_options) {
            log::warn!("{peer}: {e}");
            return;
        }
        let address = peer.parse().map(|peer: SocketAddr| peer.ip());
        let address = network(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        if self.options.interactive {
            self.start(context, stream, peer, address);
            return;
        }
        let now = context.now();
        let clients = self.children.borrow().len();
        let has_room = clients < self.options.max_clients;
        let verdict = match has_room {
            true => self.gate.borrow_mut().ask(address, now),
            false => match self.gate.borrow().dispensable(None, now) {
                Some(id) => Verdict::Replace(id),
                None => {
                    log::warn!("{peer}: refused, there are {clients} clients");
                    return;
                }
            },
        };
        if let Verdict::Replace(id) = verdict {
            self.dismiss(context, id);
        }
        if has_room && verdict != Verdict::Wait {
            self.start(context, stream, peer, address);
        } else {
            self.waiting.add(context, stream, peer, address);
        }
    }

    /// Sends a stranger away who takes a place that somebody else needs.
    fn dismiss(&self, context: &Context, id: ClientId) {
        log::debug!("a client that hasn't logged on makes room for another");
        self.gate.borrow_mut().left(id, context.now());
        self.hub.dismiss(id);
    }

    /// Those who wait are called soon, if there is room.
    fn call_waiting(self: &Rc<Self>, context: &Context) {
        if self.waiting.is_empty() || self.is_calling.replace(true) {
            return;
        }
        let daemon = Rc::clone(self);
        context.defer(move |context| {
            daemon.is_calling.set(false);
            while daemon.children.borrow().len() < daemon.options.max_clients
                && !daemon.is_child.get()
            {
                let called = daemon.waiting.call(|address| {
                    let verdict = daemon.gate.borrow_mut().ask(address, context.now());
                    if let Verdict::Replace(id) = verdict {
                        daemon.dismiss(context, id);
                    }
                    verdict != Verdict::Wait
                });
                let Some(called) = called else { break };
                daemon.start(context, called.stream, &called.peer, called.address);
            }
        });
    }

    /// A client has logged on, or has tried to.
    fn heard_of_logon(self: &Rc<Self>, context: &Context, id: ClientId, is_good: bool) {
        let now = context.now();
        if is_good {
            self.gate.borrow_mut().left(id, now);
            self.call_waiting(context);
            return;
        }
        let children = self.children.borrow();
        let Some(served) = children.values().find(|served| served.id == id) else {
            return;
        };
        let consequence = self.gate.borrow_mut().failed(id, served.address, now);
        if let Some((count, penalty)) = consequence {
            let address = served.address;
            let seconds = penalty.as_secs();
            log::warn!("{address}: {count} failed logons; the latest counts for {seconds} s");
        }
    }

    /// Serves a client in a process of its own.
    fn start(
        self: &Rc<Self>,
        context: &Context,
        stream: TcpStream,
        peer: &Rc<str>,
        address: IpAddr,
    ) {
        let link = sockets::pair().and_then(|(ours, theirs)| {
            let id = self.hub.add(context, ours, peer)?;
            Ok((id, theirs))
        });
        let (id, link) = match link {
            Ok(link) => link,
            Err(e) => {
                log::error!("{peer}: refused, socket pair: {e}");
                return;
            }
        };
        log::info!("{peer}: connected");
        if self.options.interactive {
            // One client, in this process.
            self.close_listeners();
            self.serve(context, stream, link, peer);
            return;
        }
        match context.fork() {
            // Our copies of the connection and of the child's end close with this.
            Ok(Fork::Parent(child)) => {
                self.hub.set_process(id, child);
                self.note(context, child, id, peer, address);
            }
            Ok(Fork::Child) => {
                self.is_child.set(true);
                leave_parent(context);
                match context.reinitialise() {
                    Ok(()) => self.serve(context, stream, link, peer),
                    Err(e) => log::error!("{peer}: re-initialising: {e}"),
                }
            }
            Err(e) => {
                log::error!("{peer}: refused, fork: {e}");
                self.hub.remove(context, id);
            }
        }
    }

    /// Counts a child until it has ended.
    fn note(
        self: &Rc<Self>,
        context: &Context,
        child: u32,
        id: ClientId,
        peer: &Rc<str>,
        address: IpAddr,
    ) {
        let daemon = Rc::clone(self);
        let added = context.add_child(child, move |context, child, result| {
            daemon.ended(context, child.pid(), result);
        });
        match added {
            Ok(event) => {
                event.set_name(peer);
                let now = context.now();
                self.gate.borrow_mut().entered(id, address, now);
                let served = Served {
                    peer: Rc::clone(peer),
                    address,
                    id,
                    _event: event,
                };
                self.children.borrow_mut().insert(child, served);
            }
            Err(e) => log::error!("{peer}: process {child} can't be waited for: {e}"),
        }
    }

    fn serve(&self, context: &Context, stream: TcpStream, link: UnixStream, peer: &Rc<str>) {
        // It was empty.
        let _ = self.served.set(Rc::clone(peer));
        let config = Arc::clone(&self.config.borrow());
        let idle_timeout = self.options.idle_timeout;
        let users = Rc::clone(&self.users.borrow());
        if let Err(e) = client::serve(
            context,
            stream,
            link,
            peer.to_string(),
            config,
            idle_timeout,
            users,
        ) {
            log::error!("can't serve: {e}");
            context.stop();
        }
    }

    /// Takes the listening sockets off the loop. Their close callbacks close them; that of the
    /// one whose handler is running, when it returns.
    fn close_listeners(&self) {
        let listeners = self.listeners.take();
        drop(listeners);
    }

    /// Adds the signal handlers.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub(crate) fn handle_signals(self: &Rc<Self>, context: &Context) -> io::Result<()> {
        for signum in [Signum::SIGTERM, Signum::SIGINT] {
            let daemon = Rc::clone(self);
            context
                .add_signal(signum, SignalFlags::RESTART, move |context, _, info| {
                    log::info!("{}: stopping", info.signum);
                    daemon.stop(context);
                })?
                .detach();
        }
        let daemon = Rc::clone(self);
        context
            .add_signal(
                Signum::SIGHUP,
                SignalFlags::RESTART,
                move |context, _, _| {
                    daemon.reopen_configuration(context);
                },
            )?
            .detach();
        let daemon = Rc::clone(self);
        context
            .add_signal(Signum::SIGUSR1, SignalFlags::RESTART, move |_, _, _| {
                daemon.tell_state();
            })?
            .detach();
        Ok(())
    }

    /// Tells who the clients are and what they have open.
    fn tell_state(&self) {
        let children = self.children.borrow();
        log::info!("{} clients", children.len());
        for (pid, Served { peer, id, .. }) in children.iter() {
            let Summary { opens, waiting } = self.hub.summary(*id);
            let (count, queued) = (opens.len(), self.hub.queued(*id));
            log::info!(
                "{peer}: process {pid}, {count} opens, {waiting} requests wait, {queued} bytes unread"
            );
            for open in opens {
                let OpenSummary {
                    name,
                    access,
                    share,
                    oplock,
                    locks,
                    delete_pending,
                } = open;
                let deleted = if delete_pending {
                    ", to be deleted"
                } else {
                    ""
                };
                log::info!(
                    "{peer}: {name:?}: access {access:#x}, share {share:#x}, oplock {oplock:?}, {locks} locks{deleted}"
                );
            }
        }
    }

    /// A child has ended, and was reaped.
    fn ended(self: &Rc<Self>, context: &Context, child: u32, result: io::Result<ExitStatus>) {
        let Some(Served { peer, id, .. }) = self.children.borrow_mut().remove(&child) else {
            return;
        };
        self.hub.remove(context, id);
        self.gate.borrow_mut().left(id, context.now());
        self.call_waiting(context);
        match result.map(|status| (status.code(), status.signal())) {
            Ok((Some(0), _)) => log::debug!("{peer}: process {child} has ended"),
            // Told to end before it could say that it heard.
            Ok((_, Some(signal))) if signal == Signal::TERM.as_raw() => {
                log::debug!("{peer}: process {child} was ended");
            }
            Ok((Some(code), _)) => log::error!("{peer}: process {child} exited with {code}"),
            Ok((_, signal)) => log::error!("{peer}: process {child} died: signal {signal:?}"),
            Err(e) => log::error!("{peer}: waiting for process {child}: {e}"),
        }
        if self.stopping.get() && self.children.borrow().is_empty() {
            context.stop();
        }
    }

    /// Closes the listening sockets, tells the children, and ends the loop when they are gone.
    fn stop(self: &Rc<Self>, context: &Context) {
        self.close_listeners();
        self.waiting.clear();
        let already = self.stopping.replace(true);
        self.kill_children(if already { Signal::KILL } else { Signal::TERM });
        if self.children.borrow().is_empty() {
            context.stop();
        } else if !already {
            let daemon = Rc::downgrade(self);
            let deadline = context.now() + STOP_TIMEOUT;
            let timer = context.add_timer_after(STOP_REPEAT, move |context, timer| {
                let Some(daemon) = daemon.upgrade() else {
                    return;
                };
                if context.now() < deadline {
                    daemon.kill_children(Signal::TERM);
                    timer.set_after(STOP_REPEAT);
                } else {
                    daemon.kill_children(Signal::KILL);
                }
            });
            *self.stop_timer.borrow_mut() = Some(timer);
        }
    }

    fn kill_children(&self, signal: Signal) {
        for (&child, Served { peer, .. }) in self.children.borrow().iter() {
            if let Some(Err(e)) = pid(child).map(|pid| kill_process(pid, signal)) {
                log::warn!("{peer}: process {child}: {e}");
            }
        }
    }

    /// Clients that come from now on find the shares as they are now.
    fn reopen_configuration(&self, context: &Context) {
        let run_as = self.options.run_as.as_deref();
        let reopened = (self.reload)().and_then(|config| {
            let users = SystemUsers::new(context, run_as, &config)?;
            Ok((config, users))
        });
        match reopened {
            Ok((config, users)) => {
                *self.config.borrow_mut() = Arc::new(config);
                *self.users.borrow_mut() = users;
                log::info!("configuration reopened");
            }
            Err(e) => log::error!("configuration kept as it was: {e}"),
        }
    }
}

/// In a child: closes what its parent's events have watched, which is the listening sockets, the
/// lines to the children, what tells of their ends, and the connections that wait.
///
/// What is known of all that is left as it is, and never used again. To drop it would be to write to
/// memory that is shared with the parent until then, for each client that there is.
fn leave_parent(context: &Context) {
    for fd in context.leak_events() {
        // There is nothing to be done about one that can't be closed.
        let _ = nix::unistd::close(fd);
    }
}

fn pid(child: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child).ok()?)
}
