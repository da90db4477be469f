//! UTF-16LE text as it stands in messages.

use super::Malformed;

/// Decodes UTF-16LE strictly: an odd length or a lone surrogate is malformed.
///
/// # Errors
///
/// [`Malformed`] when `bytes` is not UTF-16LE.
pub fn from_utf16le(bytes: &[u8]) -> Result<String, Malformed> {
    let (units, []) = bytes.as_chunks::<2>() else {
        return Err(Malformed);
    };
    char::decode_utf16(units.iter().map(|unit| u16::from_le_bytes(*unit)))
        .collect::<Result<_, _>>()
        .map_err(|_| Malformed)
}

/// Encodes `text` as UTF-16LE.
pub fn to_utf16le(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 2);
    put_utf16le(&mut out, text);
    out
}

/// Appends `text` as UTF-16LE and returns the number of bytes that took.
pub fn put_utf16le(out: &mut Vec<u8>, text: &str) -> usize {
    let before = out.len();
    out.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    out.len() - before
}

/// One character folded for comparison without case.
///
/// Names are compared by the simple upper case mapping, as NTFS does with its
/// upcase table: characters whose upper case has several letters (`ß`) are
/// their own.
pub fn fold(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(single), None) => single,
        _ => c,
    }
}

/// Whether two names are the same to a client, which ignores case.
pub fn same_name(a: &str, b: &str) -> bool {
    a == b || a.chars().map(fold).eq(b.chars().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_lengths_and_lone_surrogates_are_refused() {
        assert_eq!(from_utf16le(&to_utf16le("a𝄞ß")).as_deref(), Ok("a𝄞ß"));
        assert_eq!(from_utf16le(&[0x41]), Err(Malformed));
        assert_eq!(from_utf16le(&[0x00, 0xD8]), Err(Malformed));
    }

    #[test]
    fn names_compare_without_case() {
        assert!(same_name("Straße ÄÖ", "sTRAßE äö"));
        assert!(!same_name("a", "ab"));
    }
}
