//! SET_INFO that gives a file another name ([MS-FSA] 2.1.5.15.6, 2.1.5.15.11).

use std::cell::RefCell;

use super::Connection;
use super::open::DiskOpen;
use super::request::Request;
use super::tree::maximal_disk_access;
use crate::share::metadata::Kind;
use crate::share::{Found, Node, Share, join, names, split};
use crate::sharing::{FileKey, Held, Oplock, SHARE_READ, SHARE_WRITE, Wanted, conflicts};
use crate::wire::create::access;
use crate::wire::query::{NewName, SetInfo};
use crate::wire::status::Status;
use crate::wire::{Malformed, text};

impl Connection {
    /// FileRenameInformation, FileLinkInformation, and those with flags.
    pub(super) async fn set_name(
        &self,
        request: &Request<'_>,
        disk: &RefCell<DiskOpen>,
        set: &SetInfo<'_>,
    ) -> Result<(), Status> {
        let is_extended = matches!(set.class, 65 | 72);
        let is_link = matches!(set.class, 11 | 72);
        {
            let disk = &mut *disk.borrow_mut();
            if is_link {
                if maximal_disk_access(&disk.share) & access::FILE_WRITE_DATA == 0 {
                    return Err(Status::ACCESS_DENIED);
                }
            } else {
                disk.check_access(access::DELETE)?;
            }
            disk.refresh()?;
            if disk.node.path.is_empty() {
                return Err(Status::ACCESS_DENIED); // the share itself
            }
            if is_link && disk.is_delete_pending() {
                return Err(Status::DELETE_PENDING);
            }
        }
        let name =
            NewName::parse(set.data, is_extended).map_err(|_| Status::INFO_LENGTH_MISMATCH)?;
        let components = new_path(&name)?;
        let replace = name.flags & 1 != 0;
        let share = disk.borrow().share.clone();

        // Held until the name is there.
        let (_, parents) = components.split_last().ok_or(Status::INVALID_PARAMETER)?;
        let parent = share.find(parents).map_err(|status| match status {
            Status::OBJECT_NAME_NOT_FOUND => Status::OBJECT_PATH_NOT_FOUND,
            other => other,
        })?;
        let adding = access::FILE_WRITE_DATA | access::SYNCHRONIZE; // FILE_ADD_FILE
        let held = self
            .hold(
                request,
                &share,
                &parent,
                adding,
                SHARE_READ | SHARE_WRITE,
                false,
            )
            .await;
        let _parent = match held {
            // Who has the directory open for deleting, or alone, is in their own way only: programs
            // open so what they don't mean to delete, and would keep all others from renaming.
            Err(Status::SHARING_VIOLATION) if !self.keeps_from(&parent, adding) => None,
            held => Some(held?),
        };
        let asked = {
            let disk = disk.borrow();
            let held = disk
                .held
                .as_ref()
                .filter(|_| !is_link && disk.is_directory());
            held.map(Held::may_move)
        };
        if let Some(asked) = asked {
            let may = request.answer(None, asked).await?;
            may.map_err(|status| match status {
                Status::SHARING_VIOLATION => Status::ACCESS_DENIED,
                other => other,
            })?;
        }
        // Others wait for the file that is being replaced: nothing from here on waits for them.
        let _replaced = match share.look_up(&components)? {
            Found::Node(there)
                if replace && !there.metadata.same_file(&disk.borrow().node.metadata) =>
            {
                if there.metadata.kind == Kind::Directory || there.metadata.is_read_only() {
                    return Err(Status::ACCESS_DENIED);
                }
                // What somebody has open is not replaced.
                let held = self
                    .hold(request, &share, &there, access::DELETE, 0, true)
                    .await;
                Some(held.map_err(|status| match status {
                    Status::SHARING_VIOLATION | Status::DELETE_PENDING => Status::ACCESS_DENIED,
                    other => other,
                })?)
            }
            _ => None,
        };
        let disk = &mut *disk.borrow_mut();
        if is_link {
            link(disk, &components, replace)
        } else {
            self.rename(disk, components, replace)
        }
    }

    /// Keeps others from opening a file in ways that conflict, and finds out whether they have.
    async fn hold(
        &self,
        request: &Request<'_>,
        share: &Share,
        node: &Node,
        access: u32,
        share_access: u32,
        replaces: bool,
    ) -> Result<Held, Status> {
        let (device, inode) = node.metadata.key();
        let asked = self.port.open(Wanted {
            file: FileKey { device, inode },
            access,
            share: share_access,
            oplock: Oplock::None,
            overwrites: false,
            replaces,
            delete_on_close: false,
            name: share.wire_name(node),
        });
        request.answer(None, asked).await?
    }

    /// Whether an open of this client keeps others from `access` to `node`.
    fn keeps_from(&self, node: &Node, access: u32) -> bool {
        let sessions = self.sessions.borrow();
        sessions.values().any(|session| {
            session.opens.borrow().values().any(|open| {
                open.disk().is_ok_and(|disk| {
                    disk.node.metadata.same_file(&node.metadata)
                        && conflicts(
                            (access, SHARE_READ | SHARE_WRITE),
                            (disk.state.granted_access, disk.share_access),
                        )
                })
            })
        })
    }

    fn rename(
        &self,
        disk: &mut DiskOpen,
        mut components: Vec<Vec<u8>>,
        replace: bool,
    ) -> Result<(), Status> {
        disk.refresh()?;
        disk.find_again();
        let links = self.links.borrow();
        if disk.is_directory() && links.any_below(&disk.share, &disk.node.path) {
            return Err(Status::ACCESS_DENIED);
        }
        let share = &disk.share;
        match share.look_up(&components)? {
            Found::Absent(path) => share.rename(&mut disk.node, path, false)?,
            Found::Node(there) => {
                let wanted = components.pop().unwrap_or_default();
                let target = join(split(&there.path).0, &wanted);
                if there.path == disk.node.path {
                    // The same name, or another case of it.
                    if target != there.path {
                        share.change_case(&mut disk.node, target)?;
                    }
                } else if !replace {
                    return Err(Status::OBJECT_NAME_COLLISION);
                } else {
                    share.rename(&mut disk.node, there.path, true)?;
                    if target != disk.node.path {
                        share.change_case(&mut disk.node, target)?;
                    }
                }
            }
        }
        disk.link.path.borrow_mut().clone_from(&disk.node.path);
        if let Some(held) = &disk.held {
            held.renamed(disk.share.wire_name(&disk.node));
        }
        Ok(())
    }
}

fn link(disk: &mut DiskOpen, components: &[Vec<u8>], replace: bool) -> Result<(), Status> {
    disk.refresh()?;
    match disk.share.look_up(components)? {
        Found::Absent(path) => disk.share.link(&disk.node, &path, false),
        Found::Node(_) if !replace => Err(Status::OBJECT_NAME_COLLISION),
        Found::Node(there) => disk.share.link(&disk.node, &there.path, true),
    }
}

/// The components on disk of a new name.
fn new_path(name: &NewName<'_>) -> Result<Vec<Vec<u8>>, Status> {
    if name.root_directory != 0 {
        return Err(Status::INVALID_PARAMETER);
    }
    let path = text::from_utf16le(name.name).map_err(|Malformed| Status::OBJECT_NAME_INVALID)?;
    let components = names::parse_path(path.strip_prefix('\\').unwrap_or(&path))?;
    match components.last() {
        None => Err(Status::INVALID_PARAMETER),
        Some(last) if !names::may_be_made(last) => Err(Status::OBJECT_NAME_INVALID),
        Some(_) => Ok(components),
    }
}
