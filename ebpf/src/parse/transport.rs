//! TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260) and ICMP echo (RFC 792).

use aya_ebpf::programs::TcContext;
use postern_common::{IPPROTO_ICMP, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};

use super::Transport;
use crate::frame::{self, Unreadable};

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO: u8 = 8;

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
            let identifier = u16::from_be_bytes([header[4], header[5]]);
            let echo = Transport { source_port: identifier, destination_port: identifier, ..Transport::default() };
            Ok(match header[0] {
                ICMP_ECHO => echo,
                ICMP_ECHO_REPLY => Transport { answers: true, ..echo },
                _ => Transport::default(),
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
