//! What is ours by group and kind, what is passed over, and what was probably meant.

use super::super::load;
use super::{Folder, POD, POLICY, policy, web, web_selector};
use crate::feed::Change;

#[test]
fn what_looks_like_a_kind_of_ours_is_an_error_that_names_it() {
    let v1 = "networking.k8s.io/v1";
    let cases = [
        (
            POLICY.replace("kind: NetworkPolicy", "kind: NetworkPolicies"),
            "kind: \"NetworkPolicies\" is not known; NetworkPolicy was probably meant",
        ),
        (POLICY.replace("kind: NetworkPolicy", "kind: networkpolicy"), "NetworkPolicy was probably meant"),
        (POLICY.replace("kind: NetworkPolicy", "kind: NetworkPolicys"), "NetworkPolicy was probably meant"),
        (POLICY.replace("kind: NetworkPolicy", "kind: NetwrokPolicy"), "NetworkPolicy was probably meant"),
        (POLICY.replace("kind: NetworkPolicy", "kind: netpol"), "NetworkPolicy was probably meant"),
        (
            POLICY.replace(v1, "networking.k8s.io/v2"),
            "apiVersion \"networking.k8s.io/v2\" is not known for NetworkPolicy",
        ),
        (
            POLICY.replace(v1, "networking.k8s.io"),
            "apiVersion \"networking.k8s.io\" is not known for NetworkPolicy",
        ),
        (POLICY.replace(v1, "network.k8s.io/v1"), "networking.k8s.io/v1 was probably meant"),
        (POLICY.replace(v1, "v1"), "networking.k8s.io/v1 was probably meant"),
        (
            POLICY.replace("apiVersion: networking.k8s.io/v1\n", ""),
            "apiVersion: is missing; networking.k8s.io/v1 was probably meant",
        ),
        (POLICY.replace("kind: NetworkPolicy\n", ""), "kind: is missing; NetworkPolicy was probably meant"),
    ];
    for (yaml, expected) in cases {
        let mut folder = Folder::new(&[("a.yaml", &yaml)]);
        let reading = folder.source.read();
        let error = reading.errors[0].to_string();
        assert!(error.contains(expected), "{error}: should say {expected}");
        assert!(error.contains("document 1: NetworkPolicy shop/web: "), "{error}");
        assert_eq!(policy(&reading.changes).pod_selector, web_selector(), "{yaml}");
        assert!(reading.incomplete, "{yaml}");
    }
    for (good, bad) in
        [("kind: Pod", "kind: Pods"), ("kind: Pod", "kind: pod"), ("kind: Pod", "kind: PodsList")]
    {
        let mut folder = Folder::new(&[("a.yaml", &POD.replace(good, bad))]);
        assert!(folder.source.read().incomplete, "{bad}");
    }
}

#[test]
fn kinds_of_other_groups_are_none_of_ours() {
    let knative =
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\nspec: {template: {}}\n";
    let calico = "apiVersion: crd.projectcalico.org/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: {selector: all()}\n";
    let others = [
        knative.to_owned(),
        calico.to_owned(),
        calico.replace("crd.projectcalico.org/v1", "projectcalico.org/v3"),
        calico.replace("kind: NetworkPolicy", "kind: NetworkPolicyList"),
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: a}\n"
            .to_owned(),
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a}\n".to_owned(),
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n".to_owned(),
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: a}\n".to_owned(),
        "apiVersion: v1\nkind: PodTemplate\nmetadata: {name: a}\n".to_owned(),
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: a}\n".to_owned(),
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: a}\n".to_owned(),
        "apiVersion: apps/v1\nkind: DeploymentList\nitems: []\n".to_owned(),
        "--- null\n".to_owned(),
    ];
    for other in others {
        let mut folder = Folder::new(&[("a.yaml", &other)]);
        let reading = folder.source.read();
        assert_eq!((reading.changes, reading.errors), (vec![], vec![]), "{other}");
        assert!(!reading.incomplete, "{other}");
    }
}

#[test]
fn a_kind_that_is_passed_over_is_said_once() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";
    let two = format!("{deployment}---\n{}", deployment.replace("web", "db"));
    let mut folder = Folder::new(&[
        ("a.yaml", &two),
        ("b.yaml", deployment),
        ("c.yaml", "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\n"),
    ]);
    let notes = folder.source.read().notes;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("a.yaml, document 1: Deployment of apps/v1 "), "{notes:?}");
    assert!(notes[1].contains("c.yaml, document 1: Service of serving.knative.dev/v1 "), "{notes:?}");
    folder.write("b.yaml", &format!("{deployment}\n---\napiVersion: v1\nkind: ConfigMap\n"));
    let notes = folder.source.read().notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("ConfigMap of v1"), "{notes:?}");
    assert_eq!(load(folder.path()).unwrap().notes.len(), 3);
}

#[test]
fn what_other_tools_keep_beside_manifests_is_passed_over_by_name() {
    let mut folder = Folder::new(&[
        ("kustomization.yaml", "resources: [a.yaml]\n"),
        ("base/kustomization.yml", "}{"),
        ("Kustomization", "resources: []\n"),
        ("values.yaml", "replicas: 2\nreplicas: 3\n"),
        ("Chart.yaml", "apiVersion: v2\nname: web\n"),
        ("a.yaml", POLICY),
    ]);
    let reading = folder.source.read();
    assert_eq!(reading.errors, vec![]);
    assert!(matches!(&reading.changes[..], [_, Change::Apply(it)] if it.reference() == web()), "{reading:?}");
    assert_eq!(reading.notes.len(), 5, "{:?}", reading.notes);
    assert!(
        reading.notes.iter().any(|note| note.contains("values.yaml: passed over by its name")),
        "{reading:?}"
    );
    assert_eq!(folder.source.read().notes, Vec::<String>::new());
}
