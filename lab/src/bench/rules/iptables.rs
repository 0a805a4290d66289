//! The policy as iptables has it: as [`super::nftables`], rule for rule; with an ipset where it is set based.

use std::fmt::Write;
use std::process::Command;

use super::{Error, RuleSet, feed};
use crate::bench::enforcer::Shape;
use crate::bench::policy::{rules, word};
use crate::netns::Netns;

/// Loads the rule set.
pub(in crate::bench) fn load(node: &Netns, set: RuleSet) -> Result<(), Error> {
    if set.shape == Shape::Set {
        feed(node, "ipset", &["restore"], &ipset(set))?;
    }
    feed(node, "iptables-restore", &[], &text(set))
}

/// What `iptables --version` says: the same rules go through `nf_tables` or the older engine, as it was built.
pub(in crate::bench) fn version() -> Option<String> {
    let output = Command::new("iptables").arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn ipset(set: RuleSet) -> String {
    let mut text = format!("create allowed hash:ip,port,ip maxelem {}\n", set.rules.max(65_536));
    for rule in rules(set.pods, set.rules) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "add allowed {},{}:{},{}", rule.from, word(rule.protocol), rule.port, rule.to);
    }
    text
}

fn text(set: RuleSet) -> String {
    let mut text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_owned();
    text += "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n";
    match set.shape {
        Shape::Linear(_) => {
            for rule in rules(set.pods, set.rules) {
                let (protocol, port) = (word(rule.protocol), rule.port);
                let _ = writeln!(
                    text,
                    "-A FORWARD -s {} -d {} -p {protocol} -m {protocol} --dport {port} -j ACCEPT",
                    rule.from, rule.to
                );
            }
        }
        Shape::Set => text += "-A FORWARD -m set --match-set allowed src,dst,dst -j ACCEPT\n",
    }
    text += "COMMIT\n";
    text
}
