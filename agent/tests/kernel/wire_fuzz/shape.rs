//! Frames as their parts, to read and to repeat, and the bytes that they make.

use std::net::IpAddr;

use super::world::{Mac, Place, VNI, VXLAN_PORT, Who};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// TCP's SYN and ACK.
pub(super) const SYN: u8 = 2;
pub(super) const ACK: u8 = 16;

/// What tells our packets from others', with the frame's number behind it.
const MAGIC: [u8; 4] = *b"pWi!";

/// A frame to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) from: Place,
    /// `skb->tc_index`, as it leaves the pod.
    pub(super) tag: u16,
    pub(super) to_mac: Mac,
    pub(super) from_mac: Mac,
    pub(super) vlan: Option<u16>,
    pub(super) v6: bool,
    pub(super) source: Who,
    pub(super) destination: Who,
    pub(super) load: Load,
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Udp {
        from: Port,
        to: Port,
    },
    Tcp {
        from: Port,
        to: Port,
        flags: u8,
    },
    Echo {
        request: bool,
        identifier: Port,
    },
    /// A protocol without ports.
    Portless(u8),
    /// VXLAN, with another frame in it.
    Tunnel(Box<Shape>),
    /// ARP, in a frame of so many bytes.
    Arp {
        operation: u16,
        sender: Who,
        target: Who,
        length: usize,
    },
    /// Neighbour discovery, with so many bytes behind what it holds at least.
    Neighbour {
        kind: u8,
        hops: u8,
        target: Who,
        more: usize,
    },
    /// Multicast listener messages.
    Listener {
        kind: u8,
        hops: u8,
        more: usize,
    },
}

/// A port: of this sequence alone, so that flows of others are other flows, or a certain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Port {
    Own(u16),
    Number(u16),
}

impl Port {
    /// The number, in a sequence whose own ports begin here.
    pub(super) fn number(self, base: u16) -> u16 {
        match self {
            Self::Own(offset) => base + offset,
            Self::Number(number) => number,
        }
    }
}

impl Shape {
    /// The frame of this number, in a sequence whose own ports begin at `base`.
    pub(super) fn frame(&self, number: u32, base: u16) -> Vec<u8> {
        let mut frame = [self.to_mac.octets(), self.from_mac.octets()].concat();
        if let Some(tag) = self.vlan {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        if let Load::Arp { operation, sender, target, length } = &self.load {
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4]);
            frame.extend(operation.to_be_bytes());
            frame.extend(self.from_mac.octets());
            frame.extend(sender.v4().octets());
            // What a request leaves open tells it from others here.
            frame.extend(*b"wi");
            frame.extend(number.to_be_bytes());
            frame.extend(target.v4().octets());
            frame.resize(frame.len().max(*length), 0);
            return frame;
        }
        let (source, destination) = (self.source.address(self.v6), self.destination.address(self.v6));
        let (protocol, hops, options, mut body) = self.body(number, base);
        checksum(protocol, source, destination, &mut body);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([8, 0]);
                let mut header = vec![0x45, 0];
                header.extend(length(20 + body.len()));
                let [.., high, low] = number.to_be_bytes();
                header.extend([high, low, 0, 0, hops, protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                let sum = sum(&header, 0);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd]);
                frame.extend((0x6000_0000 | (number & 0xf_ffff)).to_be_bytes());
                frame.extend(length(options.len() + body.len()));
                frame.extend([if options.is_empty() { protocol } else { 0 }, hops]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(options);
            }
            _ => unreachable!("both addresses are of one family"),
        }
        frame.extend(body);
        frame
    }

    /// Protocol, hop limit, options of IPv6, and what follows.
    fn body(&self, number: u32, base: u16) -> (u8, u8, Vec<u8>, Vec<u8>) {
        let payload = [MAGIC, number.to_be_bytes()].concat();
        let none = Vec::new();
        match &self.load {
            Load::Udp { from, to } => (UDP, 64, none, udp(from.number(base), to.number(base), &payload)),
            Load::Tcp { from, to, flags } => {
                let mut body = ports(from.number(base), to.number(base));
                // Each frame's own: by its sequence number, what a pod sends to itself is known again.
                body.extend((1000 + number).to_be_bytes());
                body.extend((2000 + number).to_be_bytes());
                body.extend([0x50, *flags, 16, 0, 0, 0, 0, 0]);
                body.extend(payload);
                (TCP, 64, none, body)
            }
            Load::Echo { request, identifier } => {
                let (protocol, kind) = match (self.v6, request) {
                    (false, true) => (ICMP, 8),
                    (false, false) => (ICMP, 0),
                    (true, true) => (ICMPV6, 128),
                    (true, false) => (ICMPV6, 129),
                };
                let mut body = vec![kind, 0, 0, 0];
                body.extend(identifier.number(base).to_be_bytes());
                body.extend([0, 1]);
                body.extend(payload);
                (protocol, 64, none, body)
            }
            Load::Portless(protocol) => (*protocol, 64, none, payload),
            Load::Tunnel(inner) => {
                let mut tunnelled = vec![8, 0, 0, 0];
                tunnelled.extend((VNI << 8).to_be_bytes());
                tunnelled.extend(inner.frame(number, base));
                // The sequence's own, too: with `keep`, what was allowed in another one stays so.
                (UDP, 64, none, udp(Port::Own(25).number(base), VXLAN_PORT, &tunnelled))
            }
            Load::Neighbour { kind, hops, target, more } => {
                let mut body = vec![*kind, 0, 0, 0, 0, 0, 0, 0];
                match kind {
                    133 => {}
                    134 => body.extend([0; 8]),
                    _ => body.extend(target.v6().octets()),
                }
                if *kind == 137 {
                    body.extend(self.destination.v6().octets());
                }
                body.resize(body.len() + more, 0);
                (ICMPV6, *hops, none, body)
            }
            Load::Listener { kind, hops, more } => {
                let mut body = vec![*kind, 0, 0, 0, 0, 0, 0, 0];
                let group = Who::Group(self.from).v6().octets();
                if *kind == 143 {
                    // One record: to exclude nothing.
                    body[7] = 1;
                    body.extend([4, 0, 0, 0]);
                }
                body.extend(group);
                body.resize(body.len() + more, 0);
                // Router alert (RFC 2711).
                (ICMPV6, *hops, vec![ICMPV6, 0, 5, 2, 0, 0, 1, 0], body)
            }
            Load::Arp { .. } => unreachable!("ARP is no IP"),
        }
    }
}

/// The number of the frame that these bytes came in, or are left of; `last` is the latest.
pub(super) fn number(bytes: &[u8], last: u32) -> Option<u32> {
    if let Some(at) = bytes.windows(4).position(|window| window == MAGIC) {
        let number = bytes.get(at + 4..at + 8)?;
        return Some(u32::from_be_bytes(number.try_into().unwrap()));
    }
    match bytes.get(12..14)? {
        [8, 6] if bytes.get(32..34)? == b"wi" => {
            Some(u32::from_be_bytes(bytes.get(34..38)?.try_into().unwrap()))
        }
        [0x86, 0xdd] => {
            let label = u32::from_be_bytes(bytes.get(14..18)?.try_into().unwrap()) & 0xf_ffff;
            let number = (last & !0xf_ffff) | label;
            (label != 0).then(|| if number > last { number.wrapping_sub(0x10_0000) } else { number })
        }
        _ => None,
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = ports(source, destination);
    body.extend(length(8 + payload.len()));
    body.extend([0, 0]);
    body.extend(payload);
    body
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap().to_be_bytes()
}

/// Fills in what the protocol checks its bytes by: conntrack does not track what is wrong.
fn checksum(protocol: u8, source: IpAddr, destination: IpAddr, body: &mut [u8]) {
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        ICMP | ICMPV6 => 2,
        _ => return,
    };
    let mut pseudo = Vec::new();
    if protocol != ICMP {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                pseudo.extend(source.octets());
                pseudo.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                pseudo.extend(source.octets());
                pseudo.extend(destination.octets());
            }
            _ => {}
        }
        pseudo.extend([0, protocol]);
        pseudo.extend(length(body.len()));
    }
    let pseudo = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = sum(body, pseudo);
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 1071.
fn sum(bytes: &[u8], begun: u32) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum = begun + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap()
}
