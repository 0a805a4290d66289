//! TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260) ICMP echo (RFC 792) and ICMPv6 (RFC 4443).

use aya_ebpf::programs::TcContext;
use postern_common::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};

use super::Transport;
use crate::frame::{self, Unreadable};

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO: u8 = 8;

/// Destination unreachable (path MTU discovery among it), time exceeded, parameter problem.
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];

/// Below are errors: unreachable, packet too big, time exceeded, parameter problem (RFC 4443 2.1).
const ICMPV6_FIRST_INFORMATIONAL: u8 = 128;
const ICMPV6_ECHO: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;
/// Multicast listener query, report, done (RFC 2710).
const ICMPV6_LISTENER: core::ops::RangeInclusive<u8> = 130..=132;
/// Router and neighbour solicitation and advertisement, redirect (RFC 4861).
const ICMPV6_NEIGHBOUR: core::ops::RangeInclusive<u8> = 133..=137;
/// Version 2 multicast listener report (RFC 3810).
const ICMPV6_LISTENER_V2: u8 = 143;

/// Parses the transport header at a byte offset of the frame.
#[inline(always)]
pub fn parse(
    ctx: &TcContext,
    offset: usize,
    protocol: u8,
    transport: &mut Transport,
) -> Result<(), Unreadable> {
    match protocol {
        IPPROTO_TCP => {
            // Ports to flags: the rest is not ours to judge.
            let header: [u8; 14] = frame::read(ctx, offset)?;
            let flags = header[13];
            transport.source_port = u16::from_be_bytes([header[0], header[1]]);
            transport.destination_port = u16::from_be_bytes([header[2], header[3]]);
            transport.flow = true;
            transport.starts = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
            transport.ends = flags & (TCP_FIN | TCP_RST) != 0;
        }
        IPPROTO_UDP | IPPROTO_SCTP => {
            let header: [u8; 4] = frame::read(ctx, offset)?;
            transport.flow = true;
            transport.source_port = u16::from_be_bytes([header[0], header[1]]);
            transport.destination_port = u16::from_be_bytes([header[2], header[3]]);
        }
        IPPROTO_ICMP => {
            let header: [u8; 8] = frame::read(ctx, offset)?;
            match header[0] {
                ICMP_ECHO => {
                    transport.starts = true;
                    echo(header, transport);
                }
                ICMP_ECHO_REPLY => {
                    transport.answers = true;
                    echo(header, transport);
                }
                // Errors quote the packet they are about after eight bytes of their own.
                kind if ICMP_ERRORS.contains(&kind) => transport.inner = offset + header.len(),
                _ => {}
            }
        }
        IPPROTO_ICMPV6 => {
            let header: [u8; 8] = frame::read(ctx, offset)?;
            match header[0] {
                ICMPV6_ECHO => {
                    transport.starts = true;
                    echo(header, transport);
                }
                ICMPV6_ECHO_REPLY => {
                    transport.answers = true;
                    echo(header, transport);
                }
                kind if kind < ICMPV6_FIRST_INFORMATIONAL => transport.inner = offset + header.len(),
                kind => {
                    transport.link = ICMPV6_LISTENER.contains(&kind)
                        || ICMPV6_NEIGHBOUR.contains(&kind)
                        || kind == ICMPV6_LISTENER_V2;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// An echo is known by its identifier, which stands for both ports.
#[inline(always)]
fn echo(header: [u8; 8], transport: &mut Transport) {
    transport.flow = true;
    transport.source_port = u16::from_be_bytes([header[4], header[5]]);
    transport.destination_port = transport.source_port;
}

/// Takes over the ports, or an echo's identifier, of a packet quoted by an ICMP error, the other way round: the error
/// goes back. Eight bytes of the quoted transport header are sure to be there (RFC 792). Says whether it could.
#[inline(always)]
pub fn quote(ctx: &TcContext, offset: usize, protocol: u8, transport: &mut Transport) -> bool {
    let Ok(bytes) = ctx.load::<[u8; 8]>(offset) else {
        return false;
    };
    match (protocol, bytes[0]) {
        (IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP, _) => {
            transport.flow = true;
            transport.destination_port = u16::from_be_bytes([bytes[0], bytes[1]]);
            transport.source_port = u16::from_be_bytes([bytes[2], bytes[3]]);
        }
        (IPPROTO_ICMP, ICMP_ECHO | ICMP_ECHO_REPLY) | (IPPROTO_ICMPV6, ICMPV6_ECHO | ICMPV6_ECHO_REPLY) => {
            echo(bytes, transport);
        }
        _ => return false,
    }
    true
}
