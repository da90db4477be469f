//! NDR32 (C706 chapter 14), as far as the services use it: integers, unique
//! pointers and strings. Everything is aligned to 4; what is shorter has its
//! padding written and read with it.

use crate::wire::{Malformed, Put, Reader, text};

/// Reads arguments.
#[derive(Debug)]
pub struct Decoder<'a> {
    reader: Reader<'a>,
}

impl<'a> Decoder<'a> {
    /// Starts at the beginning of a stub.
    pub fn new(stub: &'a [u8]) -> Self {
        Decoder {
            reader: Reader::new(stub),
        }
    }

    /// A 32-bit integer; so for the others: [`Malformed`] when the stub ends early.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.reader.u32()
    }

    /// A 16-bit integer, with what pads it.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        let value = self.reader.u16()?;
        // A last argument may come without.
        self.reader.skip(self.reader.rest().len().min(2))?;
        Ok(value)
    }

    /// Bytes, a multiple of 4.
    pub fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], Malformed> {
        const { assert!(LEN.is_multiple_of(4)) };
        self.reader.array()
    }

    /// A pointer: whether it points to something. What it points to follows
    /// at once for a parameter, after the structure for a member.
    pub fn pointer(&mut self) -> Result<bool, Malformed> {
        Ok(self.u32()? != 0)
    }

    /// A `[string] wchar_t *` that is no unique pointer.
    pub fn string(&mut self) -> Result<String, Malformed> {
        let max = self.u32()?;
        let offset = self.u32()?;
        let actual = self.u32()?;
        if offset != 0 || actual > max {
            return Err(Malformed);
        }
        let bytes = (actual as usize).checked_mul(2).ok_or(Malformed)?;
        let string = text::from_utf16le(self.reader.bytes(bytes)?)?;
        // Padding; a last argument may come without.
        let padding = bytes.next_multiple_of(4) - bytes;
        self.reader.skip(padding.min(self.reader.rest().len()))?;
        Ok(string.trim_end_matches('\0').to_owned())
    }

    /// A `[unique, string] wchar_t *` parameter.
    pub fn unique_string(&mut self) -> Result<Option<String>, Malformed> {
        if self.pointer()? {
            self.string().map(Some)
        } else {
            Ok(None)
        }
    }
}

/// Writes results.
#[derive(Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
    referents: u32,
}

impl Encoder {
    /// An empty stub.
    pub fn new() -> Self {
        Self::default()
    }

    /// The finished stub.
    pub fn into_stub(self) -> Vec<u8> {
        self.out
    }

    /// A 32-bit integer.
    pub fn u32(&mut self, value: u32) {
        self.out.put_u32(value);
    }

    /// A 16-bit integer. What follows [is to be aligned](Encoder::align), or is another one.
    pub fn u16(&mut self, value: u16) {
        self.out.put_u16(value);
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.put_bytes(bytes);
    }

    /// Pads to a multiple of 4.
    pub fn align(&mut self) {
        self.out.align(0, 4);
    }

    /// An `RPC_UNICODE_STRING` without what it points to.
    pub fn unicode_head(&mut self, string: &str) {
        let length = string.encode_utf16().count() as u16 * 2;
        self.u16(length);
        self.u16(length);
        self.pointer();
    }

    /// What an `RPC_UNICODE_STRING` points to: no NUL ends it.
    pub fn unicode_text(&mut self, string: &str) {
        let units = string.encode_utf16().count() as u32;
        self.u32(units);
        self.u32(0);
        self.u32(units);
        text::put_utf16le(&mut self.out, string);
        self.align();
    }

    /// A pointer to something that is encoded later.
    pub fn pointer(&mut self) {
        self.referents += 1;
        self.u32(0x0002_0000 + self.referents * 4);
    }

    /// A null pointer.
    pub fn null(&mut self) {
        self.u32(0);
    }

    /// What a string pointer points to.
    pub fn string(&mut self, string: &str) {
        let units = string.encode_utf16().count() as u32 + 1;
        self.u32(units);
        self.u32(0);
        self.u32(units);
        text::put_utf16le(&mut self.out, string);
        self.out.put_u16(0);
        self.out.align(0, 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_back() {
        for string in ["", "a", "ab", "Grüße"] {
            let mut encoder = Encoder::new();
            encoder.pointer();
            encoder.string(string);
            encoder.u32(7);
            let stub = encoder.into_stub();
            let mut decoder = Decoder::new(&stub);
            assert_eq!(decoder.unique_string(), Ok(Some(string.to_owned())));
            assert_eq!(decoder.u32(), Ok(7));
        }
    }
}
