//! The policy as nft has it: what conntrack knows passes, then the rules, in the forward hook; the rest is dropped.

use std::fmt::Write;

use super::{Error, RuleSet, feed};
use crate::bench::enforcer::Shape;
use crate::bench::policy::{rules, word};
use crate::netns::Netns;

/// Loads the rule set.
pub(in crate::bench) fn load(node: &Netns, set: RuleSet) -> Result<(), Error> {
    feed(node, "nft", &["--file", "-"], &text(set))
}

fn text(set: RuleSet) -> String {
    let mut text = "table inet bench {\n".to_owned();
    let mut lines = String::new();
    let rules = rules(set.pods, set.rules);
    // Writing to a string cannot fail.
    match set.shape {
        Shape::Linear(_) => {
            for rule in rules {
                let (protocol, port) = (word(rule.protocol), rule.port);
                let _ = writeln!(
                    lines,
                    "ip saddr {} ip daddr {} {protocol} dport {port} accept",
                    rule.from, rule.to
                );
            }
        }
        Shape::Set => {
            text += "set allowed { type ipv4_addr . ipv4_addr . inet_proto . inet_service; elements = {\n";
            for rule in rules {
                let _ =
                    writeln!(text, "{} . {} . {} . {},", rule.from, rule.to, word(rule.protocol), rule.port);
            }
            text += "}\n}\n";
            lines += "ip saddr . ip daddr . meta l4proto . th dport @allowed accept\n";
        }
    }
    text += "chain forward { type filter hook forward priority filter; policy drop;\n";
    text += "ct state established,related accept\n";
    text += &lines;
    text += "}\n}\n";
    text
}
