//! Frames on their way out, and the buffers they are built in.
//!
//! An [`Outgoing`] is a complete frame. The end of it may still be in a file: the data of a READ that
//! nobody has to sign or encrypt. Whoever sends it lets the kernel move that from the file to the
//! socket, or [loads](Outgoing::load) it. The frame's length has been announced by then, so a file
//! that is cut short meanwhile leaves nothing that could be sent: [`CutShort`].
//!
//! [`Buffers`] keeps what has been sent for the frames to come. Small replies share a few small
//! buffers. A large one gets a buffer of its size, exactly if there is none yet, so that
//! those who read in pieces of one size read into the same buffers again and again, and into
//! memory that nobody has to clear. [`Buffers::release`] gives the large ones back when a connection
//! falls silent.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// What a small buffer begins with; a typical reply has less than 300 bytes.
const INITIAL_LEN: usize = 512;
/// A buffer of more than this is large.
const SMALL: usize = 32 * 1024;
/// How many small buffers are kept.
const SMALL_KEPT: usize = 8;
/// How many large buffers are kept: one is sent while the next one is filled.
const LARGE_KEPT: usize = 2;

/// Buffers that wait for their next use. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Rc<RefCell<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    small: Vec<Vec<u8>>,
    /// The first is the one that was used last.
    large: VecDeque<Vec<u8>>,
}

impl Buffers {
    /// An empty buffer with room for `length` bytes, and not for much more.
    pub fn take(&self, length: usize) -> Vec<u8> {
        let mut kept = self.0.borrow_mut();
        if length <= SMALL {
            let mut buffer = kept.small.pop().unwrap_or_default();
            buffer.reserve(length.max(INITIAL_LEN));
            return buffer;
        }
        let fits = |buffer: &Vec<u8>| (length..=length + length / 16).contains(&buffer.capacity());
        match kept.large.iter().position(fits) {
            Some(at) => kept.large.remove(at).unwrap_or_default(),
            None => Vec::with_capacity(length),
        }
    }

    /// Takes a buffer back.
    pub fn put(&self, mut buffer: Vec<u8>) {
        let mut kept = self.0.borrow_mut();
        buffer.clear();
        match buffer.capacity() {
            0 => {}
            1..=SMALL if kept.small.len() < SMALL_KEPT => kept.small.push(buffer),
            1..=SMALL => {}
            _ => {
                kept.large.truncate(LARGE_KEPT - 1);
                kept.large.push_front(buffer);
            }
        }
    }

    /// Whether a large buffer is kept.
    pub fn is_large(&self) -> bool {
        !self.0.borrow().large.is_empty()
    }

    /// Gives the large buffers back to the system.
    pub fn release(&self) {
        self.0.borrow_mut().large = VecDeque::new();
    }
}

/// A file had less data than it had when a reply about it was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutShort;

impl std::fmt::Display for CutShort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a file was cut short while it was being sent")
    }
}

impl std::error::Error for CutShort {}

/// Bytes of a file.
#[derive(Debug)]
pub struct FilePart {
    file: Rc<OwnedFd>,
    offset: u64,
    length: usize,
}

impl FilePart {
    /// The `length` bytes at `offset`.
    pub fn new(file: Rc<OwnedFd>, offset: u64, length: usize) -> FilePart {
        FilePart {
            file,
            offset,
            length,
        }
    }

    /// The file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where in the file they begin.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many they are.
    #[allow(clippy::len_without_is_empty)] // there is none that is empty
    pub fn len(&self) -> usize {
        self.length
    }

    /// Appends the bytes to `out`, and returns how many there were.
    ///
    /// # Errors
    ///
    /// What reading fails with.
    pub fn read(&self, out: &mut Vec<u8>) -> Result<usize, Errno> {
        read_at(self.file.as_fd(), self.offset, self.length, out)
    }
}

/// Appends the `length` bytes of `file` at `offset` to `out`, and returns how many there were.
///
/// # Errors
///
/// What reading fails with.
pub fn read_at(
    file: BorrowedFd<'_>,
    offset: u64,
    length: usize,
    out: &mut Vec<u8>,
) -> Result<usize, Errno> {
    let start = out.len();
    let end = start + length;
    out.reserve_exact(length);
    // Where the capacity is about what is wanted the memory need not be cleared first; the little
    // that may be read beyond it is cut off. Else only what is wanted may be read.
    let is_exact = out.capacity() - end <= length / 16;
    if !is_exact {
        out.resize(end, 0);
    }
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        let read = if is_exact {
            rustix::io::pread(file, spare_capacity(out), at)
        } else {
            rustix::io::pread(file, &mut out[start + done..end], at)
        };
        match read {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => {
                out.truncate(start);
                return Err(errno);
            }
        }
    }
    let count = done.min(length);
    out.truncate(start + count);
    Ok(count)
}

/// A frame to be sent.
#[derive(Debug)]
pub struct Outgoing {
    bytes: Vec<u8>,
    /// What follows them.
    file: Option<FilePart>,
    /// Who gets them when they have been sent.
    buffers: Option<Buffers>,
}

impl From<Vec<u8>> for Outgoing {
    fn from(bytes: Vec<u8>) -> Outgoing {
        Outgoing {
            bytes,
            file: None,
            buffers: None,
        }
    }
}

impl Outgoing {
    /// A frame of `bytes`, which `buffers` get when it is dropped, and then those of `file`.
    pub fn new(bytes: Vec<u8>, file: Option<FilePart>, buffers: Buffers) -> Outgoing {
        Outgoing {
            bytes,
            file: file.filter(|file| file.length > 0),
            buffers: Some(buffers),
        }
    }

    /// How much is left to be sent, the part in a file included.
    #[allow(clippy::len_without_is_empty)] // there is none that is empty
    pub fn len(&self) -> usize {
        self.bytes.len() + self.file.as_ref().map_or(0, FilePart::len)
    }

    /// The part that is not in a file; it comes first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The part that is.
    pub fn file(&self) -> Option<&FilePart> {
        self.file.as_ref()
    }

    /// Notes that the first `count` bytes of the part in a file are not needed any more.
    pub fn skip_in_file(&mut self, count: usize) {
        if let Some(file) = &mut self.file {
            file.offset += count as u64;
            file.length -= count.min(file.length);
        }
        self.file.take_if(|file| file.length == 0);
    }

    /// Reads what is in a file into memory.
    ///
    /// # Errors
    ///
    /// [`CutShort`], and what reading fails with. The frame is of no use then.
    pub fn load(&mut self) -> std::io::Result<()> {
        if let Some(file) = self.file.take()
            && file.read(&mut self.bytes)? < file.length
        {
            return Err(std::io::Error::other(CutShort));
        }
        Ok(())
    }

    /// The whole frame.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn into_bytes(mut self) -> std::io::Result<Vec<u8>> {
        self.load()?;
        Ok(std::mem::take(&mut self.bytes))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(buffers) = &self.buffers {
            buffers.put(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again() {
        let buffers = Buffers::default();
        for length in [100, 1 << 20] {
            let first = buffers.take(length);
            let address = first.as_ptr();
            buffers.put(first);
            let again = buffers.take(length);
            assert_eq!(again.as_ptr(), address);
            assert!(again.is_empty() && again.capacity() >= length);
        }
    }

    #[test]
    fn few_are_kept() {
        let buffers = Buffers::default();
        let taken: Vec<_> = (0..100).map(|n| buffers.take(n * SMALL / 50)).collect();
        taken.into_iter().for_each(|buffer| buffers.put(buffer));
        let kept = buffers.0.borrow();
        assert_eq!(kept.small.len(), SMALL_KEPT);
        assert_eq!(kept.large.len(), LARGE_KEPT);
        drop(kept);
        assert!(buffers.is_large());
        buffers.release();
        assert!(!buffers.is_large());
    }

    #[test]
    fn a_large_buffer_is_not_used_for_much_less() {
        let buffers = Buffers::default();
        buffers.put(Vec::with_capacity(8 << 20));
        assert!(buffers.take(1 << 20).capacity() < 2 << 20);
        assert!(buffers.is_large());
    }

    #[test]
    fn no_more_than_wanted_is_read() {
        let path = std::env::temp_dir().join(format!("smbd-outgoing-{}", std::process::id()));
        std::fs::write(&path, [7; 1000]).unwrap();
        let file = Rc::new(OwnedFd::from(std::fs::File::open(&path).unwrap()));
        std::fs::remove_file(&path).unwrap();
        for capacity in [0, 10, 100, 101, 5000] {
            let mut out = Vec::with_capacity(capacity);
            out.push(1);
            let part = FilePart::new(Rc::clone(&file), 900, 90);
            assert_eq!(part.read(&mut out), Ok(90));
            assert_eq!(out, [&[1][..], &[7; 90]].concat());
            let part = FilePart::new(Rc::clone(&file), 900, 150);
            assert_eq!(part.read(&mut out), Ok(100));
            assert_eq!(out.len(), 191);
        }
        let part = FilePart::new(file, 900, 150);
        let mut frame = Outgoing::new(vec![1], Some(part), Buffers::default());
        assert_eq!(frame.len(), 151);
        frame.skip_in_file(60);
        let error = frame.load().unwrap_err();
        assert!(error.to_string().contains("cut short"));
    }
}
