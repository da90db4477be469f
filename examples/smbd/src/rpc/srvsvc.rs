//! The server service ([MS-SRVS]): which shares there are.
//!
//! Of its operations `NetrShareEnum`, `NetrShareGetInfo` and
//! `NetrServerGetInfo` are here, at the levels every user may ask for; the
//! levels that tell local paths and permissions belong to administrators and
//! are denied. Other operations fault.

use super::ndr::{Decoder, Encoder};
use super::pdu::Fault;
use crate::wire::text;

const NETR_SHARE_ENUM: u16 = 15;
const NETR_SHARE_GET_INFO: u16 = 16;
const NETR_SERVER_GET_INFO: u16 = 21;

const NERR_SUCCESS: u32 = 0;
const ERROR_ACCESS_DENIED: u32 = 5;
const ERROR_INVALID_LEVEL: u32 = 124;
const ERROR_MORE_DATA: u32 = 234;
const NERR_NET_NAME_NOT_FOUND: u32 = 2310;

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

/// What the service tells of the server.
#[derive(Debug, Clone)]
pub struct Server<'a> {
    /// The server's name.
    pub name: &'a str,
    /// Its shares.
    pub shares: Vec<ShareEntry<'a>>,
}

/// Levels of SHARE_INFO that are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// The name.
    Info0,
    /// Name, type and remark.
    Info1,
    /// Name, type, remark and flags.
    Info501,
}

impl Level {
    fn from_number(level: u32) -> Result<Level, u32> {
        match level {
            0 => Ok(Level::Info0),
            1 => Ok(Level::Info1),
            501 => Ok(Level::Info501),
            2 | 502 | 503 | 1005 => Err(ERROR_ACCESS_DENIED),
            _ => Err(ERROR_INVALID_LEVEL),
        }
    }

    fn put_fixed(self, out: &mut Encoder, share: &ShareEntry<'_>) {
        out.pointer();
        if self != Level::Info0 {
            out.u32(share.kind);
            out.pointer();
        }
        if self == Level::Info501 {
            out.u32(0x30); // SHI1005_FLAGS: CSC_CACHE_NONE, as in TREE_CONNECT
        }
    }

    fn put_strings(self, out: &mut Encoder, share: &ShareEntry<'_>) {
        out.string(share.name);
        if self != Level::Info0 {
            out.string(share.remark);
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
        NETR_SHARE_ENUM => share_enum(&mut arguments, server),
        NETR_SHARE_GET_INFO => share_get_info(&mut arguments, server),
        NETR_SERVER_GET_INFO => server_get_info(&mut arguments, server),
        _ => Err(Fault::UnknownOperation),
    }
}

/// [MS-SRVS] 3.1.4.8
fn share_enum(arguments: &mut Decoder<'_>, server: &Server<'_>) -> Result<Vec<u8>, Fault> {
    arguments.unique_string()?; // ServerName
    let level_number = arguments.u32()?;
    if arguments.u32()? != level_number {
        return Err(Fault::BadStub);
    }
    if arguments.pointer()? {
        let entries = arguments.u32()?;
        if arguments.pointer()? || entries != 0 {
            return Err(Fault::BadStub); // the container is for results
        }
    }
    let preferred_length = u64::from(arguments.u32()?);
    let resume = match arguments.pointer()? {
        true => Some(arguments.u32()?),
        false => None,
    };

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
    let found = Level::from_number(level_number).and_then(|level| {
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

/// [MS-SRVS] 3.1.4.17, levels 100 and 101
fn server_get_info(arguments: &mut Decoder<'_>, server: &Server<'_>) -> Result<Vec<u8>, Fault> {
    const PLATFORM_ID_NT: u32 = 500;
    const SV_TYPE_WORKSTATION_SERVER_NT: u32 = 0x0000_9003;
    arguments.unique_string()?;
    let level = arguments.u32()?;
    let mut out = Encoder::new();
    out.u32(level);
    let result = match level {
        100 | 101 => {
            out.pointer();
            out.u32(PLATFORM_ID_NT);
            out.pointer();
            if level == 101 {
                out.u32(6); // version 6.1, as NTLMSSP says
                out.u32(1);
                out.u32(SV_TYPE_WORKSTATION_SERVER_NT);
                out.pointer();
            }
            out.string(server.name);
            if level == 101 {
                out.string("");
            }
            NERR_SUCCESS
        }
        error_level => {
            out.null();
            match error_level {
                102 | 103 | 502 | 503 => ERROR_ACCESS_DENIED,
                _ => ERROR_INVALID_LEVEL,
            }
        }
    };
    out.u32(result);
    Ok(out.into_stub())
}
