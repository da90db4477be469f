//! As much DER (X.690) as SPNEGO needs: definite lengths, one-byte tags.

use crate::wire::Malformed;

/// `OBJECT IDENTIFIER`
pub const OID: u8 = 0x06;
/// `OCTET STRING`
pub const OCTET_STRING: u8 = 0x04;
/// `ENUMERATED`
pub const ENUMERATED: u8 = 0x0A;
/// `SEQUENCE`
pub const SEQUENCE: u8 = 0x30;
/// `GeneralString`
pub const GENERAL_STRING: u8 = 0x1B;
/// `[APPLICATION 0]`, constructed
pub const APPLICATION_0: u8 = 0x60;

/// The context tag `[n]`, constructed.
pub const fn context(n: u8) -> u8 {
    0xA0 | n
}

/// Reads the element at the beginning of `input`: its tag, its contents and what follows.
///
/// # Errors
///
/// [`Malformed`] when there is none or it is cut short.
pub fn read(input: &[u8]) -> Result<(u8, &[u8], &[u8]), Malformed> {
    let (&[tag, first], rest) = input.split_first_chunk::<2>().ok_or(Malformed)?;
    if tag & 0x1F == 0x1F {
        return Err(Malformed); // a tag of several bytes
    }
    let (length, rest) = match first {
        0x00..=0x7F => (usize::from(first), rest),
        // Longer lengths do not fit any token, and 0x80 is BER's indefinite one.
        0x81..=0x83 => {
            let (bytes, rest) = rest
                .split_at_checked(usize::from(first & 0x7F))
                .ok_or(Malformed)?;
            let length = bytes.iter().fold(0, |n, &byte| n << 8 | usize::from(byte));
            (length, rest)
        }
        _ => return Err(Malformed),
    };
    let (contents, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
    Ok((tag, contents, rest))
}

/// Reads an element that has to have the tag `expected`: its contents and what follows.
///
/// # Errors
///
/// [`Malformed`] for another tag, and as [`read`].
pub fn expect(input: &[u8], expected: u8) -> Result<(&[u8], &[u8]), Malformed> {
    match read(input)? {
        (tag, contents, rest) if tag == expected => Ok((contents, rest)),
        _ => Err(Malformed),
    }
}

/// An element with `parts` one after another as its contents.
pub fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 5);
    out.push(tag);
    match length {
        0..=0x7F => out.push(length as u8),
        0x80..=0xFF => out.extend([0x81, length as u8]),
        0x100..=0xFFFF => {
            out.push(0x82);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x84);
            out.extend((length as u32).to_be_bytes());
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_back() {
        for length in [0, 1, 127, 128, 255, 256, 65535] {
            let contents = vec![7; length];
            let encoded = element(OCTET_STRING, &[&contents]);
            let with_tail = [&encoded[..], b"tail"].concat();
            assert_eq!(
                read(&with_tail),
                Ok((OCTET_STRING, &contents[..], &b"tail"[..]))
            );
            assert_eq!(read(&encoded[..encoded.len() - 1]), Err(Malformed));
        }
    }
}
