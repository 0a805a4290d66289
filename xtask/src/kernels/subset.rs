//! The tests of a run that names none: each loads programs, which takes half a minute in a guest, some for each row of a table, so that all of
//! them take more than an hour on one kernel.

/// A few of each thing that a kernel can get wrong: reading packets, maps, spin locks, attaching and taking off, what
/// the kernel does by itself at veths and in netfilter, capabilities; and both fuzzers.
pub(super) const KERNEL: [&str; 19] = [
    "parsing::extension_headers_in_order_and_out_of_order",
    "parsing::fragments_of_both_families",
    "reasons::what_the_pod_sends_is_judged_by_egress_rules",
    "connections::tcp_goes_from_half_open_to_established_to_closing",
    "related::errors_of_the_pod_about_what_it_got_pass",
    "link::neighbour_discovery_comes_from_the_link",
    "tunnels::under_policy",
    "services::a_change_of_policy_is_about_the_backend",
    "post_nat::every_device_carries_it_while_a_pod_is_isolated",
    "recall::a_change_of_policy_is_seen_by_the_next_packet",
    "expiry::what_has_expired_or_lost_its_veth_goes_and_the_rest_stays",
    "realtime::every_packet_is_judged_alike_and_gives_its_place_back",
    "any_order::a_flow_older_than_its_service_is_judged_by_its_backend",
    "privileges::the_agent_enforces_with_the_capabilities_it_is_given",
    "pins::a_filter_that_was_deleted_by_hand_is_attached_anew",
    "removal::nothing_is_left_of_clsact",
    "removal::nothing_is_left_of_tcx",
    "fuzz::fuzz",
    "wire_fuzz::wire_fuzz",
];

/// Of the lab's tests: real pods, nodes and Services, agents that come, are killed and come again, every cell probed with real sockets.
pub(super) const LAB: [&str; 4] = [
    "story::the_demo_story_is_observed_cell_for_cell",
    "own_node::node_and_pod_reach_each_other_under_deny_all",
    "scenarios::services_basic",
    "restart::an_agent_killed_mid_update_leaves_nothing_open",
];

/// Once more as on kernels before 6.4, which have neither netfilter programs nor TCX.
pub(super) const LAB_OF_OLDER: [&str; 1] = ["scenarios::services_basic"];

#[cfg(test)]
mod tests {
    use super::{KERNEL, LAB, LAB_OF_OLDER};

    #[test]
    fn each_is_a_test() {
        let here = env!("CARGO_MANIFEST_DIR");
        let lab = LAB.iter().chain(&LAB_OF_OLDER).map(|test| ("lab/tests/lab", test));
        for (folder, test) in KERNEL.iter().map(|test| ("agent/tests/kernel", test)).chain(lab) {
            let (modules, function) = test.rsplit_once("::").unwrap();
            let module = format!("{here}/../{folder}/{}", modules.replace("::", "/"));
            let files = [format!("{module}.rs"), format!("{module}/mod.rs")];
            let text = files.iter().find_map(|file| std::fs::read_to_string(file).ok()).unwrap();
            let is_there =
                text.contains(&format!("fn {function}(")) || text.contains(&format!("{function}: \""));
            assert!(is_there, "{test}");
        }
    }
}
