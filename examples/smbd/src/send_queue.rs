//! Replies that wait for the socket to take them.
//!
//! What is in memory goes out many frames at a time. The part of a frame that is in a file is sent
//! by the kernel, without passing through here; what comes before it is held back for it
//! (`MSG_MORE`), so that both share packets. A file that the kernel can't send from is read.
//!
//! A file that is cut short before such a part has been sent leaves nothing to send. Whoever does what a
//! client has asked for later, and what may cut a file short, [loads](SendQueue::load) what waits first.
//! What else is written to the file meanwhile may be among what is sent, even when that has left the
//! queue: the kernel keeps references to the file's pages, not copies. To the client the two have happened
//! at the same time.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use smbd::outgoing::{CutShort, FilePart, Outgoing};

/// How many replies one system call sends at most.
const MAX_SLICES: usize = 64;

/// What a frame costs besides its bytes: its place in the queue, and a buffer larger than it.
const OVERHEAD: usize = 512;

/// What takes the bytes.
pub(crate) trait Sink {
    /// Takes some of the bytes, and returns how many. With `more`, others follow at once.
    fn send(&self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize>;

    /// Takes some of what is in a file, and returns how much; 0 at its end.
    ///
    /// [`ErrorKind::InvalidInput`] or [`ErrorKind::Unsupported`] if that can't be done with this file.
    fn send_file(&self, part: &FilePart) -> io::Result<usize>;
}

impl<T: AsFd> Sink for T {
    fn send(&self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        let mut flags = SendFlags::NOSIGNAL;
        flags.set(SendFlags::MORE, more);
        let sent = sendmsg(self, slices, &mut SendAncillaryBuffer::default(), flags)?;
        Ok(sent)
    }

    fn send_file(&self, part: &FilePart) -> io::Result<usize> {
        let mut offset = part.offset();
        match rustix::fs::sendfile(self, part.file(), Some(&mut offset), part.len()) {
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => Err(ErrorKind::Unsupported.into()),
            result => Ok(result?),
        }
    }
}

/// Whether the kernel can't send from that file.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidInput | ErrorKind::Unsupported
    )
}

/// Frames to be sent, in order.
///
/// Invariant: `sent` is less than the length of the first frame's bytes, or equal to it if a part in a
/// file follows; it is 0 without a frame. `length` is what remains of all.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    frames: VecDeque<Outgoing>,
    /// How much of the first frame's bytes is gone.
    sent: usize,
    length: usize,
    /// How many frames have a part in a file.
    in_files: usize,
}

impl SendQueue {
    /// Appends a frame.
    pub(crate) fn push(&mut self, frame: impl Into<Outgoing>) {
        let frame = frame.into();
        if frame.len() > 0 {
            self.length += frame.len();
            self.in_files += usize::from(frame.file().is_some());
            self.frames.push_back(frame);
        }
    }

    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// What they cost, in bytes: small ones cost more than their length.
    pub(crate) fn weight(&self) -> usize {
        self.length + self.frames.len() * OVERHEAD
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Reads what waits in files into memory, as they may be cut short now.
    ///
    /// # Errors
    ///
    /// A file had less than was promised, or can't be read. Nothing more can be sent.
    pub(crate) fn load(&mut self) -> io::Result<()> {
        if self.in_files > 0 {
            self.frames.iter_mut().try_for_each(Outgoing::load)?;
            self.in_files = 0;
        }
        Ok(())
    }

    /// Sends what a non-blocking socket takes, and returns how many bytes that was. If something is
    /// left the socket is full.
    ///
    /// # Errors
    ///
    /// The socket has failed, or a file as for [`load`](Self::load); nothing can be sent any more.
    pub(crate) fn send(&mut self, socket: &impl Sink) -> io::Result<usize> {
        let before = self.length;
        while let Some(first) = self.frames.front_mut() {
            let part = first.file().filter(|_| self.sent == first.bytes().len());
            let (wanted, result) = match part {
                Some(part) => match (part.len(), socket.send_file(part)) {
                    (_, Ok(0)) => return Err(io::Error::other(CutShort)),
                    (_, Err(e)) if is_refusal(&e) => {
                        first.load()?;
                        self.in_files -= 1;
                        continue;
                    }
                    result => result,
                },
                None => self.send_bytes(socket),
            };
            match result {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    self.advance(taken);
                    if taken < wanted {
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(before - self.length)
    }

    /// Sends from memory, up to the first part in a file. Returns what there was to send, too.
    fn send_bytes(&self, socket: &impl Sink) -> (usize, io::Result<usize>) {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut skip = self.sent;
        let mut count = 0;
        let mut wanted = 0;
        let mut more = false;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(&frame.bytes()[skip..]);
            wanted += slice.len();
            skip = 0;
            count += 1;
            more = frame.file().is_some();
            if more {
                break;
            }
        }
        (wanted, socket.send(&slices[..count], more))
    }

    fn advance(&mut self, mut taken: usize) {
        self.length -= taken;
        while let Some(first) = self.frames.front_mut() {
            let in_memory = taken.min(first.bytes().len() - self.sent);
            self.sent += in_memory;
            taken -= in_memory;
            if self.sent < first.bytes().len() {
                break;
            }
            if let Some(part) = first.file() {
                let in_file = taken.min(part.len());
                first.skip_in_file(in_file);
                taken -= in_file;
                if first.file().is_some() {
                    break;
                }
                self.in_files -= 1;
            }
            self.sent = 0;
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::os::fd::OwnedFd;
    use std::rc::Rc;

    use smbd::outgoing::Buffers;

    use super::*;

    /// Takes as much as the next number says; 0 means that it would block.
    #[derive(Default)]
    struct Reluctant {
        takes: RefCell<Vec<usize>>,
        taken: RefCell<Vec<u8>>,
        /// Files are no good.
        refuses_files: Cell<bool>,
        from_files: Cell<usize>,
    }

    impl Reluctant {
        fn take(&self, bytes: impl Iterator<Item = u8>) -> io::Result<usize> {
            let limit = match self.takes.borrow_mut().pop() {
                None | Some(0) => return Err(ErrorKind::WouldBlock.into()),
                Some(limit) => limit,
            };
            let mut taken = self.taken.borrow_mut();
            let before = taken.len();
            taken.extend(bytes.take(limit));
            Ok(taken.len() - before)
        }
    }

    impl Sink for Reluctant {
        fn send(&self, slices: &[IoSlice<'_>], _more: bool) -> io::Result<usize> {
            self.take(slices.iter().flat_map(|slice| slice.iter().copied()))
        }

        fn send_file(&self, part: &FilePart) -> io::Result<usize> {
            if self.refuses_files.get() {
                return Err(ErrorKind::InvalidInput.into());
            }
            let mut bytes = Vec::new();
            part.read(&mut bytes)?;
            let count = self.take(bytes.into_iter())?;
            self.from_files.set(self.from_files.get() + count);
            Ok(count)
        }
    }

    /// A file without a name, with `contents`.
    fn file(contents: &[u8]) -> Rc<OwnedFd> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let fd = rustix::fs::memfd_create("contents", flags).unwrap();
        assert_eq!(rustix::io::pwrite(&fd, contents, 0), Ok(contents.len()));
        Rc::new(fd)
    }

    const CONTENTS: [u8; 300] = [0xF1; 300];

    /// 200 frames, those whose number `is_in_file` accepts with a part in a file, and all that is in them.
    fn frames(is_in_file: fn(u8) -> bool) -> (Vec<Outgoing>, Vec<u8>) {
        let file = file(&CONTENTS);
        let mut whole = Vec::new();
        let frames = (0..200u8).map(|n| {
            let bytes = vec![n; usize::from(n % 7)];
            whole.extend(&bytes);
            let part = is_in_file(n).then(|| {
                let length = usize::from(n) % 30;
                whole.extend(&CONTENTS[..length]);
                FilePart::new(Rc::clone(&file), n.into(), length)
            });
            Outgoing::new(bytes, part, Buffers::default())
        });
        let frames = frames.collect();
        (frames, whole)
    }

    #[test]
    fn frames_are_sent_in_order_however_little_the_socket_takes() {
        for is_in_file in [|_| false, |n| n % 3 == 0, |_| true] {
            for step in [1, 2, 3, 5, 17, 10_000] {
                for refuses_files in [false, true] {
                    let (frames, whole) = frames(is_in_file);
                    let mut queue = SendQueue::default();
                    frames.into_iter().for_each(|frame| queue.push(frame));
                    assert_eq!(queue.len(), whole.len());
                    let socket = Reluctant::default();
                    socket.refuses_files.set(refuses_files);
                    while !queue.is_empty() {
                        socket.takes.replace(vec![0, step, step]);
                        let before = queue.len();
                        let sent = queue.send(&socket).unwrap();
                        assert_eq!(queue.len(), before - sent);
                        assert!(sent > 0);
                    }
                    assert!(*socket.taken.borrow() == whole, "step {step}");
                    assert_eq!(queue.in_files, 0);
                    assert_eq!(socket.from_files.get() > 0, is_in_file(3) && !refuses_files);
                }
            }
        }
    }

    #[test]
    fn what_has_been_loaded_is_what_was_there() {
        for sent in [0, 3, 4, 10, 103, 104, 110] {
            let file = file(&CONTENTS);
            let mut queue = SendQueue::default();
            for byte in [1, 2] {
                let part = FilePart::new(Rc::clone(&file), 0, 100);
                queue.push(Outgoing::new(vec![byte; 4], Some(part), Buffers::default()));
            }
            let socket = Reluctant::default();
            for _ in 0..sent {
                socket.takes.replace(vec![0, 1]);
                assert_eq!(queue.send(&socket).unwrap(), 1);
            }
            queue.load().unwrap();
            rustix::fs::ftruncate(&file, 0).unwrap();
            socket.takes.replace(vec![1000; 5]);
            assert_eq!(queue.send(&socket).unwrap(), 208 - sent);
            assert!(queue.is_empty());
            let frame = |byte| [&[byte; 4][..], &CONTENTS[..100]].concat();
            assert!(*socket.taken.borrow() == [frame(1), frame(2)].concat());
        }
    }

    #[test]
    fn a_file_that_was_cut_short_ends_it() {
        for loads in [false, true] {
            let file = file(&CONTENTS);
            let mut queue = SendQueue::default();
            let part = FilePart::new(Rc::clone(&file), 0, 100);
            queue.push(Outgoing::new(vec![1; 4], Some(part), Buffers::default()));
            let socket = Reluctant::default();
            socket.takes.replace(vec![0, 20, 4]);
            assert_eq!(queue.send(&socket).unwrap(), 24);
            rustix::fs::ftruncate(&file, 50).unwrap();
            socket.takes.replace(vec![1000; 5]);
            let result = match loads {
                true => queue.load(),
                // What there is left goes out first.
                false => queue
                    .send(&socket)
                    .and_then(|_| queue.send(&socket))
                    .map(drop),
            };
            assert!(result.unwrap_err().to_string().contains("cut short"));
        }
    }
}
