//! SMB2 NEGOTIATE ([MS-SMB2] 2.2.3, 2.2.4) and the messages that refer to it.

use super::header::HEADER_LEN;
use super::{Malformed, Put, Reader, slice_at};

/// The dialects this server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the names are the specification's
pub enum Dialect {
    Smb202,
    Smb210,
    Smb300,
    Smb302,
    Smb311,
}

impl Dialect {
    /// The dialect of a revision number.
    pub fn from_revision(revision: u16) -> Option<Dialect> {
        Some(match revision {
            0x0202 => Dialect::Smb202,
            0x0210 => Dialect::Smb210,
            0x0300 => Dialect::Smb300,
            0x0302 => Dialect::Smb302,
            0x0311 => Dialect::Smb311,
            _ => return None,
        })
    }

    /// The number that stands for the dialect in messages.
    pub fn revision(self) -> u16 {
        match self {
            Dialect::Smb202 => 0x0202,
            Dialect::Smb210 => 0x0210,
            Dialect::Smb300 => 0x0300,
            Dialect::Smb302 => 0x0302,
            Dialect::Smb311 => 0x0311,
        }
    }
}

/// The revision that answers "SMB 2.???": an SMB2 NEGOTIATE must follow.
pub const WILDCARD_REVISION: u16 = 0x02FF;

/// `SMB2_NEGOTIATE_SIGNING_ENABLED` of SecurityMode.
pub const SIGNING_ENABLED: u16 = 0x0001;
/// `SMB2_NEGOTIATE_SIGNING_REQUIRED` of SecurityMode.
pub const SIGNING_REQUIRED: u16 = 0x0002;
/// `SMB2_GLOBAL_CAP_ENCRYPTION` of Capabilities: in 3.0 and 3.0.2, AES-128-CCM.
pub const CAP_ENCRYPTION: u32 = 0x0000_0040;
/// `SMB2_GLOBAL_CAP_LARGE_MTU` of Capabilities: requests of several credits.
pub const CAP_LARGE_MTU: u32 = 0x0000_0004;

// The types of negotiate contexts (2.2.3.1).
const PREAUTH_INTEGRITY_CAPABILITIES: u16 = 0x0001;
const ENCRYPTION_CAPABILITIES: u16 = 0x0002;
const SIGNING_CAPABILITIES: u16 = 0x0008;

const HASH_SHA_512: u16 = 0x0001;

/// A NEGOTIATE request.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `SMB2_NEGOTIATE_SIGNING_*`.
    pub security_mode: u16,
    /// `SMB2_GLOBAL_CAP_*` of the client.
    pub capabilities: u32,
    /// Identifies the client over its connections.
    pub client_guid: [u8; 16],
    /// The dialects offered, two bytes each.
    dialects: &'a [[u8; 2]],
    contexts: &'a [u8],
    context_count: u16,
}

/// What the negotiate contexts of a 3.1.1 request offer. There may be one of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contexts<'a> {
    /// The hash algorithms of the preauthentication context.
    pub hashes: Option<Ids<'a>>,
    /// The ciphers of the encryption context, unless it names none: so clients say that they don't
    /// want to encrypt.
    pub ciphers: Option<Ids<'a>>,
    /// The algorithms of the signing context.
    pub signing: Option<Ids<'a>>,
}

/// Numbers of algorithms in the client's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids<'a>(&'a [[u8; 2]]);

impl<'a> Ids<'a> {
    /// Reads `count` of them.
    fn read(r: &mut Reader<'a>, count: u16) -> Result<Self, Malformed> {
        Ok(Ids(r.bytes(usize::from(count) * 2)?.as_chunks().0))
    }

    /// Whether `id` is among them.
    pub fn contains(self, id: u16) -> bool {
        self.0.contains(&id.to_le_bytes())
    }
}

impl Contexts<'_> {
    /// Whether SHA-512 is offered.
    pub fn offers_sha512(&self) -> bool {
        self.hashes.is_some_and(|ids| ids.contains(HASH_SHA_512))
    }
}

impl<'a> Request<'a> {
    /// Parses the request in `message`, which begins with its header.
    ///
    /// # Errors
    ///
    /// [`Malformed`]; so for all `parse` functions of requests.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(message.get(HEADER_LEN..).ok_or(Malformed)?);
        r.structure_size(36)?;
        let dialect_count = r.u16()?;
        let security_mode = r.u16()?;
        r.skip(2)?;
        let capabilities = r.u32()?;
        let client_guid = r.array()?;
        let context_offset = r.u32()?;
        let context_count = r.u16()?;
        r.skip(2)?;
        let dialects = r.bytes(usize::from(dialect_count) * 2)?.as_chunks().0;
        // Before 3.1.1 the context fields are a ClientStartTime that is to be ignored.
        let offers_311 = dialects.contains(&Dialect::Smb311.revision().to_le_bytes());
        let contexts = if offers_311 && context_count > 0 {
            message.get(context_offset as usize..).ok_or(Malformed)?
        } else {
            &[]
        };
        Ok(Request {
            security_mode,
            capabilities,
            client_guid,
            dialects,
            contexts,
            context_count,
        })
    }

    /// The revision numbers offered, in the client's order.
    pub fn revisions(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.dialects.iter().map(|bytes| u16::from_le_bytes(*bytes))
    }

    /// The greatest dialect in common.
    pub fn common_dialect(&self) -> Option<Dialect> {
        self.revisions().filter_map(Dialect::from_revision).max()
    }

    /// Looks through the negotiate contexts of a 3.1.1 request. Those that are not known are
    /// passed over.
    ///
    /// # Errors
    ///
    /// [`Malformed`], also when there are two of a kind or one offers nothing, ciphers excepted.
    pub fn contexts(&self) -> Result<Contexts<'a>, Malformed> {
        let mut rest = self.contexts;
        let mut contexts = Contexts::default();
        for index in 0..self.context_count {
            let mut r = Reader::new(rest);
            let kind = r.u16()?;
            let length = usize::from(r.u16()?);
            r.skip(4)?;
            let mut data = Reader::new(r.bytes(length)?);
            let place = match kind {
                PREAUTH_INTEGRITY_CAPABILITIES => Some(&mut contexts.hashes),
                ENCRYPTION_CAPABILITIES => Some(&mut contexts.ciphers),
                SIGNING_CAPABILITIES => Some(&mut contexts.signing),
                _ => None,
            };
            if let Some(place) = place {
                let count = data.u16()?;
                if kind == PREAUTH_INTEGRITY_CAPABILITIES {
                    data.skip(2)?; // SaltLength; the salt only has to be there to be hashed
                }
                let ids = Ids::read(&mut data, count)?;
                let offers_nothing = ids.0.is_empty() && kind != ENCRYPTION_CAPABILITIES;
                if offers_nothing || place.replace(ids).is_some() {
                    return Err(Malformed);
                }
            }
            // The next context is aligned to 8; the last needs no padding.
            if index + 1 < self.context_count {
                let step = (8 + length).next_multiple_of(8);
                rest = rest.get(step..).ok_or(Malformed)?;
            }
        }
        contexts.ciphers = contexts.ciphers.filter(|ids| !ids.0.is_empty());
        Ok(contexts)
    }
}

/// A NEGOTIATE response.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// `SMB2_NEGOTIATE_SIGNING_*`.
    pub security_mode: u16,
    /// The dialect's number, or [`WILDCARD_REVISION`].
    pub revision: u16,
    /// Identifies the server.
    pub server_guid: [u8; 16],
    /// `SMB2_GLOBAL_CAP_*`.
    pub capabilities: u32,
    /// MaxTransactSize, MaxReadSize and MaxWriteSize, which are alike here.
    pub max_size: u32,
    /// The server's clock as FILETIME.
    pub system_time: u64,
    /// The SPNEGO token that names the mechanisms.
    pub security_buffer: &'a [u8],
    /// In 3.1.1.
    pub contexts: Option<ResponseContexts>,
}

/// The negotiate contexts of a 3.1.1 response.
#[derive(Debug, Clone, Copy)]
pub struct ResponseContexts {
    /// The salt of the preauthentication context.
    pub salt: [u8; 32],
    /// The cipher that was chosen, 0 if there is none in common; without, the client has not asked.
    pub cipher: Option<u16>,
    /// The signing algorithm that was chosen; without, the client has not asked.
    pub signing: Option<u16>,
}

impl ResponseContexts {
    /// Appends them, and returns how many there are.
    fn put(&self, base: usize, out: &mut Vec<u8>) -> u16 {
        out.align(base, 8);
        out.put_u16(PREAUTH_INTEGRITY_CAPABILITIES);
        out.put_u16(6 + self.salt.len() as u16);
        out.put_u32(0);
        out.put_u16(1);
        out.put_u16(self.salt.len() as u16);
        out.put_u16(HASH_SHA_512);
        out.put_bytes(&self.salt);
        let mut count = 1;
        for (kind, chosen) in [
            (ENCRYPTION_CAPABILITIES, self.cipher),
            (SIGNING_CAPABILITIES, self.signing),
        ] {
            if let Some(id) = chosen {
                out.align(base, 8);
                out.put_u16(kind);
                out.put_u16(4);
                out.put_u32(0);
                out.put_u16(1);
                out.put_u16(id);
                count += 1;
            }
        }
        count
    }
}

impl Response<'_> {
    /// Appends the body; the header stands right before it.
    pub fn put(&self, out: &mut Vec<u8>) {
        let base = out.len() - HEADER_LEN;
        out.put_u16(65);
        out.put_u16(self.security_mode);
        out.put_u16(self.revision);
        let context_count_at = out.len();
        out.put_u16(0);
        out.put_bytes(&self.server_guid);
        out.put_u32(self.capabilities);
        for _ in 0..3 {
            out.put_u32(self.max_size);
        }
        out.put_u64(self.system_time);
        out.put_u64(0); // ServerStartTime: of no use to clients, and says when to attack weak seeds
        out.put_u16((HEADER_LEN + 64) as u16);
        out.put_u16(self.security_buffer.len() as u16);
        let context_offset_at = out.len();
        out.put_u32(0);
        out.put_bytes(self.security_buffer);
        if let Some(contexts) = &self.contexts {
            out.align(base, 8);
            out.patch_u32(context_offset_at, (out.len() - base) as u32);
            let count = contexts.put(base, out);
            out.patch_u16(context_count_at, count);
        }
    }
}

/// The input of `FSCTL_VALIDATE_NEGOTIATE_INFO` (2.2.31.4): what the client
/// believes to have sent in its NEGOTIATE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidateInfo {
    /// The client's capabilities.
    pub capabilities: u32,
    /// The client's GUID.
    pub guid: [u8; 16],
    /// The client's security mode.
    pub security_mode: u16,
    /// The dialects in the client's order.
    pub revisions: Vec<u16>,
}

impl ValidateInfo {
    /// Parses the input buffer of the IOCTL.
    pub fn parse(input: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(input);
        let capabilities = r.u32()?;
        let guid = r.array()?;
        let security_mode = r.u16()?;
        let count = r.u16()?;
        let revisions = slice_at(r.rest(), 0, usize::from(count) * 2)?
            .as_chunks::<2>()
            .0
            .iter()
            .map(|bytes| u16::from_le_bytes(*bytes))
            .collect();
        Ok(ValidateInfo {
            capabilities,
            guid,
            security_mode,
            revisions,
        })
    }
}
