//! TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792) and ICMPv6 (RFC 4443).

use core::ops::RangeInclusive;

use aya_ebpf::programs::TcContext;
use postern_common::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};

use super::frame::{self, Unreadable};
use super::packet::Transport;
use super::skb::Routed;

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// A TCP header without options.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tcp {
    ports: [u16; 2],
    sequence: u32,
    acknowledgment: u32,
    data_offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// A UDP header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Udp {
    ports: [u16; 2],
    length: u16,
    checksum: u16,
}

/// SCTP's common header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sctp {
    ports: [u16; 2],
    tag: u32,
    checksum: u32,
}

/// The header of ICMP and ICMPv6 messages; for an echo, what its other four bytes mean.
#[repr(C)]
#[derive(Clone, Copy)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    identifier: u16,
    sequence: u16,
}

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO: u8 = 8;

/// Destination unreachable (path MTU discovery among it), time exceeded, parameter problem.
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];

/// Unreachable, packet too big, time exceeded, parameter problem (RFC 4443 2.1).
const ICMPV6_ERRORS: RangeInclusive<u8> = 1..=4;
const ICMPV6_ECHO: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;

/// Whether a protocol has ports, without which no frontend is of it.
#[inline(always)]
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP)
}

/// Parses the transport header at a byte offset of a frame whose packet ends at another.
#[inline(always)]
pub fn parse(
    ctx: &TcContext,
    offset: usize,
    end: usize,
    protocol: u8,
    transport: &mut Transport,
) -> Result<(), Unreadable> {
    match protocol {
        IPPROTO_TCP => {
            let header: Tcp = frame::read(ctx, offset)?;
            let length = usize::from(header.data_offset >> 4) * 4;
            if length < size_of::<Tcp>() || offset + length > end {
                return Err(Unreadable::Malformed);
            }
            transport.body = offset;
            ports(header.ports, transport);
            tcp(header.flags, transport);
        }
        IPPROTO_UDP => {
            let header: Udp = frame::read(ctx, offset)?;
            if offset + size_of::<Udp>() > end {
                return Err(Unreadable::Malformed);
            }
            transport.body = offset;
            ports(header.ports, transport);
        }
        IPPROTO_SCTP => {
            let header: Sctp = frame::read(ctx, offset)?;
            if offset + size_of::<Sctp>() > end {
                return Err(Unreadable::Malformed);
            }
            transport.body = offset;
            ports(header.ports, transport);
        }
        IPPROTO_ICMP | IPPROTO_ICMPV6 => {
            let header: Icmp = frame::read(ctx, offset)?;
            if offset + size_of::<Icmp>() > end {
                return Err(Unreadable::Malformed);
            }
            transport.kind = header.kind;
            transport.code = header.code;
            transport.body = offset + size_of::<Icmp>();
            message(protocol, header.identifier, transport);
        }
        _ => {}
    }
    Ok(())
}

/// What the transport header of a packet that has been routed says, as far as it matters to whoever only asks whether a packet
/// starts something: ports, and what kind of packet it is.
#[inline(always)]
pub fn of_skb(skb: impl Routed, offset: u32, protocol: u8) -> Option<Transport> {
    let mut transport = Transport::default();
    match protocol {
        IPPROTO_TCP => {
            ports(skb.read(offset)?, &mut transport);
            let flags = skb.read::<u8>(offset + 13)?;
            tcp(flags, &mut transport);
        }
        IPPROTO_UDP | IPPROTO_SCTP => ports(skb.read(offset)?, &mut transport),
        IPPROTO_ICMP | IPPROTO_ICMPV6 => {
            transport.kind = skb.read(offset)?;
            message(protocol, skb.read(offset + 4)?, &mut transport);
        }
        _ => {}
    }
    Some(transport)
}

/// What TCP's flags say.
#[inline(always)]
fn tcp(flags: u8, transport: &mut Transport) {
    // No host starts a connection with a RST.
    transport.opens = flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN;
    transport.answers = flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK;
    transport.midstream = flags & TCP_SYN == 0;
    transport.finishes = flags & TCP_FIN != 0;
    transport.resets = flags & TCP_RST != 0;
}

/// What the type of an ICMP or ICMPv6 message says.
#[inline(always)]
fn message(protocol: u8, identifier: u16, transport: &mut Transport) {
    match (protocol, transport.kind) {
        (IPPROTO_ICMP, ICMP_ECHO) | (IPPROTO_ICMPV6, ICMPV6_ECHO) => {
            transport.opens = true;
            echo(identifier, transport);
        }
        (IPPROTO_ICMP, ICMP_ECHO_REPLY) | (IPPROTO_ICMPV6, ICMPV6_ECHO_REPLY) => {
            transport.answers = true;
            echo(identifier, transport);
        }
        (IPPROTO_ICMP, kind) => transport.error = ICMP_ERRORS.contains(&kind),
        (_, kind) => transport.error = ICMPV6_ERRORS.contains(&kind),
    }
}

/// Source and destination port, as they stand in the header.
#[inline(always)]
fn ports([source, destination]: [u16; 2], transport: &mut Transport) {
    transport.flow = true;
    transport.source_port = u16::from_be(source);
    transport.destination_port = u16::from_be(destination);
}

/// An echo is known by its identifier, which stands for both ports.
#[inline(always)]
fn echo(identifier: u16, transport: &mut Transport) {
    ports([identifier, identifier], transport);
}

/// Takes over the ports, or an echo's identifier, of a packet quoted by an ICMP error that ends at another offset, the other way round:
/// the error goes back. Eight bytes of the quoted transport header are sure to be there (RFC 792). Says whether it could.
#[inline(always)]
pub fn quote(ctx: &TcContext, offset: usize, end: usize, protocol: u8, transport: &mut Transport) -> bool {
    if offset + size_of::<Udp>() > end {
        return false;
    }
    match protocol {
        IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP => {
            let Ok(header) = ctx.load::<Udp>(offset) else {
                return false;
            };
            let [source, destination] = header.ports;
            ports([destination, source], transport);
        }
        IPPROTO_ICMP | IPPROTO_ICMPV6 => {
            let Ok(header) = ctx.load::<Icmp>(offset) else {
                return false;
            };
            let echoes = if protocol == IPPROTO_ICMP {
                [ICMP_ECHO, ICMP_ECHO_REPLY]
            } else {
                [ICMPV6_ECHO, ICMPV6_ECHO_REPLY]
            };
            if !echoes.contains(&header.kind) {
                return false;
            }
            echo(header.identifier, transport);
        }
        _ => return false,
    }
    true
}
