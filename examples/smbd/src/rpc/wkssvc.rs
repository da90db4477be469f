//! The workstation service ([MS-WKST]): what the machine is called. Who is logged on is told to
//! nobody. Other operations fault.

use super::Server;
use super::ndr::{Decoder, Encoder};
use super::pdu::Fault;
use super::srvsvc::{
    ERROR_ACCESS_DENIED, ERROR_INVALID_LEVEL, NERR_SUCCESS, PLATFORM_ID_NT, VERSION, deny_enum,
};

const NETR_WKSTA_GET_INFO: u16 = 0;
const NETR_WKSTA_USER_ENUM: u16 = 2;

/// Executes a call: operation number and arguments to results.
///
/// # Errors
///
/// [`Fault`] when there is no such operation or its arguments are broken.
pub fn call(operation: u16, stub: &[u8], server: &Server<'_>) -> Result<Vec<u8>, Fault> {
    let mut arguments = Decoder::new(stub);
    match operation {
        NETR_WKSTA_GET_INFO => wksta_get_info(&mut arguments, server),
        NETR_WKSTA_USER_ENUM => deny_enum(&mut arguments, 1),
        _ => Err(Fault::UnknownOperation),
    }
}

/// [MS-WKST] 3.2.4.1
fn wksta_get_info(arguments: &mut Decoder<'_>, server: &Server<'_>) -> Result<Vec<u8>, Fault> {
    arguments.unique_string()?; // ServerName
    let level = arguments.u32()?;
    let mut out = Encoder::new();
    out.u32(level);
    let result = match level {
        100 | 101 => {
            out.pointer();
            out.u32(PLATFORM_ID_NT);
            out.pointer();
            out.pointer();
            out.u32(VERSION.0);
            out.u32(VERSION.1);
            if level == 101 {
                out.pointer();
            }
            out.string(server.name);
            out.string(super::WORKGROUP);
            if level == 101 {
                out.string(""); // where a LAN manager would be installed
            }
            NERR_SUCCESS
        }
        others => {
            out.null();
            match others {
                102 | 502 => ERROR_ACCESS_DENIED, // for administrators
                _ => ERROR_INVALID_LEVEL,
            }
        }
    };
    out.u32(result);
    Ok(out.into_stub())
}
