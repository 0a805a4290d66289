//! The compiler's tables agree with the reference on every question.

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::engine::{Engine, Scope};
use crate::matrix::{Reach, matrix};
use crate::model::{Direction, Object};
use crate::reference::{self, Traffic};
use crate::tables::ClassId;
use crate::testkit::{self, Cluster};

/// Asks tables of one node about each of its pods.
fn check_node(cluster: &Cluster, node: &str) -> Result<(), TestCaseError> {
    let mut engine = Engine::new(Scope::Node(node.into()), ClassId(1));
    engine.set_local_addresses(cluster.node_addresses(node));
    for object in &cluster.objects {
        engine.apply(object.clone());
    }
    let tables = engine.tables();
    for local in engine.local_pods() {
        for own in &local.pod.addresses {
            let this = reference::Endpoint { pod: Some(local.pod.id.clone()), address: *own };
            for remote in cluster.addresses() {
                let other = cluster.endpoint(remote);
                for direction in [Direction::Ingress, Direction::Egress] {
                    let ports = tables.ports(&local.pod.id, direction, remote);
                    let (source, destination) = match direction {
                        Direction::Ingress => (&other, &this),
                        Direction::Egress => (&this, &other),
                    };
                    for traffic in testkit::traffic() {
                        let compiled = match traffic {
                            Traffic::Port(protocol, port) => ports.allows(protocol, port),
                            Traffic::Portless => ports.allows_portless(),
                        };
                        let expected =
                            reference::allowed_by(&cluster.objects, direction, source, destination, traffic);
                        prop_assert_eq!(
                            compiled,
                            expected,
                            "{} {:?} {:?} {:?}\n{}\n{}",
                            node,
                            direction,
                            (source, destination),
                            traffic,
                            testkit::yaml(cluster),
                            engine.dump()
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

/// Asks the matrix about each cell but those of Services, which `matrix/agreement.rs` asks about.
fn check_matrix(cluster: &Cluster) -> Result<(), TestCaseError> {
    // The matrix takes the picture for complete: namespaces that it does not hold have no labels but their name.
    let mut objects = cluster.objects.clone();
    for name in ["alpha", "beta", "gamma"] {
        let implied = testkit::build::namespace(name, &[]);
        if !objects.iter().any(|object| object.reference() == implied.reference()) {
            objects.push(implied);
        }
    }
    let ends = |name: &str, v4: bool| -> Vec<reference::Endpoint> {
        if let Some(name) = name.strip_prefix("external/") {
            let externals = cluster.externals.iter().filter(|external| external.name == name);
            let addresses = externals.flat_map(|external| external.addresses.clone());
            return addresses
                .filter(|address| address.is_ipv4() == v4)
                .map(|address| reference::Endpoint { pod: None, address })
                .collect();
        }
        let pod = objects.iter().find_map(|object| match object {
            Object::Pod(pod) if pod.id.to_string() == name => Some(pod),
            _ => None,
        });
        let addresses = pod.into_iter().flat_map(|pod| pod.addresses.clone());
        addresses
            .filter(|address| address.is_ipv4() == v4)
            .map(|address| reference::Endpoint { pod: pod.map(|pod| pod.id.clone()), address })
            .collect()
    };
    let cells = matrix(&cluster.objects, &cluster.externals).into_iter();
    for cell in cells.filter(|cell| !cell.to.starts_with("service:")) {
        let v4 = cell.ip_family == crate::matrix::IpFamily::V4;
        let traffic = Traffic::Port(cell.protocol, cell.port);
        let (sources, destinations) = (ends(&cell.from, v4), ends(&cell.to, v4));
        prop_assert!(!sources.is_empty() && !destinations.is_empty());
        let expected = sources.iter().all(|source| {
            destinations.iter().all(|destination| reference::allowed(&objects, source, destination, traffic))
        });
        prop_assert_eq!(cell.allowed, Reach::from(expected), "{:?}\n{}", cell, testkit::yaml(cluster));
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config::with_cases(testkit::cases(300)))]

    #[test]
    fn tables_agree_with_the_reference(cluster in testkit::cluster()) {
        for node in cluster.nodes() {
            check_node(&cluster, &node)?;
        }
    }

    #[test]
    fn the_matrix_agrees_with_the_reference(cluster in testkit::cluster()) {
        check_matrix(&cluster)?;
    }
}
