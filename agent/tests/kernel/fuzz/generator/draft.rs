//! A packet as its parts, and the frame that it makes: valid unless the parts say otherwise.

use std::net::IpAddr;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
pub(super) const SCTP: u8 = 132;

pub(super) const FRAGMENT: u8 = 44;

/// A packet to be.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// VLAN tags, by their ethertypes.
    pub(super) tags: Vec<u16>,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) hops: u8,
    pub(super) protocol: u8,
    /// Identification, offset in units of 8 bytes, more to come. IPv6 has it in `chain`.
    pub(super) fragment: Option<(u16, u16, bool)>,
    /// IPv4 options, in words of four bytes.
    pub(super) options: Vec<u8>,
    /// IPv6 extension headers: their numbers, and their bytes but for the next header's number.
    pub(super) chain: Vec<(u8, Vec<u8>)>,
    /// What the packet carries.
    pub(super) body: Vec<u8>,
    /// What the length field says, where that is not the truth.
    pub(super) length: Option<u16>,
    /// Bytes behind the packet.
    pub(super) padding: usize,
}

impl Draft {
    pub(super) fn new(source: IpAddr, destination: IpAddr, protocol: u8, body: Vec<u8>) -> Self {
        Self {
            tags: Vec::new(),
            source,
            destination,
            hops: 64,
            protocol,
            fragment: None,
            options: Vec::new(),
            chain: Vec::new(),
            body,
            length: None,
            padding: 0,
        }
    }

    pub(super) fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// The frame.
    pub(super) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                self.header4(&mut frame, source.octets(), destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd]);
                self.header6(&mut frame, source.octets(), destination.octets());
            }
            _ => unreachable!("both addresses are of one family"),
        }
        frame.extend(&self.body);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    fn header4(&self, frame: &mut Vec<u8>, source: [u8; 4], destination: [u8; 4]) {
        let words = 5 + self.options.len() / 4;
        let length = self.length.unwrap_or(field(4 * words + self.body.len()));
        let (identification, offset, more) = self.fragment.unwrap_or((0, 0, false));
        frame.extend([0x40 | u8::try_from(words).unwrap(), 0]);
        frame.extend(length.to_be_bytes());
        frame.extend(identification.to_be_bytes());
        frame.extend((offset & 0x1fff | u16::from(more) << 13).to_be_bytes());
        frame.extend([self.hops, self.protocol, 0, 0]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(&self.options);
    }

    fn header6(&self, frame: &mut Vec<u8>, source: [u8; 16], destination: [u8; 16]) {
        let extensions: usize = self.chain.iter().map(|(_, bytes)| 1 + bytes.len()).sum();
        let length = self.length.unwrap_or(field(extensions + self.body.len()));
        let numbers = self.chain.iter().map(|(number, _)| *number).chain([self.protocol]);
        let mut numbers = numbers.into_iter();
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend(numbers.next());
        frame.push(self.hops);
        frame.extend(source);
        frame.extend(destination);
        for (_, bytes) in &self.chain {
            frame.extend(numbers.next());
            frame.extend(bytes);
        }
    }
}

/// A length in its field: what does not fit becomes as much as does.
pub(super) fn field(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// A TCP header with these flags.
pub(super) fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut bytes = ports(source, destination);
    bytes.extend([0, 0, 3, 232, 0, 0, 7, 208, 0x50, flags, 16, 0, 0, 0, 0, 0]);
    bytes
}

/// A UDP header and a few bytes.
pub(super) fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = ports(source, destination);
    bytes.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    bytes
}

/// An SCTP common header, and the beginning of a chunk.
pub(super) fn sctp(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = ports(source, destination);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 4]);
    bytes
}

/// An echo request or reply of either family.
pub(super) fn echo(v6: bool, request: bool, identifier: u16) -> Vec<u8> {
    let kind = match (v6, request) {
        (false, true) => 8,
        (false, false) => 0,
        (true, true) => 128,
        (true, false) => 129,
    };
    let [high, low] = identifier.to_be_bytes();
    vec![kind, 0, 0, 0, high, low, 0, 1]
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}
