//! File system information ([MS-FSCC] 2.5) for QUERY_INFO.

use rustix::fs::StatVfs;

use super::Share;
use super::metadata::Metadata;
use crate::wire::status::Status;
use crate::wire::{Put, text};

const FILE_CASE_PRESERVED_NAMES: u32 = 0x0000_0002;
const FILE_UNICODE_ON_DISK: u32 = 0x0000_0004;
const FILE_PERSISTENT_ACLS: u32 = 0x0000_0008;
const FILE_SUPPORTS_SPARSE_FILES: u32 = 0x0000_0040;
const FILE_SUPPORTS_OBJECT_IDS: u32 = 0x0001_0000;
const FILE_SUPPORTS_HARD_LINKS: u32 = 0x0040_0000;
const FILE_SUPPORTS_BLOCK_REFCOUNTING: u32 = 0x0800_0000;
const FILE_READ_ONLY_VOLUME: u32 = 0x0008_0000;

/// Appends the information `class` of the file system under `share`, whole;
/// the caller cuts it to what the client takes.
///
/// # Errors
///
/// `STATUS_INVALID_INFO_CLASS` for unknown classes,
/// `STATUS_INFO_LENGTH_MISMATCH` when not even the fixed part fits into
/// `room`, `STATUS_VOLUME_NOT_UPGRADED` for quotas, which there are none of.
pub fn put(class: u8, share: &Share, room: usize, out: &mut Vec<u8>) -> Result<(), Status> {
    let minimum = match class {
        1 | 3 => 24,
        4 => 8,
        5 => 16,
        6 => return Err(Status::VOLUME_NOT_UPGRADED),
        7 => 32,
        8 => 64,
        11 => 28,
        _ => return Err(Status::INVALID_INFO_CLASS),
    };
    if room < minimum {
        return Err(Status::INFO_LENGTH_MISMATCH);
    }
    let vfs = rustix::fs::fstatvfs(share.root()).map_err(Status::from_errno)?;
    let units = Units::of(&vfs);
    match class {
        1 => {
            let root = Metadata::of(share.root()).map_err(Status::from_errno)?;
            let label = text::to_utf16le(share.name());
            out.put_u64(root.attributes(b"").creation_time);
            out.put_u32((vfs.f_fsid ^ vfs.f_fsid >> 32) as u32);
            out.put_u32(label.len() as u32);
            out.put_u16(0); // SupportsObjects
            out.put_bytes(&label);
        }
        3 => {
            out.put_u64(units.total);
            out.put_u64(units.available);
            units.put_size(out);
        }
        4 => {
            const FILE_DEVICE_DISK: u32 = 0x0000_0007;
            const FILE_DEVICE_IS_MOUNTED: u32 = 0x0000_0020;
            out.put_u32(FILE_DEVICE_DISK);
            out.put_u32(FILE_DEVICE_IS_MOUNTED);
        }
        5 => {
            let mut flags = FILE_CASE_PRESERVED_NAMES
                | FILE_UNICODE_ON_DISK
                | FILE_PERSISTENT_ACLS
                | FILE_SUPPORTS_SPARSE_FILES
                | FILE_SUPPORTS_OBJECT_IDS
                | FILE_SUPPORTS_HARD_LINKS;
            if share.shares_blocks() {
                flags |= FILE_SUPPORTS_BLOCK_REFCOUNTING;
            }
            if share.is_read_only() {
                flags |= FILE_READ_ONLY_VOLUME;
            }
            // Clients decide by this name what they may expect; what is not
            // called NTFS gets no long paths and no security tab.
            let name = text::to_utf16le("NTFS");
            out.put_u32(flags);
            out.put_u32(vfs.f_namemax.min(255) as u32);
            out.put_u32(name.len() as u32);
            out.put_bytes(&name);
        }
        7 => {
            out.put_u64(units.total);
            out.put_u64(units.available);
            out.put_u64(units.free);
            units.put_size(out);
        }
        8 => {
            // A GUID that is stable and differs between file systems.
            let root = Metadata::of(share.root()).map_err(Status::from_errno)?;
            out.put_u64(vfs.f_fsid);
            out.put_u64(root.inode);
            out.put_zeros(48);
        }
        _ => {
            const SSINFO_FLAGS_ALIGNED: u32 = 0x0000_0003; // device and partition
            out.put_u32(units.bytes_per_sector);
            for _ in 0..3 {
                out.put_u32(4096); // physical, for performance, for atomicity
            }
            out.put_u32(SSINFO_FLAGS_ALIGNED);
            out.put_u32(0);
            out.put_u32(0);
        }
    }
    Ok(())
}

impl Share {
    /// Whether the file system can let files share their blocks until one of them is written.
    #[allow(clippy::useless_conversion)] // the type differs between architectures
    pub fn shares_blocks(&self) -> bool {
        const BTRFS: i64 = 0x9123_683E;
        const XFS: i64 = 0x5846_5342;
        const BCACHEFS: i64 = 0xCA45_1A4E;
        rustix::fs::fstatfs(self.root())
            .is_ok_and(|fs| [BTRFS, XFS, BCACHEFS].contains(&i64::from(fs.f_type)))
    }
}

/// Sizes in allocation units.
struct Units {
    total: u64,
    available: u64,
    free: u64,
    sectors: u32,
    bytes_per_sector: u32,
}

impl Units {
    fn of(vfs: &StatVfs) -> Units {
        let unit = u32::try_from(vfs.f_frsize).unwrap_or(4096).max(1);
        let (sectors, bytes_per_sector) = if unit.is_multiple_of(512) {
            (unit / 512, 512)
        } else {
            (1, unit)
        };
        Units {
            total: vfs.f_blocks,
            available: vfs.f_bavail,
            free: vfs.f_bfree,
            sectors,
            bytes_per_sector,
        }
    }

    fn put_size(&self, out: &mut Vec<u8>) {
        out.put_u32(self.sectors);
        out.put_u32(self.bytes_per_sector);
    }
}
