//! The bodies of requests, as a client writes them.

/// The variable part of a request begins here, whatever the command: behind
/// the header and the longest fixed body.
const VARIABLE: usize = 64 + 64;

pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A body of `fixed` bytes (built by concatenation), padded, then the variable part.
fn body(fixed: &[&[u8]], variable: &[u8]) -> Vec<u8> {
    let mut body = fixed.concat();
    body.resize(VARIABLE - 64, 0);
    body.extend(variable);
    body
}

pub fn negotiate(dialects: &[u16]) -> Vec<u8> {
    negotiate_with(dialects, &[], &[])
}

/// With ciphers and signing algorithms, in contexts of their own in 3.1.1. In 3.0 that there are
/// ciphers is a capability.
pub fn negotiate_with(dialects: &[u16], ciphers: &[u16], signing: &[u16]) -> Vec<u8> {
    let capabilities: u32 = if ciphers.is_empty() { 0 } else { 0x40 };
    let mut contexts: Vec<(u16, Vec<u8>)> = Vec::new();
    if dialects.contains(&0x0311) {
        let preauth = [&[1, 0, 32, 0, 1, 0][..], &[9; 32]].concat();
        contexts.push((1, preauth));
        for (kind, ids) in [(2, ciphers), (8, signing)] {
            if !ids.is_empty() {
                let ids = ids.iter().flat_map(|id| id.to_le_bytes());
                let count = (ids.clone().count() as u16 / 2).to_le_bytes();
                contexts.push((kind, count.into_iter().chain(ids).collect()));
            }
        }
    }
    negotiate_contexts(dialects, capabilities, &contexts)
}

/// With these negotiate contexts.
pub fn negotiate_contexts(
    dialects: &[u16],
    capabilities: u32,
    contexts: &[(u16, Vec<u8>)],
) -> Vec<u8> {
    let mut out = [
        &36u16.to_le_bytes()[..],
        &(dialects.len() as u16).to_le_bytes(),
        &[1, 0, 0, 0],
        &capabilities.to_le_bytes(),
        &[7; 16],
    ]
    .concat();
    let context_offset = (64 + 36 + dialects.len() * 2).next_multiple_of(8);
    let offset = match contexts {
        [] => 0,
        _ => context_offset as u32,
    };
    out.extend(offset.to_le_bytes());
    out.extend((contexts.len() as u32).to_le_bytes());
    out.extend(dialects.iter().flat_map(|d| d.to_le_bytes()));
    for (kind, data) in contexts {
        out.resize((64 + out.len()).next_multiple_of(8) - 64, 0);
        out.extend(kind.to_le_bytes());
        out.extend((data.len() as u16).to_le_bytes());
        out.extend([0; 4]);
        out.extend(data);
    }
    out
}

pub fn session_setup(token: &[u8]) -> Vec<u8> {
    session_setup_with(token, 1)
}

pub fn session_setup_with(token: &[u8], security_mode: u8) -> Vec<u8> {
    body(
        &[
            &25u16.to_le_bytes(),
            &[0, security_mode],
            &[0; 8],
            &(VARIABLE as u16).to_le_bytes(),
            &(token.len() as u16).to_le_bytes(),
        ],
        token,
    )
}

pub fn ntlm_negotiate() -> Vec<u8> {
    [
        &b"NTLMSSP\0\x01\0\0\0"[..],
        &0xE208_8297u32.to_le_bytes(),
        &[0; 24],
    ]
    .concat()
}

pub fn ntlm_authenticate(user: &str) -> Vec<u8> {
    let user = utf16(user);
    let mut out = b"NTLMSSP\0\x03\0\0\0".to_vec();
    for length in [0, 0, 0, user.len() as u16, 0, 0] {
        out.extend(length.to_le_bytes());
        out.extend(length.to_le_bytes());
        out.extend(64u32.to_le_bytes());
    }
    out.extend(0xE208_8201u32.to_le_bytes());
    out.extend(user);
    out
}

pub fn tree_connect(path: &str) -> Vec<u8> {
    let path = utf16(path);
    body(
        &[
            &9u16.to_le_bytes(),
            &[0; 2],
            &(VARIABLE as u16).to_le_bytes(),
            &(path.len() as u16).to_le_bytes(),
        ],
        &path,
    )
}

pub fn empty() -> Vec<u8> {
    vec![4, 0, 0, 0]
}

pub fn create(name: &str, access: u32, disposition: u32, options: u32) -> Vec<u8> {
    create_with_contexts(name, access, disposition, options, &[])
}

pub fn create_with_contexts(
    name: &str,
    access: u32,
    disposition: u32,
    options: u32,
    contexts: &[u8],
) -> Vec<u8> {
    create_in_full(name, access, disposition, options, 0, contexts)
}

/// With `FILE_ATTRIBUTE_*`.
pub fn create_with_attributes(
    name: &str,
    access: u32,
    disposition: u32,
    options: u32,
    attributes: u32,
) -> Vec<u8> {
    create_in_full(name, access, disposition, options, attributes, &[])
}

fn create_in_full(
    name: &str,
    access: u32,
    disposition: u32,
    options: u32,
    attributes: u32,
    contexts: &[u8],
) -> Vec<u8> {
    let mut variable = utf16(name);
    let name_length = variable.len() as u16;
    variable.resize(variable.len().next_multiple_of(8), 0);
    let contexts_offset = (VARIABLE + variable.len()) as u32;
    variable.extend(contexts);
    body(
        &[
            &57u16.to_le_bytes(),
            &[0, 0],
            &2u32.to_le_bytes(),
            &[0; 16],
            &access.to_le_bytes(),
            &attributes.to_le_bytes(),
            &7u32.to_le_bytes(),
            &disposition.to_le_bytes(),
            &options.to_le_bytes(),
            &(VARIABLE as u16).to_le_bytes(),
            &name_length.to_le_bytes(),
            &contexts_offset.to_le_bytes(),
            &(contexts.len() as u32).to_le_bytes(),
        ],
        &variable,
    )
}

pub fn context(name: &[u8; 4]) -> Vec<u8> {
    [&[0, 0, 0, 0, 16, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], name].concat()
}

pub fn close(file: [u8; 16], flags: u16) -> Vec<u8> {
    [
        &24u16.to_le_bytes()[..],
        &flags.to_le_bytes(),
        &[0; 4],
        &file,
    ]
    .concat()
}

pub fn flush(file: [u8; 16]) -> Vec<u8> {
    [&24u16.to_le_bytes()[..], &[0; 6], &file].concat()
}

pub fn read(file: [u8; 16], offset: u64, length: u32, minimum: u32) -> Vec<u8> {
    [
        &49u16.to_le_bytes()[..],
        &[0, 0],
        &length.to_le_bytes(),
        &offset.to_le_bytes(),
        &file,
        &minimum.to_le_bytes(),
        &[0; 13],
    ]
    .concat()
}

/// A create context with data.
pub fn context_with(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut out = [&[0, 0, 0, 0, 16, 0, 4, 0, 0, 0, 24, 0][..]].concat();
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(name);
    out.extend([0; 4]);
    out.extend(data);
    out
}

pub fn write(file: [u8; 16], data: &[u8]) -> Vec<u8> {
    write_at(file, 0, data)
}

pub fn write_at(file: [u8; 16], offset: u64, data: &[u8]) -> Vec<u8> {
    body(
        &[
            &49u16.to_le_bytes(),
            &(VARIABLE as u16).to_le_bytes(),
            &(data.len() as u32).to_le_bytes(),
            &offset.to_le_bytes(),
            &file,
        ],
        data,
    )
}

pub fn lock(file: [u8; 16], flags: u32) -> Vec<u8> {
    [
        &48u16.to_le_bytes()[..],
        &1u16.to_le_bytes(),
        &[0; 4],
        &file,
        &0u64.to_le_bytes(),
        &1u64.to_le_bytes(),
        &flags.to_le_bytes(),
        &[0; 4],
    ]
    .concat()
}

pub fn ioctl(code: u32, file: [u8; 16], input: &[u8], max_output: u32) -> Vec<u8> {
    body(
        &[
            &57u16.to_le_bytes(),
            &[0; 2],
            &code.to_le_bytes(),
            &file,
            &(VARIABLE as u32).to_le_bytes(),
            &(input.len() as u32).to_le_bytes(),
            &[0; 12],
            &max_output.to_le_bytes(),
            &1u32.to_le_bytes(),
        ],
        input,
    )
}

pub fn query_directory(
    file: [u8; 16],
    class: u8,
    flags: u8,
    pattern: &str,
    length: u32,
) -> Vec<u8> {
    let pattern = utf16(pattern);
    body(
        &[
            &33u16.to_le_bytes(),
            &[class, flags],
            &[0; 4],
            &file,
            &(VARIABLE as u16).to_le_bytes(),
            &(pattern.len() as u16).to_le_bytes(),
            &length.to_le_bytes(),
        ],
        &pattern,
    )
}

pub fn change_notify(file: [u8; 16]) -> Vec<u8> {
    [
        &32u16.to_le_bytes()[..],
        &[0; 2],
        &1000u32.to_le_bytes(),
        &file,
        &0xFFFu32.to_le_bytes(),
        &[0; 4],
    ]
    .concat()
}

pub fn query_info(file: [u8; 16], kind: u8, class: u8, length: u32) -> Vec<u8> {
    [
        &41u16.to_le_bytes()[..],
        &[kind, class],
        &length.to_le_bytes(),
        &[0; 8],
        &7u32.to_le_bytes(),
        &[0; 4],
        &file,
    ]
    .concat()
}

pub fn set_info(file: [u8; 16], kind: u8, class: u8, data: &[u8]) -> Vec<u8> {
    body(
        &[
            &33u16.to_le_bytes(),
            &[kind, class],
            &(data.len() as u32).to_le_bytes(),
            &(VARIABLE as u16).to_le_bytes(),
            &[0; 6],
            &file,
        ],
        data,
    )
}

/// SET_INFO of a security descriptor's parts.
pub fn set_security(file: [u8; 16], additional: u32, descriptor: &[u8]) -> Vec<u8> {
    let mut set = set_info(file, 3, 0, descriptor);
    set[12..16].copy_from_slice(&additional.to_le_bytes());
    set
}

/// `FileBasicInformation`: creation, last access, last write, change.
pub fn basic(times: [u64; 4], attributes: u32) -> Vec<u8> {
    let mut out: Vec<u8> = times.iter().flat_map(|time| time.to_le_bytes()).collect();
    out.extend(attributes.to_le_bytes());
    out.extend([0; 4]);
    out
}

/// `FileRenameInformation` and `FileLinkInformation`.
pub fn new_name(name: &str, replace: bool) -> Vec<u8> {
    let name = utf16(name);
    let mut out = vec![u8::from(replace), 0, 0, 0, 0, 0, 0, 0];
    out.extend([0; 8]);
    out.extend((name.len() as u32).to_le_bytes());
    out.extend(name);
    out
}
