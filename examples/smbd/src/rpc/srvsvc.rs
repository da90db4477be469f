//! The server service ([MS-SRVS]): which shares there are.
//!
//! Of its operations those are here that list and describe shares and tell the server's version and
//! time. Levels that tell local paths get an invented one, as clients show it and can do nothing
//! with it; who else is connected and what they have open is told to nobody. Other operations fault.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Server;
use super::ndr::{Decoder, Encoder};
use super::pdu::Fault;
use crate::wire::text;

const NETR_CONNECTION_ENUM: u16 = 8;
const NETR_FILE_ENUM: u16 = 9;
const NETR_SESSION_ENUM: u16 = 12;
const NETR_SHARE_ENUM: u16 = 15;
const NETR_SHARE_GET_INFO: u16 = 16;
const NETR_SERVER_GET_INFO: u16 = 21;
const NETR_REMOTE_TOD: u16 = 28;
const NETR_SHARE_ENUM_STICKY: u16 = 36;

pub(super) const NERR_SUCCESS: u32 = 0;
pub(super) const ERROR_ACCESS_DENIED: u32 = 5;
pub(super) const ERROR_INVALID_LEVEL: u32 = 124;
const ERROR_MORE_DATA: u32 = 234;
const NERR_NET_NAME_NOT_FOUND: u32 = 2310;

pub(super) const PLATFORM_ID_NT: u32 = 500;
/// The system's version, as NTLMSSP says.
pub(super) const VERSION: (u32, u32) = (6, 1);

/// `STYPE_DISKTREE`
pub const STYPE_DISKTREE: u32 = 0;
/// `STYPE_IPC | STYPE_SPECIAL`
pub const STYPE_IPC_SPECIAL: u32 = 0x8000_0003;

/// One share as clients are told of it.
#[derive(Debug, Clone, Copy)]
pub struct ShareEntry<'a> {
    /// The name.
    pub name: &'a str,
    /// `STYPE_*`.
    pub kind: u32,
    /// The comment.
    pub remark: &'a str,
}

/// Levels of SHARE_INFO that are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// The name.
    Info0,
    /// Name, type and remark.
    Info1,
    /// The same with path and number of users.
    Info2,
    /// Name, type, remark and flags.
    Info501,
    /// As level 2, with a security descriptor.
    Info502,
    /// The flags.
    Info1005,
}

/// SHI1005_FLAGS: CSC_CACHE_NONE, as in TREE_CONNECT
const SHARE_FLAGS: u32 = 0x30;

impl Level {
    /// The level of a number, for an enumeration.
    fn from_number(level: u32) -> Result<Level, u32> {
        match level {
            0 => Ok(Level::Info0),
            1 => Ok(Level::Info1),
            2 => Ok(Level::Info2),
            501 => Ok(Level::Info501),
            502 => Ok(Level::Info502),
            503 => Err(ERROR_ACCESS_DENIED),
            _ => Err(ERROR_INVALID_LEVEL),
        }
    }

    /// The same, for a single share.
    fn of_one(level: u32) -> Result<Level, u32> {
        match level {
            1005 => Ok(Level::Info1005),
            level => Level::from_number(level),
        }
    }

    fn put_fixed(self, out: &mut Encoder, share: &ShareEntry<'_>) {
        const UNLIMITED: u32 = u32::MAX;
        if self == Level::Info1005 {
            out.u32(SHARE_FLAGS);
            return;
        }
        out.pointer();
        if self != Level::Info0 {
            out.u32(share.kind);
            out.pointer();
        }
        if let Level::Info2 | Level::Info502 = self {
            out.u32(0); // Permissions: of share-level security alone
            out.u32(UNLIMITED);
            out.u32(0); // CurrentUses
            out.pointer();
            out.null(); // Passwd
        }
        match self {
            Level::Info501 => out.u32(SHARE_FLAGS),
            Level::Info502 => {
                out.u32(0); // Length of the security descriptor: there is none
                out.null();
            }
            _ => {}
        }
    }

    fn put_strings(self, out: &mut Encoder, share: &ShareEntry<'_>) {
        if self == Level::Info1005 {
            return;
        }
        out.string(share.name);
        if self != Level::Info0 {
            out.string(share.remark);
        }
        if let Level::Info2 | Level::Info502 = self {
            out.string(&match share.kind {
                STYPE_DISKTREE => format!("C:\\{}", share.name),
                _ => String::new(),
            });
        }
    }

    /// Bytes one entry takes, for PreferedMaximumLength.
    fn size(self, share: &ShareEntry<'_>) -> u64 {
        let mut out = Encoder::new();
        self.put_fixed(&mut out, share);
        self.put_strings(&mut out, share);
        out.into_stub().len() as u64
    }
}

/// Executes a call: operation number and arguments to results.
///
/// # Errors
///
/// [`Fault`] when there is no such operation or its arguments are broken.
pub fn call(operation: u16, stub: &[u8], server: &Server<'_>) -> Result<Vec<u8>, Fault> {
    let mut arguments = Decoder::new(stub);
    match operation {
        NETR_SHARE_ENUM | NETR_SHARE_ENUM_STICKY => share_enum(&mut arguments, server),
        // ServerName and two or one to choose by.
        NETR_CONNECTION_ENUM => deny_enum(&mut arguments, 2),
        NETR_FILE_ENUM | NETR_SESSION_ENUM => deny_enum(&mut arguments, 3),
        NETR_REMOTE_TOD => remote_tod(&mut arguments),
        NETR_SHARE_GET_INFO => share_get_info(&mut arguments, server),
        NETR_SERVER_GET_INFO => server_get_info(&mut arguments, server),
        _ => Err(Fault::UnknownOperation),
    }
}

/// The arguments that all enumerations end with.
struct Enumeration {
    level: u32,
    preferred_length: u64,
    resume: Option<u32>,
}

impl Enumeration {
    fn parse(arguments: &mut Decoder<'_>) -> Result<Enumeration, Fault> {
        let level = arguments.u32()?;
        if arguments.u32()? != level {
            return Err(Fault::BadStub);
        }
        if arguments.pointer()? {
            let entries = arguments.u32()?;
            let has_array = arguments.pointer()?;
            if entries != 0 || has_array && arguments.u32()? != 0 {
                return Err(Fault::BadStub); // the container is for results
            }
        }
        Ok(Enumeration {
            level,
            preferred_length: u64::from(arguments.u32()?),
            resume: match arguments.pointer()? {
                true => Some(arguments.u32()?),
                false => None,
            },
        })
    }
}

/// Who is connected and what they have open ([MS-SRVS] 3.1.4.1, 3.1.4.2, 3.1.4.5) is not for all to
/// know.
pub(super) fn deny_enum(arguments: &mut Decoder<'_>, names: usize) -> Result<Vec<u8>, Fault> {
    for _ in 0..names {
        arguments.unique_string()?;
    }
    let Enumeration { level, resume, .. } = Enumeration::parse(arguments)?;
    let mut out = Encoder::new();
    out.u32(level);
    out.u32(level);
    out.null();
    out.u32(0); // TotalEntries
    match resume {
        Some(_) => {
            out.pointer();
            out.u32(0);
        }
        None => out.null(),
    }
    out.u32(ERROR_ACCESS_DENIED);
    Ok(out.into_stub())
}

/// [MS-SRVS] 3.1.4.21
fn remote_tod(arguments: &mut Decoder<'_>) -> Result<Vec<u8>, Fault> {
    arguments.unique_string()?; // ServerName
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let in_day = seconds % 86_400;
    let mut out = Encoder::new();
    out.pointer();
    for value in [
        seconds,
        since.as_millis() as u64 & u64::from(u32::MAX), // a clock that only counts on
        in_day / 3600,
        in_day / 60 % 60,
        in_day % 60,
        u64::from(since.subsec_millis() / 10),
        0,   // minutes from UTC, which all of this is in
        310, // a tick, in tenths of milliseconds
        day,
        month,
        year,
        (seconds / 86_400 + 4) % 7, // 1970-01-01 was a Thursday
    ] {
        out.u32(value as u32);
    }
    out.u32(NERR_SUCCESS);
    Ok(out.into_stub())
}

/// Year, month and day of a number of days since 1970-01-01, by the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Years that begin in March end with the day that leaps; eras are 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leaps = day_of_era / 1_460 + day_of_era / 146_096 - day_of_era / 36_524;
    let year_of_era = (day_of_era - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// [MS-SRVS] 3.1.4.8
fn share_enum(arguments: &mut Decoder<'_>, server: &Server<'_>) -> Result<Vec<u8>, Fault> {
    arguments.unique_string()?; // ServerName
    let Enumeration {
        level: level_number,
        preferred_length,
        resume,
    } = Enumeration::parse(arguments)?;

    let mut out = Encoder::new();
    out.u32(level_number);
    out.u32(level_number);
    let first = resume.unwrap_or(0) as usize;
    let remaining = server.shares.get(first..).unwrap_or_default();
    let (total, next, result) = match Level::from_number(level_number) {
        Err(error) => {
            out.null();
            (0, 0, error)
        }
        Ok(level) => {
            let mut length = 0;
            let fitting = remaining
                .iter()
                .take_while(|share| {
                    length += level.size(share);
                    length <= preferred_length
                })
                .count();
            // At least one, or an enumeration with a tiny length never ends.
            let entries = &remaining[..fitting.max(1).min(remaining.len())];
            out.pointer();
            out.u32(entries.len() as u32);
            out.pointer();
            out.u32(entries.len() as u32);
            for share in entries {
                level.put_fixed(&mut out, share);
            }
            for share in entries {
                level.put_strings(&mut out, share);
            }
            if entries.len() < remaining.len() {
                (remaining.len(), first + entries.len(), ERROR_MORE_DATA)
            } else {
                (remaining.len(), 0, NERR_SUCCESS)
            }
        }
    };
    out.u32(total as u32);
    match resume {
        Some(_) => {
            out.pointer();
            out.u32(next as u32);
        }
        None => out.null(),
    }
    out.u32(result);
    Ok(out.into_stub())
}

/// [MS-SRVS] 3.1.4.10
fn share_get_info(arguments: &mut Decoder<'_>, server: &Server<'_>) -> Result<Vec<u8>, Fault> {
    arguments.unique_string()?; // ServerName
    let name = arguments.string()?;
    let level_number = arguments.u32()?;
    let found = Level::of_one(level_number).and_then(|level| {
        server
            .shares
            .iter()
            .find(|share| text::same_name(share.name, &name))
            .map(|share| (level, share))
            .ok_or(NERR_NET_NAME_NOT_FOUND)
    });
    let mut out = Encoder::new();
    out.u32(level_number);
    match found {
        Ok((level, share)) => {
            out.pointer();
            level.put_fixed(&mut out, share);
            level.put_strings(&mut out, share);
            out.u32(NERR_SUCCESS);
        }
        Err(error) => {
            out.null();
            out.u32(error);
        }
    }
    Ok(out.into_stub())
}

/// [MS-SRVS] 3.1.4.17, levels 100 to 102
fn server_get_info(arguments: &mut Decoder<'_>, server: &Server<'_>) -> Result<Vec<u8>, Fault> {
    const SV_TYPE_WORKSTATION_SERVER_NT: u32 = 0x0000_9003;
    arguments.unique_string()?;
    let level = arguments.u32()?;
    let mut out = Encoder::new();
    out.u32(level);
    let result = match level {
        100..=102 => {
            out.pointer();
            out.u32(PLATFORM_ID_NT);
            out.pointer();
            if level >= 101 {
                out.u32(VERSION.0);
                out.u32(VERSION.1);
                out.u32(SV_TYPE_WORKSTATION_SERVER_NT);
                out.pointer();
            }
            if level == 102 {
                out.u32(u32::MAX); // users: unlimited
                out.u32(u32::MAX); // and never sent away
                for _ in 0..4 {
                    out.u32(0); // visible, announced never, licenses
                }
                out.pointer();
            }
            out.string(server.name);
            if level >= 101 {
                out.string("");
            }
            if level == 102 {
                out.string("C:\\");
            }
            NERR_SUCCESS
        }
        error_level => {
            out.null();
            match error_level {
                103 | 502 | 503 => ERROR_ACCESS_DENIED,
                _ => ERROR_INVALID_LEVEL,
            }
        }
    };
    out.u32(result);
    Ok(out.into_stub())
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(59), (1970, 3, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(11_017), (2000, 3, 1));
        assert_eq!(date(19_722), (2023, 12, 31));
        assert_eq!(date(47_540), (2100, 2, 28));
        assert_eq!(date(47_541), (2100, 3, 1));
    }
}
