//! Policy types to map types and back.

use std::collections::{BTreeMap, BTreeSet};

use postern_common::peer::LOCAL_NODE;
use postern_common::verdict::{
    EVERY_SCTP, EVERY_TCP, EVERY_UDP, EVERYTHING, INLINE_RANGES, PortPage, PortPageKey, SOME_PORTS, Verdict,
    WHOLE_PAGES,
};
use postern_common::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, peer, verdict};
use postern_policy::model::Protocol;
use postern_policy::{PeerClass, PeerEntry, PortRange, PortSet};

/// The protocol's number.
#[must_use]
pub const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => IPPROTO_TCP,
        Protocol::Udp => IPPROTO_UDP,
        Protocol::Sctp => IPPROTO_SCTP,
    }
}

/// The protocol of a number; none for those without ports.
#[must_use]
pub const fn protocol(number: u8) -> Option<Protocol> {
    match number {
        IPPROTO_TCP => Some(Protocol::Tcp),
        IPPROTO_UDP => Some(Protocol::Udp),
        IPPROTO_SCTP => Some(Protocol::Sctp),
        _ => None,
    }
}

const fn whole(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => EVERY_TCP,
        Protocol::Udp => EVERY_UDP,
        Protocol::Sctp => EVERY_SCTP,
    }
}

/// What is known of an address.
#[must_use]
pub fn peer(entry: PeerEntry) -> peer::Peer {
    peer::Peer { class: entry.class.0, flags: if entry.local { LOCAL_NODE } else { 0 } }
}

/// The reverse of [`peer`].
#[must_use]
pub fn peer_entry(peer: peer::Peer) -> PeerEntry {
    PeerEntry { class: PeerClass(peer.class), local: peer.flags & LOCAL_NODE != 0 }
}

/// The ranges of a set that need naming: whole protocols are flags.
fn partial(ports: &PortSet) -> impl Iterator<Item = &PortRange> {
    ports.ranges().into_iter().flatten().filter(|range| !range.is_all())
}

/// Whether a set's ranges fit into the verdict itself.
#[must_use]
pub fn fits_inline(ports: &PortSet) -> bool {
    partial(ports).count() <= INLINE_RANGES
}

/// The verdict of a set; `port_set` numbers its pages where it does not fit inline.
#[must_use]
pub fn verdict(ports: &PortSet, port_set: u32) -> Verdict {
    let mut verdict = Verdict { port_set, ..Verdict::default() };
    if ports.is_everything() {
        verdict.whole = EVERYTHING;
    }
    for range in ports.ranges().into_iter().flatten().filter(|range| range.is_all()) {
        verdict.whole |= whole(range.protocol);
    }
    if port_set == 0 {
        for (slot, range) in verdict.ranges.iter_mut().zip(partial(ports)) {
            *slot = verdict::PortRange {
                first: range.first,
                last: range.last,
                protocol: number(range.protocol),
                reserved: [0; 3],
            };
        }
    }
    verdict
}

/// The pages of a set that does not fit inline.
#[must_use]
pub fn pages(ports: &PortSet, port_set: u32) -> BTreeMap<PortPageKey, PortPage> {
    let mut pages: BTreeMap<PortPageKey, PortPage> = BTreeMap::new();
    for range in partial(ports) {
        let protocol = number(range.protocol);
        for (page, first, last) in split(*range) {
            let whole = (first, last) == (0, u8::MAX);
            let kind = if whole { WHOLE_PAGES } else { SOME_PORTS };
            let key = PortPageKey { port_set, protocol, page: if whole { 0 } else { page }, kind };
            let bits = pages.entry(key).or_default();
            if whole {
                bits.add(page);
            } else {
                (first..=last).for_each(|port| bits.add(port));
            }
        }
    }
    pages
}

/// How many pages a set takes.
#[must_use]
pub fn page_count(ports: &PortSet) -> usize {
    if fits_inline(ports) {
        return 0;
    }
    let pages = partial(ports).flat_map(|range| {
        split(*range).map(|(page, first, last)| {
            // Pages that are allowed whole have one together.
            (range.protocol, ((first, last) != (0, u8::MAX)).then_some(page))
        })
    });
    pages.collect::<BTreeSet<_>>().len()
}

/// A range as pages, each with its first and last port there.
fn split(range: PortRange) -> impl Iterator<Item = (u8, u8, u8)> {
    let ([first_page, first], [last_page, last]) = (range.first.to_be_bytes(), range.last.to_be_bytes());
    (first_page..=last_page).map(move |page| {
        let first = if page == first_page { first } else { 0 };
        let last = if page == last_page { last } else { u8::MAX };
        (page, first, last)
    })
}

/// The reverse of [`verdict()`] and [`pages`]; the pages are those of the verdict's port set.
#[must_use]
pub fn ports(verdict: &Verdict, pages: &BTreeMap<PortPageKey, PortPage>) -> PortSet {
    if verdict.whole & EVERYTHING != 0 {
        return PortSet::Everything;
    }
    let wholes =
        Protocol::ALL.into_iter().filter(|it| verdict.whole & whole(*it) != 0).map(PortRange::all_of);
    let inline = verdict.ranges.iter().filter_map(|range| {
        Some(PortRange { protocol: protocol(range.protocol)?, first: range.first, last: range.last })
    });
    let first = PortPageKey { port_set: verdict.port_set, ..PortPageKey::default() };
    let from =
        pages.range(first..).take_while(|(key, _)| verdict.port_set != 0 && key.port_set == verdict.port_set);
    let listed = from.flat_map(|(key, page)| {
        let bytes = (0..=u8::MAX).filter(|byte| page.has(*byte));
        bytes.filter_map(|byte| {
            let protocol = protocol(key.protocol)?;
            let (first, last) = if key.kind == WHOLE_PAGES {
                (u16::from_be_bytes([byte, 0]), u16::from_be_bytes([byte, u8::MAX]))
            } else {
                let port = u16::from_be_bytes([key.page, byte]);
                (port, port)
            };
            Some(PortRange { protocol, first, last })
        })
    });
    PortSet::from_ranges(wholes.chain(inline).chain(listed))
}
