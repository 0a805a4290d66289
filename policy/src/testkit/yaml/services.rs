//! Services and their endpoint slices.

use std::fmt::Display;

use super::metadata;
use crate::model::{EndpointSlice, Requirement, Service, TargetPort};

pub(super) fn service(service: &Service) -> String {
    let quoted = |addresses: &[std::net::IpAddr]| list(addresses.iter().map(|it| format!("\"{it}\"")));
    let cluster =
        if service.cluster_ips.is_empty() { "None".to_owned() } else { quoted(&service.cluster_ips) };
    let ports = service.ports.iter().map(|port| {
        let target = match &port.target {
            TargetPort::Number(number) => number.to_string(),
            TargetPort::Named(name) => name.to_string(),
        };
        let node_port = port.node_port.map(|number| format!(", nodePort: {number}")).unwrap_or_default();
        let name = name(port.name.as_ref());
        format!("{{{name}protocol: {}, port: {}, targetPort: {target}{node_port}}}", port.protocol, port.port)
    });
    let selector = service.selector.iter().map(|selector| {
        let pairs = selector.0.iter().filter_map(|requirement| match requirement {
            Requirement::In(key, values) => Some(format!("{key}: \"{}\"", values.first()?)),
            _ => None,
        });
        format!("  selector: {{{}}}\n", pairs.collect::<Vec<_>>().join(", "))
    });
    let policy = |local| if local { "Local" } else { "Cluster" };
    format!(
        "apiVersion: v1\nkind: Service\n{}spec:\n  clusterIPs: {cluster}\n  externalIPs: {}\n  ports: {}\n{}  \
         internalTrafficPolicy: {}\n  externalTrafficPolicy: {}\n",
        metadata(&service.id, None),
        quoted(&service.external_ips),
        list(ports),
        selector.collect::<String>(),
        policy(service.internal_local),
        policy(service.external_local),
    )
    .replace("clusterIPs: None", "clusterIP: None")
}

pub(super) fn slice(slice: &EndpointSlice) -> String {
    let label =
        slice.service.iter().map(|name| ("kubernetes.io/service-name".into(), name.clone())).collect();
    let ports = slice.ports.iter().map(|port| {
        let number = port.port.map(|number| format!(", port: {number}")).unwrap_or_default();
        format!("{{{}protocol: {}{number}}}", name(port.name.as_ref()), port.protocol)
    });
    let endpoints = slice.endpoints.iter().map(|it| {
        let addresses = list(it.addresses.iter().map(|address| format!("\"{address}\"")));
        let node = it.node.as_ref().map(|node| format!(", nodeName: {node}")).unwrap_or_default();
        format!(
            "{{addresses: {addresses}, conditions: {{ready: {}, serving: {}, terminating: {}}}{node}}}",
            it.ready, it.serving, it.terminating
        )
    });
    let v6 = slice.endpoints.iter().flat_map(|it| &it.addresses).any(std::net::IpAddr::is_ipv6);
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n{}addressType: {}\nports: {}\nendpoints: {}\n",
        metadata(&slice.id, Some(&label)),
        if v6 { "IPv6" } else { "IPv4" },
        list(ports),
        list(endpoints),
    )
}

fn name(name: Option<&impl Display>) -> String {
    name.map(|name| format!("name: {name}, ")).unwrap_or_default()
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}
