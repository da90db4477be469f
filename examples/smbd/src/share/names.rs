//! Names on disk (bytes) and names on the wire (UTF-16).
//!
//! A file name on disk is any bytes but `/` and NUL. On the wire it is Unicode
//! and must not contain what Windows reserves. The mapping is exact, every file
//! can be listed and opened again by the name listed:
//!
//! * reserved characters become U+F001–U+F029, the mapping of Services for
//!   Macintosh, which clients on other systems know and show as the original;
//! * bytes that are no UTF-8 become U+EF80–U+EFFF, as in OPTU-8;
//! * characters of these two ranges that are in a name on disk are treated as
//!   if they were no UTF-8, so nothing is ambiguous.

use crate::wire::status::Status;

/// Reserved characters in the order of U+F020 onwards; space and period are
/// reserved only at the end of a name.
const RESERVED: [char; 10] = ['"', '*', ':', '<', '>', '?', '\\', '|', ' ', '.'];
const SFM_CONTROLS: u32 = 0xF000;
const SFM_RESERVED: u32 = 0xF020;
/// Added to a byte 0x80–0xFF.
const RAW_BYTES: u32 = 0xEF00;

fn is_mapped(c: char) -> bool {
    matches!(c, '\u{EF80}'..='\u{EFFF}' | '\u{F001}'..='\u{F029}')
}

fn private(code: u32) -> char {
    // All of U+E000–U+F8FF are characters.
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The name on the wire of a file called `name` on disk.
pub fn to_wire(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    if name == b"." || name == b".." {
        return name.iter().map(|&byte| char::from(byte)).collect();
    }
    let raw = |out: &mut String, bytes: &[u8]| {
        out.extend(bytes.iter().map(|&b| private(RAW_BYTES + u32::from(b))));
    };
    let mut at = 0;
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            at += c.len_utf8();
            let reserved = RESERVED.iter().position(|&r| r == c);
            match (c, reserved) {
                (' ' | '.', Some(index)) if at == name.len() => {
                    out.push(private(SFM_RESERVED + index as u32));
                }
                (' ' | '.', _) => out.push(c),
                (_, Some(index)) => out.push(private(SFM_RESERVED + index as u32)),
                ('\u{01}'..='\u{1F}', _) => out.push(private(SFM_CONTROLS + c as u32)),
                _ if is_mapped(c) => raw(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                _ => out.push(c),
            }
        }
        at += chunk.invalid().len();
        raw(&mut out, chunk.invalid());
    }
    out
}

/// The name on disk of what a client calls `name`, one component of a path.
///
/// # Errors
///
/// `STATUS_OBJECT_NAME_INVALID` for names that cannot be: empty, `.`, or with
/// reserved characters; `STATUS_OBJECT_PATH_SYNTAX_BAD` for `..`.
pub fn to_disk(name: &str) -> Result<Vec<u8>, Status> {
    let mut out = Vec::with_capacity(name.len());
    for c in name.chars() {
        let code = c as u32;
        match c {
            '\0'..='\u{1F}' | '/' | '\\' | '"' | '*' | ':' | '<' | '>' | '?' | '|' => {
                return Err(Status::OBJECT_NAME_INVALID);
            }
            '\u{EF80}'..='\u{EFFF}' => out.push((code - RAW_BYTES) as u8),
            '\u{F001}'..='\u{F01F}' => out.push((code - SFM_CONTROLS) as u8),
            '\u{F020}'..='\u{F029}' => out.push(RESERVED[(code - SFM_RESERVED) as usize] as u8),
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    // Asked of the result: the dots may have come in disguise.
    match out.as_slice() {
        b".." => Err(Status::OBJECT_PATH_SYNTAX_BAD),
        b"" | b"." => Err(Status::OBJECT_NAME_INVALID),
        _ => Ok(out),
    }
}

/// Names that stand for devices on Windows, with and without an extension.
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];

/// Whether `name` (on disk) is one that a new file may get: not the name of a device, not ended by
/// a space or a period, which Windows clients strip from what their users write.
pub fn may_be_made(name: &[u8]) -> bool {
    if name.ends_with(b" ") || name.ends_with(b".") {
        return false;
    }
    let stem = name.split(|&byte| byte == b'.').next().unwrap_or(name);
    let Ok(stem) = std::str::from_utf8(stem) else {
        return true;
    };
    let stem = stem.trim_end_matches(' ');
    let is_numbered = |device: &str| {
        let number = stem
            .get(..device.len())
            .filter(|start| start.eq_ignore_ascii_case(device))
            .and_then(|_| stem.get(device.len()..));
        let mut digits = number.unwrap_or("").chars();
        matches!(digits.next(), Some('1'..='9' | '¹' | '²' | '³')) && digits.next().is_none()
    };
    let is_device = DEVICES
        .iter()
        .any(|device| stem.eq_ignore_ascii_case(device));
    !is_device && !is_numbered("COM") && !is_numbered("LPT")
}

/// What stands between the components of a path. The second is
/// none by the specification, but some clients send it.
const SEPARATORS: [char; 2] = ['\\', '/'];

/// The components on disk of a path in a request: relative to the share, with
/// backslashes. The share itself is the empty path. `..` takes away the component before it.
///
/// # Errors
///
/// `STATUS_INVALID_PARAMETER` for a leading backslash ([MS-SMB2] 3.3.5.9),
/// `STATUS_OBJECT_NAME_INVALID` for an impossible name. The names of streams
/// count as impossible.
pub fn parse_path(path: &str) -> Result<Vec<Vec<u8>>, Status> {
    if path.starts_with(SEPARATORS) {
        return Err(Status::INVALID_PARAMETER);
    }
    let path = path.strip_suffix(SEPARATORS).unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let mut components = Vec::new();
    for name in path.split(SEPARATORS) {
        if name == ".." {
            // As Windows' servers do. It is resolved here, where nothing leads out of the share.
            components.pop().ok_or(Status::OBJECT_PATH_SYNTAX_BAD)?;
        } else {
            components.push(to_disk(name)?);
        }
    }
    Ok(components)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn impossible_paths_are_refused() {
        for path in [
            "a//b", ".", "a\\\\b", "a\0", "a:stream", "a::$DATA", "a*", "\u{F029}",
        ] {
            assert_eq!(
                parse_path(path),
                Err(Status::OBJECT_NAME_INVALID),
                "{path:?}"
            );
        }
        for path in ["a\\..\\..\\b", "..", "\u{F029}\u{F029}", "\u{F029}."] {
            assert_eq!(
                parse_path(path),
                Err(Status::OBJECT_PATH_SYNTAX_BAD),
                "{path:?}"
            );
        }
        assert_eq!(parse_path("\\a"), Err(Status::INVALID_PARAMETER));
        assert_eq!(parse_path(""), Ok(vec![]));
        assert_eq!(parse_path("a\\b\\.."), parse_path("a"));
        assert_eq!(parse_path("a\\..\\b"), parse_path("b"));
        assert_eq!(parse_path("a\\.."), Ok(vec![]));
        assert_eq!(
            parse_path("a\\b.c\\"),
            Ok(vec![b"a".to_vec(), b"b.c".to_vec()])
        );
        assert_eq!(parse_path("a/b"), parse_path("a\\b"));
        assert_eq!(parse_path("/a"), Err(Status::INVALID_PARAMETER));
    }

    #[test]
    fn names_of_devices_are_not_for_files() {
        for name in [
            "con",
            "AUX.c",
            "nul.tar.gz",
            "Com1",
            "LPT9.txt",
            "com²",
            "CONOUT$",
            "PRN .",
        ] {
            assert!(!may_be_made(name.as_bytes()), "{name}");
        }
        for name in ["a.", "a ", "..."] {
            assert!(!may_be_made(name.as_bytes()), "{name}");
        }
        for name in [
            "console",
            "COM",
            "com0",
            "COM10",
            "lpt",
            "a.con",
            ".aux",
            "auxiliary.c",
            "ÄCON",
        ] {
            assert!(may_be_made(name.as_bytes()), "{name}");
        }
        assert!(may_be_made(b"\xFF\xFE"));
    }

    proptest! {
        #[test]
        fn every_name_on_disk_is_listed_so_that_it_can_be_opened(
            name in proptest::collection::vec(any::<u8>().prop_filter("", |b| !b"/\0".contains(b)), 1..40)
        ) {
            prop_assume!(name != b"." && name != b"..");
            let wire = to_wire(&name);
            prop_assert!(!wire.contains(['"', '*', ':', '<', '>', '?', '\\', '|']));
            prop_assert!(!wire.ends_with([' ', '.']));
            prop_assert_eq!(to_disk(&wire), Ok(name));
        }

        #[test]
        fn characters_of_the_private_ranges_survive(name in "[a\u{EF7F}-\u{F030}]{1,8}") {
            prop_assert_eq!(to_disk(&to_wire(name.as_bytes())), Ok(name.into_bytes()));
        }
    }
}
