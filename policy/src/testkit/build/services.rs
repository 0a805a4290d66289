//! Services and their endpoint slices.

use super::{parse, select};
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, NamespacedName, Protocol, Service, ServicePort, TargetPort,
};

/// A Service with these cluster addresses (none: headless), without ports and selector yet.
#[must_use]
pub fn service(namespace: &str, name: &str, cluster_ips: &[&str]) -> Service {
    Service {
        id: NamespacedName::new(namespace, name),
        cluster_ips: parse(cluster_ips),
        external_ips: Vec::new(),
        ports: Vec::new(),
        selector: None,
        internal_local: false,
        external_local: false,
        session_affinity: None,
    }
}

impl Service {
    /// `spec.selector`
    #[must_use]
    pub fn selecting(mut self, pairs: &[(&str, &str)]) -> Self {
        self.selector = Some(select(pairs));
        self
    }

    /// One more port and its target: a number, or a name.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: Protocol, port: u16, target: &str) -> Self {
        let target = target.parse().map_or_else(|_| TargetPort::Named(target.into()), TargetPort::Number);
        let name = (!name.is_empty()).then(|| name.into());
        self.ports.push(ServicePort { name, protocol, port, target, node_port: None });
        self
    }

    /// The last port's `nodePort`.
    #[must_use]
    pub fn node_port(mut self, number: u16) -> Self {
        if let Some(port) = self.ports.last_mut() {
            port.node_port = Some(number);
        }
        self
    }

    /// `externalIPs`
    #[must_use]
    pub fn external(mut self, addresses: &[&str]) -> Self {
        self.external_ips = parse(addresses);
        self
    }

    /// `internalTrafficPolicy: Local`
    #[must_use]
    pub fn internal_local(mut self) -> Self {
        self.internal_local = true;
        self
    }

    /// `externalTrafficPolicy: Local`
    #[must_use]
    pub fn external_local(mut self) -> Self {
        self.external_local = true;
        self
    }
}

/// A slice of a Service, without ports and endpoints yet.
#[must_use]
pub fn slice(namespace: &str, service: &str, name: &str) -> EndpointSlice {
    EndpointSlice {
        id: NamespacedName::new(namespace, name),
        service: Some(service.into()),
        ports: Vec::new(),
        endpoints: Vec::new(),
    }
}

impl EndpointSlice {
    /// One more port.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: Protocol, port: u16) -> Self {
        let name = (!name.is_empty()).then(|| name.into());
        self.ports.push(EndpointPort { name, protocol, port: Some(port) });
        self
    }

    /// One more endpoint.
    #[must_use]
    pub fn with(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }
}

/// A ready endpoint on `node-a`.
#[must_use]
pub fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        addresses: parse(&[address]),
        ready: true,
        serving: true,
        terminating: false,
        node: Some("node-a".into()),
    }
}

impl Endpoint {
    /// On another node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.into());
        self
    }

    /// Not ready, and does not serve.
    #[must_use]
    pub fn not_ready(mut self) -> Self {
        (self.ready, self.serving) = (false, false);
        self
    }

    /// Terminating, and still serving.
    #[must_use]
    pub fn terminating(mut self) -> Self {
        (self.ready, self.terminating) = (false, true);
        self
    }
}
