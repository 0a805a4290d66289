//! The kernel side: programs, maps, attachment. The only module that talks bpf(2), and the only one that knows both the
//! policy crate's types and the maps'.
//!
//! | module | what it does |
//! |---|---|
//! | [`bpffs`] | makes sure that pins have a place |
//! | [`pins`] | which folder they have |
//! | [`object`] | loads the programs, with pinned maps and settings |
//! | [`programs`] | goes on with the programs that an earlier agent pinned, if they are the same |
//! | [`maps`] | typed handles of all maps |
//! | [`encode`] | policy types to map types and back |
//! | [`tables`] | writes plans into the maps, reads tables back |
//! | [`attach`] | programs onto veths: TCX, or clsact |
//! | [`services`] | who judges packets to Services behind the choice of a backend |
//! | [`behind_nat`] | programs in netfilter's hooks: behind the choice of a Service's backend, and before conntrack confirms |
//! | [`post_nat`] | the same on the devices that packets leave by, without netfilter |
//! | [`wanted`] | what a veth is to carry |
//! | [`endpoints`] | which veth is which pod, and what it carries |
//! | [`addresses`] | the pods' own addresses in the maps |
//! | [`tunnels`] | UDP ports where tunnels of the node end |
//! | [`half_open`] | room for half-open flows |
//! | [`flows`] | removes the flows of a veth that carries programs no more |
//! | [`expiry`] | removes what has expired of what programs write |
//! | [`counters`] | reads what packets were counted under |
//! | [`removal`] | takes everything off a node |
//! | `globals` | what the programs' globals are set to |
//! | `program_log` | what the programs say, for development |
//! | [`readback`] | what is on veths' hooks, ours and others' |
//! | [`realtime`] | whether programs interrupt each other on this kernel |
//! | `tc` | qdiscs and filters by netlink, byte for byte |
//! | `filters` | what others' filters do |
//! | `ingress_qdisc` | makes room for filters of both directions |
//! | `qdiscs` | lists clsact qdiscs and filters |
//! | `link` | links of netfilter programs; detaches pinned links at once |
//! | `bpf` | bpf(2) |
//! | `batch` | reads maps of many entries |
//! | `btf` | where this kernel keeps fields of its structs |
//! | `grace` | waits until no packet is being judged by what was just replaced |

pub mod addresses;
pub mod attach;
mod batch;
pub mod behind_nat;
mod bpf;
pub mod bpffs;
mod btf;
pub mod counters;
pub mod encode;
pub mod endpoints;
pub mod expiry;
mod filters;
pub mod flows;
mod globals;
mod grace;
pub mod half_open;
mod ingress_qdisc;
mod link;
pub mod maps;
pub mod object;
pub mod pins;
pub mod post_nat;
mod program_log;
pub mod programs;
mod qdiscs;
pub mod readback;
pub mod realtime;
pub mod removal;
pub mod services;
pub mod tables;
mod tc;
pub mod tunnels;
pub mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use postern_policy::model::NamespacedName;
use postern_policy::{Action, ClassId, Plan, Subject, Tables};
use tracing::warn;

use self::attach::Mode;
use self::behind_nat::{BehindNat, BehindNatError, UNCONFIRMED};
use self::bpffs::BpffsError;
use self::counters::Counted;
use self::endpoints::{EndpointError, Endpoints};
use self::expiry::{Expiry, ExpiryError};
use self::maps::Maps;
use self::object::{LoadError, Settings, TICKS};
use self::program_log::ProgramLogError;
use self::programs::{Origin, ProgramPins, Programs, Start};
use self::readback::Foreign;
use self::services::{Judge, JudgeError};
use self::tables::{WriteError, Writer};
use self::tunnels::TunnelPorts;
use self::wanted::Wanted;

/// Why the data path could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No place for pins.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// Programs or maps.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Maps that are not in the object.
    #[error(transparent)]
    Map(#[from] MapError),
    /// What earlier agents left cannot be read.
    #[error(transparent)]
    Tables(#[from] WriteError),
    /// The programs' log.
    #[error(transparent)]
    ProgramLog(#[from] ProgramLogError),
    /// Removing what has expired.
    #[error(transparent)]
    Expiry(#[from] ExpiryError),
    /// A folder for pins.
    #[error("{}: {source}", path.display())]
    Pins {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why a plan was not carried out to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// Tables.
    #[error(transparent)]
    Table(#[from] WriteError),
    /// Endpoints.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// What judges packets to Services.
    #[error(
        "judging what goes to Services: {0}; until that works, isolated pods reach none, unless an earlier agent's programs go on; \
         --services together goes without these programs"
    )]
    Services(#[from] JudgeError),
    /// The programs in front of conntrack's confirmation.
    #[error(
        "dropping what is denied before conntrack remembers it: {0}; until that works, it fills the node's table"
    )]
    Unconfirmed(#[source] BehindNatError),
    /// Ports of tunnels.
    #[error("writing to map TUNNEL_PORTS: {0}")]
    TunnelPorts(#[source] MapError),
    /// Reading back what the maps hold.
    #[error("reading the maps: {0}")]
    Read(#[from] MapError),
}

/// Everything this agent has in the kernel.
pub struct Datapath {
    programs: Programs,
    program_pins: ProgramPins,
    origin: Origin,
    maps: Maps,
    writer: Writer,
    endpoints: Endpoints,
    expiry: Expiry,
    tunnel_ports: TunnelPorts,
    /// Who judges packets to Services.
    judge: Judge,
    /// `None` where this kernel has none of it.
    unconfirmed: Option<BehindNat>,
    /// Where links are pinned.
    links: PathBuf,
    /// The rest of the last plan, from where packets already on their way must have been judged first.
    rest: Vec<Action>,
    /// As programs were loaded for.
    realtime: bool,
    /// What others have on the veths.
    foreign: Vec<Foreign>,
    /// Veths may carry other programs than when they were last read back.
    unread: bool,
    /// Veths have other classes than before, and the generation has not been advanced since: the kernel refused.
    unadvanced: bool,
}

impl ExecuteError {
    /// Whether a map of verdicts is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Table(error) if error.is_full())
    }
}

impl Datapath {
    /// Loads the programs and takes over what an earlier agent pinned; that goes on enforcing until the first
    /// [`reconcile`](Self::reconcile).
    ///
    /// Returns the first class number for the engine too.
    ///
    /// # Errors
    ///
    /// See [`SetupError`].
    pub fn start(pins: &Path, mode: Mode, settings: Settings) -> Result<(Self, ClassId), SetupError> {
        bpffs::prepare(pins)?;
        let failed = |source| SetupError::Pins { path: pins.to_owned(), source };
        let here = pins::take(pins).map_err(failed)?;
        let Start { mut programs, mut maps, judged_at, behind_nat, unconfirmed, pins: program_pins, origin } =
            programs::start(&here, settings)?;
        let links = here.join("links");
        let judge = Judge::new(judged_at, behind_nat, mode, &links);
        let (mut writer, first_class) = Writer::begin(&mut maps)?;
        if !judge.is_judged(&links) {
            // Somebody took off what an earlier agent relied on.
            writer.set_behind_nat(&mut maps, false)?;
        }
        let endpoints = Endpoints::begin(mode, &links, &maps).map_err(failed)?;
        let expiry = Expiry::start(programs.get(TICKS)?, &maps)?;
        let tunnel_ports = TunnelPorts::read(&maps)?;
        let this = Self {
            programs,
            program_pins,
            origin,
            maps,
            writer,
            endpoints,
            expiry,
            tunnel_ports,
            judge,
            unconfirmed,
            links,
            rest: Vec::new(),
            realtime: settings.realtime,
            foreign: Vec::new(),
            unread: true,
            unadvanced: false,
        };
        Ok((this, first_class))
    }

    /// Whether packets to Services are judged by the backend that each goes to. Else the engine must be told
    /// ([`postern_policy::Engine::judge_in_front_of_services`]).
    #[must_use]
    pub fn judges_backends(&self) -> bool {
        self.judge.judges_backends()
    }

    /// Who judges packets to Services, in a word.
    #[must_use]
    pub fn services(&self) -> &'static str {
        self.judge.name()
    }

    /// Passes what the programs say on to the agent's log; they say something only with [`Settings::debug`].
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn follow_programs(&mut self) -> Result<(), ProgramLogError> {
        // With that setting, they are never an earlier agent's.
        self.programs.loaded().map_or(Ok(()), program_log::follow)
    }

    /// How this agent came by its programs.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What the veths carry.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The first class number for the engine's plans alone ([`postern_policy::Engine::number_transitional_from`]).
    #[must_use]
    pub fn first_transitional(&self) -> ClassId {
        self.writer.first_transitional()
    }

    /// Takes a pod's veths to be those of one whose object is gone: what plans do to pods of that name is not theirs.
    pub fn depart(&mut self, pod: &NamespacedName) {
        self.endpoints.depart(pod);
    }

    /// The veths that earlier agents left with policy.
    #[must_use]
    pub fn left_closed(&self) -> BTreeSet<u32> {
        endpoints::left_closed(&self.maps)
    }

    /// The policy generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.writer.generation()
    }

    /// Has flows and fragments removed that have expired, and those of veths that enforce nothing. Does not wait for it.
    pub fn remove_expired(&self) {
        self.expiry.remove_expired(self.endpoints.enforcing());
    }

    /// Packets so far, by what they were counted under.
    ///
    /// # Errors
    ///
    /// The counters cannot be read.
    pub fn counted(&self) -> Result<Vec<Counted>, MapError> {
        counters::read(&self.maps)
    }

    /// Carries out a plan as far as it can without waiting for packets on their way: up to there, all that policy
    /// changes is enforced. The rest, which changes no verdict, comes with [`finish`](Self::finish).
    ///
    /// # Errors
    ///
    /// The kernel refused a write: the actions before it are done, those after it are not. [`Self::recorded`] says
    /// where that leaves the maps.
    pub fn execute(&mut self, plan: Plan) -> Result<(), ExecuteError> {
        self.finish()?;
        if plan.is_empty() {
            // What CPUs keep of the tables holds as long as nobody announces a change.
            return Ok(());
        }
        // Once for all of it.
        self.maps.begin()?;
        let result = self.execute_begun(plan);
        self.maps.end()?;
        result
    }

    fn execute_begun(&mut self, plan: Plan) -> Result<(), ExecuteError> {
        let mut hazard = Hazard::default();
        let mut steps = plan.steps.into_iter();
        while let Some(action) = steps.next() {
            if hazard.precedes(&action) {
                self.rest.push(action);
                self.rest.extend(steps);
                if self.rest.contains(&Action::AdvanceGeneration) {
                    // Established flows need not wait for the rest.
                    self.act(&Action::AdvanceGeneration)?;
                }
                return Ok(());
            }
            self.act(&action)?;
            hazard.note(&action);
        }
        Ok(())
    }

    /// Carries out the rest of the last plan, waiting for packets on their way where it must.
    ///
    /// Takes some milliseconds where there is a rest; nobody waits for what it does.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn finish(&mut self) -> Result<(), ExecuteError> {
        self.writer.remove_unused(&mut self.maps);
        if self.rest.is_empty() {
            return Ok(());
        }
        grace::wait();
        let mut hazard = Hazard::default();
        for action in std::mem::take(&mut self.rest) {
            if hazard.precedes(&action) {
                grace::wait();
                hazard = Hazard::default();
            }
            self.act(&action)?;
            hazard.note(&action);
        }
        Ok(())
    }

    fn act(&mut self, action: &Action) -> Result<(), ExecuteError> {
        let epoch = self.writer.epoch();
        match action {
            Action::SetSubject { pod, subject } => {
                let classes = (subject.ingress, subject.egress);
                self.endpoints.set_classes(&mut self.maps, epoch, pod, classes)?;
            }
            Action::RemoveSubject { pod } => {
                self.endpoints.release(&mut self.programs, &mut self.maps, epoch, pod)?;
            }
            other => self.writer.execute(&mut self.maps, other)?,
        }
        Ok(())
    }

    /// Changes what veths are to carry to what they can while a plan has failed: see [`Endpoints::hold_back`].
    pub fn hold_back(&self, wanted: &mut BTreeMap<u32, Wanted>) {
        self.endpoints.hold_back(wanted);
    }

    /// On which UDP ports tunnel devices of the node receive. The next [`reconcile`](Self::reconcile) tells the programs.
    pub fn set_tunnel_ports(&mut self, ports: &BTreeSet<u16>) {
        self.tunnel_ports.set(ports);
    }

    /// By which devices packets may leave the node: names by index. The next [`reconcile`](Self::reconcile) has what goes to Services judged
    /// there, if it is not judged elsewhere.
    pub fn set_devices(&mut self, devices: &BTreeMap<u32, String>) {
        self.judge.set_devices(devices);
    }

    /// Makes the veths carry what they are to. Returns what failed. With `hold`, veths that an earlier agent left with
    /// programs keep them as they are: for when it is not known yet what they should carry.
    pub fn reconcile(&mut self, wanted: &BTreeMap<u32, Wanted>, hold: bool) -> Vec<ExecuteError> {
        let epoch = self.writer.epoch();
        // In front of the first program that leaves anything to it.
        let is_needed = wanted.values().any(|want| want.policy().is_some());
        let mut errors: Vec<ExecuteError> = Vec::new();
        match self.tunnel_ports.write(&mut self.maps) {
            // Flows to ports that have become ones of tunnels.
            Ok(changed) => self.unadvanced |= changed,
            Err(error) => errors.push(ExecuteError::TunnelPorts(error)),
        }
        if is_needed {
            errors.extend(self.attach_judge().err());
        } else {
            // A kernel that refuses them is told of before a pod needs them.
            errors.extend(self.judge.load().map_err(Into::into).err());
        }
        let (changed, failed) =
            self.endpoints.reconcile(&mut self.programs, &mut self.maps, epoch, wanted, hold);
        errors.extend(failed.into_iter().map(ExecuteError::from));
        errors.extend(self.hook_unconfirmed(wanted, hold).err());
        // An earlier agent's programs of another layout, of which nothing is known here, may rely on it.
        if !hold && !is_needed && self.endpoints.enforcing().is_empty() {
            errors.extend(self.detach_judge().err());
        }
        if !hold && errors.is_empty() {
            // No veth has an earlier agent's programs any more.
            errors.extend(self.judge.detach_earlier(&self.links).map_err(Into::into).err());
        }
        if !hold
            && errors.is_empty()
            && let Some(unconfirmed) = &mut self.unconfirmed
        {
            errors.extend(unconfirmed.detach_earlier().map_err(ExecuteError::Unconfirmed).err());
        }
        if !hold && errors.is_empty() {
            self.program_pins.remove_earlier();
        }
        self.unadvanced |= changed;
        self.unread |= changed;
        if self.unadvanced {
            // What passed under the classes a veth had before is to be judged by those it has now.
            match self.writer.execute(&mut self.maps, &Action::AdvanceGeneration) {
                Ok(()) => self.unadvanced = false,
                Err(error) => errors.push(error.into()),
            }
        }
        errors
    }

    /// Reads back what the kernel has on the veths' hooks. Returns what is wrong there, for people to read; veths that lack a program get it
    /// by the next [`reconcile`](Self::reconcile). What others have is listed by [`foreign`](Self::foreign) then.
    pub fn read_back(&mut self) -> Vec<String> {
        self.unread = false;
        let (foreign, mut problems) = self.endpoints.read_back();
        problems.extend(self.judge.read_back());
        for warning in foreign.iter().filter(|it| !self.foreign.contains(it)).filter_map(Foreign::warning) {
            warn!("{warning}");
        }
        self.foreign = foreign;
        problems
    }

    /// Has what veths carry read back once more: others may have changed it.
    pub fn doubt(&mut self) {
        self.unread = true;
    }

    /// Whether programs were attached or taken off since the last [`read_back`](Self::read_back), or may have been.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        self.unread
    }

    /// Whether the programs are those for kernels on which they interrupt each other.
    #[must_use]
    pub fn is_realtime(&self) -> bool {
        self.realtime
    }

    /// What others have on the veths, as it was last read.
    #[must_use]
    pub fn foreign(&self) -> &[Foreign] {
        &self.foreign
    }

    fn attach_judge(&mut self) -> Result<(), ExecuteError> {
        if !self.judge.judges_backends() {
            return self.detach_judge();
        }
        if let Err(error) = self.judge.attach(&mut self.programs) {
            if !Judge::is_judged_anyway(&self.links) {
                self.writer.set_behind_nat(&mut self.maps, false)?;
            }
            return Err(error.into());
        }
        Ok(self.writer.set_behind_nat(&mut self.maps, true)?)
    }

    fn detach_judge(&mut self) -> Result<(), ExecuteError> {
        self.writer.set_behind_nat(&mut self.maps, false)?;
        Ok(self.judge.detach(&self.links)?)
    }

    /// Has what is denied dropped before conntrack remembers it, while a veth of this node lets not everything in. With `hold`, veths
    /// that nothing is known of yet may need it.
    fn hook_unconfirmed(&mut self, wanted: &BTreeMap<u32, Wanted>, hold: bool) -> Result<(), ExecuteError> {
        let is_isolated = |want: &Wanted| want.policy().is_some_and(|it| it.ingress != ClassId::NOT_ISOLATED);
        let hooked = match &mut self.unconfirmed {
            None => BehindNat::forget(&self.links, &UNCONFIRMED),
            Some(unconfirmed) if wanted.values().any(is_isolated) => unconfirmed.attach(),
            Some(_) if hold => Ok(()),
            Some(unconfirmed) => unconfirmed.detach(),
        };
        hooked.map_err(ExecuteError::Unconfirmed)
    }

    /// Removes what earlier agents left in the maps and `wanted` does not hold.
    ///
    /// # Errors
    ///
    /// The kernel refused a write.
    pub fn sweep(&mut self, wanted: &Tables) -> Result<usize, ExecuteError> {
        // Packets on their way may still be judged by what earlier agents' veths referred to.
        grace::wait();
        let wanted = |subject, peer| wanted.verdicts.contains_key(&(subject, peer));
        Ok(self.writer.sweep(&mut self.maps, wanted)?)
    }

    /// What the maps really hold, in the engine's terms: where to go on after a failure. The rest of the last plan is
    /// given up: the next one starts from here.
    ///
    /// # Errors
    ///
    /// A map cannot be read.
    pub fn recorded(&mut self) -> Result<Tables, ExecuteError> {
        self.rest.clear();
        // Whatever was flipped before the failure: what follows may remove what packets on their way still go by.
        grace::wait();
        let carried = self.endpoints.carried().values().filter(|carried| !carried.departed);
        let subjects = carried.filter_map(|carried| {
            let policy = carried.policy()?;
            let subject = Subject { ingress: policy.ingress, egress: policy.egress, addresses: Vec::new() };
            Some((carried.pod.clone()?, subject))
        });
        Ok(Tables { subjects: subjects.collect(), ..self.writer.recorded(&self.maps)? })
    }
}

/// What was flipped since packets on their way were last waited for. A packet reads its pod's class, then its peer's,
/// then the verdict of the two; each of these may be from before a flip.
#[derive(Clone, Copy, Debug, Default)]
struct Hazard {
    subject: bool,
    peer: bool,
}

impl Hazard {
    /// Whether packets on their way must have been judged before an action:
    ///
    /// 1. peers, after pods were flipped: a packet with its pod's old class would meet a peer class that was made for
    ///    the new one alone;
    /// 2. a verdict's removal, after anything was flipped: a packet with the old classes would not find it.
    fn precedes(self, action: &Action) -> bool {
        match action {
            Action::SetPeer { .. } | Action::RemovePeer { .. } => self.subject,
            Action::RemoveVerdict { .. } => self.subject || self.peer,
            _ => false,
        }
    }

    fn note(&mut self, action: &Action) {
        match action {
            Action::SetSubject { .. } | Action::RemoveSubject { .. } => self.subject = true,
            Action::SetPeer { .. }
            | Action::RemovePeer { .. }
            | Action::SetFrontend { .. }
            | Action::RemoveFrontend { .. } => self.peer = true,
            _ => {}
        }
    }
}
