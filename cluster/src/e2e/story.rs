//! What is done, step by step. Policies add up; a policy of the same name takes the place of the one before.

/// One change, and then a look.
pub(super) struct Step {
    pub(super) title: &'static str,
    pub(super) actions: Vec<Action>,
}

/// A change of the cluster.
pub(super) enum Action {
    /// Applies policies. `$(NAMESPACE/POD)` is that pod's address.
    Apply(&'static str),
    /// Deletes a policy.
    Delete(&'static str, &'static str),
    /// Deletes every policy.
    DeleteAll,
    /// Sets a label of a pod.
    LabelPod(&'static str, &'static str, &'static str, &'static str),
    /// Sets a label of a namespace.
    LabelNamespace(&'static str, &'static str, &'static str),
}

/// All steps.
pub(super) fn steps() -> Vec<Step> {
    use Action::{Apply, Delete, DeleteAll, LabelNamespace, LabelPod};
    let steps: Vec<(&'static str, Vec<Action>)> = vec![
        ("no policy: everything is open", vec![]),
        ("deny-all of everything", vec![Apply(include_str!("story/deny-all.yaml"))]),
        ("a pod selector opens shop/db to shop/api", vec![Apply(include_str!("story/pod-selector.yaml"))]),
        (
            "a namespace selector opens ops to shop",
            vec![Apply(include_str!("story/namespace-selector.yaml"))],
        ),
        (
            "both selectors in one item: ops/admin to web/front",
            vec![Apply(include_str!("story/one-item.yaml"))],
        ),
        ("in two items: all of ops, and web/batch", vec![Apply(include_str!("story/two-items.yaml"))]),
        ("an ipBlock, except ops/admin", vec![Apply(include_str!("story/ip-block.yaml"))]),
        ("a named port of shop", vec![Apply(include_str!("story/named-port.yaml"))]),
        ("a range of ports of shop", vec![Apply(include_str!("story/end-port.yaml"))]),
        ("web may ask ops/monitor for names, no more", vec![Apply(include_str!("story/dns.yaml"))]),
        ("a UDP port of shop, from anywhere", vec![Apply(include_str!("story/udp.yaml"))]),
        (
            "a pod gets other labels: ops/admin is a monitor too",
            vec![LabelPod("ops", "admin", "app", "monitor")],
        ),
        (
            "a namespace gets other labels: ops is team web",
            vec![Apply(include_str!("story/two-items.yaml")), LabelNamespace("ops", "team", "web")],
        ),
        (
            "ops is ops again",
            vec![LabelNamespace("ops", "team", "ops"), LabelPod("ops", "admin", "app", "admin")],
        ),
        ("deny-all of ops is deleted", vec![Delete("ops", "deny-all")]),
        ("egress only", vec![DeleteAll, Apply(include_str!("story/egress-only.yaml"))]),
        ("every policy is deleted: everything is open", vec![DeleteAll]),
    ];
    steps.into_iter().map(|(title, actions)| Step { title, actions }).collect()
}
