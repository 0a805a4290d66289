//! The policy as Kubernetes has it: namespaces, pods and policies of an ordinary cluster, for the scenarios that run an
//! agent.

use postern_policy::model::NamespacedName;
use serde_json::{Value, json};

use super::policy::{self, FORBIDDEN_PORT, PORTS, Pods};
use crate::working_copy::Files;

/// The namespace of the scenarios' pods.
const NAMESPACE: &str = "bench";
/// The namespace of everyone else who may reach the server.
const CONSUMERS: &str = "consumers";
/// Consumers are spread over so many apps, each with a rule of its own: a class of peers each.
const APPS: usize = 50;

/// The scenarios' pods, each pair on the node that its scenario is named after, and no policy.
pub(super) fn pods<'a>(scenarios: impl IntoIterator<Item = (&'a str, Pods)>) -> Files {
    let (mut nodes, mut objects) = (Vec::new(), vec![namespace(NAMESPACE)]);
    for (node, pods) in scenarios {
        nodes.push(json!({ "name": node, "style": "ptp" }));
        for (app, address) in [("client", pods.client), ("server", pods.server)] {
            objects.push(serving(pod(NAMESPACE, &format!("{app}-{node}"), node, app, address)));
        }
    }
    Files::from([file("lab", &[json!({ "nodes": nodes })]), file("pods", &objects)])
}

/// The policies, and the consumers that they let in.
pub(super) fn policies(rules: u32) -> Files {
    let mut consumers = vec![namespace(CONSUMERS), namespace("kube-system"), namespace("monitoring")];
    for (number, address) in policy::consumers(rules).enumerate() {
        // They run elsewhere: only who they are matters here.
        let (name, app) = (format!("consumer-{number}"), app(number % APPS));
        consumers.push(pod(CONSUMERS, &name, "elsewhere", &app, address));
    }
    Files::from([file("consumers", &consumers), file("policies", &network_policies())])
}

/// The pod of a scenario, as the topology knows it.
pub(super) fn pod_id(app: &str, node: &str) -> NamespacedName {
    NamespacedName::new(NAMESPACE, format!("{app}-{node}"))
}

fn network_policies() -> [Value; 6] {
    let ports: Vec<Value> =
        PORTS.iter().map(|(protocol, port)| json!({ "protocol": protocol, "port": port })).collect();
    let of_namespace = |name: &str| json!({ "matchLabels": { "kubernetes.io/metadata.name": name } });
    let of_app = |name: &str| json!({ "matchLabels": { "app": name } });
    let consumers = (0..APPS).map(|number| {
        let from =
            json!({ "namespaceSelector": of_namespace(CONSUMERS), "podSelector": of_app(&app(number)) });
        json!({ "from": [from], "ports": ports })
    });
    let client = json!({ "from": [{ "podSelector": of_app("client") }], "ports": ports });
    let dns = [json!({ "protocol": "UDP", "port": 53 }), json!({ "protocol": "TCP", "port": 53 })];
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"];
    [
        network_policy("deny-all", &json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] })),
        network_policy(
            "server-from-consumers",
            &json!({ "podSelector": of_app("server"), "ingress": consumers.chain([client]).collect::<Vec<_>>() }),
        ),
        network_policy(
            "client-to-server",
            &json!({
                "podSelector": of_app("client"), "policyTypes": ["Egress"],
                "egress": [{ "to": [{ "podSelector": of_app("server") }], "ports": ports }]
            }),
        ),
        network_policy(
            "dns",
            &json!({
                "podSelector": {}, "policyTypes": ["Egress"],
                "egress": [{ "to": [{ "namespaceSelector": of_namespace("kube-system") }], "ports": dns }]
            }),
        ),
        network_policy(
            "monitoring",
            &json!({
                "podSelector": {},
                "ingress": [{
                    "from": [{ "namespaceSelector": of_namespace("monitoring") }],
                    "ports": [{ "protocol": "TCP", "port": 9090 }]
                }]
            }),
        ),
        network_policy(
            "internet",
            &json!({
                "podSelector": {}, "policyTypes": ["Egress"],
                "egress": [{
                    "to": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": private } }],
                    "ports": [{ "protocol": "TCP", "port": 443 }]
                }]
            }),
        ),
    ]
}

fn app(number: usize) -> String {
    format!("consumer-{number}")
}

fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } }
    })
}

fn pod(namespace: &str, name: &str, node: &str, app: &str, address: std::net::Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": app } },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "i" }] },
        "status": { "phase": "Running", "podIPs": [{ "ip": address }] }
    })
}

/// With every port that is tried at it.
fn serving(mut pod: Value) -> Value {
    let tcp = json!({ "protocol": "TCP", "containerPort": FORBIDDEN_PORT });
    let ports = PORTS.map(|(protocol, port)| json!({ "protocol": protocol, "containerPort": port }));
    pod["spec"]["containers"][0]["ports"] = ports.into_iter().chain([tcp]).collect();
    pod
}

fn network_policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec
    })
}

fn file(name: &str, documents: &[Value]) -> (String, Vec<u8>) {
    let documents: Vec<String> = documents.iter().map(Value::to_string).collect();
    (format!("{name}.yaml"), documents.join("\n---\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use postern_policy::matrix::{Cell, Reach};

    use super::{NAMESPACE, pods, policies};
    use crate::bench::policy::{FORBIDDEN_PORT, Pods};
    use crate::scenario::Snapshot;
    use crate::working_copy::WorkingCopy;

    /// What the engine makes of a policy of so many rules.
    fn cells(rules: u32) -> Vec<Cell> {
        let folder = tempfile::tempdir().unwrap();
        let mut copy = WorkingCopy::create(folder.path().join("copy")).unwrap();
        let mut files = pods([("node", Pods::of(1))]);
        files.extend(policies(rules));
        copy.replace(&files).unwrap();
        let snapshot = Snapshot::read(copy.directory()).unwrap();
        postern_policy::matrix::matrix(&snapshot.objects, &[])
    }

    #[test]
    fn the_engine_allows_exactly_what_is_measured() {
        let between = |cell: &Cell| {
            [&cell.from, &cell.to].into_iter().all(|end| end.starts_with(NAMESPACE)) && cell.from != cell.to
        };
        let cells: Vec<Cell> = cells(20).into_iter().filter(between).collect();
        assert_eq!(cells.len(), 6, "two pods with three ports each");
        for cell in cells {
            let to_server = cell.to == format!("{NAMESPACE}/server-node");
            let allowed = Reach::from(to_server && cell.port != FORBIDDEN_PORT);
            assert_eq!(cell.allowed, allowed, "{cell:?}");
        }
    }

    #[test]
    fn every_consumer_of_the_rule_sets_is_a_pod_that_may_reach_the_server() {
        let cells = cells(20);
        let allowed =
            cells.iter().filter(|cell| cell.to.ends_with("/server-node") && cell.allowed == Reach::Allowed);
        let other = allowed.filter(|cell| cell.from != cell.to);
        assert_eq!(other.count(), 20, "a cell for each rule");
    }
}
