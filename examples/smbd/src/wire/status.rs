//! NTSTATUS values ([MS-ERREF] 2.3.1), as far as this server answers with them.

/// An NTSTATUS.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

macro_rules! statuses {
    ($($name:ident = $value:literal),* $(,)?) => {
        #[allow(missing_docs)] // the names are the specification's
        impl Status {
            $(pub const $name: Status = Status($value);)*

            /// The name without its `STATUS_`, or `None` for a value not listed here.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0x0000_0000,
    PENDING = 0x0000_0103,
    SOME_NOT_MAPPED = 0x0000_0107,
    NOTIFY_CLEANUP = 0x0000_010B,
    NOTIFY_ENUM_DIR = 0x0000_010C,
    BUFFER_OVERFLOW = 0x8000_0005,
    NO_MORE_FILES = 0x8000_0006,
    NOT_IMPLEMENTED = 0xC000_0002,
    INVALID_INFO_CLASS = 0xC000_0003,
    INFO_LENGTH_MISMATCH = 0xC000_0004,
    INVALID_HANDLE = 0xC000_0008,
    INVALID_PARAMETER = 0xC000_000D,
    NO_SUCH_FILE = 0xC000_000F,
    INVALID_DEVICE_REQUEST = 0xC000_0010,
    END_OF_FILE = 0xC000_0011,
    MORE_PROCESSING_REQUIRED = 0xC000_0016,
    INVALID_VIEW_SIZE = 0xC000_001F,
    ACCESS_DENIED = 0xC000_0022,
    BUFFER_TOO_SMALL = 0xC000_0023,
    OBJECT_NAME_INVALID = 0xC000_0033,
    OBJECT_NAME_NOT_FOUND = 0xC000_0034,
    OBJECT_NAME_COLLISION = 0xC000_0035,
    OBJECT_PATH_NOT_FOUND = 0xC000_003A,
    OBJECT_PATH_SYNTAX_BAD = 0xC000_003B,
    SHARING_VIOLATION = 0xC000_0043,
    EAS_NOT_SUPPORTED = 0xC000_004F,
    NO_EAS_ON_FILE = 0xC000_0052,
    FILE_LOCK_CONFLICT = 0xC000_0054,
    LOCK_NOT_GRANTED = 0xC000_0055,
    DELETE_PENDING = 0xC000_0056,
    INVALID_OWNER = 0xC000_005A,
    PRIVILEGE_NOT_HELD = 0xC000_0061,
    LOGON_FAILURE = 0xC000_006D,
    NONE_MAPPED = 0xC000_0073,
    RANGE_NOT_LOCKED = 0xC000_007E,
    DISK_FULL = 0xC000_007F,
    INSUFFICIENT_RESOURCES = 0xC000_009A,
    MEDIA_WRITE_PROTECTED = 0xC000_00A2,
    BAD_IMPERSONATION_LEVEL = 0xC000_00A5,
    INVALID_LOCK_RANGE = 0xC000_01A1,
    INVALID_PIPE_STATE = 0xC000_00AD,
    INVALID_READ_MODE = 0xC000_00B4,
    FILE_IS_A_DIRECTORY = 0xC000_00BA,
    NOT_SUPPORTED = 0xC000_00BB,
    NETWORK_NAME_DELETED = 0xC000_00C9,
    BAD_NETWORK_NAME = 0xC000_00CC,
    REQUEST_NOT_ACCEPTED = 0xC000_00D0,
    NOT_SAME_DEVICE = 0xC000_00D4,
    PIPE_EMPTY = 0xC000_00D9,
    INVALID_OPLOCK_PROTOCOL = 0xC000_00E3,
    INTERNAL_ERROR = 0xC000_00E5,
    UNEXPECTED_IO_ERROR = 0xC000_00E9,
    DIRECTORY_NOT_EMPTY = 0xC000_0101,
    NOT_A_DIRECTORY = 0xC000_0103,
    TOO_MANY_OPENED_FILES = 0xC000_011F,
    CANCELLED = 0xC000_0120,
    CANNOT_DELETE = 0xC000_0121,
    FILE_CLOSED = 0xC000_0128,
    INVALID_DEVICE_STATE = 0xC000_0184,
    IO_DEVICE_ERROR = 0xC000_0185,
    FS_DRIVER_REQUIRED = 0xC000_019C,
    USER_SESSION_DELETED = 0xC000_0203,
    TOO_MANY_LINKS = 0xC000_0265,
    NOT_A_REPARSE_POINT = 0xC000_0275,
    REQUEST_OUT_OF_SEQUENCE = 0xC000_042A,
    FILE_NOT_AVAILABLE = 0xC000_0467,
    VOLUME_NOT_UPGRADED = 0xC000_029C,
    SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP = 0xC05D_0000,
}

impl Status {
    /// What an errno of the file system means to a client.
    ///
    /// Path lookups have their own, finer mapping of `ENOENT` (see the share's
    /// lookup); this is for operations on something that was found.
    pub fn from_errno(errno: rustix::io::Errno) -> Status {
        use rustix::io::Errno;
        match errno {
            Errno::ACCESS | Errno::PERM => Status::ACCESS_DENIED,
            // Beneath the share nothing of that name can be reached: a symbolic
            // link that leaves the share (EXDEV) or turns in circles (ELOOP) is
            // to a client as good as absent.
            Errno::NOENT | Errno::XDEV | Errno::LOOP => Status::OBJECT_NAME_NOT_FOUND,
            Errno::NOTDIR => Status::OBJECT_PATH_NOT_FOUND,
            Errno::EXIST => Status::OBJECT_NAME_COLLISION,
            Errno::NOTEMPTY => Status::DIRECTORY_NOT_EMPTY,
            Errno::ISDIR => Status::FILE_IS_A_DIRECTORY,
            Errno::NAMETOOLONG | Errno::INVAL => Status::OBJECT_NAME_INVALID,
            Errno::MFILE | Errno::NFILE => Status::TOO_MANY_OPENED_FILES,
            Errno::NOMEM => Status::INSUFFICIENT_RESOURCES,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Status::DISK_FULL,
            Errno::ROFS => Status::MEDIA_WRITE_PROTECTED,
            Errno::TXTBSY | Errno::BUSY => Status::SHARING_VIOLATION,
            Errno::MLINK => Status::TOO_MANY_LINKS,
            Errno::OPNOTSUPP => Status::NOT_SUPPORTED,
            Errno::IO => Status::IO_DEVICE_ERROR,
            // A fifo or socket that nobody serves, a device without a driver.
            Errno::NXIO | Errno::NODEV => Status::ACCESS_DENIED,
            _ => Status::UNEXPECTED_IO_ERROR,
        }
    }

    /// Whether the severity bits say "error" (and not success or warning).
    pub fn is_error(self) -> bool {
        self.0 >> 30 == 3
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => write!(f, "STATUS_{name}"),
            None => write!(f, "NTSTATUS {:#010x}", self.0),
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

impl From<super::Malformed> for Status {
    fn from(_: super::Malformed) -> Status {
        Status::INVALID_PARAMETER
    }
}
