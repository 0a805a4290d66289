//! What is on the hooks of pods' veths, as the kernel says: whether ours is there, and who else is, in front of it or behind.
//!
//! Who is in front may let packets go by ours. Of filters other than programs that is known, and said to be wrong; of programs it is not,
//! and they are named.

use std::io;
use std::path::Path;

use aya::programs::TcAttachType;
use serde::{Deserialize, Serialize};

use super::attach::{self, Layer, Mode, PRIORITY, Spot};
use super::link;
use super::tc::{AT_EGRESS, AT_INGRESS, Filter, Tc};

/// Somebody else's program or filter on a veth that carries ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// The veth's name.
    pub interface: String,
    /// `namespace/name` of the pod behind it; none where it is not known.
    pub pod: Option<String>,
    /// TC's, as the node sees it: at `ingress` is what the pod sends, at `egress` what it gets.
    pub hook: String,
    /// `program` (TCX), or `filter` (of a qdisc).
    pub what: String,
    /// Of a filter: `bpf`, `u32`, ...
    pub kind: Option<String>,
    /// Of a filter, as tc calls it.
    pub pref: Option<u16>,
    /// Of a program, and of a `bpf` filter.
    pub program: Option<u32>,
    /// What that is called, where the agent may know it.
    pub name: Option<String>,
    /// `before` ours or `after`: packets come to it earlier, or only if ours lets them pass.
    pub runs: Place,
}

/// On which side of ours something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Packets come to it first.
    Before,
    /// Packets come to it if ours lets them pass.
    After,
}

impl Foreign {
    /// What it is, in a few words.
    #[must_use]
    pub fn description(&self) -> String {
        let mut words = vec![self.what.clone()];
        words.extend(self.kind.clone());
        words.extend(self.pref.map(|pref| format!("pref {pref}")));
        words.extend(self.program.map(|id| format!("id {id}")));
        words.extend(self.name.clone());
        words.join(" ")
    }

    /// Whether packets may go by ours because of it, for all that is known.
    fn is_warned_of(&self) -> bool {
        self.runs == Place::Before && self.program.is_some()
    }

    /// What to log of it.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.is_warned_of().then(|| {
            format!(
                "interface {}, {}: {} of somebody else runs before Postern's: what it ends (TCX_PASS, TC_ACT_OK, a redirect) is not judged",
                self.interface,
                self.hook,
                self.description()
            )
        })
    }
}

/// A program that should be on a hook.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    pub(super) spot: Spot<'a>,
    pub(super) pod: Option<String>,
}

/// What a hook has.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Ours is there.
    pub(super) is_there: bool,
    pub(super) foreign: Vec<Foreign>,
    /// What is known to take packets past ours, for people to read.
    pub(super) problems: Vec<String>,
}

/// Reads hooks back.
pub(super) struct Reader<'a> {
    mode: Mode,
    /// Whether this kernel has TCX.
    has_tcx: bool,
    links: &'a Path,
    tc: Tc,
}

impl<'a> Reader<'a> {
    pub(super) fn open(mode: Mode, links: &'a Path) -> io::Result<Self> {
        let has_tcx = mode == Mode::Tcx || attach::probe() == Mode::Tcx;
        Ok(Self { mode, has_tcx, links, tc: Tc::open()? })
    }

    /// Whether ours is on a hook.
    pub(super) fn is_there(&mut self, spot: Spot<'_>) -> io::Result<bool> {
        Ok(self.read(&Expected { spot, pod: None })?.is_there)
    }

    /// What is on a hook.
    pub(super) fn read(&mut self, expected: &Expected<'_>) -> io::Result<Found> {
        let spot = expected.spot;
        let foreign = |what: &str, runs| Foreign {
            interface: spot.interface.to_owned(),
            pod: expected.pod.clone(),
            hook: spot.hook_name().to_owned(),
            what: what.to_owned(),
            kind: None,
            pref: None,
            program: None,
            name: None,
            runs,
        };
        let mut found = Found::default();
        if self.has_tcx {
            let ours = if self.mode == Mode::Tcx { link::tcx(&spot.pin(self.links))? } else { None };
            let others = Layer::ALL.into_iter().filter(|layer| *layer != spot.layer);
            let others = others.map(|layer| link::tcx(&Spot { layer, ..spot }.pin(self.links)));
            let others = others.collect::<io::Result<Vec<_>>>()?;
            for it in link::on_hook(spot.ifindex, spot.hook_number())? {
                if ours.is_some_and(|ours| ours.id == it.link) {
                    found.is_there = true;
                    continue;
                }
                if others.iter().flatten().any(|other| other.id == it.link) {
                    continue;
                }
                let runs = if found.is_there { Place::After } else { Place::Before };
                let name = link::name_of_program(it.program);
                found.foreign.push(Foreign { program: Some(it.program), name, ..foreign("program", runs) });
            }
        }
        let parent = if matches!(spot.hook, TcAttachType::Ingress) { AT_INGRESS } else { AT_EGRESS };
        for filter in self.tc.filters(spot.ifindex, parent)? {
            if self.mode == Mode::Clsact && filter.is_ours(spot.layer) {
                found.is_there = true;
                continue;
            }
            if filter.is_table() || Layer::ALL.iter().any(|layer| filter.is_ours(*layer)) {
                continue;
            }
            let runs = if found.is_there { Place::After } else { Place::Before };
            if runs == Place::Before && filter.passes_by() {
                found.problems.push(passes_by(spot, &filter));
            }
            let (program, name) = filter.program().map_or((None, None), |(id, name)| (Some(id), name));
            found.foreign.push(Foreign {
                kind: Some(filter.kind),
                pref: Some(filter.priority),
                program,
                name,
                ..foreign("filter", runs)
            });
        }
        if !found.is_there {
            found.problems.clear();
        }
        Ok(found)
    }
}

fn passes_by(spot: Spot<'_>, filter: &Filter) -> String {
    let (interface, hook, Filter { kind, priority, .. }) = (spot.interface, spot.hook_name(), filter);
    format!(
        "interface {interface}, {hook}: filter {kind} pref {priority} stands before Postern's, and what it matches never comes to that: it is \
         not enforced; take it off (tc filter del dev {interface} {hook} pref {priority}), and add it behind pref {PRIORITY} if it is needed"
    )
}
