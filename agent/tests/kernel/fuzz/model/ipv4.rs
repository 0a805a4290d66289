//! IPv4 (RFC 791).

use std::net::{IpAddr, Ipv4Addr};

use postern_common::reason::Reason;

use super::packet::{self, Fragment, Packet, Part, Transport, be16};

/// Reads what follows the Ethernet header.
pub(super) fn read(bytes: &[u8], gso: bool) -> Result<Packet<'_>, Reason> {
    let header = header(bytes).ok_or(Reason::Malformed)?;
    let total = usize::from(be16(bytes, 2).ok_or(Reason::Malformed)?);
    let total = if total == 0 && gso { bytes.len() } else { total };
    if total < header.len() {
        return Err(Reason::Malformed);
    }
    let packet = bytes.get(..total).ok_or(Reason::Malformed)?;
    options(&header[20..])?;
    let (offset, more) = fragment(header);
    let protocol = header[9];
    let body = &packet[header.len()..];
    let transport = if offset == 0 { packet::transport(protocol, body)? } else { Transport::Later };
    let identification = u32::from(be16(header, 4).ok_or(Reason::Malformed)?);
    Ok(Packet {
        source: IpAddr::V4(address(header, 12)),
        destination: IpAddr::V4(address(header, 16)),
        hops: header[8],
        fragment: (offset != 0 || more).then(|| Fragment {
            identification,
            protocol,
            part: Part::at(offset, body),
        }),
        protocol,
        extensions: Vec::new(),
        trailer: bytes.len() - total,
        transport,
    })
}

/// The header with its options.
pub(super) fn header(bytes: &[u8]) -> Option<&[u8]> {
    let first = *bytes.first()?;
    let length = usize::from(first & 15) * 4;
    if first >> 4 != 4 || length < 20 { None } else { bytes.get(..length) }
}

/// An address in a header.
pub(super) fn address(header: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3])
}

/// The offset in units of 8 bytes, and whether more fragments follow.
pub(super) fn fragment(header: &[u8]) -> (u16, bool) {
    (u16::from_be_bytes([header[6] & 0x1f, header[7]]), header[6] & 0x20 != 0)
}

/// Walks options: end of list (0), no operation (1), all others with their length in the second byte.
fn options(mut options: &[u8]) -> Result<(), Reason> {
    while let [kind, rest @ ..] = options {
        options = match kind {
            0 => return Ok(()),
            1 => rest,
            // Loose and strict source and record route.
            131 | 137 => return Err(Reason::SourceRouted),
            _ => {
                let length = usize::from(*rest.first().ok_or(Reason::Malformed)?);
                if length < 2 {
                    return Err(Reason::Malformed);
                }
                options.get(length..).ok_or(Reason::Malformed)?
            }
        };
    }
    Ok(())
}
