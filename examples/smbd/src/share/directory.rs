//! Enumerating a directory ([MS-FSA] 2.1.5.6.3, [MS-FSCC] 2.4).
//!
//! Entries are read from the kernel as they are sent, so a directory of any
//! size costs one buffer. `.` and `..` come first, as clients are used to.

use std::ffi::CStr;

use rustix::fs::Dir;
use rustix::io::Errno;

use super::metadata::Metadata;
use super::wildcard::Pattern;
use super::{Node, Share, join, names, short_names};
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
    FileIdExtdDirectory,
    FileIdExtdBothDirectory,
    FileId64ExtdDirectory,
    FileId64ExtdBothDirectory,
    FileIdAllExtdDirectory,
    FileIdAllExtdBothDirectory,
}

/// What stands in an entry between EaSize and the name.
#[derive(Debug, Clone, Copy, Default)]
struct Parts {
    /// ReparsePointTag
    reparse_tag: bool,
    /// FileId of 64 bits, behind so many that are reserved.
    id: Option<usize>,
    /// FileId of 128 bits
    long_id: bool,
    /// ShortNameLength, Reserved1, ShortName
    short_name: bool,
}

/// Bytes of a short name in an entry, with its length.
const SHORT_NAME: usize = 1 + 1 + 24;

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
            60 => EntryClass::FileIdExtdDirectory,
            63 => EntryClass::FileIdExtdBothDirectory,
            78 => EntryClass::FileId64ExtdDirectory,
            79 => EntryClass::FileId64ExtdBothDirectory,
            80 => EntryClass::FileIdAllExtdDirectory,
            81 => EntryClass::FileIdAllExtdBothDirectory,
            _ => return None,
        })
    }

    fn parts(self) -> Parts {
        let mut parts = Parts::default();
        match self {
            EntryClass::FileNames
            | EntryClass::FileDirectory
            | EntryClass::FileFullDirectory
            | EntryClass::FileBothDirectory => {}
            EntryClass::FileIdFullDirectory => parts.id = Some(4),
            EntryClass::FileIdBothDirectory => parts.id = Some(2),
            EntryClass::FileIdExtdDirectory | EntryClass::FileIdExtdBothDirectory => {
                parts.reparse_tag = true;
                parts.long_id = true;
            }
            EntryClass::FileId64ExtdDirectory | EntryClass::FileId64ExtdBothDirectory => {
                parts.reparse_tag = true;
                parts.id = Some(0);
            }
            EntryClass::FileIdAllExtdDirectory | EntryClass::FileIdAllExtdBothDirectory => {
                parts.reparse_tag = true;
                parts.id = Some(0);
                parts.long_id = true;
            }
        }
        parts.short_name = matches!(
            self,
            EntryClass::FileBothDirectory
                | EntryClass::FileIdBothDirectory
                | EntryClass::FileIdExtdBothDirectory
                | EntryClass::FileId64ExtdBothDirectory
                | EntryClass::FileIdAllExtdBothDirectory
        );
        parts
    }

    /// Bytes of an entry before its name.
    pub fn fixed_len(self) -> usize {
        match self {
            EntryClass::FileNames => 12,
            EntryClass::FileDirectory => 64,
            _ => {
                let parts = self.parts();
                let ids = parts.id.map_or(0, |reserved| reserved + 8)
                    + if parts.long_id { 16 } else { 0 };
                let tag = if parts.reparse_tag { 4 } else { 0 };
                let short_name = if parts.short_name { SHORT_NAME } else { 0 };
                68 + tag + ids + short_name
            }
        }
    }

    /// Appends an entry with a zero NextEntryOffset.
    fn put(self, out: &mut Vec<u8>, entry: &Entry) {
        let attributes = entry.metadata.attributes(&entry.name);
        let wire_name = names::to_wire(&entry.name);
        let name = text::to_utf16le(&wire_name);
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
        let parts = self.parts();
        if self != EntryClass::FileDirectory {
            out.put_u32(0); // EaSize
        }
        if parts.reparse_tag {
            out.put_u32(0);
        }
        // The two old classes have it before the id.
        if parts.short_name && !parts.reparse_tag {
            put_short_name(out, &wire_name);
        }
        if let Some(reserved) = parts.id {
            out.put_zeros(reserved);
            out.put_u64(entry.metadata.inode);
        }
        if parts.long_id {
            out.put_u64(entry.metadata.inode);
            out.put_u64(0);
        }
        if parts.short_name && parts.reparse_tag {
            put_short_name(out, &wire_name);
        }
        out.put_bytes(&name);
    }
}

/// ShortNameLength, Reserved1 and ShortName: of a name that is short itself, none.
fn put_short_name(out: &mut Vec<u8>, name: &str) {
    let short = match name {
        "." | ".." => Vec::new(),
        name if short_names::is_short(name) => Vec::new(),
        name => text::to_utf16le(&short_names::short_name(name)),
    };
    out.put_u8(short.len() as u8);
    out.put_u8(0);
    out.put_bytes(&short);
    out.put_zeros(SHORT_NAME - 2 - short.len());
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
            // What doesn't match need not be looked at.
            match self.dots {
                Dots::Itself => {
                    self.dots = Dots::Parent;
                    if self.pattern.finds(".") {
                        return Ok(Some(Entry {
                            name: b".".to_vec(),
                            metadata: Metadata::of(&node.fd)?,
                        }));
                    }
                }
                Dots::Parent => {
                    self.dots = Dots::Done;
                    if self.pattern.finds("..") {
                        // The share's root is its own parent.
                        let slash = node.path.iter().rposition(|&byte| byte == b'/');
                        return Ok(Some(Entry {
                            name: b"..".to_vec(),
                            metadata: share.metadata(&node.path[..slash.unwrap_or(0)])?,
                        }));
                    }
                }
                Dots::Done => {
                    let Some(found) = self.stream.read() else {
                        return Ok(None);
                    };
                    let found = found?;
                    let name = found.file_name();
                    if name == c"." || name == c".." {
                        continue;
                    }
                    if self.pattern.finds(&names::to_wire(name.to_bytes()))
                        && let Some(entry) = entry(share, node, name)
                    {
                        return Ok(Some(entry));
                    }
                }
            }
        }
    }
}

/// The entry of what the kernel has told, `None` for what is not shown.
fn entry(share: &Share, node: &Node, name: &CStr) -> Option<Entry> {
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
