//! What a document that is not even YAML still tells: whom a policy in it was to isolate.
//!
//! The lines before the mistake often parse on their own. Of what they say, only that is believed which the mistake
//! cannot have cut short: a value is complete once a line stands behind it that is no part of it. A selector with half
//! of its values would select fewer pods than were meant. Where that tells nothing, the words do: every namespace that
//! is named is isolated.

use std::collections::BTreeSet;

use postern_policy::model::{NamespacedName, NetworkPolicy, ObjectRef, Selector};
use serde_json::Value;

use super::kind::{self, Type};
use super::yaml;
use crate::convert::object::Kind;
use crate::convert::salvage;

/// How many lines before the mistake are given up at the most: it is found near where it was made, as a rule.
const LINES: usize = 64;
/// Of how long a document that is tried: a policy is shorter, and a change must not wait for much parsing.
const LENGTH: usize = 64 << 10;

/// The object, and what isolates the pods that it selects, as far as that can be told. `line` is where the mistake was
/// found, from 1.
pub(super) fn remains(text: &str, line: Option<usize>) -> (Option<ObjectRef>, Vec<NetworkPolicy>) {
    if text.len() > LENGTH {
        return (None, by_words(text));
    }
    let lines: Vec<&str> = text.lines().collect();
    let last = line.map_or(lines.len(), |line| line.saturating_sub(1)).min(lines.len());
    for last in (last.saturating_sub(LINES)..=last).rev() {
        let lines = &lines[..last];
        let Ok(yaml::Document { mut value, .. }) = yaml::parse(&lines.join("\n")) else { continue };
        if !value.is_object() {
            break;
        }
        match kind::of(&value) {
            Type::Object(Kind::NetworkPolicy) | Type::Unknown { meant: Some(Kind::NetworkPolicy), .. } => {}
            // Calico's, for example, or a Pod: nothing in there isolates.
            Type::Object(_) | Type::Other(_) | Type::Unknown { meant: Some(_), .. } => {
                return (None, Vec::new());
            }
            Type::List(_) | Type::Unknown { meant: None, .. } => break,
        }
        if !is_complete(lines, "metadata") {
            break;
        }
        for key in ["podSelector", "policyTypes"] {
            if !is_complete(lines, key)
                && let Some(Value::Object(spec)) = value.get_mut("spec")
            {
                spec.remove(key);
            }
        }
        let name = value.pointer("/metadata/name").and_then(Value::as_str);
        let namespace = salvage::namespace(&value);
        let object = name.zip(namespace).map(|(name, it)| Kind::NetworkPolicy.reference(it, name));
        return (object, salvage::isolation(&value).into_iter().collect());
    }
    (None, by_words(text))
}

/// Whether a key's value ends before the lines do.
fn is_complete(lines: &[&str], key: &str) -> bool {
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let names = |line: &str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.starts_with(':'));
    // A key that stands at two places tells nothing: which of them is meant is not ours to guess.
    let mut places = lines.iter().enumerate().filter(|(_, line)| names(line));
    let (Some((place, line)), None) = (places.next(), places.next()) else { return false };
    let ends = |next: &&str| {
        let text = next.trim_start();
        let content = !text.is_empty() && !text.starts_with('#');
        // The items of a list may stand as far to the left as its key.
        content && (indent(next) < indent(line) || indent(next) == indent(line) && !text.starts_with('-'))
    };
    lines[place + 1..].iter().any(ends)
}

/// Isolates all pods of every namespace that a text names which has a policy of ours in it.
fn by_words(text: &str) -> Vec<NetworkPolicy> {
    let lower = text.to_lowercase();
    let policy = lower.contains("networkpolic") || lower.contains("podselector");
    // Others have such a kind too; they name their own group.
    let ours = lower.contains(Kind::NetworkPolicy.group()) || !lower.contains("apiversion");
    if !policy || !ours {
        return Vec::new();
    }
    let mut namespaces: BTreeSet<&str> = text.split("namespace").skip(1).filter_map(named).collect();
    if namespaces.is_empty() {
        namespaces.insert("default");
    }
    // What is no name, such as a template's, tells nothing.
    namespaces.remove("");
    let isolation = |namespace| NetworkPolicy {
        id: NamespacedName::new(namespace, ""),
        pod_selector: Selector::default(),
        ingress: Some(Vec::new()),
        egress: Some(Vec::new()),
    };
    namespaces.into_iter().map(isolation).collect()
}

/// The name behind a key, as in `": "shop", ...`.
fn named(rest: &str) -> Option<&str> {
    let value = rest.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':')?;
    let value = value.trim_start_matches([' ', '\t', '"', '\'']);
    let end = value.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
    Some(&value[..end.unwrap_or(value.len())])
}
