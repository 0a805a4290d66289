//! A readable picture of the compiled classes, named by their meaning: for golden tests and for people.

use std::fmt::Write;

use super::Engine;
use super::attributes::{Attribute, AttributeId};
use super::rules::{Facts, Known, RuleSet, Target};
use crate::model::{NamespaceScope, Requirement, Selector};
use crate::tables::{ClassId, PeerClass};

impl Engine {
    /// The tables in words; frontends as of the last plan. Numbers of classes do not appear, so equal states read equal.
    #[must_use]
    pub fn dump(&self) -> String {
        let tables = self.compiled();
        let mut out = String::new();
        for (pod, subject) in &tables.subjects {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "subject {pod} {:?}", subject.addresses);
            let _ = writeln!(out, "  ingress: {}", self.rules_of(subject.ingress));
            let _ = writeln!(out, "  egress:  {}", self.rules_of(subject.egress));
        }
        for (prefix, entry) in &tables.peers {
            let local = if entry.local { " (own node)" } else { "" };
            let _ = writeln!(out, "peer {prefix}{local}: {}", self.facts_of(entry.class));
        }
        let mut verdicts: Vec<_> = tables
            .verdicts
            .iter()
            .map(|((subject, peer), ports)| {
                format!("verdict [{}] x [{}] = {ports}\n", self.rules_of(*subject), self.facts_of(*peer))
            })
            .collect();
        verdicts.sort();
        out.extend(verdicts);
        out
    }

    fn rules_of(&self, class: ClassId) -> String {
        match self.rule_sets.get(class.0) {
            Some(class) => self.rules_in_words(&class.meaning),
            None => "not isolated".to_owned(),
        }
    }

    fn rules_in_words(&self, rules: &RuleSet) -> String {
        let mut targets: Vec<_> = rules
            .targets
            .iter()
            .map(|target| {
                let mut words = format!("{} {}", self.attribute_in_words(target.attribute), target.ports);
                let mut named: Vec<_> =
                    target.named.iter().map(|(name, _)| self.attribute_in_words(*name)).collect();
                named.sort();
                for name in named {
                    let _ = write!(words, " {name}");
                }
                words
            })
            .collect();
        targets.sort();
        let targets = if targets.is_empty() { "nothing".to_owned() } else { targets.join("; ") };
        format!("{:?} {targets}", rules.direction)
    }

    fn facts_of(&self, class: PeerClass) -> String {
        match self.peers.classes.get(class.0) {
            Some(class) => match &*class.meaning {
                Known::Address(facts) => self.facts_in_words(facts),
                Known::Backends(backends) => {
                    let places = backends.iter().map(|place| {
                        format!("{} {} {}", place.protocol, place.port, self.facts_in_words(&place.facts))
                    });
                    format!("each of ({})", places.collect::<Vec<_>>().join("; "))
                }
            },
            None => "nothing known".to_owned(),
        }
    }

    fn facts_in_words(&self, facts: &Facts) -> String {
        let satisfies = facts.satisfies.iter().map(|id| self.attribute_in_words(*id));
        let declares = facts.declares.iter().map(|(id, number)| {
            let name = self.attribute_in_words(*id);
            format!("{name}={number}")
        });
        let mut words: Vec<_> = satisfies.chain(declares).collect();
        words.sort();
        words.join(" & ")
    }

    fn attribute_in_words(&self, id: AttributeId) -> String {
        match self.attributes.get(id) {
            _ if id == AttributeId::ANYONE => "anyone".to_owned(),
            None => "?".to_owned(),
            Some(Attribute::PortName(protocol, name)) => format!("{protocol}/{name}"),
            Some(Attribute::Target(Target::Anyone)) => "anyone".to_owned(),
            Some(Attribute::Target(Target::Block(cidr, except))) if except.is_empty() => cidr.to_string(),
            Some(Attribute::Target(Target::Block(cidr, except))) => {
                let except: Vec<_> = except.iter().map(ToString::to_string).collect();
                format!("{cidr}-({})", except.join(","))
            }
            Some(Attribute::Target(Target::Pods(NamespaceScope::Named(name), pods))) => {
                format!("{name}:{}", selector(pods))
            }
            Some(Attribute::Target(Target::Pods(NamespaceScope::Matching(namespaces), pods))) => {
                format!("ns{}:{}", selector(namespaces), selector(pods))
            }
        }
    }
}

fn selector(selector: &Selector) -> String {
    let requirements = selector.0.iter().map(|requirement| match requirement {
        Requirement::In(key, values) if values.len() == 1 => format!("{key}={}", values[0]),
        Requirement::In(key, values) => format!("{key} in ({})", values.join(",")),
        Requirement::NotIn(key, values) => format!("{key} notin ({})", values.join(",")),
        Requirement::Exists(key) => key.to_string(),
        Requirement::DoesNotExist(key) => format!("!{key}"),
    });
    format!("{{{}}}", requirements.collect::<Vec<_>>().join(","))
}
