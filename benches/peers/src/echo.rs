//! An echo server over loopback TCP, which is a process of its own, and the clients that keep it busy,
//! which are another. What counts is the server's CPU time for a request, the kernel's share
//! included: how long a request takes is the clients' and the scheduler's doing as well.
//!
//! Each connection has one request of 64 bytes on its way at any time.

use crate::contestants::bare::Epoll;
use crate::run::{Measured, Outcome};
use std::env;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::process::{Child, ChildStdout, Command, Stdio};

const REQUEST: [u8; 64] = [b'?'; 64];

/// The server's side: tells the clients where it is and accepts so many of them.
pub fn accept(connections: usize) -> Vec<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("a bound socket").port();
    println!("port {port}");
    let accept = |_| {
        let (client, _) = listener.accept().expect("a client");
        client.set_nonblocking(true).expect("non-blocking");
        client.set_nodelay(true).expect("no delay");
        client
    };
    (0..connections).map(accept).collect()
}

/// Sends back what has come. False: the client has gone.
#[inline(always)]
pub fn answer(fd: RawFd) -> bool {
    let mut buffer = [0u8; 4096];
    // SAFETY: the buffer is as long as it is said to be, and what is written was read into it.
    unsafe {
        let count = libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len());
        if count <= 0 {
            return false;
        }
        // As little as this always fits.
        let written = libc::write(fd, buffer.as_ptr().cast(), count as usize);
        assert_eq!(written, count, "the answer was sent");
    }
    true
}

/// Has a server answer so many requests in all, on so many connections.
pub fn measure(
    workload: &str,
    contestant: &str,
    connections: usize,
    requests: u64,
    patience: u32,
) -> Result<Measured<Outcome>, String> {
    let mut server = Server::start(workload, contestant, requests, patience)?;
    let line = server.line()?;
    if let Some(reason) = line.strip_prefix("absent: ") {
        return Ok(Err(reason.to_owned()));
    }
    let port = line
        .strip_prefix("port ")
        .and_then(|port| port.parse().ok());
    let port = port.ok_or_else(|| format!("the server has no port: {line:?}"))?;
    let clients = connect(port, connections).map_err(|error| format!("no connection: {error}"))?;
    let line = server.line()?;
    if line != "ready" {
        return Err(format!("the server isn't ready: {line:?}"));
    }
    keep_busy(&clients, requests).map_err(|error| format!("the clients have failed: {error}"))?;
    drop(clients);
    let line = server.line()?;
    let outcome =
        Outcome::parse(&line).ok_or_else(|| format!("the server has failed: {line:?}"))?;
    Ok(Ok(outcome))
}

/// The server's process, ended with this.
struct Server {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Server {
    fn start(
        workload: &str,
        contestant: &str,
        requests: u64,
        patience: u32,
    ) -> Result<Server, String> {
        let program = env::current_exe().map_err(|error| format!("who am I? {error}"))?;
        let (requests, patience) = (requests.to_string(), patience.to_string());
        let mut process = Command::new(program)
            .args(["run", workload, contestant, &requests, &patience])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the server can't be started: {error}"))?;
        let output = process.stdout.take().ok_or("the server has no output")?;
        Ok(Server {
            process,
            lines: BufReader::new(output),
        })
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => Err("the server has ended".to_owned()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => Err(format!("the server can't be heard: {error}")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended by itself, unless something has failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn connect(port: u16, connections: usize) -> io::Result<Vec<TcpStream>> {
    let connect = |_| {
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        client.set_nonblocking(true)?;
        client.set_nodelay(true)?;
        Ok(client)
    };
    (0..connections).map(connect).collect()
}

/// Sends on every connection, and again on each that was answered, until so many were.
fn keep_busy(clients: &[TcpStream], requests: u64) -> io::Result<()> {
    let mut epoll = Epoll::new();
    for (number, client) in clients.iter().enumerate() {
        epoll.add(client.as_raw_fd(), number as u64, libc::EPOLLIN as u32);
    }
    let mut unsent = requests;
    let mut unanswered = 0;
    for mut client in clients.iter().take(requests as usize) {
        client.write_all(&REQUEST)?;
        unsent -= 1;
        unanswered += 1;
    }
    let mut buffer = [0; 2 * REQUEST.len()];
    while unanswered > 0 {
        for event in epoll.wait() {
            let mut client = &clients[event.u64 as usize];
            let count = client.read(&mut buffer)?;
            if buffer[..count] != REQUEST {
                return Err(io::Error::new(ErrorKind::InvalidData, "not what was sent"));
            }
            unanswered -= 1;
            if unsent > 0 {
                client.write_all(&REQUEST)?;
                unsent -= 1;
                unanswered += 1;
            }
        }
    }
    Ok(())
}
