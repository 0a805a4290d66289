//! What policy says between two classes, of a port.

use postern_common::reason::Reason;
use postern_common::verdict::{
    EVERY_SCTP, EVERY_TCP, EVERY_UDP, EVERYTHING, PortPageKey, SOME_PORTS, Verdict, VerdictKey, WHOLE_PAGES,
};
use postern_common::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};

use crate::maps::{PORT_PAGES, VERDICTS};

/// What policy says of a port, between two classes. Checked apart by the verifier.
#[inline(always)]
pub fn of_classes(key: VerdictKey, protocol: u8, port: u16) -> Reason {
    let VerdictKey { subject, peer } = key;
    // SAFETY: a reason's number comes back.
    unsafe { Reason::of(of_classes_apart(subject, peer, u32::from(protocol), u32::from(port))) }
}

/// [`decide_by_classes`], which the verifier checks apart: one of [`Reason`]'s numbers.
#[unsafe(export_name = "of_classes")]
#[inline(never)]
extern "C" fn of_classes_apart(subject: u32, peer: u32, protocol: u32, port: u32) -> u32 {
    decide_by_classes(VerdictKey { subject, peer }, protocol as u8, port as u16) as u32
}

/// What [`of_classes`] does.
#[inline(always)]
pub fn decide_by_classes(key: VerdictKey, protocol: u8, port: u16) -> Reason {
    // SAFETY: a published verdict never changes; see "copy-on-write" in ARCHITECTURE.md.
    match unsafe { VERDICTS.get(key) } {
        Some(verdict) if allows(verdict, protocol, port) => Reason::AllowedByPolicy,
        _ => Reason::DeniedByPolicy,
    }
}

/// Whether a verdict holds a port of a protocol. Costs the same whatever the verdict holds: four comparisons, or two
/// look-ups at most.
#[inline(always)]
fn allows(verdict: &Verdict, protocol: u8, port: u16) -> bool {
    let whole = match protocol {
        IPPROTO_TCP => EVERYTHING | EVERY_TCP,
        IPPROTO_UDP => EVERYTHING | EVERY_UDP,
        IPPROTO_SCTP => EVERYTHING | EVERY_SCTP,
        // Without ports: allowed by rules without ports alone.
        _ => return verdict.whole & EVERYTHING != 0,
    };
    if verdict.whole & whole != 0 {
        return true;
    }
    if verdict.port_set != 0 {
        return is_paged(verdict.port_set, protocol, port);
    }
    let mut index = 0;
    while index < verdict.ranges.len() {
        let range = verdict.ranges[index];
        if range.protocol == protocol && range.first <= port && port <= range.last {
            return true;
        }
        index += 1;
    }
    false
}

/// Whether a port set holds a port: on the port's own page, or since all of that page is allowed.
#[inline(always)]
fn is_paged(port_set: u32, protocol: u8, port: u16) -> bool {
    let [page, byte] = port.to_be_bytes();
    let key = PortPageKey { port_set, protocol, page, kind: SOME_PORTS };
    // SAFETY: a published port set never changes.
    if let Some(ports) = unsafe { PORT_PAGES.get(key) } {
        return ports.has(byte);
    }
    let key = PortPageKey { page: 0, kind: WHOLE_PAGES, ..key };
    // SAFETY: as above.
    unsafe { PORT_PAGES.get(key) }.is_some_and(|pages| pages.has(page))
}
