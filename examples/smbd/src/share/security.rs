//! A security descriptor ([MS-DTYP] 2.4.6) that says what the mode bits say.

use super::metadata::{Kind, Metadata};
use crate::wire::Put;
use crate::wire::create::access;

/// `OWNER_SECURITY_INFORMATION`
const OWNER: u32 = 0x1;
/// `GROUP_SECURITY_INFORMATION`
const GROUP: u32 = 0x2;
/// `DACL_SECURITY_INFORMATION`
const DACL: u32 = 0x4;

/// A SID: its authority and subauthorities.
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
    const SE_DACL_PRESENT: u16 = 0x0004;
    const SE_SELF_RELATIVE: u16 = 0x8000;
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
    const ACCESS_ALLOWED_ACE_TYPE: u8 = 0;
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
