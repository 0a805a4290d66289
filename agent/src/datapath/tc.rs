//! Traffic control by route netlink, as far as aya and rtnetlink have no calls for it: filters with all that the kernel says of them, byte
//! for byte, so that they can be told from one another, and be added again.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Parent of the one qdisc that sees packets as they come (`TC_H_INGRESS`, `TC_H_CLSACT`).
const INGRESS_QDISC: u32 = 0xffff_fff1;
/// Its handle.
const INGRESS_HANDLE: u32 = 0xffff_0000;

/// What a filter is added to, and listed by: `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`.
pub(super) const AT_INGRESS: u32 = 0xffff_fff2;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)`. An `ingress` qdisc has no such hook, and takes this for the other one.
pub(super) const AT_EGRESS: u32 = 0xffff_fff3;

/// Attributes (`linux/rtnetlink.h`).
mod attribute {
    pub(super) const KIND: u16 = 1;
    pub(super) const OPTIONS: u16 = 2;
    pub(super) const CHAIN: u16 = 11;
    pub(super) const INGRESS_BLOCK: u16 = 13;
}

/// Length of `struct nlmsghdr`, and of `struct tcmsg`.
const HEADER: usize = 16;
const TCMSG: usize = 20;

/// The qdisc that sees packets as they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IngressQdisc {
    /// `ingress` or `clsact`.
    pub(super) kind: String,
    /// Its filters are in a block that it shares with other qdiscs.
    pub(super) is_shared: bool,
}

/// A filter. What is listed beside them, heads of lists and tables, has no options or no place in a list, and is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// Lower ones come first (`pref`).
    pub(super) priority: u16,
    /// In network byte order, as it stands in the message.
    pub(super) protocol: u16,
    pub(super) handle: u32,
    pub(super) chain: u32,
    /// `bpf`, `u32`, ...
    pub(super) kind: String,
    /// `TCA_OPTIONS`
    pub(super) options: Vec<u8>,
}

/// A connection to the kernel, in the network namespace of the thread that opened it.
pub(super) struct Tc {
    socket: Socket,
    sequence: u32,
}

impl Tc {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The qdisc of an interface that sees packets as they come, if it has one.
    pub(super) fn ingress_qdisc(&mut self, ifindex: u32) -> io::Result<Option<IngressQdisc>> {
        // The kernel lists those of all interfaces, whatever it is asked.
        let listed = self.request(libc::RTM_GETQDISC, NLM_F_DUMP, tcmsg(0, 0, 0, 0), &[])?;
        Ok(listed.iter().find_map(|message| {
            let (header, attributes) = message.split_at_checked(TCMSG)?;
            if word(header, 4) != ifindex || word(header, 12) != INGRESS_QDISC {
                return None;
            }
            Some(IngressQdisc {
                kind: text(find(attributes, attribute::KIND)?),
                is_shared: find(attributes, attribute::INGRESS_BLOCK).is_some(),
            })
        }))
    }

    /// The filters at a hook, in the order in which packets come to them.
    pub(super) fn filters(&mut self, ifindex: u32, parent: u32) -> io::Result<Vec<Filter>> {
        let listed = self.request(libc::RTM_GETTFILTER, NLM_F_DUMP, tcmsg(ifindex, 0, parent, 0), &[])?;
        let filters = listed.iter().filter_map(|message| {
            let (header, attributes) = message.split_at_checked(TCMSG)?;
            let info = word(header, 16);
            Some(Filter {
                priority: u16::try_from(info >> 16).ok()?,
                protocol: u16::try_from(info & 0xffff).ok()?,
                handle: word(header, 8),
                chain: find(attributes, attribute::CHAIN).map_or(0, |it| word(it, 0)),
                kind: text(find(attributes, attribute::KIND)?),
                options: find(attributes, attribute::OPTIONS)?.to_vec(),
            })
        });
        // Handle 0 is the head of a list of filters.
        Ok(filters.filter(|it| it.handle != 0).collect())
    }

    /// Adds a qdisc that sees packets as they come. Fails where there is one.
    pub(super) fn add_ingress_qdisc(&mut self, ifindex: u32, kind: &str) -> io::Result<()> {
        let header = tcmsg(ifindex, INGRESS_HANDLE, INGRESS_QDISC, 0);
        let kind = attribute(attribute::KIND, &zero_ended(kind));
        self.request(libc::RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, header, &kind).map(drop)
    }

    /// Deletes it, with its filters.
    pub(super) fn delete_ingress_qdisc(&mut self, ifindex: u32) -> io::Result<()> {
        let header = tcmsg(ifindex, INGRESS_HANDLE, INGRESS_QDISC, 0);
        self.request(libc::RTM_DELQDISC, 0, header, &[]).map(drop)
    }

    /// Adds a filter. Fails where there is one of its priority and handle.
    pub(super) fn add_filter(&mut self, ifindex: u32, parent: u32, filter: &Filter) -> io::Result<()> {
        let info = u32::from(filter.priority) << 16 | u32::from(filter.protocol);
        let header = tcmsg(ifindex, filter.handle, parent, info);
        let mut attributes = attribute(attribute::KIND, &zero_ended(&filter.kind));
        attributes.extend(attribute(attribute::OPTIONS, &filter.options));
        self.request(libc::RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, header, &attributes).map(drop)
    }

    /// Sends a request and reads the answer to its end; returns the messages in it, without their headers.
    fn request(
        &mut self,
        kind: u16,
        flags: u16,
        header: [u8; TCMSG],
        attributes: &[u8],
    ) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + TCMSG + attributes.len()).map_err(io::Error::other)?;
        let mut request = Vec::new();
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(header);
        request.extend(attributes);
        self.socket.send(&request, 0)?;
        let mut answers = Vec::new();
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            let mut rest = &received[..];
            while let Some((header, _)) = rest.split_at_checked(HEADER) {
                let length = usize::try_from(word(header, 0)).map_err(io::Error::other)?;
                let (kind, sequence) = (half(header, 4), word(header, 8));
                let Some(body) = rest.get(HEADER..length) else { return Err(garbled()) };
                rest = rest.get(aligned(length)..).unwrap_or_default();
                if sequence != self.sequence {
                    continue;
                }
                match libc::c_int::from(kind) {
                    // Both begin with a number: zero, or a negative error.
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        let error = body.get(..4).map_or(0, |it| word(it, 0).cast_signed());
                        return if error == 0 {
                            Ok(answers)
                        } else {
                            Err(io::Error::from_raw_os_error(error.wrapping_neg()))
                        };
                    }
                    _ => answers.push(body.to_vec()),
                }
            }
        }
    }
}

fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a netlink message that ends before it says")
}

fn tcmsg(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG] {
    let mut header = [0; TCMSG];
    for (number, word) in [ifindex, handle, parent, info].into_iter().enumerate() {
        header[4 + number * 4..8 + number * 4].copy_from_slice(&word.to_ne_bytes());
    }
    header
}

/// An attribute's bytes, with what aligns the next one.
pub(super) fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = 4 + payload.len();
    let mut bytes = Vec::with_capacity(aligned(length));
    // What is longer cannot be said; no attribute that came from the kernel is.
    bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(aligned(length), 0);
    bytes
}

/// The attributes in some bytes: which kind, and what they hold.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(rest.get(..4)?, 0));
        // Without what says that it is nested, or in network byte order.
        let kind = half(rest, 2) & 0x3fff;
        let payload = rest.get(4..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// What the first attribute of a kind holds.
pub(super) fn find(of: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(of).find(|(it, _)| *it == kind).map(|(_, payload)| payload)
}

/// A number in some bytes; zero where they end before.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|it| it.first_chunk()).map_or(0, |it| u32::from_ne_bytes(*it))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|it| it.first_chunk()).map_or(0, |it| u16::from_ne_bytes(*it))
}

/// Text that ends with a zero.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|it| *it == 0).next().unwrap_or_default()).into_owned()
}

fn zero_ended(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut bytes = attribute(1, &zero_ended("u32"));
        bytes.extend(attribute(2 | 0x8000, &attribute(7, &[1, 2, 3])));
        assert_eq!(bytes.len(), 8 + 4 + 8);
        assert_eq!(find(&bytes, 1).map(text), Some("u32".to_owned()));
        assert_eq!(find(find(&bytes, 2).unwrap_or_default(), 7), Some(&[1, 2, 3][..]));
        assert_eq!(find(&bytes, 3), None);
    }

    #[test]
    fn what_is_cut_short_ends_the_list() {
        let bytes = attribute(1, &[0; 8]);
        for length in 0..bytes.len() {
            assert_eq!(attributes(&bytes[..length]).count(), 0, "{length}");
        }
        assert_eq!(attributes(&[0; 8]).count(), 0, "of no length");
    }
}
