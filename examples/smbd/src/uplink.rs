//! A child's end of what clients share: its socket to the parent.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use smbd::sharing::message::Stream;
use smbd::sharing::{Ask, Link, Notice};
use tevent::{Context, Fd, FdFlags};

use crate::send_queue::SendQueue;

/// The socket to the parent. What can't be sent at once waits.
pub(crate) struct Uplink {
    socket: Rc<UnixStream>,
    queue: RefCell<SendQueue>,
    event: OnceCell<Fd<Rc<UnixStream>>>,
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink").finish_non_exhaustive()
    }
}

impl Uplink {
    /// The socket doesn't block.
    pub(crate) fn new(socket: UnixStream) -> Rc<Uplink> {
        Rc::new(Uplink {
            socket: Rc::new(socket),
            queue: RefCell::default(),
            event: OnceCell::new(),
        })
    }

    /// Begins to listen to the parent: `deliver` takes what it says, and `None` when it is gone.
    ///
    /// # Errors
    ///
    /// The socket can't be watched.
    pub(crate) fn listen(
        self: &Rc<Self>,
        context: &Context,
        deliver: impl Fn(&Context, Option<Vec<Notice>>) + 'static,
    ) -> io::Result<()> {
        let uplink = Rc::downgrade(self);
        let mut stream = Stream::default();
        let event = context.add_fd(
            Rc::clone(&self.socket),
            FdFlags::READ,
            move |context, event, flags| {
                let Some(uplink) = uplink.upgrade() else {
                    return;
                };
                if flags.contains(FdFlags::WRITE) {
                    uplink.flush();
                }
                if flags.contains(FdFlags::READ) {
                    match read(&uplink.socket, &mut stream) {
                        Ok(notices) if notices.is_empty() => {}
                        Ok(notices) => deliver(context, Some(notices)),
                        Err(e) => {
                            log::error!("the parent: {e}");
                            event.remove();
                            deliver(context, None);
                        }
                    }
                }
            },
        )?;
        event.set_name("parent");
        // It was empty.
        let _ = self.event.set(event);
        Ok(())
    }

    fn flush(&self) {
        let mut queue = self.queue.borrow_mut();
        // That the parent is gone is told by reading.
        let _ = queue.send(&*self.socket);
        if let Some(event) = self.event.get() {
            event.set_writable(!queue.is_empty());
        }
    }
}

impl Link for Uplink {
    fn send(&self, ask: &Ask) {
        let mut bytes = Vec::with_capacity(64);
        ask.put(&mut bytes);
        self.queue.borrow_mut().push(bytes);
        self.flush();
    }
}

fn read(mut socket: &UnixStream, stream: &mut Stream) -> io::Result<Vec<Notice>> {
    let mut buffer = [0; 4096];
    match socket.read(&mut buffer) {
        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
        Ok(count) => stream.extend(&buffer[..count]),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
        Err(e) => return Err(e),
    }
    let mut notices = Vec::new();
    while let Some(message) = stream.next_message().map_err(|_| ErrorKind::InvalidData)? {
        notices.push(Notice::parse(message).map_err(|_| ErrorKind::InvalidData)?);
    }
    Ok(notices)
}
