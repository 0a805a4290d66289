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
pub fn parse(ctx: &TcContext, offset: usize, protocol: u8) -> Result<Transport, Unreadable> {
    match protocol {
        IPPROTO_TCP => {
            // Ports to flags: the rest is not ours to judge.
            let header: [u8; 14] = frame::read(ctx, offset)?;
            let flags = header[13];
            Ok(Transport {
                starts: flags & (TCP_SYN | TCP_ACK) == TCP_SYN,
                ends: flags & (TCP_FIN | TCP_RST) != 0,
                ..ports([header[0], header[1], header[2], header[3]])
            })
        }
        IPPROTO_UDP | IPPROTO_SCTP => Ok(ports(frame::read(ctx, offset)?)),
        IPPROTO_ICMP => {
            let header: [u8; 8] = frame::read(ctx, offset)?;
            Ok(match header[0] {
                ICMP_ECHO => echo(header),
                ICMP_ECHO_REPLY => Transport { answers: true, ..echo(header) },
                _ => Transport::default(),
            })
        }
        IPPROTO_ICMPV6 => {
            let header: [u8; 8] = frame::read(ctx, offset)?;
            let kind = header[0];
            let link = ICMPV6_LISTENER.contains(&kind)
                || ICMPV6_NEIGHBOUR.contains(&kind)
                || kind == ICMPV6_LISTENER_V2;
            Ok(match kind {
                ICMPV6_ECHO => echo(header),
                ICMPV6_ECHO_REPLY => Transport { answers: true, ..echo(header) },
                _ => Transport { link, ..Transport::default() },
            })
        }
        _ => Ok(Transport::default()),
    }
}

#[inline(always)]
fn ports(bytes: [u8; 4]) -> Transport {
    Transport {
        source_port: u16::from_be_bytes([bytes[0], bytes[1]]),
        destination_port: u16::from_be_bytes([bytes[2], bytes[3]]),
        ..Transport::default()
    }
}

/// An echo is known by its identifier, which stands for both ports.
#[inline(always)]
fn echo(header: [u8; 8]) -> Transport {
    let identifier = u16::from_be_bytes([header[4], header[5]]);
    Transport { source_port: identifier, destination_port: identifier, ..Transport::default() }
}
