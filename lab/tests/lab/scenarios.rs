//! Every scenario, step by step, against matrices that people wrote: the engine's answer first, then what real sockets see.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use postern_lab::story;
use postern_lab::working_copy::{self, Files};

use crate::support::{assert_same, engine, run, up};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn play(name: &str) {
    run(async {
        let steps = story::read(&directory().join(name)).unwrap();
        for (number, step) in (1..).zip(&steps) {
            assert_same(&step.expected, &engine(&step.files), &format!("step {number}, by the engine"));
        }
        let states: Vec<&Files> = steps.iter().map(|step| &step.files).collect();
        let mut lab = up(&states).await;
        for (number, step) in (1..).zip(&steps) {
            lab.apply(&step.files).await.unwrap();
            let observed = lab.observe().await.unwrap().matrix;
            assert_same(&step.expected, &observed, &format!("step {number} ({}), on the wire", step.title));
        }
    });
}

macro_rules! scenarios {
    ($($test:ident: $directory:literal)*) => {
        const PLAYED: &[&str] = &[$($directory),*];

        $(#[test]
        fn $test() {
            play($directory);
        })*
    };
}

scenarios! {
    addresses: "addresses"
    changes: "changes"
    default_policies: "default-policies"
    documentation_example: "documentation-example"
    host_network: "host-network"
    ip_blocks: "ip-blocks"
    ipv6_only: "ipv6-only"
    named_ports: "named-ports"
    namespaces_by_name: "namespaces-by-name"
    one_item_or_two: "one-item-or-two"
    pod_phases: "pod-phases"
    policy_types: "policy-types"
    port_ranges: "port-ranges"
    ports: "ports"
    recipes_application: "recipes-application"
    recipes_egress: "recipes-egress"
    recipes_namespaces: "recipes-namespaces"
    rules: "rules"
    selectors: "selectors"
    services_basic: "services-basic"
    services_nodes: "services-nodes"
    services_slices: "services-slices"
}

#[test]
fn every_scenario_is_played_and_says_what_it_shows() {
    let folders: BTreeSet<String> = working_copy::folders(&directory()).unwrap().into_iter().collect();
    // `story.rs` plays the demo.
    let played: BTreeSet<String> = PLAYED.iter().chain(&["demo"]).map(ToString::to_string).collect();
    assert_eq!(folders, played);
    let index = std::fs::read_to_string(directory().join("README.md")).unwrap();
    for folder in folders {
        assert!(index.contains(&format!("`{folder}`")), "README.md does not mention {folder}");
        let lab = std::fs::read_to_string(directory().join(&folder).join("base/lab.yaml")).unwrap();
        assert!(lab.starts_with("# "), "{folder}/base/lab.yaml does not begin with a line on what it shows");
    }
}
