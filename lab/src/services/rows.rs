//! The questions: each destination and port under which a matrix has a Service, with the addresses to ask.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use postern_policy::matrix::IpFamily;
use postern_policy::model::{Object, Protocol, Service};
use postern_policy::services::Via;

use super::Objects;

/// Who can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Pods: hosts outside know no way to cluster addresses.
    Pods,
    /// Hosts outside too.
    Everyone,
}

/// A destination and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `service:...`, as [`Cell::to`](crate::matrix::Cell::to) has it.
    pub to: String,
    /// The port column.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The family of all destinations.
    pub ip_family: IpFamily,
    /// Where to connect to.
    pub destinations: Vec<SocketAddr>,
    /// Who can.
    pub audience: Audience,
    /// Whether anything serves it. Who asks for what nothing serves is refused, by a node and not by a backend.
    pub served: bool,
    /// Whether a client keeps its backend (session affinity).
    pub kept: bool,
}

/// All rows.
#[must_use]
pub fn rows(objects: &[Object]) -> Vec<Row> {
    let objects = Objects::of(objects);
    objects.services.iter().flat_map(|service| of_service(&objects, service)).collect()
}

fn of_service(objects: &Objects<'_>, service: &Service) -> Vec<Row> {
    let mut rows: BTreeMap<(String, u16, Protocol, IpFamily), Row> = BTreeMap::new();
    let mut ask = |to: &str, at: SocketAddr, protocol, audience, served| {
        let ip_family = IpFamily::of(at.ip());
        let row = rows.entry((to.to_owned(), at.port(), protocol, ip_family)).or_insert_with(|| Row {
            to: to.to_owned(),
            port: at.port(),
            protocol,
            ip_family,
            destinations: Vec::new(),
            audience,
            served,
            kept: service.session_affinity.is_some() && !service.cluster_ips.is_empty(),
        });
        if !row.destinations.contains(&at) {
            row.destinations.push(at);
        }
    };
    let name = format!("service:{}", service.id);
    for (frontend, via, port) in service.frontends() {
        let at = SocketAddr::new(frontend.address, frontend.port);
        let served = !objects.candidates(service, port, frontend.address).is_empty();
        if via == Via::Cluster {
            ask(&name, at, frontend.protocol, Audience::Pods, served);
        } else {
            let known = objects.entry(service, frontend.address).is_some();
            let audience = if known { Audience::Everyone } else { Audience::Pods };
            ask(&format!("{name}@external"), at, frontend.protocol, audience, served);
        }
    }
    for node in &objects.nodes {
        for (frontend, port) in service.node_ports(node) {
            let at = SocketAddr::new(frontend.address, frontend.port);
            let served = !objects.candidates(service, port, frontend.address).is_empty();
            ask(&format!("{name}@{}", node.name), at, frontend.protocol, Audience::Everyone, served);
        }
    }
    if service.cluster_ips.is_empty() {
        // DNS leads to each backend that is ready.
        let families: [IpAddr; 2] = [[0; 4].into(), [0; 16].into()];
        for (port, like) in service.ports.iter().flat_map(|port| families.map(|like| (port, like))) {
            for backend in objects.candidates(service, port, like).iter().filter(|it| it.ready) {
                let at = SocketAddr::new(backend.address, backend.port);
                ask(&name, at, port.protocol, Audience::Pods, true);
            }
        }
    }
    rows.into_values().collect()
}
