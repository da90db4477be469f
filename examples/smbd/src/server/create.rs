//! CREATE ([MS-SMB2] 3.3.5.9, [MS-FSA] 2.1.5.1).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::Access;

use super::Connection;
use super::error::Outcome;
use super::open::{DiskOpen, Object, Open, check_deletable};
use super::reply::Reply;
use super::request::Request;
use super::session::Tree;
use super::tree::{MAXIMAL_PIPE_ACCESS, maximal_disk_access};
use crate::auth::Identity;
use crate::rpc;
use crate::share::change::may;
use crate::share::info::OpenState;
use crate::share::metadata::{Kind, attribute};
use crate::share::{DataMode, Found, Node, Share, data, names, security, split};
use crate::sharing::{FileKey, Oplock, Wanted};
use crate::wire::create::{
    self, Action, Attributes, Create, Created, Disposition, access, options,
};
use crate::wire::file::FileId;
use crate::wire::status::Status;
use crate::wire::{Malformed, Put, Reader, text, time};

/// The most opens of one session.
const MAX_OPENS: usize = 16 * 1024;
/// The most of them that are pipes, which keep unread answers in memory.
const MAX_PIPES: usize = 64;
/// How often a file is looked up again that others make and remove meanwhile.
const MAX_ATTEMPTS: usize = 8;

/// Access that remains where a file's data may not be read.
const METADATA_ACCESS: u32 = access::READ_CONTROL
    | access::SYNCHRONIZE
    | access::FILE_READ_ATTRIBUTES
    | access::FILE_READ_EA;
/// Access that takes a descriptor to read from; that to write to.
const READING: u32 = access::FILE_READ_DATA | access::FILE_EXECUTE;
const WRITING: u32 = access::FILE_WRITE_DATA | access::FILE_APPEND_DATA;

type Contexts = Vec<(&'static [u8; 4], Vec<u8>)>;

/// What has been opened, and what the client is told.
struct Opened {
    oplock: Oplock,
    object: Object,
    action: Action,
    attributes: Attributes,
    contexts: Contexts,
}

impl Connection {
    /// CREATE
    pub(super) async fn create(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
        let create = Create::parse(request.message)?;
        let session = self.session(request.session_id)?;
        let tree = session.tree(request.tree_id)?;
        if session.opens.borrow().len() >= MAX_OPENS {
            return Err(Status::TOO_MANY_OPENED_FILES.into());
        }
        if create.impersonation_level > 3 {
            return Err(Status::BAD_IMPERSONATION_LEVEL.into());
        }
        let name =
            text::from_utf16le(create.name).map_err(|Malformed| Status::OBJECT_NAME_INVALID)?;
        log::trace!(
            "{}: {:?} {name:?}, access {:#x}, options {:#x}, attributes {:#x}",
            self.peer,
            create.disposition,
            create.desired_access,
            create.options,
            create.file_attributes,
        );
        let opened = match tree {
            Tree::Ipc => {
                let opens = session.opens.borrow();
                if opens.values().filter(|open| open.is_pipe()).count() >= MAX_PIPES {
                    return Err(Status::TOO_MANY_OPENED_FILES.into());
                }
                open_pipe(&create, &name, session.identity())?
            }
            Tree::Disk(share) => self.open_disk(request, &create, &name, &share).await?,
        };
        let id = session.last_file_id.get() + 1;
        session.last_file_id.set(id);
        let open = Open {
            tree_id: request.tree_id,
            channel_sequence: Cell::new(request.channel_sequence.unwrap_or(0)),
            object: opened.object,
        };
        session.opens.borrow_mut().insert(id, Rc::new(open));
        let file_id = FileId::of(session.id, id);
        reply.file_id = Some(file_id);
        let created = Created {
            oplock_level: opened.oplock.level(),
            action: opened.action,
            attributes: opened.attributes,
            file_id,
            contexts: &opened.contexts,
        };
        create::put_create(reply.out, &created);
        Ok(Status::SUCCESS)
    }

    async fn open_disk(
        &self,
        request: &Request<'_>,
        create: &Create<'_>,
        name: &str,
        share: &Arc<Share>,
    ) -> Result<Opened, Status> {
        let contexts = create.contexts()?;
        let wish = Wish::new(create, &contexts, share)?;
        let components = names::parse_path(name)?;
        let mut attempts = 0;
        let (found, held) = loop {
            attempts += 1;
            let mut found = match share.look_up(&components) {
                Ok(Found::Node(node)) => open_existing(&wish, share, node)?,
                Ok(Found::Absent(path)) => match make_new(&wish, share, path) {
                    Ok(made) => made,
                    // Somebody else has made it since, or it is a link that leads nowhere.
                    Err(Status::OBJECT_NAME_COLLISION) if attempts < MAX_ATTEMPTS => continue,
                    Err(status) => return Err(status),
                },
                Err(Status::OBJECT_NAME_NOT_FOUND) if wish.makes_files() => {
                    return Err(Status::ACCESS_DENIED); // the name of a link that leads away
                }
                Err(status) => return Err(status),
            };
            let asked = self.port.open(found.wanted(create, share));
            let held = request.answer(None, asked).await??;
            // It may have been deleted while this waited for its turn.
            found.node.refresh()?;
            if found.node.metadata.links > 0 || attempts >= MAX_ATTEMPTS {
                break (found, held);
            }
        };
        let Existing {
            mut node,
            action,
            granted,
            maximal,
        } = found;
        if matches!(action, Action::Overwritten | Action::Superseded) {
            rustix::fs::ftruncate(&node.fd, 0).map_err(Status::from_errno)?;
            node.set_sparse(false)?;
            node.set_attributes(Some(create.file_attributes | attribute::ARCHIVE), None)?;
        }
        let oplock = held.oplock();
        let link = self.links.borrow_mut().get(share, &node);
        let mut disk = DiskOpen {
            share: Arc::clone(share),
            node,
            link,
            state: OpenState {
                granted_access: granted,
                mode: create.options & options::FILE_MODE,
                position: 0,
            },
            share_access: create.share_access,
            enumeration: None,
            watch: None,
            held: Some(held),
            keeps_write_time: false,
            keeps_access_time: false,
            keeps_change_time: false,
            has_written: false,
        };
        if disk.node.metadata.kind == Kind::File && action != Action::Opened {
            let reserved = match wish.allocation_size {
                Some(size) => data::reserve(&disk.node.fd, size).map_err(Status::from_errno),
                None => Ok(()),
            };
            if let Err(status) = reserved.and_then(|()| disk.refresh()) {
                if action == Action::Created {
                    unmake(share, &disk.node);
                }
                return Err(status);
            }
        }
        disk.delay_write_time();
        let attributes = disk.node.metadata.attributes(disk.node.name());
        let contexts = answer_contexts(&contexts, &disk.node, maximal);
        Ok(Opened {
            oplock,
            object: Object::Disk(RefCell::new(disk)),
            action,
            attributes,
            contexts,
        })
    }
}

/// What has been found or made, before the other clients are heard.
struct Existing {
    node: Node,
    /// What is to be done with it, or has been.
    action: Action,
    /// The access that is granted, and the most there is.
    granted: u32,
    maximal: u32,
}

impl Existing {
    /// What others have to agree to.
    fn wanted(&self, create: &Create<'_>, share: &Share) -> Wanted {
        let (device, inode) = self.node.metadata.key();
        let overwrites = matches!(self.action, Action::Overwritten | Action::Superseded);
        let writes = match overwrites {
            true => access::FILE_WRITE_DATA,
            false => 0,
        };
        let oplock = match self.node.metadata.kind {
            Kind::File => Oplock::from_level(create.oplock_level),
            _ => Oplock::None,
        };
        Wanted {
            file: FileKey { device, inode },
            access: self.granted | writes,
            share: create.share_access,
            oplock,
            overwrites,
            replaces: false,
            delete_on_close: create.options & options::FILE_DELETE_ON_CLOSE != 0,
            name: share.wire_name(&self.node),
        }
    }
}

/// Opens what exists, without changing it.
fn open_existing(wish: &Wish<'_>, share: &Share, mut node: Node) -> Result<Existing, Status> {
    let create = wish.create;
    let action = check_found(create, &node)?;
    let overwriting = match action {
        Action::Opened => 0,
        _ => access::FILE_WRITE_DATA,
    };
    let interest = match wish.asks_for_maximum {
        true => u32::MAX,
        false => wish.desired | overwriting,
    };
    let maximal = maximal_access(share, &node, interest);
    let mut granted = wish.desired & !access::MAXIMUM_ALLOWED;
    if wish.desired & access::MAXIMUM_ALLOWED != 0 {
        granted |= maximal;
    }
    let deletes = create.options & options::FILE_DELETE_ON_CLOSE != 0;
    if granted & !maximal != 0 || deletes && granted & access::DELETE == 0 {
        return Err(Status::ACCESS_DENIED);
    }
    if action != Action::Opened && maximal & access::FILE_WRITE_DATA == 0 {
        return Err(Status::ACCESS_DENIED);
    }
    if deletes {
        check_deletable(share, &node)?;
    }
    let reading = granted & READING != 0;
    let writing = granted & WRITING != 0 || action != Action::Opened;
    let mode = match node.metadata.kind {
        Kind::Directory => (granted & access::FILE_READ_DATA != 0).then_some(DataMode::Read),
        _ => data_mode(reading, writing),
    };
    if let Some(mode) = mode {
        share.open_data(&mut node, mode)?;
    }
    Ok(Existing {
        node,
        action,
        granted,
        maximal,
    })
}

/// A CREATE of a file or directory, as far as it doesn't depend on what is there.
struct Wish<'a> {
    create: &'a Create<'a>,
    /// Without generic bits.
    desired: u32,
    allocation_size: Option<u64>,
    /// A new file's security descriptor.
    descriptor: Option<&'a [u8]>,
    /// The most access there is has to be found out.
    asks_for_maximum: bool,
}

impl<'a> Wish<'a> {
    fn new(
        create: &'a Create<'a>,
        contexts: &[create::Context<'a>],
        share: &Share,
    ) -> Result<Wish<'a>, Status> {
        check_options(create)?;
        let desired = access::expand_generic(create.desired_access);
        check_desired_access(desired, create.options, share)?;
        let mut wish = Wish {
            create,
            desired,
            allocation_size: None,
            descriptor: None,
            asks_for_maximum: desired & access::MAXIMUM_ALLOWED != 0,
        };
        for (name, data) in contexts {
            match *name {
                // Wants the file as it was at some time; there are no snapshots, and
                // the present state must not be passed off as the past.
                b"TWrp" => return Err(Status::OBJECT_NAME_NOT_FOUND),
                b"ExtA" if !data.is_empty() => return Err(Status::EAS_NOT_SUPPORTED),
                b"AlSi" => wish.allocation_size = Some(Reader::new(data).u64()?),
                b"SecD" => wish.descriptor = Some(data),
                b"MxAc" => wish.asks_for_maximum = true,
                _ => {}
            }
        }
        Ok(wish)
    }

    /// Whether a file that doesn't exist is to be made.
    fn makes_files(&self) -> bool {
        !matches!(
            self.create.disposition,
            Disposition::Open | Disposition::Overwrite
        )
    }
}

fn open_pipe(create: &Create<'_>, name: &str, opener: Identity) -> Result<Opened, Status> {
    create.contexts()?;
    let service = rpc::Service::of_pipe(name).ok_or(Status::OBJECT_NAME_NOT_FOUND)?;
    let desired = access::expand_generic(create.desired_access);
    if desired & !(MAXIMAL_PIPE_ACCESS | access::FILE_EXECUTE | access::MAXIMUM_ALLOWED) != 0 {
        return Err(Status::ACCESS_DENIED);
    }
    let attributes = Attributes {
        allocation_size: rpc::MAX_FRAGMENT as u64,
        file_attributes: attribute::NORMAL,
        ..Attributes::default()
    };
    Ok(Opened {
        oplock: Oplock::None,
        object: Object::Pipe(RefCell::new(rpc::Pipe::new(service)), opener),
        action: Action::Opened,
        attributes,
        contexts: Vec::new(),
    })
}

/// Makes what doesn't exist.
fn make_new(wish: &Wish<'_>, share: &Share, path: Vec<u8>) -> Result<Existing, Status> {
    let create = wish.create;
    if !wish.makes_files() {
        return Err(Status::OBJECT_NAME_NOT_FOUND);
    }
    if !names::may_be_made(split(&path).1) {
        return Err(Status::OBJECT_NAME_INVALID);
    }
    let maximal = maximal_disk_access(share);
    if maximal & access::FILE_WRITE_DATA == 0 {
        return Err(Status::ACCESS_DENIED);
    }
    let deletes = create.options & options::FILE_DELETE_ON_CLOSE != 0;
    if deletes && create.file_attributes & attribute::READONLY != 0 {
        return Err(Status::CANNOT_DELETE);
    }
    let is_directory = create.options & options::FILE_DIRECTORY_FILE != 0;
    if is_directory && create.file_attributes & attribute::TEMPORARY != 0 {
        return Err(Status::INVALID_PARAMETER);
    }
    let granted = match wish.desired & access::MAXIMUM_ALLOWED {
        0 => wish.desired,
        _ => wish.desired & !access::MAXIMUM_ALLOWED | maximal,
    };
    let mut node = if is_directory {
        share.create_directory(path)
    } else {
        // Something it has to be opened for.
        let mode = data_mode(granted & READING != 0, granted & WRITING != 0);
        share.create_file(path, mode.unwrap_or(DataMode::Read))
    }
    .map_err(Status::from_errno)?;
    if let Err(status) = furnish(&mut node, wish) {
        unmake(share, &node);
        return Err(status);
    }
    Ok(Existing {
        node,
        action: Action::Created,
        granted,
        maximal,
    })
}

/// Gives what has just been made its attributes and its security descriptor.
fn furnish(node: &mut Node, wish: &Wish<'_>) -> Result<(), Status> {
    let archive = match node.metadata.kind {
        Kind::Directory => 0,
        _ => attribute::ARCHIVE,
    };
    let birth = node.metadata.lacks_creation_time().then(time::now);
    node.set_attributes(Some(wish.create.file_attributes | archive), birth)?;
    let Some(descriptor) = wish.descriptor else {
        return Ok(());
    };
    for part in [security::OWNER, security::GROUP] {
        match security::apply(node, descriptor, part) {
            // One of another system: then it belongs to who makes it.
            Err(Status::INVALID_OWNER) => {}
            applied => applied?,
        }
    }
    security::apply(node, descriptor, security::DACL)
}

/// Removes what has just been made, as the request fails.
fn unmake(share: &Share, node: &Node) {
    if let Err(status) = share.remove(&node.path, node.metadata.key()) {
        log::debug!("{}: what was made stays: {status}", share.name());
    }
}

fn data_mode(reading: bool, writing: bool) -> Option<DataMode> {
    match (reading, writing) {
        (false, false) => None,
        (true, false) => Some(DataMode::Read),
        (false, true) => Some(DataMode::Write),
        (true, true) => Some(DataMode::ReadWrite),
    }
}

fn check_options(create: &Create<'_>) -> Result<(), Status> {
    const EITHER: u32 = options::FILE_DIRECTORY_FILE | options::FILE_NON_DIRECTORY_FILE;
    let chosen = create.options;
    if chosen & options::RESERVED != 0 || chosen & EITHER == EITHER {
        return Err(Status::INVALID_PARAMETER);
    }
    if chosen & (options::FILE_OPEN_BY_FILE_ID | options::FILE_RESERVE_OPFILTER) != 0 {
        return Err(Status::NOT_SUPPORTED);
    }
    if create.file_attributes & !attribute::ALL != 0 {
        return Err(Status::INVALID_PARAMETER);
    }
    let overwrites = matches!(
        create.disposition,
        Disposition::Supersede | Disposition::Overwrite | Disposition::OverwriteIf
    );
    if overwrites && chosen & options::FILE_DIRECTORY_FILE != 0 {
        return Err(Status::INVALID_PARAMETER);
    }
    Ok(())
}

fn check_desired_access(desired: u32, chosen: u32, share: &Share) -> Result<(), Status> {
    if desired & access::ACCESS_SYSTEM_SECURITY != 0 {
        return Err(Status::PRIVILEGE_NOT_HELD);
    }
    if chosen & options::FILE_DELETE_ON_CLOSE != 0
        && desired & (access::DELETE | access::MAXIMUM_ALLOWED) == 0
    {
        return Err(Status::INVALID_PARAMETER);
    }
    let beyond = desired & !(maximal_disk_access(share) | access::MAXIMUM_ALLOWED);
    if desired == 0 || beyond != 0 {
        return Err(Status::ACCESS_DENIED);
    }
    Ok(())
}

/// Whether what has been found is what was asked for, and what is to be done with it.
fn check_found(create: &Create<'_>, node: &Node) -> Result<Action, Status> {
    let is_directory = node.metadata.kind == Kind::Directory;
    let action = match create.disposition {
        Disposition::Create => return Err(Status::OBJECT_NAME_COLLISION),
        _ if is_directory && create.options & options::FILE_NON_DIRECTORY_FILE != 0 => {
            return Err(Status::FILE_IS_A_DIRECTORY);
        }
        _ if !is_directory && create.options & options::FILE_DIRECTORY_FILE != 0 => {
            return Err(Status::NOT_A_DIRECTORY);
        }
        Disposition::Open | Disposition::OpenIf => return Ok(Action::Opened),
        Disposition::Supersede => Action::Superseded,
        Disposition::Overwrite | Disposition::OverwriteIf => Action::Overwritten,
    };
    if is_directory {
        return Err(Status::OBJECT_NAME_COLLISION);
    }
    // What is hidden or the system's is overwritten by those only who say that they know.
    let guarded = node.metadata.file_attributes() & (attribute::HIDDEN | attribute::SYSTEM);
    if guarded & !create.file_attributes != 0 || node.metadata.is_read_only() {
        return Err(Status::ACCESS_DENIED);
    }
    Ok(action)
}

/// The most access to `node` that this process and the share's configuration allow.
///
/// Only `interest` is looked into; the other bits may be missing.
fn maximal_access(share: &Share, node: &Node, interest: u32) -> u32 {
    let mut maximal = METADATA_ACCESS;
    let is_root = node.path.is_empty();
    if node.metadata.kind != Kind::Special {
        if interest & READING != 0 && may(&node.fd, Access::READ_OK) {
            maximal |= READING;
        }
        // FILE_DELETE_CHILD has a meaning for directories only, but belongs to FILE_ALL_ACCESS.
        let changing =
            access::FILE_WRITE_EA | access::FILE_WRITE_ATTRIBUTES | access::FILE_DELETE_CHILD;
        if interest & (WRITING | changing) != 0 && may(&node.fd, Access::WRITE_OK) {
            maximal |= changing;
            if !node.metadata.is_read_only() {
                maximal |= WRITING;
            }
        }
    }
    let user = rustix::process::geteuid();
    if user.is_root() || user.as_raw() == node.metadata.uid {
        maximal |= access::WRITE_DAC | access::WRITE_OWNER | access::FILE_WRITE_ATTRIBUTES;
    }
    // That the share itself is not removed is told when somebody tries; many ask for all access.
    if interest & access::DELETE != 0 && (is_root || share.may_remove(node)) {
        maximal |= access::DELETE;
    }
    maximal & maximal_disk_access(share)
}

/// Answers the create contexts that are known here; unknown ones are to be ignored.
fn answer_contexts(requested: &[create::Context<'_>], node: &Node, maximal: u32) -> Contexts {
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
                let (device, inode) = node.metadata.key();
                let mut data = Vec::with_capacity(32);
                data.put_u64(inode);
                data.put_u64(device);
                data.put_zeros(16);
                answers.push((b"QFid", data));
            }
            _ => {}
        }
    }
    answers
}
