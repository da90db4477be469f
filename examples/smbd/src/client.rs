//! One client's connection as events: what the child process does.
//!
//! The connection is a descriptor event whose handler owns everything that belongs to the client.
//! It reads what is there, has complete messages processed, and sends the replies; it never
//! blocks. The writable flag is on only while replies wait. While more of them wait than
//! [`HIGH_WATER`], nothing is read: a client that doesn't read its replies can't make them pile up.
//!
//! When the transport has failed both flags go off first, so that nothing is tried on it again;
//! then the connection is torn down.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use smbd::config::Config;
use smbd::server::Connection;
use smbd::transport::FrameReader;
use tevent::{Context, Fd, FdFlags, SignalFlags, Signum, Timer};

use crate::send_queue::SendQueue;

/// Reading stops when this many bytes of replies wait: two of the largest reads.
const HIGH_WATER: usize = 16 * 1024 * 1024;
/// It goes on when no more than this many wait.
const LOW_WATER: usize = 1024 * 1024;

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The client has closed it, and has got all replies.
    Closed,
    /// It is broken, or what came over it can't be understood.
    Failed(String),
}

/// What belongs to the client; it lives in the handler of its descriptor event.
struct Client {
    peer: String,
    frames: FrameReader,
    connection: Connection,
    replies: SendQueue,
    /// The client sends nothing more.
    at_end: bool,
    idle: Option<(Timer, Duration)>,
}

/// Serves `stream` in this process until the client is gone or silent for `idle_timeout`; then
/// stops the loop. So does SIGTERM.
///
/// # Errors
///
/// The events could not be set up.
pub(crate) fn serve(
    context: &Context,
    stream: TcpStream,
    peer: String,
    config: Arc<Config>,
    idle_timeout: Option<Duration>,
) -> std::io::Result<()> {
    let mut client = Client {
        frames: FrameReader::new(),
        connection: Connection::new(config, &peer),
        replies: SendQueue::default(),
        at_end: false,
        idle: idle_timeout.map(|timeout| {
            let peer = peer.clone();
            let timer = context.add_timer_after(timeout, move |context, _| {
                log::info!("{peer}: idle, disconnected");
                context.stop();
            });
            (timer, timeout)
        }),
        peer: peer.clone(),
    };
    // ERROR, so that a broken connection is told also while reading is off.
    let event = context.add_fd(
        stream,
        FdFlags::READ | FdFlags::ERROR,
        move |context, event, flags| {
            if let Err(end) = client.handle(event, flags) {
                client.tear_down(context, event, end);
            }
        },
    )?;
    event.set_name("client");
    event.on_close(move |_stream| log::info!("{peer}: disconnected"));
    event.detach();
    for signum in [Signum::SIGTERM, Signum::SIGINT] {
        context
            .add_signal(signum, SignalFlags::empty(), |context, _, _| context.stop())?
            .detach();
    }
    // The configuration is the parent's to read again; the default would end this process.
    context
        .add_signal(Signum::SIGHUP, SignalFlags::empty(), |_, _, _| ())?
        .detach();
    Ok(())
}

impl Client {
    /// The descriptor is ready.
    fn handle(&mut self, event: &Fd<TcpStream>, flags: FdFlags) -> Result<(), End> {
        if flags.contains(FdFlags::ERROR) {
            return Err(match event.get_ref().take_error() {
                Ok(Some(e)) => End::Failed(e.to_string()),
                _ => End::Closed,
            });
        }
        if flags.contains(FdFlags::READ) {
            self.read(event.get_ref())?;
        }
        self.process(event.get_ref())?;
        self.update_flags(event);
        if self.at_end && self.replies.is_empty() {
            return Err(End::Closed);
        }
        Ok(())
    }

    /// Reads once; the event comes again if there is more.
    fn read(&mut self, mut stream: &TcpStream) -> Result<(), End> {
        match stream.read(self.frames.spare()) {
            Ok(0) if self.frames.is_mid_message() => {
                Err(End::Failed("closed in the middle of a message".into()))
            }
            Ok(0) => {
                self.at_end = true;
                Ok(())
            }
            Ok(count) => {
                self.frames.filled(count);
                self.note_progress();
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(e) => Err(End::Failed(e.to_string())),
        }
    }

    /// Processes the messages that are there and sends the replies, until one of the two has to
    /// wait.
    fn process(&mut self, stream: &TcpStream) -> Result<(), End> {
        loop {
            let answered = self.answer();
            // Also before a message that can't be understood: what came before it was answered.
            let sent = self.send(stream)?;
            let out_of_messages = answered?;
            if sent == 0 || out_of_messages {
                return Ok(());
            }
        }
    }

    /// Processes messages until there are none, which is `true`, or too many replies wait.
    fn answer(&mut self) -> Result<bool, End> {
        while self.replies.len() < HIGH_WATER {
            let message = self
                .frames
                .next_message()
                .map_err(|e| End::Failed(e.to_string()))?;
            let Some(message) = message else {
                return Ok(true);
            };
            let reply = self
                .connection
                .process(message)
                .map_err(|e| End::Failed(e.to_string()))?;
            self.replies.extend(reply);
        }
        Ok(false)
    }

    fn send(&mut self, stream: &TcpStream) -> Result<usize, End> {
        let sent = self
            .replies
            .send(stream)
            .map_err(|e| End::Failed(e.to_string()))?;
        if sent > 0 {
            self.note_progress();
        }
        Ok(sent)
    }

    fn update_flags(&mut self, event: &Fd<TcpStream>) {
        event.set_writable(!self.replies.is_empty());
        if self.at_end || self.replies.len() >= HIGH_WATER {
            event.set_readable(false);
        } else if self.replies.len() <= LOW_WATER {
            event.set_readable(true);
        }
    }

    fn note_progress(&self) {
        if let Some((timer, timeout)) = &self.idle {
            timer.set_after(*timeout);
        }
    }

    fn tear_down(&mut self, context: &Context, event: &Fd<TcpStream>, end: End) {
        event.set_flags(FdFlags::empty());
        match end {
            End::Closed => {}
            End::Failed(reason) => log::warn!("{}: {reason}", self.peer),
        }
        event.remove();
        context.stop();
    }
}
