//! What a pod sends to itself by a Service: it comes back in its node's name, and is let in for having been noted on its way.

use postern_common::reason::Reason::{AllowedByPolicy, DeniedByPolicy};
use postern_common::service::{HAIRPIN_SLOTS, Hairpin, HairpinSlot};
use postern_common::{IPPROTO_TCP, IPPROTO_UDP};

use crate::frames::{NODE_MAC, tcp, udp};
use crate::rig::{Answer, IFINDEX, Rig};

const ISOLATED: &str = web!("\nspec: {podSelector: {}, policyTypes: [Ingress]}\n");

const POD: (&str, u16) = ("10.0.0.1", 8080);
const NODE: (&str, u16) = ("10.0.0.254", 40000);
/// The bridge that the pod's veth is a port of, and somebody else's veth.
const BRIDGE: u32 = 77;
const ANOTHER: u32 = 78;

/// A pod that nobody may reach, but its node.
fn rig() -> Rig {
    let mut rig = Rig::new("shop/web", ISOLATED);
    rig.own_addresses(&[NODE.0]);
    rig
}

/// Notes a packet on its way back, wherever it is looked for.
fn note(rig: &mut Rig, digest: u32, protocol: u8) {
    for number in 0..HAIRPIN_SLOTS {
        let slot = HairpinSlot { ifindex: IFINDEX, number };
        let hairpin = Hairpin { expires: u64::MAX, digest, port: POD.1, protocol: protocol.into() };
        rig.maps.hairpins.insert(slot, hairpin, 0).unwrap();
    }
}

#[test]
fn come_back_by_the_pods_own_veth_or_its_bridge() {
    let frame = tcp(NODE, POD, "S");
    let sequence = u32::from_ne_bytes(frame[38..42].try_into().unwrap());
    for (iif, answer) in [(IFINDEX, AllowedByPolicy), (BRIDGE, AllowedByPolicy), (ANOTHER, DeniedByPolicy)] {
        let mut rig = rig();
        rig.port_of(BRIDGE, NODE_MAC);
        assert_eq!(rig.gets_by(iif, &frame), Answer(DeniedByPolicy), "nothing was noted");
        note(&mut rig, sequence, IPPROTO_TCP);
        assert_eq!(rig.gets_by(iif, &frame), Answer(answer), "by {iif}");
    }
}

#[test]
fn nothing_else_comes_back() {
    let frame = tcp(NODE, POD, "S");
    let sequence = u32::from_ne_bytes(frame[38..42].try_into().unwrap());
    let mut rig = rig();
    note(&mut rig, sequence, IPPROTO_TCP);
    let cases = [
        ("not from the node", tcp(("10.0.0.9", NODE.1), POD, "S")),
        ("to another port", tcp(NODE, (POD.0, 8081), "S")),
        ("of another protocol", udp(NODE, POD)),
    ];
    for (what, frame) in cases {
        assert_eq!(rig.gets_by(IFINDEX, &frame), Answer(DeniedByPolicy), "{what}");
    }
    note(&mut rig, sequence.wrapping_add(1), IPPROTO_TCP);
    assert_eq!(rig.gets_by(IFINDEX, &frame), Answer(DeniedByPolicy), "of another sequence number");
    note(&mut rig, sequence, IPPROTO_UDP);
    assert_eq!(rig.gets_by(IFINDEX, &frame), Answer(DeniedByPolicy), "noted of another protocol");
}
