//! Enumerating a directory ([MS-FSA] 2.1.5.6.3, [MS-FSCC] 2.4).
//!
//! Entries are read from the kernel as they are sent, so a directory of any
//! size costs one buffer. `.` and `..` come first, as clients are used to.

use rustix::fs::Dir;
use rustix::io::Errno;

use super::metadata::Metadata;
use super::wildcard::Pattern;
use super::{Node, Share, join, names};
use crate::wire::status::Status;
use crate::wire::{Put, text};

/// The information classes of QUERY_DIRECTORY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the specification's
pub enum EntryClass {
    FileDirectory,
    FileFullDirectory,
    FileIdFullDirectory,
    FileBothDirectory,
    FileIdBothDirectory,
    FileNames,
}

impl EntryClass {
    /// The class of a number, `None` for others.
    pub fn from_number(number: u8) -> Option<EntryClass> {
        Some(match number {
            1 => EntryClass::FileDirectory,
            2 => EntryClass::FileFullDirectory,
            3 => EntryClass::FileBothDirectory,
            12 => EntryClass::FileNames,
            37 => EntryClass::FileIdBothDirectory,
            38 => EntryClass::FileIdFullDirectory,
            _ => return None,
        })
    }

    /// Bytes of an entry before its name.
    pub fn fixed_len(self) -> usize {
        match self {
            EntryClass::FileDirectory => 64,
            EntryClass::FileFullDirectory => 68,
            EntryClass::FileIdFullDirectory => 80,
            EntryClass::FileBothDirectory => 94,
            EntryClass::FileIdBothDirectory => 104,
            EntryClass::FileNames => 12,
        }
    }

    /// Appends an entry with a zero NextEntryOffset.
    fn put(self, out: &mut Vec<u8>, entry: &Entry) {
        let attributes = entry.metadata.attributes(&entry.name);
        let name = text::to_utf16le(&names::to_wire(&entry.name));
        out.put_u32(0); // NextEntryOffset
        out.put_u32(0); // FileIndex
        if self == EntryClass::FileNames {
            out.put_u32(name.len() as u32);
            out.put_bytes(&name);
            return;
        }
        attributes.put_times(out);
        out.put_u64(attributes.end_of_file);
        out.put_u64(attributes.allocation_size);
        out.put_u32(attributes.file_attributes);
        out.put_u32(name.len() as u32);
        if self != EntryClass::FileDirectory {
            out.put_u32(0); // EaSize
        }
        if let EntryClass::FileBothDirectory | EntryClass::FileIdBothDirectory = self {
            out.put_zeros(1 + 1 + 24); // ShortNameLength, Reserved1, ShortName: there are none
        }
        match self {
            EntryClass::FileIdFullDirectory => {
                out.put_u32(0);
                out.put_u64(entry.metadata.inode);
            }
            EntryClass::FileIdBothDirectory => {
                out.put_u16(0);
                out.put_u64(entry.metadata.inode);
            }
            _ => {}
        }
        out.put_bytes(&name);
    }
}

#[derive(Debug)]
struct Entry {
    name: Vec<u8>,
    metadata: Metadata,
}

/// Which of the entries that are not in the stream comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dots {
    Itself,
    Parent,
    Done,
}

/// An enumeration under way.
#[derive(Debug)]
pub struct Enumeration {
    stream: Dir,
    pattern: Pattern,
    dots: Dots,
    /// Read, but did not fit into the last response.
    pending: Option<Entry>,
    /// Whether anything has matched yet; decides between the two ways of
    /// saying that there is nothing (more).
    matched: bool,
}

impl Enumeration {
    /// Begins an enumeration of `node`, a directory opened for its data.
    ///
    /// # Errors
    ///
    /// What the file system refuses.
    pub fn new(node: &Node, pattern: Pattern) -> Result<Enumeration, Status> {
        Ok(Enumeration {
            stream: Dir::read_from(&node.fd).map_err(Status::from_errno)?,
            pattern,
            dots: Dots::Itself,
            pending: None,
            matched: false,
        })
    }

    /// Begins again, with another pattern if one is given.
    pub fn restart(&mut self, pattern: Option<Pattern>) {
        self.stream.rewind();
        self.dots = Dots::Itself;
        self.pending = None;
        self.matched = false;
        if let Some(pattern) = pattern {
            self.pattern = pattern;
        }
    }

    /// Appends entries to `out`, at most `room` bytes, or one entry if `single`.
    ///
    /// # Errors
    ///
    /// `STATUS_NO_SUCH_FILE` when nothing matches at all,
    /// `STATUS_NO_MORE_FILES` when all has been told,
    /// `STATUS_INFO_LENGTH_MISMATCH` when no entry whatever fits, and
    /// `STATUS_BUFFER_OVERFLOW` when the next one does not (it stays the next).
    pub fn fill(
        &mut self,
        share: &Share,
        node: &Node,
        class: EntryClass,
        single: bool,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        if room < class.fixed_len() {
            return Err(Status::INFO_LENGTH_MISMATCH);
        }
        let start = out.len();
        let mut last = None;
        loop {
            let entry = match self.next(share, node) {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                // What has been gathered is told first; the error comes again.
                Err(_) if last.is_some() => break,
                Err(errno) => return Err(Status::from_errno(errno)),
            };
            let before = out.len();
            out.align(start, 8);
            let at = out.len();
            class.put(out, &entry);
            if out.len() - start > room {
                out.truncate(before);
                self.pending = Some(entry);
                match last {
                    Some(_) => break,
                    None => return Err(Status::BUFFER_OVERFLOW),
                }
            }
            self.matched = true;
            if let Some(last) = last {
                out.patch_u32(last, (at - last) as u32);
            }
            last = Some(at);
            if single {
                break;
            }
        }
        match last {
            Some(_) => Ok(()),
            None if self.matched => Err(Status::NO_MORE_FILES),
            None => Err(Status::NO_SUCH_FILE),
        }
    }

    fn next(&mut self, share: &Share, node: &Node) -> Result<Option<Entry>, Errno> {
        if let Some(entry) = self.pending.take() {
            return Ok(Some(entry));
        }
        loop {
            let entry = match self.dots {
                Dots::Itself => {
                    self.dots = Dots::Parent;
                    Some(Entry {
                        name: b".".to_vec(),
                        metadata: Metadata::of(&node.fd)?,
                    })
                }
                Dots::Parent => {
                    self.dots = Dots::Done;
                    // The share's root is its own parent.
                    let slash = node.path.iter().rposition(|&byte| byte == b'/');
                    Some(Entry {
                        name: b"..".to_vec(),
                        metadata: share.metadata(&node.path[..slash.unwrap_or(0)])?,
                    })
                }
                Dots::Done => match self.stream.read() {
                    None => return Ok(None),
                    Some(found) => self.entry(share, node, &found?),
                },
            };
            if let Some(entry) = entry
                && self.pattern.matches(&names::to_wire(&entry.name))
            {
                return Ok(Some(entry));
            }
        }
    }

    /// The entry for what the kernel told, `None` for what is not shown.
    fn entry(&self, share: &Share, node: &Node, found: &rustix::fs::DirEntry) -> Option<Entry> {
        let name = found.file_name();
        if name == c"." || name == c".." {
            return None;
        }
        let metadata = match Metadata::at(&node.fd, name) {
            Ok(Some(metadata)) => metadata,
            // A link is shown as what it leads to; if that is nothing a client
            // could open, it is not shown. Nor is what has vanished meanwhile.
            Ok(None) => share.metadata(&join(&node.path, name.to_bytes())).ok()?,
            Err(_) => return None,
        };
        Some(Entry {
            name: name.to_bytes().to_vec(),
            metadata,
        })
    }
}
