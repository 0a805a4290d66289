//! The kernel's maps, one action at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Action, Plan};
use crate::model::{Direction, NamespacedName};
use crate::ports::PortSet;
use crate::services::Frontend;
use crate::tables::{ClassId, FrontendEntry, PeerClass, PeerEntry, Subject, Tables};

/// What a pod and an address may exchange, each way.
pub(super) type Answers = BTreeMap<(NamespacedName, Direction, IpAddr), PortSet>;

/// Exact addresses, a trie, subjects and verdicts, as the programs look them up.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    exact: HashMap<IpAddr, PeerEntry>,
    trie: HashMap<IpNet, PeerEntry>,
    subjects: BTreeMap<NamespacedName, Subject>,
    frontends: BTreeMap<Frontend, FrontendEntry>,
    verdicts: BTreeMap<(ClassId, PeerClass), PortSet>,
    /// What was allowed since flows were last judged again: what established flows may rest on.
    pub(super) flows: Answers,
}

impl Kernel {
    /// Executes an action; says what is wrong with it.
    pub(super) fn execute(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::InstallVerdict { subject, peer, ports } => {
                if self.uses(*subject, *peer) && self.verdicts.get(&(*subject, *peer)) != Some(ports) {
                    return Err("changes a verdict in use".to_owned());
                }
                if ports.is_nothing() {
                    return Err("installs nothing".to_owned());
                }
                self.verdicts.insert((*subject, *peer), ports.clone());
            }
            Action::RemoveVerdict { subject, peer } => {
                if self.uses(*subject, *peer) {
                    return Err("removes a verdict in use".to_owned());
                }
                if self.verdicts.remove(&(*subject, *peer)).is_none() {
                    return Err("removes a verdict that is not there".to_owned());
                }
            }
            Action::SetPeer { prefix, entry } => {
                if prefix.prefix_len() == prefix.max_prefix_len() {
                    self.exact.insert(prefix.addr(), *entry);
                } else {
                    self.trie.insert(*prefix, *entry);
                }
            }
            Action::RemovePeer { prefix } => {
                let removed = if prefix.prefix_len() == prefix.max_prefix_len() {
                    self.exact.remove(&prefix.addr())
                } else {
                    self.trie.remove(prefix)
                };
                if removed.is_none() {
                    return Err("removes a prefix that is not there".to_owned());
                }
            }
            Action::SetFrontend { frontend, entry } => {
                self.frontends.insert(*frontend, *entry);
            }
            Action::RemoveFrontend { frontend } => {
                if self.frontends.remove(frontend).is_none() {
                    return Err("removes a frontend that is not there".to_owned());
                }
            }
            Action::SetSubject { pod, subject } => {
                self.subjects.insert(pod.clone(), subject.clone());
            }
            Action::RemoveSubject { pod } => {
                if self.subjects.remove(pod).is_none() {
                    return Err("removes a subject that is not there".to_owned());
                }
            }
            Action::AdvanceGeneration => {}
        }
        Ok(())
    }

    fn uses(&self, subject: ClassId, peer: PeerClass) -> bool {
        let mut entries = self.exact.values().chain(self.trie.values());
        let peer = peer == PeerClass::UNKNOWN
            || self.frontends.values().any(|entry| *entry == FrontendEntry::Together(peer))
            || entries.any(|entry| entry.class == peer && !entry.local);
        peer && self.subjects.values().any(|other| other.ingress == subject || other.egress == subject)
    }

    fn judge(&self, pod: &NamespacedName, direction: Direction, remote: IpAddr) -> PortSet {
        let Some(subject) = self.subjects.get(pod) else { return PortSet::Everything };
        let longest = || {
            let holding = self.trie.iter().filter(|(prefix, _)| prefix.contains(&remote));
            holding.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, entry)| *entry)
        };
        let entry = self.exact.get(&remote).copied().or_else(longest).unwrap_or_default();
        let class = subject.class(direction);
        if class == ClassId::NOT_ISOLATED || entry.local || subject.addresses.contains(&remote) {
            return PortSet::Everything;
        }
        self.verdicts.get(&(class, entry.class)).cloned().unwrap_or_default()
    }

    pub(super) fn answers(&self, pods: &BTreeSet<NamespacedName>, remotes: &BTreeSet<IpAddr>) -> Answers {
        let mut answers = Answers::new();
        for pod in pods {
            for direction in [Direction::Ingress, Direction::Egress] {
                for remote in remotes {
                    answers.insert((pod.clone(), direction, *remote), self.judge(pod, direction, *remote));
                }
            }
        }
        answers
    }

    /// What a dump of the maps shows.
    pub(super) fn tables(&self) -> Tables {
        let exact = self.exact.iter().map(|(address, entry)| (IpNet::from(*address), *entry));
        Tables {
            subjects: self.subjects.clone(),
            peers: self.trie.iter().map(|(prefix, entry)| (*prefix, *entry)).chain(exact).collect(),
            frontends: self.frontends.clone(),
            verdicts: self.verdicts.clone(),
        }
    }

    /// Executes a plan and looks at every answer after every action: the one before, or the one after. Also tells of a
    /// flow that may go on although it is not allowed any more. Stops after `budget` actions.
    pub(super) fn run(
        &mut self,
        plan: &Plan,
        desired: &Tables,
        pods: &BTreeSet<NamespacedName>,
        remotes: &BTreeSet<IpAddr>,
        budget: usize,
    ) -> Result<(), String> {
        let before = self.answers(pods, remotes);
        let mut whole = self.clone();
        let mut advanced_at = None;
        for (index, action) in plan.steps.iter().enumerate() {
            whole.execute(action).map_err(|error| format!("{index} {action:?}: {error}\n{plan:#?}"))?;
            if *action == Action::AdvanceGeneration {
                advanced_at = Some(whole.answers(pods, remotes));
            }
        }
        let after = whole.answers(pods, remotes);
        if whole.tables() != *desired {
            return Err(format!("ends in\n{}instead of\n{desired}", whole.tables()));
        }
        if advanced_at.is_some_and(|answers| answers != after) {
            return Err("advances the generation before everything has moved".to_owned());
        }
        let advances = plan.steps.contains(&Action::AdvanceGeneration);
        for (index, action) in plan.steps.iter().take(budget).enumerate() {
            self.execute(action)?;
            if *action == Action::AdvanceGeneration {
                self.flows.clear();
            }
            for (key, answer) in self.answers(pods, remotes) {
                let flows = self.flows.entry(key.clone()).or_default();
                *flows = flows.union(&answer);
                if answer != before[&key] && answer != after[&key] {
                    return Err(format!(
                        "after {index} {action:?}: {key:?} is {answer}, was {}, will be {}\n{plan:#?}",
                        before[&key], after[&key]
                    ));
                }
            }
        }
        let narrower = before.iter().find(|(key, answer)| !after[key].covers(answer));
        match narrower {
            Some((key, _)) if !advances => {
                Err(format!("{key:?} allows less, but flows are not judged again"))
            }
            _ => Ok(()),
        }
    }
}
