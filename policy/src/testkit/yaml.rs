//! A cluster as manifests, to read, and to feed to `postern matrix`.

mod services;

use std::fmt::Write;
use std::sync::Arc;

use super::Cluster;
use crate::model::{
    Labels, NamespaceScope, NamespacedName, NetworkPolicy, Object, Peer, Pod, PortMatch, Requirement, Rule,
    Selector,
};

/// The cluster's objects as Kubernetes manifests. Peers and ports that match nothing are written as what could have
/// become them: an empty peer, a range that ends before it starts.
#[must_use]
pub fn yaml(cluster: &Cluster) -> String {
    let documents: Vec<_> = cluster.objects.iter().map(document).collect();
    documents.join("---\n")
}

fn document(object: &Object) -> String {
    match object {
        Object::Namespace(namespace) => format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}, labels: {}}}\n",
            namespace.name,
            labels(&namespace.labels)
        ),
        Object::Node(node) => {
            let addresses = node.addresses.iter();
            let addresses: Vec<_> =
                addresses.map(|address| format!("{{type: InternalIP, address: \"{address}\"}}")).collect();
            format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {}}}\nstatus: {{addresses: [{}]}}\n",
                node.name,
                addresses.join(", ")
            )
        }
        Object::Pod(pod) => self::pod(pod),
        Object::NetworkPolicy(policy) => self::policy(policy),
        Object::Service(service) => services::service(service),
        Object::EndpointSlice(slice) => services::slice(slice),
    }
}

fn metadata(id: &NamespacedName, of: Option<&Labels>) -> String {
    let labels = of.map(|of| format!(", labels: {}", labels(of))).unwrap_or_default();
    format!("metadata: {{namespace: {}, name: {}{labels}}}\n", id.namespace, id.name)
}

fn labels(labels: &Labels) -> String {
    let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}: \"{value}\"")).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn pod(pod: &Pod) -> String {
    let mut out = format!("apiVersion: v1\nkind: Pod\n{}spec:\n", metadata(&pod.id, Some(&pod.labels)));
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {text}");
    };
    if let Some(node) = &pod.node {
        line(format!("nodeName: {node}"));
    }
    if pod.host_network {
        line("hostNetwork: true".to_owned());
    }
    let ports: Vec<_> = pod
        .ports
        .iter()
        .map(|port| {
            let name = port.name.as_ref().map(|name| format!("name: {name}, ")).unwrap_or_default();
            format!("{{{name}containerPort: {}, protocol: {}}}", port.number, port.protocol)
        })
        .collect();
    line(format!("containers: [{{name: main, image: main, ports: [{}]}}]", ports.join(", ")));
    let phase = match pod {
        Pod { finished: true, .. } => "Succeeded",
        Pod { addresses, .. } if addresses.is_empty() => "Pending",
        _ => "Running",
    };
    let addresses: Vec<_> = pod.addresses.iter().map(|address| format!("{{ip: \"{address}\"}}")).collect();
    let _ = writeln!(out, "status: {{phase: {phase}, podIPs: [{}]}}", addresses.join(", "));
    out
}

fn policy(policy: &NetworkPolicy) -> String {
    let mut out = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n{}spec:\n  podSelector: {}\n",
        metadata(&policy.id, None),
        selector(&policy.pod_selector)
    );
    let directions = [("Ingress", &policy.ingress), ("Egress", &policy.egress)];
    let types: Vec<_> =
        directions.iter().filter(|(_, rules)| rules.is_some()).map(|(name, _)| *name).collect();
    let _ = writeln!(out, "  policyTypes: [{}]", types.join(", "));
    for (name, rules) in directions {
        let Some(rules) = rules else { continue };
        let (field, peers) = if name == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
        let _ = writeln!(out, "  {field}:{}", if rules.is_empty() { " []" } else { "" });
        for rule in rules {
            let _ = writeln!(out, "  - {}", self::rule(rule, peers));
        }
    }
    out
}

fn rule(rule: &Rule, field: &str) -> String {
    let peers: Vec<_> = rule.peers.iter().map(peer).collect();
    let ports: Vec<_> = rule
        .ports
        .iter()
        .map(|port| match &port.ports {
            PortMatch::Any => format!("{{protocol: {}}}", port.protocol),
            PortMatch::Range(first, last) => {
                format!("{{protocol: {}, port: {first}, endPort: {last}}}", port.protocol)
            }
            PortMatch::Named(name) => format!("{{protocol: {}, port: {name}}}", port.protocol),
            PortMatch::Nothing => format!("{{protocol: {}, port: 2, endPort: 1}}", port.protocol),
        })
        .collect();
    format!("{{{field}: [{}], ports: [{}]}}", peers.join(", "), ports.join(", "))
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Nothing => "{}".to_owned(),
        Peer::Block { cidr, except } => {
            let except: Vec<_> = except.iter().map(|except| format!("\"{except}\"")).collect();
            format!("{{ipBlock: {{cidr: \"{cidr}\", except: [{}]}}}}", except.join(", "))
        }
        Peer::Pods { namespaces: NamespaceScope::Named(_), pods } => {
            format!("{{podSelector: {}}}", selector(pods))
        }
        Peer::Pods { namespaces: NamespaceScope::Matching(namespaces), pods } => {
            format!("{{namespaceSelector: {}, podSelector: {}}}", selector(namespaces), selector(pods))
        }
    }
}

fn selector(selector: &Selector) -> String {
    let quoted = |values: &[Arc<str>]| {
        values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ")
    };
    let requirements = selector.0.iter().map(|requirement| match requirement {
        Requirement::In(key, values) => {
            format!("{{key: {key}, operator: In, values: [{}]}}", quoted(values))
        }
        Requirement::NotIn(key, values) => {
            format!("{{key: {key}, operator: NotIn, values: [{}]}}", quoted(values))
        }
        Requirement::Exists(key) => format!("{{key: {key}, operator: Exists}}"),
        Requirement::DoesNotExist(key) => format!("{{key: {key}, operator: DoesNotExist}}"),
    });
    let requirements: Vec<_> = requirements.collect();
    if requirements.is_empty() {
        "{}".to_owned()
    } else {
        format!("{{matchExpressions: [{}]}}", requirements.join(", "))
    }
}
