//! Services and endpoint slices: of pods, of hosts outside, of nobody; ready and not, in one slice, two or none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{KEYS, NAMESPACES, NODES, PORT_NAMES, PORTS, VALUES, protocol, text};
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, NamespacedName, Object, Protocol, Requirement, Selector, Service,
    ServicePort, TargetPort,
};

/// Numbers of the pods whose addresses endpoints have, and one that is nobody's pod.
const ENDPOINTS: std::ops::RangeInclusive<u8> = 1..=8;

/// A Service port without its number.
type PortParts = (Protocol, TargetPort, bool);

/// Up to three Services, with up to two slices each.
pub(super) fn objects() -> impl Strategy<Value = Vec<Object>> {
    vec((text(&NAMESPACES), shape(), vec(slice(), 0..=2)), 0..=3).prop_map(|services| {
        let mut objects = Vec::new();
        for (number, (namespace, mut service, slices)) in (1_u8..).zip(services) {
            service.id = NamespacedName::new(namespace.clone(), format!("service-{number}"));
            for address in service.cluster_ips.iter_mut().chain(&mut service.external_ips) {
                *address = numbered(*address, number);
            }
            for port in &mut service.ports {
                port.node_port = port.node_port.map(|node_port| node_port + 10 * u16::from(number));
            }
            let of = service.id.name.clone();
            objects.push(Object::Service(service));
            for (index, mut slice) in slices.into_iter().enumerate() {
                slice.id = NamespacedName::new(namespace.clone(), format!("{of}-{index}"));
                slice.service = Some(of.clone());
                objects.push(Object::EndpointSlice(slice));
            }
        }
        objects
    })
}

/// An address with the number of its Service at the end.
fn numbered(address: IpAddr, number: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from(u32::from(address) + u32::from(number))),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) + u128::from(number))),
    }
}

fn shape() -> impl Strategy<Value = Service> {
    let v4 = |a, b| IpAddr::V4(Ipv4Addr::new(a, b, 0, 0));
    let v6 = |first| IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0));
    let (cluster4, cluster6) = (v4(10, 96), v6(0xfd96));
    let families = prop_oneof![
        3 => Just(vec![cluster4]),
        1 => Just(vec![cluster6]),
        3 => Just(vec![cluster4, cluster6]),
        1 => Just(vec![]),
    ];
    let external = prop_oneof![
        2 => Just(vec![]),
        1 => Just(vec![v4(198, 18)]),
        1 => Just(vec![v4(198, 18), v6(0xfd98)]),
    ];
    let selector = option::weighted(0.8, (text(&KEYS), text(&VALUES)));
    let local = (any::<bool>(), any::<bool>());
    (families, external, selector, vec(port(), 1..=2), local).prop_map(
        |(cluster_ips, external_ips, selector, ports, (internal_local, external_local))| Service {
            id: NamespacedName::new("", ""),
            cluster_ips,
            external_ips,
            ports: ports.into_iter().enumerate().map(|(index, parts)| service_port(index, parts)).collect(),
            selector: selector.map(|(key, value)| Selector(vec![Requirement::In(key, vec![value])])),
            internal_local,
            external_local,
            session_affinity: None,
        },
    )
}

fn port() -> impl Strategy<Value = PortParts> {
    let target = prop_oneof![
        2 => select(&PORTS[..]).prop_map(TargetPort::Number),
        1 => text(&PORT_NAMES).prop_map(TargetPort::Named),
    ];
    (protocol(), target, any::<bool>())
}

fn service_port(index: usize, (protocol, target, with_node_port): PortParts) -> ServicePort {
    let (name, port, node_port) = if index == 0 { ("one", 80, 30_001) } else { ("two", 8080, 30_002) };
    let node_port = with_node_port.then_some(node_port);
    ServicePort { name: Some(name.into()), protocol, port, target, node_port }
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let port = (select(&["one", "two"][..]), protocol(), option::weighted(0.9, select(&PORTS[..])))
        .prop_map(|(name, protocol, port)| EndpointPort { name: Some(name.into()), protocol, port });
    (vec(port, 1..=3), any::<bool>().prop_flat_map(|v4| vec(endpoint(v4), 0..=6))).prop_map(
        |(ports, endpoints)| EndpointSlice {
            id: NamespacedName::new("", ""),
            service: None,
            ports,
            endpoints,
        },
    )
}

fn endpoint(v4: bool) -> impl Strategy<Value = Endpoint> {
    let conditions = prop_oneof![
        4 => Just((true, true, false)),
        1 => Just((false, false, false)),
        1 => Just((false, true, true)),
        1 => Just((false, false, true)),
    ];
    let outside: &str = if v4 { "192.0.2.1" } else { "2001:db8::1" };
    let outside = outside.parse().ok().map(|address: IpAddr| (address, None));
    let address = prop_oneof![
        5 => ENDPOINTS.prop_map(move |number| {
            let address = if v4 {
                IpAddr::V4(Ipv4Addr::new(10, 0, number % 2, number))
            } else {
                IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()))
            };
            // Mostly the pod's own node, but nobody checks it.
            Some((address, Some(NODES[usize::from(number / 4) % 2])))
        }),
        1 => Just(outside),
    ];
    (address, conditions).prop_map(|(address, (ready, serving, terminating))| Endpoint {
        addresses: address.iter().map(|(address, _)| *address).collect(),
        ready,
        serving,
        terminating,
        node: address.and_then(|(_, node)| node).map(Into::into),
    })
}
