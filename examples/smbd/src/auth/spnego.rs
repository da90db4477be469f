//! SPNEGO tokens (RFC 4178, [MS-SPNG]).

use super::der::{self, context};
use crate::wire::Malformed;

/// 1.3.6.1.5.5.2
const OID_SPNEGO: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x02];
/// 1.3.6.1.4.1.311.2.2.10
const OID_NTLMSSP: &[u8] = &[0x2B, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0A];

const ACCEPT_COMPLETED: u8 = 0;
const ACCEPT_INCOMPLETE: u8 = 1;

/// A client's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// `negTokenInit`, the first one.
    Init(Init<'a>),
    /// `negTokenResp`.
    Response(Response<'a>),
}

/// A client's `negTokenResp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// `responseToken`
    pub mech_token: Option<&'a [u8]>,
    /// `mechListMIC`: the signature of what it first offered.
    pub mech_list_mic: Option<&'a [u8]>,
}

/// A client's `negTokenInit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Init<'a> {
    /// NTLMSSP is among the mechanisms.
    pub offers_ntlmssp: bool,
    /// NTLMSSP is the first, the one `mech_token` is for.
    pub prefers_ntlmssp: bool,
    /// The optimistic token.
    pub mech_token: Option<&'a [u8]>,
    /// The mechanisms as the `mechListMIC`s of both sides sign them: the encoded list.
    pub mech_list: &'a [u8],
}

/// Parses a client's token.
///
/// # Errors
///
/// [`Malformed`] when it is neither kind.
pub fn parse(token: &[u8]) -> Result<Token<'_>, Malformed> {
    match der::read(token)? {
        (der::APPLICATION_0, inner, _) => {
            let (mechanism, inner) = der::expect(inner, der::OID)?;
            if mechanism != OID_SPNEGO {
                return Err(Malformed);
            }
            let (inner, _) = der::expect(inner, context(0))?;
            parse_init(inner).map(Token::Init)
        }
        // Seen without the GSS-API wrapping, too.
        (tag, inner, _) if tag == context(0) => parse_init(inner).map(Token::Init),
        (tag, inner, _) if tag == context(1) => {
            let mut response = Response {
                mech_token: None,
                mech_list_mic: None,
            };
            for_each_field(inner, |tag, contents| {
                if tag == context(2) {
                    response.mech_token = Some(der::expect(contents, der::OCTET_STRING)?.0);
                } else if tag == context(3) {
                    response.mech_list_mic = Some(der::expect(contents, der::OCTET_STRING)?.0);
                }
                Ok(())
            })?;
            Ok(Token::Response(response))
        }
        _ => Err(Malformed),
    }
}

fn parse_init(input: &[u8]) -> Result<Init<'_>, Malformed> {
    let mut init = Init {
        offers_ntlmssp: false,
        prefers_ntlmssp: false,
        mech_token: None,
        mech_list: &[],
    };
    for_each_field(input, |tag, contents| {
        if tag == context(0) {
            init.mech_list = contents;
            let (mut mechanisms, _) = der::expect(contents, der::SEQUENCE)?;
            let mut first = true;
            while !mechanisms.is_empty() {
                let (mechanism, rest) = der::expect(mechanisms, der::OID)?;
                if mechanism == OID_NTLMSSP {
                    init.offers_ntlmssp = true;
                    init.prefers_ntlmssp |= first;
                }
                first = false;
                mechanisms = rest;
            }
        } else if tag == context(2) {
            init.mech_token = Some(der::expect(contents, der::OCTET_STRING)?.0);
        }
        Ok(())
    })?;
    Ok(init)
}

/// Calls `field` with the tag and contents of each element of a SEQUENCE.
fn for_each_field<'a>(
    input: &'a [u8],
    mut field: impl FnMut(u8, &'a [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let (mut fields, _) = der::expect(input, der::SEQUENCE)?;
    while !fields.is_empty() {
        let (tag, contents, rest) = der::read(fields)?;
        field(tag, contents)?;
        fields = rest;
    }
    Ok(())
}

/// The token of the NEGOTIATE response: NTLMSSP is the only mechanism.
///
/// It ends in the `negHints` of [MS-SPNG] 2.2.1, which clients of that
/// specification take as the mark of a server that speaks it.
pub fn hint() -> Vec<u8> {
    let mechanisms = der::element(
        context(0),
        &[&der::element(
            der::SEQUENCE,
            &[&der::element(der::OID, &[OID_NTLMSSP])],
        )],
    );
    let name = der::element(
        der::GENERAL_STRING,
        &[b"not_defined_in_RFC4178@please_ignore"],
    );
    let hints = der::element(
        context(3),
        &[&der::element(
            der::SEQUENCE,
            &[&der::element(context(0), &[&name])],
        )],
    );
    let init = der::element(
        context(0),
        &[&der::element(der::SEQUENCE, &[&mechanisms, &hints])],
    );
    der::element(
        der::APPLICATION_0,
        &[&der::element(der::OID, &[OID_SPNEGO]), &init],
    )
}

/// `negTokenResp` accept-incomplete: NTLMSSP is chosen, `token` (if not empty)
/// is its next message.
pub fn incomplete(token: &[u8]) -> Vec<u8> {
    let mechanism = der::element(context(1), &[&der::element(der::OID, &[OID_NTLMSSP])]);
    let token = match token {
        [] => Vec::new(),
        _ => der::element(context(2), &[&der::element(der::OCTET_STRING, &[token])]),
    };
    response(ACCEPT_INCOMPLETE, &[&mechanism, &token])
}

/// `negTokenResp` accept-completed, with the server's `mechListMIC` if the client has sent one.
///
/// It is made with the session key, which a guest or anonymous logon does not have; clients do
/// not ask for one there.
pub fn completed(mech_list_mic: Option<&[u8]>) -> Vec<u8> {
    match mech_list_mic {
        None => response(ACCEPT_COMPLETED, &[]),
        Some(mic) => {
            let mic = der::element(context(3), &[&der::element(der::OCTET_STRING, &[mic])]);
            response(ACCEPT_COMPLETED, &[&mic])
        }
    }
}

fn response(state: u8, fields: &[&[u8]]) -> Vec<u8> {
    let state = der::element(context(0), &[&der::element(der::ENUMERATED, &[&[state]])]);
    let mut parts: Vec<&[u8]> = vec![&state];
    parts.extend(fields);
    der::element(context(1), &[&der::element(der::SEQUENCE, &parts)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_hint_parses_as_a_token() {
        let list = der::element(der::SEQUENCE, &[&der::element(der::OID, &[OID_NTLMSSP])]);
        assert_eq!(
            parse(&hint()),
            Ok(Token::Init(Init {
                offers_ntlmssp: true,
                prefers_ntlmssp: true,
                mech_token: None,
                mech_list: &list,
            }))
        );
    }

    #[test]
    fn responses_carry_their_token() {
        let response = |mech_token, mech_list_mic| {
            Ok(Token::Response(Response {
                mech_token,
                mech_list_mic,
            }))
        };
        assert_eq!(
            parse(&incomplete(b"abc")),
            response(Some(&b"abc"[..]), None)
        );
        assert_eq!(parse(&completed(None)), response(None, None));
        assert_eq!(
            parse(&completed(Some(b"mic"))),
            response(None, Some(&b"mic"[..]))
        );
    }
}
