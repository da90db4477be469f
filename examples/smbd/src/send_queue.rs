//! Replies that wait for the socket to take them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};

/// How many replies one system call sends at most.
const MAX_SLICES: usize = 64;

/// Frames to be sent, in order.
///
/// Invariant: `sent` is less than the length of the first frame, and 0 without one; `length` is
/// what remains of all.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    frames: VecDeque<Vec<u8>>,
    /// How much of the first frame is gone.
    sent: usize,
    length: usize,
}

impl SendQueue {
    /// Appends a frame.
    pub(crate) fn push(&mut self, frame: Vec<u8>) {
        if !frame.is_empty() {
            self.length += frame.len();
            self.frames.push_back(frame);
        }
    }

    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Sends what a non-blocking `socket` takes, and returns how many bytes that was.
    ///
    /// # Errors
    ///
    /// The socket has failed; it takes nothing any more.
    pub(crate) fn send(&mut self, mut socket: impl Write) -> io::Result<usize> {
        let before = self.length;
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut skip = self.sent;
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                *slice = IoSlice::new(&frame[skip..]);
                skip = 0;
                count += 1;
            }
            match socket.write_vectored(&slices[..count]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => self.advance(taken),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(before - self.length)
    }

    fn advance(&mut self, taken: usize) {
        self.length -= taken;
        self.sent += taken;
        while let Some(first) = self.frames.front() {
            if self.sent < first.len() {
                break;
            }
            self.sent -= first.len();
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as much as the next number says; 0 means that it would block.
    struct Reluctant {
        takes: Vec<usize>,
        taken: Vec<u8>,
    }

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let limit = match self.takes.pop() {
                None | Some(0) => return Err(ErrorKind::WouldBlock.into()),
                Some(limit) => limit,
            };
            let bytes = slices.iter().flat_map(|slice| slice.iter().copied());
            let before = self.taken.len();
            self.taken.extend(bytes.take(limit));
            Ok(self.taken.len() - before)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn frames_are_sent_in_order_however_little_the_socket_takes() {
        let frames: Vec<Vec<u8>> = (0..200u8).map(|n| vec![n; usize::from(n % 7)]).collect();
        let whole = frames.concat();
        for step in [1, 2, 3, 5, 17, 10_000] {
            let mut queue = SendQueue::default();
            frames.iter().for_each(|frame| queue.push(frame.clone()));
            assert_eq!(queue.len(), whole.len());
            let mut socket = Reluctant {
                takes: Vec::new(),
                taken: Vec::new(),
            };
            while !queue.is_empty() {
                socket.takes = vec![0, step, step];
                let before = queue.len();
                let sent = queue.send(&mut socket).unwrap();
                assert_eq!(queue.len(), before - sent);
                assert!(sent > 0);
            }
            assert!(socket.taken == whole, "step {step}");
        }
    }
}
