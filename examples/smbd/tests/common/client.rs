//! A client that speaks request by request: to a [`Connection`] directly, or over a socket.

use std::fmt::Debug;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{self, Poll, Wake, Waker};

use smbd::config::Config;
use smbd::server::{Connection, ProtocolError};
use smbd::wire::status::Status;

pub use super::bodies::*;
use super::hub::Hub;
use super::wire::Wire;

pub const NEGOTIATE: u16 = 0;
pub const SESSION_SETUP: u16 = 1;
pub const LOGOFF: u16 = 2;
pub const TREE_CONNECT: u16 = 3;
pub const TREE_DISCONNECT: u16 = 4;
pub const CREATE: u16 = 5;
pub const CLOSE: u16 = 6;
pub const FLUSH: u16 = 7;
pub const READ: u16 = 8;
pub const WRITE: u16 = 9;
pub const LOCK: u16 = 10;
pub const IOCTL: u16 = 11;
pub const CANCEL: u16 = 12;
pub const ECHO: u16 = 13;
pub const QUERY_DIRECTORY: u16 = 14;
pub const CHANGE_NOTIFY: u16 = 15;
pub const QUERY_INFO: u16 = 16;
pub const SET_INFO: u16 = 17;

pub const READ_ACCESS: u32 = 0x0012_0089;
pub const ALL_ACCESS: u32 = 0x001F_01FF;

pub const SUPERSEDE: u32 = 0;
pub const OPEN: u32 = 1;
pub const CREATE_NEW: u32 = 2;
pub const OPEN_IF: u32 = 3;
pub const OVERWRITE: u32 = 4;
pub const OVERWRITE_IF: u32 = 5;

pub const DIRECTORY_FILE: u32 = 0x1;
pub const NON_DIRECTORY_FILE: u32 = 0x40;
pub const DELETE_ON_CLOSE: u32 = 0x1000;

pub const RELATED_FILE: [u8; 16] = [0xFF; 16];

/// A response, taken apart.
#[derive(Debug, Clone)]
pub struct Response {
    pub command: u16,
    pub status: Status,
    pub credits: u16,
    pub flags: u32,
    pub message_id: u64,
    /// With [`Response::tree_id`] the AsyncId of a response that comes later.
    pub process_id: u32,
    pub tree_id: u32,
    pub session_id: u64,
    pub body: Vec<u8>,
}

impl Response {
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.body[at..at + 4].try_into().unwrap())
    }

    /// The FileId of a CREATE response.
    pub fn file_id(&self) -> [u8; 16] {
        self.body[64..80].try_into().unwrap()
    }
}

/// What takes a message to the server and brings the reply.
pub trait Transport {
    type Error: Debug;

    /// The reply with its framing header; `None` if there is none.
    fn process(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// A [`Connection`] with the simplest executor there is: requests that wait are polled whenever
/// another one comes.
pub struct Direct {
    pub connection: Rc<Connection>,
    pub hub: Rc<Hub>,
    waiting: Vec<Pin<Box<dyn Future<Output = Processed>>>>,
}

type Processed = Result<(), ProtocolError>;

/// Whether something has been woken.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Direct {
    /// A connection of a client that shares with nobody.
    pub fn new(config: &Arc<Config>) -> Direct {
        Direct::beside(config, &Hub::new())
    }

    /// A connection of a client that shares with those that have the same hub.
    pub fn beside(config: &Arc<Config>, hub: &Rc<Hub>) -> Direct {
        Direct {
            connection: hub.connect(config),
            hub: Rc::clone(hub),
            waiting: Vec::new(),
        }
    }

    /// Hands over a message, and returns all frames that are to be sent then.
    ///
    /// # Errors
    ///
    /// The connection is to be dropped.
    pub fn exchange(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
        assert!(!self.connection.is_busy(), "a message overtakes another");
        let future = Rc::clone(&self.connection).process(message.to_vec().into());
        self.waiting.push(Box::pin(future));
        self.run()
    }

    /// Lets what waits go on, if it can, and returns all frames that are to be sent then.
    ///
    /// # Errors
    ///
    /// The connection is to be dropped.
    pub fn run(&mut self) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = task::Context::from_waker(&waker);
        let mut result = Ok(());
        let mut frames = Vec::new();
        let connection = &self.connection;
        // At once, as what is done next may cut short the files that they are in.
        let mut collect = || {
            let replies = std::iter::from_fn(|| connection.next_reply());
            frames.extend(replies.map(|reply| reply.into_bytes().expect("a file is cut short")));
        };
        while woken.0.swap(false, Ordering::Relaxed) || self.hub.run() {
            collect(); // what the hub brought
            self.waiting.retain_mut(|future| {
                let polled = future.as_mut().poll(&mut context);
                collect();
                match polled {
                    Poll::Ready(ended) => {
                        result = result.and(ended);
                        false
                    }
                    Poll::Pending => true,
                }
            });
        }
        collect();
        result.map(|()| frames)
    }
}

impl Transport for Direct {
    type Error = ProtocolError;

    fn process(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, ProtocolError> {
        let frames = self.exchange(message)?;
        assert!(frames.len() <= 1, "{} frames", frames.len());
        Ok(frames.into_iter().next())
    }
}

pub struct Client<T = Direct> {
    pub connection: T,
    pub message_id: u64,
    pub session_id: u64,
    pub tree_id: u32,
}

/// A request: command, body, and whether it is related to the one before.
#[derive(Clone)]
pub struct Request {
    pub command: u16,
    pub body: Vec<u8>,
    pub related: bool,
    pub charge: u16,
}

pub fn request(command: u16, body: Vec<u8>) -> Request {
    Request {
        command,
        body,
        related: false,
        charge: 1,
    }
}

impl Request {
    pub fn related(mut self) -> Self {
        self.related = true;
        self
    }

    pub fn charge(mut self, charge: u16) -> Self {
        self.charge = charge;
        self
    }
}

impl Client {
    pub fn new(config: &Arc<Config>) -> Client {
        Client::over(Direct::new(config))
    }

    /// A client that has negotiated, logged on as a guest and connected to `share`.
    #[track_caller]
    pub fn connected(config: &Arc<Config>, dialect: u16, share: &str) -> Client {
        let mut client = Client::new(config);
        client.log_on(dialect, share);
        client
    }
}

impl Client<Wire> {
    /// Like [`Client::connected`], over a socket.
    #[track_caller]
    pub fn at(address: SocketAddr, dialect: u16, share: &str) -> Client<Wire> {
        let mut client = Client::over(Wire::connect(address));
        client.log_on(dialect, share);
        client
    }

    /// Whether the server answers.
    #[track_caller]
    pub fn check(&mut self) {
        self.expect(request(ECHO, empty()), Status::SUCCESS);
    }
}

impl<T> Client<T> {
    pub fn over(connection: T) -> Client<T> {
        Client {
            connection,
            message_id: 0,
            session_id: 0,
            tree_id: 0,
        }
    }

    /// The bytes of a message that holds `requests`.
    pub fn message(&mut self, requests: &[Request]) -> Vec<u8> {
        let mut message = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            let start = message.len();
            message.extend(b"\xFESMB\x40\0");
            message.extend(request.charge.to_le_bytes());
            message.extend([0; 4]);
            message.extend(request.command.to_le_bytes());
            message.extend(512u16.to_le_bytes());
            message.extend(if request.related { 4u32 } else { 0 }.to_le_bytes());
            message.extend([0; 4]);
            message.extend(self.message_id.to_le_bytes());
            message.extend([0; 4]);
            message.extend(self.tree_id.to_le_bytes());
            message.extend(self.session_id.to_le_bytes());
            message.extend([0; 16]);
            message.extend(&request.body);
            if index + 1 < requests.len() {
                message.resize(start + (message.len() - start).next_multiple_of(8), 0);
                let distance = (message.len() - start) as u32;
                message[start + 20..start + 24].copy_from_slice(&distance.to_le_bytes());
            }
            if request.command != CANCEL {
                self.message_id += u64::from(request.charge);
            }
        }
        message
    }
}

impl<T: Transport> Client<T> {
    #[track_caller]
    pub fn log_on(&mut self, dialect: u16, share: &str) {
        self.expect(request(NEGOTIATE, negotiate(&[dialect])), Status::SUCCESS);
        let setup = request(SESSION_SETUP, session_setup(&ntlm_negotiate()));
        self.session_id = self
            .expect(setup, Status::MORE_PROCESSING_REQUIRED)
            .session_id;
        let setup = request(SESSION_SETUP, session_setup(&ntlm_authenticate("guest")));
        self.expect(setup, Status::SUCCESS);
        let tree = request(TREE_CONNECT, tree_connect(&format!(r"\\server\{share}")));
        self.tree_id = self.expect(tree, Status::SUCCESS).tree_id;
    }

    /// Sends a compound and returns its responses.
    pub fn send(&mut self, requests: &[Request]) -> Result<Vec<Response>, T::Error> {
        let message = self.message(requests);
        let frame = self.connection.process(&message)?;
        Ok(frame.map_or(Vec::new(), |frame| responses(&frame)))
    }

    /// Sends one request and returns its response, which has to have `status`.
    #[track_caller]
    pub fn expect(&mut self, request: Request, status: Status) -> Response {
        let command = request.command;
        let mut responses = self.send(&[request]).expect("connection dropped");
        assert_eq!(responses.len(), 1, "responses to command {command}");
        let response = responses.remove(0);
        assert_eq!(response.status, status, "command {command}");
        response
    }

    /// The status that a CREATE ends with. What it opens is closed.
    #[track_caller]
    pub fn try_create(
        &mut self,
        name: &str,
        access: u32,
        disposition: u32,
        options: u32,
    ) -> Status {
        let create = request(CREATE, create(name, access, disposition, options));
        let response = self.send(&[create]).expect("connection dropped").remove(0);
        if response.status == Status::SUCCESS {
            self.close(response.file_id());
        }
        response.status
    }

    /// Opens with all access, what isn't there being made.
    #[track_caller]
    pub fn open_if(&mut self, name: &str, options: u32) -> [u8; 16] {
        let create = create(name, ALL_ACCESS, OPEN_IF, options);
        self.expect(request(CREATE, create), Status::SUCCESS)
            .file_id()
    }

    #[track_caller]
    pub fn close(&mut self, file: [u8; 16]) {
        self.expect(request(CLOSE, close(file, 0)), Status::SUCCESS);
    }

    /// SET_INFO of a class of file information.
    #[track_caller]
    pub fn set(&mut self, file: [u8; 16], class: u8, data: &[u8], status: Status) {
        self.expect(request(SET_INFO, set_info(file, 1, class, data)), status);
    }

    /// QUERY_INFO of a class of file information.
    #[track_caller]
    pub fn query(&mut self, file: [u8; 16], class: u8) -> Vec<u8> {
        let query = request(QUERY_INFO, query_info(file, 1, class, 4096));
        self.expect(query, Status::SUCCESS).body.split_off(8)
    }

    /// The output of an IOCTL that ends with `status`.
    #[track_caller]
    pub fn ioctl(&mut self, file: [u8; 16], code: u32, input: &[u8], status: Status) -> Vec<u8> {
        let ioctl = request(IOCTL, ioctl(code, file, input, 4096));
        let body = self.expect(ioctl, status).body;
        body.get(48..).map_or(Vec::new(), <[u8]>::to_vec)
    }

    #[track_caller]
    pub fn open(&mut self, name: &str) -> [u8; 16] {
        let create = create(name, READ_ACCESS, 1, 0);
        self.expect(request(CREATE, create), Status::SUCCESS)
            .file_id()
    }
}

/// Takes a reply frame apart, checking its framing and alignment.
#[track_caller]
pub fn responses(frame: &[u8]) -> Vec<Response> {
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
    assert_eq!(length, frame.len() - 4, "framing header");
    let mut rest = &frame[4..];
    let mut responses = Vec::new();
    loop {
        let u32_at = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().unwrap());
        assert_eq!(&rest[..6], b"\xFESMB\x40\0");
        assert_eq!(u32_at(16) & 1, 1, "SMB2_FLAGS_SERVER_TO_REDIR");
        let next = u32_at(20) as usize;
        assert_eq!(next % 8, 0, "alignment in a compound");
        let end = if next == 0 { rest.len() } else { next };
        responses.push(Response {
            command: u16::from_le_bytes([rest[12], rest[13]]),
            status: Status(u32_at(8)),
            credits: u16::from_le_bytes([rest[14], rest[15]]),
            flags: u32_at(16),
            message_id: u64_at(24),
            process_id: u32_at(32),
            tree_id: u32_at(36),
            session_id: u64_at(40),
            body: rest[64..end].to_vec(),
        });
        if next == 0 {
            return responses;
        }
        rest = &rest[next..];
    }
}

/// The token in a SESSION_SETUP response.
pub fn security_buffer(response: &Response) -> &[u8] {
    &response.body[8..]
}

/// The names in the output of a QUERY_DIRECTORY of class FileNames.
pub fn file_names(response: &Response) -> Vec<String> {
    let mut rest = &response.body[8..];
    let mut names = Vec::new();
    loop {
        let next = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        let units: Vec<u16> = rest[12..12 + length]
            .chunks(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .collect();
        names.push(String::from_utf16(&units).unwrap());
        if next == 0 {
            return names;
        }
        rest = &rest[next..];
    }
}
