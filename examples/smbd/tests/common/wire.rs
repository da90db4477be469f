//! The client's end of a TCP connection.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net::{self, AddressFamily, SocketType, sockopt};
use smbd::transport::{FRAME_HEADER_LEN, finish_frame, start_frame};

use super::client::Transport;
use super::process::PATIENCE;

pub struct Wire {
    pub stream: TcpStream,
    /// The same socket.
    reader: BufReader<TcpStream>,
}

/// A message with its framing header.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = start_frame(Vec::new());
    frame.extend(message);
    finish_frame(&mut frame);
    frame
}

impl Wire {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Wire {
        Wire::over(TcpStream::connect(address).expect("can't connect"))
    }

    /// The same from another address of this machine.
    #[track_caller]
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> Wire {
        let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        net::bind(&socket, &SocketAddr::new(source, 0)).expect("no such address");
        net::connect(&socket, &address).expect("can't connect");
        Wire::over(TcpStream::from(socket))
    }

    fn over(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Wire { stream, reader }
    }

    /// Sends bytes as they are. That the server has closed the connection is left to be noticed
    /// by reading.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(e) if !is_closed(&e) => panic!("sending: {e}"),
            _ => {}
        }
    }

    /// The next reply with its framing header; `None` when the server has closed the connection.
    ///
    /// # Errors
    ///
    /// The connection breaks in the middle of a reply, or nothing comes for long.
    pub fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; FRAME_HEADER_LEN];
        // With a time limit a signal that another test takes interrupts this too.
        let first = loop {
            match self.reader.read(&mut frame[..1]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match first {
            Ok(0) => return Ok(None),
            Err(e) if is_closed(&e) => return Ok(None),
            other => other?,
        };
        self.reader.read_exact(&mut frame[1..])?;
        let length = u32::from_be_bytes(frame[..].try_into().unwrap()) as usize;
        frame.resize(FRAME_HEADER_LEN + length, 0);
        self.reader.read_exact(&mut frame[FRAME_HEADER_LEN..])?;
        Ok(Some(frame))
    }

    /// Waits for the server to close the connection, without another reply.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let reply = self.receive().expect("the connection isn't closed");
        assert_eq!(reply.map(|reply| reply.len()), None, "a reply");
    }

    /// Ends the client's direction only.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes the connection by a reset.
    pub fn reset(self) {
        sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

impl Transport for Wire {
    type Error = io::Error;

    fn process(&mut self, message: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.send(&frame(message));
        match self.receive()? {
            None => Err(ErrorKind::UnexpectedEof.into()),
            reply => Ok(reply),
        }
    }
}
