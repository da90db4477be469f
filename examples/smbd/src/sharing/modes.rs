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

/// Each share mode, and the access that it allows.
const MODES: [(u32, u32); 3] = [
    (SHARE_READ, access::FILE_READ_DATA | access::FILE_EXECUTE),
    (
        SHARE_WRITE,
        access::FILE_WRITE_DATA | access::FILE_APPEND_DATA,
    ),
    (SHARE_DELETE, access::DELETE),
];

fn forbids(share: u32, access: u32) -> bool {
    MODES
        .into_iter()
        .any(|(allows, wanted)| share & allows == 0 && access & wanted != 0)
}

/// The access and share modes of all opens of a file, counted: so how many there are makes no
/// difference to one more.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// How many have the access that each of [`MODES`] allows.
    uses: [usize; 3],
    /// How many forbid it to others.
    forbids: [usize; 3],
    /// How many do more than look at attributes.
    more_than_stat: usize,
}

impl Counts {
    /// There is one more open.
    pub(super) fn add(&mut self, access: u32, share: u32) {
        self.change(access, share, |count| *count += 1);
    }

    /// One that was added is gone.
    pub(super) fn remove(&mut self, access: u32, share: u32) {
        self.change(access, share, |count| *count -= 1);
    }

    fn change(&mut self, access: u32, share: u32, change: fn(&mut usize)) {
        for (index, (allows, wanted)) in MODES.into_iter().enumerate() {
            if access & wanted != 0 {
                change(&mut self.uses[index]);
            }
            if access & CONCERNS_OTHERS != 0 && share & allows == 0 {
                change(&mut self.forbids[index]);
            }
        }
        if !is_stat_open(access) {
            change(&mut self.more_than_stat);
        }
    }

    /// Whether an open would [conflict](conflicts) with one of those that there are.
    pub(super) fn conflict(&self, access: u32, share: u32) -> bool {
        access & CONCERNS_OTHERS != 0
            && MODES.into_iter().enumerate().any(|(i, (allows, wanted))| {
                access & wanted != 0 && self.forbids[i] > 0
                    || share & allows == 0 && self.uses[i] > 0
            })
    }

    /// Whether all only look at attributes.
    pub(super) fn are_stat_opens(&self) -> bool {
        self.more_than_stat == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    proptest! {
        #[test]
        fn counting_says_what_each_pair_does(
            opens in prop::collection::vec((0..7usize, 0..8u32, any::<bool>()), 0..12),
            wanted in (0..7usize, 0..8u32),
        ) {
            const ACCESS: [u32; 7] = [0x1, 0x2, 0x4, 0x20, 0x1_0000, 0x80, 0x8];
            let mut counts = Counts::default();
            let mut rest = Vec::new();
            for (access, share, stays) in opens {
                counts.add(ACCESS[access], share);
                if stays {
                    rest.push((ACCESS[access], share));
                } else {
                    counts.remove(ACCESS[access], share);
                }
            }
            let (access, share) = (ACCESS[wanted.0], wanted.1);
            let refused = rest.iter().any(|&other| conflicts((access, share), other));
            prop_assert_eq!(counts.conflict(access, share), refused);
            let are_stat_opens = rest.iter().all(|&(access, _)| is_stat_open(access));
            prop_assert_eq!(counts.are_stat_opens(), are_stat_opens);
        }
    }
}
