//! `kind: List` and its like, and keys given twice.

use postern_policy::model::ObjectRef;

use super::{Folder, POD, POLICY, policy, web, web_selector};
use crate::feed::Change;

/// An item of a list, from the YAML of an object in block style.
fn item(object: &str) -> String {
    object.trim().lines().enumerate().fold(String::new(), |text, (line, content)| {
        text + if line == 0 { "- " } else { "  " } + content + "\n"
    })
}

fn list(kind: &str, version: &str, objects: &[&str]) -> String {
    let items: String = objects.iter().map(|object| item(object)).collect();
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{resourceVersion: ''}}\nitems:\n{items}")
}

fn names(changes: &[Change]) -> Vec<String> {
    let name = |change: &Change| match change {
        Change::Apply(object) => object.reference().to_string(),
        Change::Delete(reference) => format!("no {reference}"),
    };
    changes.iter().map(name).collect()
}

#[test]
fn a_list_is_read_item_by_item() {
    let untyped = |object: &str| {
        let lines = object.lines().filter(|it| !it.starts_with("apiVersion") && !it.starts_with("kind"));
        lines.flat_map(|line| [line, "\n"]).collect::<String>()
    };
    let both = ["Namespace shop", "Pod shop/web", "NetworkPolicy shop/web"];
    let policies = ["Namespace shop", "NetworkPolicy shop/web"];
    let cases: &[(&str, String, &[&str])] = &[
        ("as kubectl prints it", list("List", "v1", &[POD, POLICY]), &both),
        ("a typed list", list("NetworkPolicyList", "networking.k8s.io/v1", &[POLICY]), &policies),
        (
            "a typed list as the API server sends it",
            list("NetworkPolicyList", "networking.k8s.io/v1", &[&untyped(POLICY)]),
            &policies,
        ),
        ("a list in a list", list("List", "v1", &[&list("PodList", "v1", &[&untyped(POD)]), POLICY]), &both),
        ("an empty list", "apiVersion: v1\nkind: PodList\nitems: []\n".to_owned(), &[]),
        ("an empty list as Go writes it", "apiVersion: v1\nkind: List\nitems: null\n".to_owned(), &[]),
    ];
    for (what, yaml, expected) in cases {
        let mut folder = Folder::new(&[("a.yaml", yaml)]);
        let (changes, errors) = folder.read();
        assert_eq!(errors, Vec::<String>::new(), "{what}");
        assert_eq!(names(&changes), *expected, "{what}");
    }
}

#[test]
fn an_item_that_is_wrong_is_named_and_costs_nothing_but_itself() {
    let broken = POLICY.replace("port: 80", "prot: 80").replace("name: web", "name: other");
    let mut folder =
        Folder::new(&[("a.yaml", &format!("{POD}---\n{}", list("List", "v1", &[&broken, POLICY])))]);
    let (changes, errors) = folder.read();
    let [error] = &errors[..] else { panic!("{errors:?}") };
    let expected =
        "a.yaml, document 2, item 1: NetworkPolicy shop/other: spec.ingress[0].ports[0].prot: no such field";
    assert!(error.starts_with(expected), "{error}");
    assert_eq!(names(&changes).len(), 4, "{changes:?}");
}

#[test]
fn a_list_without_items_is_an_error() {
    for yaml in ["apiVersion: v1\nkind: List\n", "apiVersion: v1\nkind: List\nitems: {a: b}\n"] {
        let mut folder = Folder::new(&[("a.yaml", yaml)]);
        let reading = folder.source.read();
        assert!(reading.incomplete, "{yaml}");
        assert!(reading.errors[0].to_string().contains("document 1: items: "), "{:?}", reading.errors);
    }
}

#[test]
fn a_key_given_twice_is_an_error_at_any_depth() {
    let port = POLICY.replace("{port: 80}", "{port: 80, port: 81}");
    let cases = [
        ("spec.ingress", POLICY.replace("  ingress:", "  ingress: []\n  ingress:")),
        ("spec.ingress[0].ports[0].port", port),
        ("metadata.labels.a", POLICY.replace("name: web}", "name: web, labels: {a: b, a: b}}")),
        ("spec.ingress", serde_json::json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": "web"}, "spec": {"podSelector": {"matchLabels": {"app": "web"}},
            "ingress": []}}).to_string().replace("\"ingress\":[]", "\"ingress\":[],\"ingress\":[{}]")),
    ];
    for (field, yaml) in cases {
        let mut folder = Folder::new(&[("a.yaml", &yaml)]);
        let reading = folder.source.read();
        assert!(reading.incomplete, "{yaml}");
        let error = reading.errors[0].to_string();
        let expected = format!("a.yaml, document 1: NetworkPolicy shop/web: {field}: is given twice");
        assert!(error.contains(&expected), "{error}: should say {expected}");
        assert_eq!(policy(&reading.changes).pod_selector, web_selector(), "{yaml}");
        assert_eq!(policy(&reading.changes).ingress, Some(vec![]), "{yaml}");
    }
}

#[test]
fn what_is_given_twice_tells_nothing() {
    let twice = POLICY.replace("  podSelector:", "  podSelector: {matchLabels: {app: db}}\n  podSelector:");
    let mut folder = Folder::new(&[("a.yaml", &twice)]);
    let (changes, _) = folder.read();
    assert!(policy(&changes).pod_selector.0.is_empty(), "all pods of the namespace");
    let mut folder = Folder::new(&[("a.yaml", POLICY)]);
    let _ = folder.read();
    folder.write("a.yaml", &twice);
    let (changes, errors) = folder.read();
    assert_eq!(changes, vec![], "the last good version stays");
    assert!(errors[0].ends_with("its last good version stays"), "{errors:?}");
}

#[test]
fn a_key_given_twice_in_a_list_concerns_its_item_alone() {
    let twice = POLICY.replace("name: web", "name: other").replace("  ingress:", "  ingress: []\n  ingress:");
    let mut folder = Folder::new(&[("a.yaml", &list("List", "v1", &[POLICY, &twice]))]);
    let (changes, errors) = folder.read();
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert!(
        error.starts_with("a.yaml, document 1, item 2: NetworkPolicy shop/other: spec.ingress: "),
        "{error}"
    );
    assert!(names(&changes).contains(&web().to_string()), "{changes:?}");
}

#[test]
fn anchors_and_merges_mean_what_they_mean_to_kubectl() {
    let yaml = "
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: &meta {namespace: shop, name: web, labels: &labels {app: web}}
  spec: &spec {nodeName: node-a, containers: [{name: c}]}
- apiVersion: v1
  kind: Pod
  metadata: {<<: *meta, name: db, labels: {<<: [*labels, {app: none, tier: back}]}}
  spec: *spec
";
    let mut folder = Folder::new(&[("a.yaml", yaml)]);
    let (changes, errors) = folder.read();
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(names(&changes), ["Namespace shop", "Pod shop/db", "Pod shop/web"]);
    let Change::Apply(postern_policy::model::Object::Pod(pod)) = &changes[1] else { panic!("{changes:?}") };
    let labels: Vec<_> = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(labels, ["app=web", "tier=back"]);
}

#[test]
fn a_document_that_swells_by_its_aliases_is_refused() {
    let many = |item: &str| vec![item; 2_000].join(", ");
    let bomb = format!("a: &a [{}]\nb: [{}]\n", many("x"), many("*a"));
    let mut folder = Folder::new(&[("a.yaml", &bomb), ("b.yaml", POLICY)]);
    let (changes, errors) = folder.read();
    assert!(errors[0].contains("aliases"), "{errors:?}");
    assert!(names(&changes).contains(&web().to_string()));
    assert!(!names(&changes).contains(&ObjectRef::Namespace("default".into()).to_string()));
}
