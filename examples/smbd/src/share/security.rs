//! Security descriptors ([MS-DTYP] 2.4.6) that say what the mode bits say, and back.
//!
//! Owner, group and everybody else can be told apart, and for each of them reading, writing and
//! executing. What else a client sets has no effect: entries for other users, finer rights,
//! inheritance, auditing. A list that names none of the three is accepted and changes nothing,
//! else it would lock out everybody.

use rustix::fs::{Gid, Uid};

use super::Node;
use super::metadata::{Kind, Metadata};
use super::stored::by_path;
use crate::wire::create::access;
use crate::wire::status::Status;
use crate::wire::{Malformed, Put, Reader};

/// `OWNER_SECURITY_INFORMATION`
pub const OWNER: u32 = 0x1;
/// `GROUP_SECURITY_INFORMATION`
pub const GROUP: u32 = 0x2;
/// `DACL_SECURITY_INFORMATION`
pub const DACL: u32 = 0x4;
/// `SACL_SECURITY_INFORMATION`
pub const SACL: u32 = 0x8;

const SE_DACL_PRESENT: u16 = 0x0004;
const SE_SELF_RELATIVE: u16 = 0x8000;
const ACCESS_ALLOWED_ACE_TYPE: u8 = 0;
const ACCESS_DENIED_ACE_TYPE: u8 = 1;

/// A SID: its authority and subauthorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sid(u8, &'static [u32], Option<u32>);

impl Sid {
    /// S-1-22-1-uid and S-1-22-2-gid are the customary way to name Unix users
    /// and groups that have no SID of a domain.
    fn user(uid: u32) -> Sid {
        Sid(22, &[1], Some(uid))
    }
    fn group(gid: u32) -> Sid {
        Sid(22, &[2], Some(gid))
    }
    /// S-1-1-0
    const EVERYONE: Sid = Sid(1, &[0], None);

    /// The SID at the reader's position; `None` for one that stands for no user or group here.
    fn parse(r: &mut Reader<'_>) -> Result<Option<Sid>, Malformed> {
        let revision = r.u8()?;
        let count = r.u8()?;
        let authority: [u8; 6] = r.array()?;
        if revision != 1 || count > 15 {
            return Err(Malformed);
        }
        let mut subauthorities = [0; 15];
        let subauthorities = &mut subauthorities[..usize::from(count)];
        for subauthority in subauthorities.iter_mut() {
            *subauthority = r.u32()?;
        }
        Ok(match (authority, &*subauthorities) {
            ([0, 0, 0, 0, 0, 1], [0]) => Some(Sid::EVERYONE),
            ([0, 0, 0, 0, 0, 22], &[1, uid]) => Some(Sid::user(uid)),
            ([0, 0, 0, 0, 0, 22], &[2, gid]) => Some(Sid::group(gid)),
            _ => None,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        let Sid(authority, fixed, last) = self;
        out.put_u8(1);
        out.put_u8((fixed.len() + usize::from(last.is_some())) as u8);
        out.put_bytes(&[0, 0, 0, 0, 0, *authority]);
        for &subauthority in fixed.iter().chain(last) {
            out.put_u32(subauthority);
        }
    }
}

/// The self-relative descriptor with the parts `additional` asks for. There
/// is no SACL: nothing is audited.
pub fn descriptor(metadata: &Metadata, additional: u32) -> Vec<u8> {
    let mut control = SE_SELF_RELATIVE;
    if additional & DACL != 0 {
        control |= SE_DACL_PRESENT;
    }
    let mut out = vec![1, 0];
    out.put_u16(control);
    out.put_zeros(16);
    let offset = |out: &mut Vec<u8>, at: usize| {
        let here = out.len() as u32;
        out.patch_u32(at, here);
    };
    if additional & OWNER != 0 {
        offset(&mut out, 4);
        Sid::user(metadata.uid).put(&mut out);
    }
    if additional & GROUP != 0 {
        offset(&mut out, 8);
        Sid::group(metadata.gid).put(&mut out);
    }
    if additional & DACL != 0 {
        offset(&mut out, 16);
        put_dacl(metadata, &mut out);
    }
    out
}

fn put_dacl(metadata: &Metadata, out: &mut Vec<u8>) {
    const ACL_REVISION: u8 = 2;
    let start = out.len();
    out.put_u8(ACL_REVISION);
    out.put_u8(0);
    out.put_u16(0); // AclSize
    out.put_u16(3);
    out.put_u16(0);
    let is_directory = metadata.kind == Kind::Directory;
    let owner_always = access::READ_CONTROL | access::WRITE_DAC | access::SYNCHRONIZE;
    for (sid, bits, always) in [
        (Sid::user(metadata.uid), metadata.mode >> 6, owner_always),
        (Sid::group(metadata.gid), metadata.mode >> 3, 0),
        (Sid::EVERYONE, metadata.mode, 0),
    ] {
        let ace = out.len();
        out.put_u8(ACCESS_ALLOWED_ACE_TYPE);
        out.put_u8(0);
        out.put_u16(0); // AceSize
        out.put_u32(mask(bits, is_directory) | always);
        sid.put(out);
        let length = out.len() - ace;
        out.patch_u16(ace + 2, length as u16);
    }
    let length = out.len() - start;
    out.patch_u16(start + 2, length as u16);
}

/// Gives `node` the parts `additional` of a descriptor, as far as they can be had.
///
/// # Errors
///
/// `STATUS_INVALID_PARAMETER` for what is no descriptor, `STATUS_INVALID_OWNER` for an owner or a
/// group that is none of this system, and what the file system refuses.
pub fn apply(node: &mut Node, descriptor: &[u8], additional: u32) -> Result<(), Status> {
    let mut r = Reader::new(descriptor);
    let revision = r.u8()?;
    r.skip(1)?;
    let control = r.u16()?;
    let (owner, group, _sacl, dacl) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
    if revision != 1 || control & SE_SELF_RELATIVE == 0 {
        return Err(Status::INVALID_PARAMETER);
    }
    let part = |offset: u32| descriptor.get(offset as usize..).ok_or(Malformed);
    if additional & OWNER != 0 && owner != 0 {
        match Sid::parse(&mut Reader::new(part(owner)?))? {
            Some(Sid(22, [1], Some(uid))) if uid == node.metadata.uid => {}
            Some(Sid(22, [1], Some(uid))) => change_owner(node, Some(uid), None)?,
            _ => return Err(Status::INVALID_OWNER),
        }
    }
    if additional & GROUP != 0 && group != 0 {
        match Sid::parse(&mut Reader::new(part(group)?))? {
            Some(Sid(22, [2], Some(gid))) if gid == node.metadata.gid => {}
            Some(Sid(22, [2], Some(gid))) => change_owner(node, None, Some(gid))?,
            _ => return Err(Status::INVALID_OWNER),
        }
    }
    if additional & DACL != 0 {
        // Without a list everybody may do everything.
        let permissions = match control & SE_DACL_PRESENT != 0 && dacl != 0 {
            true => permissions(part(dacl)?, &node.metadata)?,
            false => Some(0o777),
        };
        if let Some(permissions) = permissions {
            let special = node.metadata.mode & 0o7000;
            if special | permissions != node.metadata.mode {
                node.set_mode(special | permissions)?;
            }
        }
    }
    Ok(())
}

fn change_owner(node: &mut Node, uid: Option<u32>, gid: Option<u32>) -> Result<(), Status> {
    let (user, group) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    by_path(&node.fd, |path| rustix::fs::chown(path, user, group)).map_err(Status::from_errno)?;
    node.metadata.uid = uid.unwrap_or(node.metadata.uid);
    node.metadata.gid = gid.unwrap_or(node.metadata.gid);
    Ok(())
}

/// The permissions that an access control list gives to owner, group and others; `None` if it
/// speaks of none of them.
fn permissions(acl: &[u8], metadata: &Metadata) -> Result<Option<u16>, Malformed> {
    const INHERIT_ONLY_ACE: u8 = 0x08;
    let mut r = Reader::new(acl);
    r.skip(4)?; // AclRevision, AclSize
    let count = r.u16()?;
    r.skip(2)?;
    let mut rest = r.rest();
    let (owner, group) = (Sid::user(metadata.uid), Sid::group(metadata.gid));
    // For owner, group and others: bits that are decided, and bits that are granted.
    let mut decided = [0u16; 3];
    let mut granted = [0u16; 3];
    let mut speaks = false;
    for _ in 0..count {
        let mut r = Reader::new(rest);
        let (kind, flags, size) = (r.u8()?, r.u8()?, usize::from(r.u16()?));
        if size < 8 {
            return Err(Malformed);
        }
        let ace = rest.get(4..size).ok_or(Malformed)?;
        rest = &rest[size..];
        if flags & INHERIT_ONLY_ACE != 0
            || !matches!(kind, ACCESS_ALLOWED_ACE_TYPE | ACCESS_DENIED_ACE_TYPE)
        {
            continue;
        }
        let mut r = Reader::new(ace);
        let bits = mode_bits(access::expand_generic(r.u32()?));
        let classes: &[usize] = match Sid::parse(&mut r)? {
            Some(Sid::EVERYONE) => &[0, 1, 2],
            Some(sid) if sid == owner => &[0],
            Some(sid) if sid == group => &[1],
            _ => continue,
        };
        speaks = true;
        for &class in classes {
            let new = bits & !decided[class];
            decided[class] |= bits;
            if kind == ACCESS_ALLOWED_ACE_TYPE {
                granted[class] |= new;
            }
        }
    }
    Ok(speaks.then_some(granted[0] << 6 | granted[1] << 3 | granted[2]))
}

fn mode_bits(mask: u32) -> u16 {
    let bit = |right: u32, bit: u16| if mask & right != 0 { bit } else { 0 };
    bit(access::FILE_READ_DATA, 0o4)
        | bit(access::FILE_WRITE_DATA, 0o2)
        | bit(access::FILE_EXECUTE, 0o1)
}

fn mask(bits: u16, is_directory: bool) -> u32 {
    let mut mask = 0;
    if bits & 0o4 != 0 {
        mask |= access::FILE_GENERIC_READ;
    }
    if bits & 0o2 != 0 {
        mask |= access::FILE_GENERIC_WRITE;
        if is_directory {
            mask |= access::FILE_DELETE_CHILD;
        }
    }
    if bits & 0o1 != 0 {
        mask |= access::FILE_GENERIC_EXECUTE;
    }
    mask
}
