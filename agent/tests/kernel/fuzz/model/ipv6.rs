//! IPv6 and its extension headers (RFC 8200, RFC 4302 for authentication).

use std::net::{IpAddr, Ipv6Addr};

use postern_common::reason::Reason;

use super::packet::{self, Fragment, Packet, Part, Transport, be16};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Most extension headers.
const MOST_HEADERS: usize = 6;
/// Within how many bytes of the frame each header begins.
const WITHIN: usize = 1024;

/// What a chain of headers leads to.
pub(super) struct Chain<'a> {
    pub(super) protocol: u8,
    pub(super) body: &'a [u8],
    /// Where there is a fragment header; and whether more fragments follow.
    fragment: Option<(Fragment, bool)>,
    /// The headers passed, with their lengths.
    passed: Vec<(u8, usize)>,
}

impl Chain<'_> {
    /// Whether the body is a later part of something.
    pub(super) fn is_later(&self) -> bool {
        matches!(self.fragment, Some((Fragment { part: Part::Later(_), .. }, _)))
    }
}

/// Reads what follows the Ethernet header, which is `before` bytes long.
pub(super) fn read(bytes: &[u8], before: usize, gso: bool) -> Result<Packet<'_>, Reason> {
    let header = header(bytes).ok_or(Reason::Malformed)?;
    let rest = &bytes[40..];
    let length = usize::from(be16(header, 4).ok_or(Reason::Malformed)?);
    let body = if length == 0 && (gso || header[6] == HOP_BY_HOP) {
        rest
    } else {
        rest.get(..length).ok_or(Reason::Malformed)?
    };
    let chain = walk(header[6], body, WITHIN.saturating_sub(before + 40), false)?;
    let transport =
        if chain.is_later() { Transport::Later } else { packet::transport(chain.protocol, chain.body)? };
    // One at offset 0 without more to come is no fragment of anything (RFC 6946).
    let fragment = chain.fragment.filter(|(_, more)| *more || chain.is_later());
    Ok(Packet {
        source: IpAddr::V6(address(header, 8)),
        destination: IpAddr::V6(address(header, 24)),
        hops: header[7],
        fragment: fragment.map(|(fragment, _)| fragment),
        protocol: chain.protocol,
        extensions: chain.passed,
        trailer: rest.len() - body.len(),
        transport,
    })
}

/// The fixed header.
pub(super) fn header(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.first()? >> 4 == 6 { bytes.get(..40) } else { None }
}

/// An address in a header.
pub(super) fn address(header: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    octets.into()
}

/// Goes from header to header, up to the first that is none of those, or that is cut off by fragmentation. Each header
/// begins `within` the first bytes of the body. Where a quoted packet had still to go matters to nobody.
pub(super) fn walk(first: u8, body: &[u8], within: usize, quoted: bool) -> Result<Chain<'_>, Reason> {
    let mut chain = Chain { protocol: first, body, fragment: None, passed: Vec::new() };
    for passed in 0.. {
        if body.len() - chain.body.len() >= within {
            return Err(Reason::Malformed);
        }
        let length = match chain.protocol {
            HOP_BY_HOP if passed > 0 => return Err(Reason::Malformed),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8 * (1 + second(chain.body)?),
            AUTHENTICATION => 4 * (2 + second(chain.body)?),
            FRAGMENT if chain.fragment.is_some() => return Err(Reason::Malformed),
            FRAGMENT => 8,
            _ => break,
        };
        if passed == MOST_HEADERS {
            return Err(Reason::Malformed);
        }
        let header = chain.body.get(..length).ok_or(Reason::Malformed)?;
        if chain.protocol == ROUTING && header[3] != 0 && !quoted {
            return Err(Reason::SourceRouted);
        }
        if chain.protocol == FRAGMENT {
            let word = be16(header, 2).ok_or(Reason::Malformed)?;
            let fragment = Fragment {
                identification: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                protocol: header[0],
                part: Part::at(word >> 3, &chain.body[length..]),
            };
            chain.fragment = Some((fragment, word & 1 != 0));
        }
        chain.passed.push((chain.protocol, length));
        chain.protocol = header[0];
        chain.body = &chain.body[length..];
        if chain.is_later() {
            break;
        }
    }
    Ok(chain)
}

fn second(header: &[u8]) -> Result<usize, Reason> {
    header.get(1).map(|length| usize::from(*length)).ok_or(Reason::Malformed)
}
