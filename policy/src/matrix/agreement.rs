//! The matrix agrees with the reference on every Service: on which cells there are, and on each.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::Config;

use super::{IpFamily, Reach, matrix};
use crate::model::{Object, Protocol, Service};
use crate::reference::Endpoint;
use crate::reference::services::{Frontend, connections};
use crate::testkit::{self, Cluster, PORTS};

/// What the reference says of one cell, over all of the source's addresses.
fn expected(
    cluster: &Cluster,
    sources: &[Endpoint],
    service: &Service,
    frontend: &Frontend,
    protocol: Protocol,
    port: u16,
) -> Option<Reach> {
    let answers = sources.iter().map(|source| {
        let answers = connections(&cluster.objects, source, &service.id, frontend, protocol, port)?;
        Some(if answers.is_empty() { vec![false] } else { answers })
    });
    let answers: Option<Vec<Vec<bool>>> = answers.collect();
    answers.filter(|answers| !answers.is_empty()).map(|answers| Reach::of(answers.concat()))
}

/// Whoever may ask, by name and family.
fn sources(cluster: &Cluster) -> Vec<(String, IpFamily, Vec<Endpoint>)> {
    let pods = cluster.pods().filter(|pod| !pod.finished);
    let pods = pods.map(|pod| (pod.id.to_string(), Some(pod.id.clone()), pod.addresses.clone()));
    let externals = cluster.externals.iter();
    let externals = externals.map(|it| (format!("external/{}", it.name), None, it.addresses.clone()));
    let ends = pods.chain(externals).flat_map(|(name, pod, addresses)| {
        [IpFamily::V4, IpFamily::V6].map(|family| {
            let of_family = addresses.iter().filter(|address| IpFamily::of(**address) == family);
            let ends = of_family.map(|address| Endpoint { pod: pod.clone(), address: *address });
            (name.clone(), family, ends.collect::<Vec<_>>())
        })
    });
    ends.filter(|(.., ends)| !ends.is_empty()).collect()
}

fn check(cluster: &Cluster) -> Result<(), TestCaseError> {
    let mut cluster = cluster.clone();
    // The matrix takes the picture for complete: namespaces that it does not hold have no labels but their name.
    for name in ["alpha", "beta", "gamma"] {
        let implied = testkit::build::namespace(name, &[]);
        if !cluster.objects.iter().any(|object| object.reference() == implied.reference()) {
            cluster.objects.push(implied);
        }
    }
    let cells = matrix(&cluster.objects, &cluster.externals).into_iter();
    let mut cells: BTreeMap<_, _> = cells
        .filter(|cell| cell.to.starts_with("service:"))
        .map(|cell| ((cell.from, cell.to, cell.protocol, cell.port, cell.ip_family), cell.allowed))
        .collect();
    let services = cluster.objects.iter().filter_map(|object| match object {
        Object::Service(service) => Some(service),
        _ => None,
    });
    let sources = sources(&cluster);
    for service in services {
        let of_service = service.ports.iter().flat_map(|port| [Some(port.port), port.node_port]).flatten();
        let ports: BTreeSet<u16> = of_service.chain(PORTS).collect();
        let mut frontends = vec![
            (format!("service:{}", service.id), Frontend::Cluster),
            (format!("service:{}@external", service.id), Frontend::External),
        ];
        frontends.extend(
            cluster
                .nodes()
                .iter()
                .map(|node| (format!("service:{}@{node}", service.id), Frontend::NodePort(node.to_string()))),
        );
        for (to, frontend) in frontends {
            for (from, family, ends) in &sources {
                for (protocol, port) in
                    Protocol::ALL.iter().flat_map(|it| ports.iter().map(move |port| (*it, *port)))
                {
                    let expected = expected(&cluster, ends, service, &frontend, protocol, port);
                    let found = cells.remove(&(from.clone(), to.clone(), protocol, port, *family));
                    prop_assert_eq!(
                        found,
                        expected,
                        "{} to {} {}/{} {:?}\n{}",
                        from,
                        to,
                        protocol,
                        port,
                        family,
                        testkit::yaml(&cluster)
                    );
                }
            }
        }
    }
    prop_assert!(cells.is_empty(), "nobody expects {cells:?}\n{}", testkit::yaml(&cluster));
    Ok(())
}

proptest! {
    #![proptest_config(Config::with_cases(testkit::cases(300)))]

    #[test]
    fn services_agree_with_the_reference(cluster in testkit::cluster_with_services()) {
        check(&cluster)?;
    }
}

/// The random clusters would be worth little if they did not lead to every answer from every frontend.
#[test]
fn random_clusters_have_every_answer() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        let cluster = testkit::cluster_with_services().new_tree(&mut runner).expect("no filter").current();
        for cell in matrix(&cluster.objects, &cluster.externals) {
            let frontend = match cell.to.strip_prefix("service:").map(|to| to.split_once('@')) {
                Some(None) => "cluster",
                Some(Some((_, "external"))) => "external",
                Some(Some(_)) => "node port",
                None => continue,
            };
            seen.insert((frontend, cell.allowed));
        }
    }
    assert_eq!(seen.len(), 9, "three frontends, three answers: {seen:?}");
}
