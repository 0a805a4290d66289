//! Documents that nobody can read: what they still tell, what stays, and what becomes of it in the end.

use std::fs;

use postern_policy::model::{NetworkPolicy, Object, Selector};

use super::{Folder, POD, POLICY, policy, web, web_selector};
use crate::feed::Change;

/// In block style, as people write it: a syntax error in one line leaves the others to go by.
const BLOCK: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: web
  policyTypes:
  - Ingress
  ingress:
  - ports:
    - port: 80
";

fn policies(changes: &[Change]) -> Vec<&NetworkPolicy> {
    let policies = changes.iter().filter_map(|change| match change {
        Change::Apply(Object::NetworkPolicy(policy)) => Some(policy),
        _ => None,
    });
    policies.collect()
}

#[test]
fn a_policy_that_cannot_be_parsed_isolates_what_can_be_told() {
    let all = Selector::default;
    let nameless = POLICY.replace("name: web", "generateName: web-");
    let json = POLICY_JSON.replace("\"web\"}}", "\"web\"}");
    let cases: &[(&str, String, &str, Selector, bool)] = &[
        ("generateName", nameless, "shop", web_selector(), true),
        ("no name, no namespace", nameless_default(), "default", web_selector(), true),
        ("a tab in the rules", BLOCK.replace("    - port", "\t- port"), "shop", web_selector(), false),
        (
            "a tab in the types",
            BLOCK.replace("  - Ingress\n", "  - Ingress\n\t- Egress\n"),
            "shop",
            web_selector(),
            true,
        ),
        ("a tab in the selector", BLOCK.replace("      app", "\tapp"), "shop", all(), true),
        (
            "a tab where the selector goes on",
            BLOCK.replace("app: web\n", "app: web\n\t  tier: front\n"),
            "shop",
            all(),
            true,
        ),
        ("a tab in the metadata", BLOCK.replace("  namespace", "\tnamespace"), "shop", all(), true),
        ("a bracket left open", POLICY.replace("{app: web}}", "{app: web}"), "shop", all(), true),
        ("a quote left open", BLOCK.replace("name: web", "name: \"web"), "shop", all(), true),
        ("JSON with a brace missing", json, "shop", all(), true),
    ];
    for (what, yaml, namespace, selector, both) in cases {
        let mut folder = Folder::new(&[("sub/a.yaml", POD), ("b.yaml", &format!("---\n{yaml}"))]);
        let reading = folder.source.read();
        assert!(reading.incomplete, "{what}");
        let [error] = &reading.errors[..] else { panic!("{what}: {:?}", reading.errors) };
        assert!(error.to_string().contains("b.yaml, document 1: "), "{what}: {error}");
        assert!(error.to_string().ends_with("isolated until it is mended"), "{what}: {error}");
        let stand_in = policy(&reading.changes).clone();
        assert_eq!(&*stand_in.id.namespace, *namespace, "{what}");
        assert_eq!(&stand_in.pod_selector, selector, "{what}");
        assert_eq!((stand_in.ingress, stand_in.egress), (Some(vec![]), both.then(Vec::new)), "{what}");
        let again = folder.source.read();
        assert_eq!(again.changes, vec![], "{what}");
        assert_eq!(again.errors, reading.errors, "{what}: the same words, or they are logged each time");
        // Its repair is honoured: nothing of the stand-in stays.
        folder.write("b.yaml", &POLICY.replace("name: web", "name: mended"));
        let mended = folder.source.read();
        assert!(!mended.incomplete, "{what}");
        assert_eq!(policy(&mended.changes).id.to_string(), "shop/mended", "{what}");
        let gone = Change::Delete(postern_policy::model::ObjectRef::NetworkPolicy(stand_in.id));
        assert!(mended.changes.contains(&gone), "{what}: {:?}", mended.changes);
    }
}

const POLICY_JSON: &str = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
 "metadata": {"name": "web", "namespace": "shop"},
 "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": []}}"#;

fn nameless_default() -> String {
    POLICY.replace("metadata: {namespace: shop, name: web}\n", "")
}

#[test]
fn the_removal_of_what_was_never_readable_is_honoured() {
    let mut folder = Folder::new(&[("b.yaml", &BLOCK.replace("    - port", "\t- port"))]);
    let (changes, _) = folder.read();
    let stand_in = policies(&changes)[0].id.clone();
    fs::remove_file(folder.path().join("b.yaml")).unwrap();
    let reading = folder.source.read();
    assert!(
        reading.changes.contains(&Change::Delete(postern_policy::model::ObjectRef::NetworkPolicy(stand_in)))
    );
    assert!(!reading.incomplete);
}

#[test]
fn what_was_good_once_stays_in_place_of_an_isolation() {
    let broken = [
        BLOCK.replace("    - port", "\t- port"),
        BLOCK.replace("  namespace", "\tnamespace"),
        BLOCK.replace("  name: web", "  generateName: web-"),
        "kind: [unclosed".to_owned(),
    ];
    for broken in broken {
        let mut folder = Folder::new(&[("a.yaml", BLOCK)]);
        let _ = folder.read();
        folder.write("a.yaml", &broken);
        let reading = folder.source.read();
        assert_eq!(reading.changes, vec![], "{broken}");
        assert!(reading.incomplete, "{broken}");
        let error = reading.errors[0].to_string();
        assert!(error.contains("last good version stays") || error.contains("known before stays"), "{error}");
        fs::remove_file(folder.path().join("a.yaml")).unwrap();
        assert!(folder.read().0.contains(&Change::Delete(web())), "{broken}");
    }
}

#[test]
fn a_second_policy_that_was_never_good_isolates_beside_the_first() {
    let mut folder = Folder::new(&[("a.yaml", BLOCK)]);
    let _ = folder.read();
    let other = BLOCK.replace("app: web", "app: db").replace("  name: web", "  generateName: db-");
    folder.write("a.yaml", &format!("{BLOCK}---\n{other}"));
    let (changes, _) = folder.read();
    assert_eq!(policies(&changes).len(), 1, "{changes:?}");
    assert_ne!(policy(&changes).pod_selector, web_selector());
}

#[test]
fn an_isolation_outlives_the_next_mistake() {
    let mut folder = Folder::new(&[("a.yaml", &BLOCK.replace("    - port", "\t- port"))]);
    let _ = folder.read();
    folder.write("a.yaml", "kind: [unclosed");
    let reading = folder.source.read();
    assert_eq!(reading.changes, vec![]);
    assert!(reading.incomplete);
}

#[test]
fn an_object_that_stands_in_is_no_good_version() {
    let broken = |label: &str| POLICY.replace("app: web", label).replace("port: 80", "port: [80]");
    let mut folder = Folder::new(&[("a.yaml", &broken("app: web"))]);
    let (_, errors) = folder.read();
    assert_eq!(folder.read(), (vec![], errors), "the same words");
    folder.write("a.yaml", &broken("app: db"));
    let (changes, errors) = folder.read();
    assert_ne!(policy(&changes).pod_selector, web_selector(), "it selects what it now names");
    assert!(errors[0].ends_with("isolated until it is mended"), "{errors:?}");
}

#[test]
fn calicos_syntax_errors_isolate_nobody() {
    let calico = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: a, namespace: shop}\nspec: {\n";
    let mut folder = Folder::new(&[("a.yaml", calico)]);
    let reading = folder.source.read();
    assert_eq!(policies(&reading.changes), Vec::<&NetworkPolicy>::new());
    assert!(reading.incomplete);
}

#[test]
fn names_used_twice_for_different_things_keep_from_ready_and_isolate() {
    let same = Folder::new(&[("a.yaml", POLICY), ("b.yaml", POLICY)]).source.read();
    assert_eq!((same.errors.len(), same.incomplete), (1, false), "a copy takes nothing away");
    let other = POLICY.replace("app: web", "app: db");
    let mut folder = Folder::new(&[("a.yaml", POLICY), ("b.yaml", &other)]);
    let reading = folder.source.read();
    assert!(reading.incomplete);
    assert_eq!(policies(&reading.changes).len(), 2, "{:?}", reading.changes);
    assert!(
        reading.errors[0].to_string().contains("the pods it selects are isolated"),
        "{:?}",
        reading.errors
    );
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    let reading = folder.source.read();
    assert_eq!((reading.errors.len(), reading.incomplete), (0, false));
    assert_eq!(reading.changes.len(), 2, "one becomes the policy, the stand-in goes: {:?}", reading.changes);
}

#[test]
fn marks_and_line_ends_do_not_matter() {
    let crlf = format!("{POD}---{POLICY}").replace('\n', "\r\n");
    let bom = format!("\u{feff}# first\n---{POD}---\n\u{feff}{POLICY}");
    let directive = format!("%YAML 1.1\n---{POD}...\n---{POLICY}...\n");
    let markers = format!("---\n---\n# nothing\n---{POD}---\n---{POLICY}---\n");
    for text in [crlf, bom, directive, markers] {
        let mut folder = Folder::new(&[("a.yaml", &text)]);
        let (changes, errors) = folder.read();
        assert_eq!((changes.len(), errors), (3, vec![]), "{text:?}");
    }
}
