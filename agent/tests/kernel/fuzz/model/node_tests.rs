//! The node, Services and tunnels: whom a frame is from and for, beside what its addresses say.

use postern_common::reason::Reason::{
    self, AllowedByPolicy, DeniedByPolicy, Established, Node, NotIsolated, Service, Tunnel,
};
use postern_policy::model::Direction::{self, Egress, Ingress};

use super::super::sequence::{Shown, Veth, unhex};
use super::super::world::{Policy, Services};
use super::tests::{ACK, BACK, NODE, POD, SYN, SYN_ACK, THERE, expect, model, tcp, udp, v4};
use super::{Expected, Model};

/// A Service's address.
const FRONTEND: &str = "0a60000a";
/// Ports: 40000 to where a tunnel ends, and back.
const INTO_TUNNEL: &str = "9c401388";
const OUT_OF_TUNNEL: &str = "13889c40";

/// The same frame to another MAC address.
fn to(mac: &str, frame: &str) -> String {
    format!("{mac}{}", &frame[12..])
}

const BRIDGE: &str = "0200000000fe";
const SOMEBODY: &str = "020000000003";
const EVERYBODY: &str = "ffffffffffff";

/// What came in by another interface.
#[track_caller]
fn forwarded(model: &mut Model, frame: &str, reason: Reason) {
    let shown = Shown { direction: Ingress, bytes: unhex(frame), gso: false, forwarded: true };
    assert_eq!(model.judge(&shown), Expected::Exactly(reason), "{shown:?}");
}

fn bridged(policy: Policy) -> Model {
    let mut model = model(policy);
    model.flip(Veth { policy, guarded: true, bridged: true });
    model
}

#[track_caller]
fn first(direction: Direction, frame: &str, reason: Reason) {
    expect(&mut bridged(Policy::Nothing), direction, frame, reason);
}

#[test]
fn the_node_is_who_sends_here() {
    let syn = v4(NODE, POD, 6, "0000", &tcp(THERE, SYN));
    first(Ingress, &syn, Node);
    forwarded(&mut model(Policy::Nothing), &syn, DeniedByPolicy);
    // By policy, as any address.
    forwarded(&mut model(Policy::Narrow), &v4(NODE, POD, 6, "0000", &tcp("9c401f40", SYN)), AllowedByPolicy);
}

#[test]
fn what_the_node_started_goes_on_from_the_node() {
    let mut model = bridged(Policy::Nothing);
    expect(&mut model, Ingress, &v4(NODE, POD, 6, "0000", &tcp(THERE, SYN)), Node);
    expect(&mut model, Egress, &v4(POD, NODE, 6, "0000", &tcp(BACK, SYN_ACK)), Established);
    let there = v4(NODE, POD, 6, "0000", &tcp(THERE, ACK));
    forwarded(&mut model, &there, DeniedByPolicy);
    expect(&mut model, Ingress, &there, Established);
    forwarded(&mut model, &there, DeniedByPolicy);
    expect(&mut model, Ingress, &there, Established);
}

#[test]
fn the_node_is_who_is_sent_to() {
    let udp = v4(POD, NODE, 17, "0000", &udp(THERE));
    first(Egress, &udp, Node);
    first(Egress, &to(BRIDGE, &udp), Node);
    for mac in [SOMEBODY, EVERYBODY] {
        first(Egress, &to(mac, &udp), DeniedByPolicy);
    }
    expect(&mut model(Policy::Nothing), Egress, &to(BRIDGE, &udp), DeniedByPolicy);
    expect(&mut bridged(Policy::Ingress), Egress, &to(SOMEBODY, &udp), NotIsolated);
}

#[test]
fn answers_to_the_node_go_to_the_node() {
    let mut model = bridged(Policy::Nothing);
    expect(&mut model, Ingress, &v4(NODE, POD, 6, "0000", &tcp(THERE, SYN)), Node);
    let answer = v4(POD, NODE, 6, "0000", &tcp(BACK, SYN_ACK));
    expect(&mut model, Egress, &to(SOMEBODY, &answer), DeniedByPolicy);
    expect(&mut model, Egress, &answer, Established);
    expect(&mut model, Ingress, &v4(NODE, POD, 6, "0000", &tcp(THERE, ACK)), Established);
    let answer = v4(POD, NODE, 6, "0000", &tcp(BACK, ACK));
    expect(&mut model, Egress, &to(SOMEBODY, &answer), DeniedByPolicy);
    expect(&mut model, Egress, &to(BRIDGE, &answer), Established);
}

#[test]
fn a_service_is_sent_to_by_the_node() {
    let udp = v4(POD, FRONTEND, 17, "0000", &udp(THERE));
    let mut model = bridged(Policy::Nothing);
    expect(&mut model, Egress, &udp, DeniedByPolicy);
    model.serve(Services::BehindNat);
    expect(&mut model, Egress, &to(SOMEBODY, &udp), DeniedByPolicy);
    forwarded(&mut model, &v4(FRONTEND, POD, 17, "0000", &super::tests::udp(BACK)), DeniedByPolicy);
    expect(&mut model, Egress, &udp, Service);
    forwarded(&mut model, &v4(FRONTEND, POD, 17, "0000", &super::tests::udp(BACK)), Established);
    model.serve(Services::None);
    model.advance();
    expect(&mut model, Egress, &udp, DeniedByPolicy);
    // The database may be sent this.
    let tcp = v4(POD, FRONTEND, 6, "0000", &tcp("9c401538", SYN));
    expect(&mut bridged(Policy::Narrow), Egress, &tcp, DeniedByPolicy);
    let mut model = bridged(Policy::Narrow);
    model.serve(Services::Together);
    expect(&mut model, Egress, &tcp, AllowedByPolicy);
}

#[test]
fn nothing_goes_into_tunnels() {
    for protocol in [4, 41, 47, 115, 137] {
        first(Egress, &v4(POD, NODE, protocol, "0000", ""), Tunnel);
    }
    first(Egress, &v4(POD, NODE, 17, "0000", &udp(INTO_TUNNEL)), Tunnel);
    first(Egress, &v4(POD, NODE, 17, "0000", &udp(OUT_OF_TUNNEL)), Node);
    first(Egress, &v4(POD, FRONTEND, 47, "0000", ""), DeniedByPolicy);
    expect(&mut bridged(Policy::Bare), Egress, &v4(POD, NODE, 47, "0000", ""), Tunnel);
    let mut model = bridged(Policy::Nothing);
    expect(&mut model, Ingress, &v4(NODE, POD, 17, "0000", &udp(OUT_OF_TUNNEL)), Node);
    expect(&mut model, Egress, &v4(POD, NODE, 17, "0000", &udp(INTO_TUNNEL)), Tunnel);
}
