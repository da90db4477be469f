//! CREATE ([MS-SMB2] 3.3.5.9, [MS-FSA] 2.1.5.1), of files that exist.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;

use super::Connection;
use super::error::Outcome;
use super::open::{DiskOpen, Object, Open};
use super::reply::Reply;
use super::request::Request;
use super::session::Tree;
use super::tree::{MAXIMAL_DISK_ACCESS, MAXIMAL_PIPE_ACCESS};
use crate::rpc;
use crate::share::info::OpenState;
use crate::share::metadata::{Kind, attribute};
use crate::share::{Node, Share, names};
use crate::wire::create::{self, Attributes, Create, Disposition, access, options};
use crate::wire::file::FileId;
use crate::wire::status::Status;
use crate::wire::{Malformed, Put, text};

/// The most opens of one session.
const MAX_OPENS: usize = 16 * 1024;
/// The most of them that are pipes, which keep unread answers in memory.
const MAX_PIPES: usize = 64;

/// Access that remains where a file's data may not be read.
const METADATA_ACCESS: u32 = access::READ_CONTROL
    | access::SYNCHRONIZE
    | access::FILE_READ_ATTRIBUTES
    | access::FILE_READ_EA;
/// Access that takes a descriptor to read from.
const DATA_ACCESS: u32 = access::FILE_READ_DATA | access::FILE_EXECUTE;

type Contexts = Vec<(&'static [u8; 4], Vec<u8>)>;

impl Connection {
    /// CREATE
    pub(super) async fn create(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let create = Create::parse(request.message)?;
        let session = self.session(request.session_id)?;
        let tree = session.tree(request.tree_id)?;
        if session.opens.borrow().len() >= MAX_OPENS {
            return Err(Status::TOO_MANY_OPENED_FILES.into());
        }
        let name =
            text::from_utf16le(create.name).map_err(|Malformed| Status::OBJECT_NAME_INVALID)?;
        let (object, attributes, contexts) = match tree {
            Tree::Ipc => {
                let opens = session.opens.borrow();
                if opens.values().filter(|open| open.is_pipe()).count() >= MAX_PIPES {
                    return Err(Status::TOO_MANY_OPENED_FILES.into());
                }
                open_pipe(&create, &name)?
            }
            Tree::Disk(share) => open_disk(&create, &name, share)?,
        };
        let id = session.last_file_id.get() + 1;
        session.last_file_id.set(id);
        let open = Open {
            tree_id: request.tree_id,
            object,
        };
        session.opens.borrow_mut().insert(id, Rc::new(open));
        let file_id = FileId {
            persistent: id,
            volatile: id,
        };
        reply.file_id = Some(file_id);
        create::put_create(reply.out, &attributes, file_id, &contexts);
        Ok(Status::SUCCESS)
    }
}

fn open_pipe(create: &Create<'_>, name: &str) -> Result<(Object, Attributes, Contexts), Status> {
    create.contexts()?;
    if !text::same_name(name.trim_start_matches('\\'), "srvsvc") {
        return Err(Status::OBJECT_NAME_NOT_FOUND);
    }
    let desired = access::expand_generic(create.desired_access);
    if desired & !(MAXIMAL_PIPE_ACCESS | access::FILE_EXECUTE | access::MAXIMUM_ALLOWED) != 0 {
        return Err(Status::ACCESS_DENIED);
    }
    let attributes = Attributes {
        allocation_size: rpc::MAX_FRAGMENT as u64,
        file_attributes: attribute::NORMAL,
        ..Attributes::default()
    };
    Ok((
        Object::Pipe(RefCell::new(rpc::Pipe::new())),
        attributes,
        Vec::new(),
    ))
}

fn open_disk(
    create: &Create<'_>,
    name: &str,
    share: Arc<Share>,
) -> Result<(Object, Attributes, Contexts), Status> {
    let requested_contexts = create.contexts()?;
    check_options(create.options)?;
    let components = names::parse_path(name)?;
    if requested_contexts.iter().any(|(name, _)| *name == b"TWrp") {
        // Wants the file as it was at some time; there are no snapshots, and
        // the present state must not be passed off as the past.
        return Err(Status::OBJECT_NAME_NOT_FOUND);
    }
    let desired = access::expand_generic(create.desired_access);
    check_desired_access(desired, create.options)?;

    let mut node = match share.find(&components) {
        Ok(node) => node,
        Err(Status::OBJECT_NAME_NOT_FOUND) => {
            return Err(match create.disposition {
                Disposition::Open | Disposition::Overwrite => Status::OBJECT_NAME_NOT_FOUND,
                _ => Status::ACCESS_DENIED, // would create it
            });
        }
        Err(status) => return Err(status),
    };
    check_found(create, &node)?;

    let readable = is_readable(&node);
    let maximal = if readable {
        MAXIMAL_DISK_ACCESS
    } else {
        METADATA_ACCESS
    };
    let mut granted = desired & !access::MAXIMUM_ALLOWED;
    if desired & access::MAXIMUM_ALLOWED != 0 {
        granted |= maximal;
    }
    if granted & !maximal != 0 {
        return Err(Status::ACCESS_DENIED);
    }
    if granted & DATA_ACCESS != 0 {
        share.open_data(&mut node)?;
    }

    let attributes = node.metadata.attributes(node.name());
    let contexts = answer_contexts(&requested_contexts, &node, maximal);
    let disk = DiskOpen {
        share,
        node,
        state: OpenState {
            granted_access: granted,
            mode: create.options & options::FILE_MODE,
            position: 0,
        },
        enumeration: None,
    };
    Ok((Object::Disk(RefCell::new(disk)), attributes, contexts))
}

fn check_options(chosen: u32) -> Result<(), Status> {
    const EITHER: u32 = options::FILE_DIRECTORY_FILE | options::FILE_NON_DIRECTORY_FILE;
    if chosen & EITHER == EITHER {
        return Err(Status::INVALID_PARAMETER);
    }
    if chosen & options::FILE_OPEN_BY_FILE_ID != 0 {
        return Err(Status::NOT_SUPPORTED);
    }
    Ok(())
}

fn check_desired_access(desired: u32, chosen: u32) -> Result<(), Status> {
    if desired & access::ACCESS_SYSTEM_SECURITY != 0 {
        return Err(Status::PRIVILEGE_NOT_HELD);
    }
    if chosen & options::FILE_DELETE_ON_CLOSE != 0
        && desired & (access::DELETE | access::MAXIMUM_ALLOWED) == 0
    {
        return Err(Status::INVALID_PARAMETER);
    }
    let beyond = desired & !(MAXIMAL_DISK_ACCESS | access::MAXIMUM_ALLOWED);
    if desired == 0 || beyond != 0 || chosen & options::FILE_DELETE_ON_CLOSE != 0 {
        return Err(Status::ACCESS_DENIED);
    }
    Ok(())
}

/// Whether what has been found is what was asked for.
fn check_found(create: &Create<'_>, node: &Node) -> Result<(), Status> {
    let is_directory = node.metadata.kind == Kind::Directory;
    match create.disposition {
        Disposition::Create => return Err(Status::OBJECT_NAME_COLLISION),
        _ if is_directory && create.options & options::FILE_NON_DIRECTORY_FILE != 0 => {
            return Err(Status::FILE_IS_A_DIRECTORY);
        }
        _ if !is_directory && create.options & options::FILE_DIRECTORY_FILE != 0 => {
            return Err(Status::NOT_A_DIRECTORY);
        }
        Disposition::Open | Disposition::OpenIf => {}
        Disposition::Supersede | Disposition::Overwrite | Disposition::OverwriteIf => {
            return Err(Status::ACCESS_DENIED);
        }
    }
    Ok(())
}

/// Whether this process may read the data of `node`. Special files never.
fn is_readable(node: &Node) -> bool {
    if node.metadata.kind == Kind::Special {
        return false;
    }
    let flags = AtFlags::EMPTY_PATH | AtFlags::EACCESS;
    match rustix::fs::accessat(&node.fd, c"", Access::READ_OK, flags) {
        Err(Errno::ACCESS | Errno::PERM) => false,
        // If the question is not understood (kernels before 5.8), opening the
        // file will answer it.
        _ => true,
    }
}

/// Answers the create contexts that are known here; unknown ones are to be ignored.
fn answer_contexts(requested: &[(&[u8], &[u8])], node: &Node, maximal: u32) -> Contexts {
    let mut answers: Contexts = Vec::new();
    for (name, _data) in requested {
        if answers.iter().any(|(answered, _)| answered[..] == **name) {
            continue; // asked for again, which must not make the response grow
        }
        match *name {
            // SMB2_CREATE_QUERY_MAXIMAL_ACCESS_RESPONSE (2.2.14.2.5)
            b"MxAc" => {
                let mut data = Vec::with_capacity(8);
                data.put_u32(Status::SUCCESS.0);
                data.put_u32(maximal);
                answers.push((b"MxAc", data));
            }
            // SMB2_CREATE_QUERY_ON_DISK_ID (2.2.14.2.9)
            b"QFid" => {
                let (major, minor) = node.metadata.device;
                let mut data = Vec::with_capacity(32);
                data.put_u64(node.metadata.inode);
                data.put_u64(u64::from(major) << 32 | u64::from(minor));
                data.put_zeros(16);
                answers.push((b"QFid", data));
            }
            _ => {}
        }
    }
    answers
}
