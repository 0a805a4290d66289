//! Port sets are canonical and mean what their ranges say.

use proptest::prelude::*;

use super::*;

fn set(ranges: &[(Protocol, u16, u16)]) -> PortSet {
    PortSet::from_ranges(ranges.iter().map(|(protocol, first, last)| PortRange {
        protocol: *protocol,
        first: *first,
        last: *last,
    }))
}

#[test]
fn ranges_merge() {
    use Protocol::{Sctp, Tcp, Udp};
    for (ranges, expected) in [
        (&[][..], "nothing"),
        (&[(Tcp, 80, 80)], "TCP/80"),
        (&[(Tcp, 81, 81), (Tcp, 80, 80)], "TCP/80-81"),
        (&[(Tcp, 80, 90), (Tcp, 85, 86), (Udp, 87, 87)], "TCP/80-90 UDP/87"),
        (&[(Tcp, 1, 65535), (Tcp, 0, 0)], "TCP/*"),
        (&[(Tcp, 65535, 65535), (Tcp, 0, 0)], "TCP/0 TCP/65535"),
        (&[(Tcp, 9, 8)], "nothing"),
        (&[(Tcp, 0, 65535), (Udp, 0, 65535), (Sctp, 0, 65535)], "TCP/* UDP/* SCTP/*"),
    ] {
        assert_eq!(set(ranges).to_string(), expected);
    }
}

#[test]
fn all_protocols_with_ports_are_not_everything() {
    let all = PortSet::from_ranges(Protocol::ALL.map(PortRange::all_of));
    assert!(!all.is_everything() && !all.allows_portless() && all.allows(Protocol::Sctp, 0));
    assert!(PortSet::Everything.covers(&all) && !all.covers(&PortSet::Everything));
    assert_eq!(all.union(&PortSet::Everything), PortSet::Everything);
}

fn ranges() -> impl Strategy<Value = Vec<(Protocol, u16, u16)>> {
    let port = || prop_oneof![0_u16..12, 65_530..=u16::MAX];
    proptest::collection::vec((proptest::sample::select(&Protocol::ALL[..]), port(), port()), 0..6)
}

proptest! {
    #[test]
    fn sets_mean_their_ranges(one in ranges(), two in ranges()) {
        let (left, right) = (set(&one), set(&two));
        let union = left.union(&right);
        prop_assert_eq!(&union, &right.union(&left));
        let holds = |ranges: &[(Protocol, u16, u16)], protocol, port| {
            ranges.iter().any(|(p, first, last)| *p == protocol && (*first..=*last).contains(&port))
        };
        let mut covers = true;
        let mut same = true;
        for protocol in Protocol::ALL {
            for port in (0..=13).chain(65_528..=u16::MAX) {
                let (in_one, in_two) = (holds(&one, protocol, port), holds(&two, protocol, port));
                prop_assert_eq!(left.allows(protocol, port), in_one);
                prop_assert_eq!(union.allows(protocol, port), in_one || in_two);
                covers &= in_one || !in_two;
                same &= in_one == in_two;
            }
        }
        // Ranges from below 13 to above 65528 hold what lies between, which is not looked at.
        prop_assume!(!one.iter().chain(&two).any(|(_, first, last)| *first < 13 && *last > 13));
        prop_assert_eq!(left.covers(&right), covers);
        prop_assert_eq!(left == right, same);
    }
}
