//! Look-ups and canonical numbers.

use super::*;
use crate::model::Protocol;

fn tables(numbers: [u32; 3]) -> Tables {
    let [ingress, narrow, wide] = numbers;
    let peer = |class, local| PeerEntry { class: PeerClass(class), local };
    let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
    let subject = Subject {
        ingress: ClassId(ingress),
        egress: ClassId::NOT_ISOLATED,
        addresses: vec![net("10.0.0.1/32").addr()],
    };
    Tables {
        frontends: BTreeMap::new(),
        subjects: BTreeMap::from([(NamespacedName::new("a", "web"), subject)]),
        peers: BTreeMap::from([
            (net("10.0.0.0/8"), peer(wide, false)),
            (net("10.0.0.7/32"), peer(narrow, false)),
            (net("172.16.0.1/32"), peer(0, true)),
        ]),
        verdicts: BTreeMap::from([
            ((ClassId(ingress), PeerClass(wide)), PortSet::port(Protocol::Tcp, 80)),
            ((ClassId(ingress), PeerClass(narrow)), PortSet::all_of(Protocol::Udp)),
        ]),
    }
}

#[test]
fn the_longest_prefix_decides() {
    let tables = tables([1, 2, 3]);
    let ports = |direction, remote: &str| {
        let remote = remote.parse().expect("an address");
        tables.ports(&NamespacedName::new("a", "web"), direction, remote).to_string()
    };
    for (remote, expected) in [
        ("10.0.0.7", "UDP/*"),
        ("10.0.0.8", "TCP/80"),
        ("192.0.2.1", "nothing"),
        ("fd00::1", "nothing"),
        ("172.16.0.1", "everything"),
        ("10.0.0.1", "everything"),
    ] {
        assert_eq!(ports(Direction::Ingress, remote), expected, "{remote}");
        assert_eq!(ports(Direction::Egress, remote), "everything", "{remote}");
    }
    let stranger = tables.ports(&NamespacedName::new("a", "x"), Direction::Ingress, [10, 0, 0, 7].into());
    assert_eq!(stranger, PortSet::Everything);
}

#[test]
fn canonical_tables_compare_by_meaning() {
    assert_ne!(tables([1, 2, 3]), tables([9, 8, 5]));
    assert_eq!(tables([1, 2, 3]).canonical(), tables([9, 8, 5]).canonical());
    assert_ne!(tables([1, 2, 3]).canonical(), tables([1, 2, 2]).canonical());
}

#[test]
fn the_next_class_is_above_all_but_passing_ones() {
    assert_eq!(Tables::default().next_class(), ClassId(1));
    assert_eq!(tables([4, 2, 6]).next_class(), ClassId(7));
    assert_eq!(tables([4, FIRST_TRANSITIONAL + 3, 2]).next_class(), ClassId(5));
}
