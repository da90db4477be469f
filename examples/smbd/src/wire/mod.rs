//! The SMB2 wire format: requests are parsed in place, replies are written
//! into a growing buffer.
//!
//! Nothing here keeps state or touches the file system. Every read from a
//! request goes through [`Reader`] or [`slice_at`], which check bounds, so no
//! input can cause a panic; a field that lies about an offset or a length ends
//! as [`Malformed`], which the server answers with
//! `STATUS_INVALID_PARAMETER` ([MS-SMB2] 3.3.5.2.6).

pub mod create;
pub mod file;
pub mod header;
pub mod ioctl;
pub mod negotiate;
pub mod query;
pub mod session;
pub mod smb1;
pub mod status;
pub mod text;
pub mod time;
pub mod transform;

/// The request does not have the structure its header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("malformed structure")
    }
}

impl std::error::Error for Malformed {}

/// A little-endian cursor over a request that never reads past its end.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts reading at the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes the next `n` bytes.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when fewer than `n` bytes are left; so for the methods below.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(Malformed)?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes the next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*head)
    }

    /// Passes over `n` bytes (reserved fields).
    pub fn skip(&mut self, n: usize) -> Result<(), Malformed> {
        self.bytes(n).map(drop)
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Takes a 16-bit integer.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// Takes a 32-bit integer.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a 64-bit integer.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Checks the `StructureSize` that every SMB2 body begins with.
    pub fn structure_size(&mut self, expected: u16) -> Result<(), Malformed> {
        if self.u16()? == expected {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

/// The `length` bytes at `offset` of `message`, as variable parts of SMB2
/// requests are addressed (offsets count from the beginning of the header).
///
/// An empty part may carry any offset; clients send 0 or one past the end.
///
/// # Errors
///
/// [`Malformed`] when the part does not lie inside the message.
pub fn slice_at(message: &[u8], offset: usize, length: usize) -> Result<&[u8], Malformed> {
    if length == 0 {
        return Ok(&[]);
    }
    let end = offset.checked_add(length).ok_or(Malformed)?;
    message.get(offset..end).ok_or(Malformed)
}

/// Little-endian appends to a reply.
pub trait Put {
    /// Appends one byte.
    fn put_u8(&mut self, value: u8);
    /// Appends a 16-bit integer.
    fn put_u16(&mut self, value: u16);
    /// Appends a 32-bit integer.
    fn put_u32(&mut self, value: u32);
    /// Appends a 64-bit integer.
    fn put_u64(&mut self, value: u64);
    /// Appends bytes as they are.
    fn put_bytes(&mut self, bytes: &[u8]);
    /// Appends `n` zero bytes.
    fn put_zeros(&mut self, n: usize);
    /// Appends zero bytes until the length, counted from `base`, is a multiple of `alignment`.
    fn align(&mut self, base: usize, alignment: usize);
    /// Overwrites the 16-bit integer at `at`, which has been written before.
    fn patch_u16(&mut self, at: usize, value: u16);
    /// Overwrites the 32-bit integer at `at`, which has been written before.
    fn patch_u32(&mut self, at: usize, value: u32);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
    fn put_zeros(&mut self, n: usize) {
        self.resize(self.len() + n, 0);
    }
    fn align(&mut self, base: usize, alignment: usize) {
        self.resize(base + (self.len() - base).next_multiple_of(alignment), 0);
    }
    fn patch_u16(&mut self, at: usize, value: u16) {
        self[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    fn patch_u32(&mut self, at: usize, value: u32) {
        self[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_outside_the_message_is_malformed() {
        let message = [0u8; 10];
        assert_eq!(slice_at(&message, 4, 6), Ok(&message[4..]));
        assert_eq!(slice_at(&message, 4, 7), Err(Malformed));
        assert_eq!(slice_at(&message, usize::MAX, 2), Err(Malformed));
        assert_eq!(slice_at(&message, 99, 0), Ok(&[][..]));
    }

    #[test]
    fn alignment_counts_from_the_base() {
        let mut out = vec![0; 4];
        out.put_u8(1);
        out.align(4, 8);
        assert_eq!(out.len(), 12);
        out.align(4, 8);
        assert_eq!(out.len(), 12);
    }
}
