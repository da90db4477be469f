//! Desired access and share modes ([MS-FSA] 2.1.5.1.2.2).

use crate::wire::create::access;

/// `FILE_SHARE_READ` of `ShareAccess`.
pub const SHARE_READ: u32 = 1;
/// `FILE_SHARE_WRITE`.
pub const SHARE_WRITE: u32 = 2;
/// `FILE_SHARE_DELETE`.
pub const SHARE_DELETE: u32 = 4;

/// Access that reads, writes or deletes, so that others may object to it.
const CONCERNS_OTHERS: u32 = access::FILE_READ_DATA
    | access::FILE_WRITE_DATA
    | access::FILE_APPEND_DATA
    | access::FILE_EXECUTE
    | access::DELETE;

/// Access that leaves the data alone, so that it breaks no oplock.
const OF_STAT_OPENS: u32 =
    access::FILE_READ_ATTRIBUTES | access::FILE_WRITE_ATTRIBUTES | access::SYNCHRONIZE;

/// Whether an open with this access only looks at attributes.
pub fn is_stat_open(access: u32) -> bool {
    access & !OF_STAT_OPENS == 0
}

/// Whether two opens of the same file, each with the access it was granted and
/// the share modes it allows others, can't exist beside each other.
///
/// Opens that neither read, write nor delete are never in the way.
pub fn conflicts((access_1, share_1): (u32, u32), (access_2, share_2): (u32, u32)) -> bool {
    if access_1 & CONCERNS_OTHERS == 0 || access_2 & CONCERNS_OTHERS == 0 {
        return false;
    }
    forbids(share_1, access_2) || forbids(share_2, access_1)
}

fn forbids(share: u32, access: u32) -> bool {
    [
        (SHARE_READ, access::FILE_READ_DATA | access::FILE_EXECUTE),
        (
            SHARE_WRITE,
            access::FILE_WRITE_DATA | access::FILE_APPEND_DATA,
        ),
        (SHARE_DELETE, access::DELETE),
    ]
    .into_iter()
    .any(|(allows, wanted)| share & allows == 0 && access & wanted != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = SHARE_READ | SHARE_WRITE | SHARE_DELETE;

    #[test]
    fn each_mode_is_about_its_own_access() {
        for (mode, access) in [
            (SHARE_READ, access::FILE_READ_DATA),
            (SHARE_READ, access::FILE_EXECUTE),
            (SHARE_WRITE, access::FILE_WRITE_DATA),
            (SHARE_WRITE, access::FILE_APPEND_DATA),
            (SHARE_DELETE, access::DELETE),
        ] {
            let other = access::FILE_READ_DATA;
            assert!(conflicts((other, ALL & !mode), (access, ALL)));
            assert!(conflicts((access, ALL), (other, ALL & !mode)));
            assert!(!conflicts((other, ALL), (access, ALL)));
            assert!(!conflicts((other, mode | SHARE_READ), (access, ALL)));
        }
    }

    #[test]
    fn who_only_looks_is_in_nobodys_way() {
        let looks = access::FILE_READ_ATTRIBUTES | access::SYNCHRONIZE;
        assert!(!conflicts((looks, 0), (access::FILE_ALL_ACCESS, 0)));
        assert!(is_stat_open(looks));
        assert!(!is_stat_open(looks | access::FILE_READ_EA));
    }
}
