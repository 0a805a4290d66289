//! The kernel side: programs, maps, attachment. The only module that talks bpf(2), and the only one that knows both the
//! policy crate's types and the maps'.
//!
//! | module | what it does |
//! |---|---|
//! | [`bpffs`] | makes sure that pins have a place |
//! | [`object`] | loads the programs, with pinned maps and settings |
//! | [`maps`] | typed handles of all maps |
//! | [`encode`] | policy types to map types and back |
//! | [`tables`] | writes plans into the maps, reads tables back |
//! | [`attach`] | programs onto veths: TCX, or clsact |
//! | [`endpoints`] | which veth is which pod, and what it carries |
//! | `program_log` | what the programs say, for development |
//! | `grace` | waits until no packet is being judged by what was just replaced |

pub mod attach;
pub mod bpffs;
pub mod encode;
pub mod endpoints;
mod grace;
pub mod maps;
pub mod object;
mod program_log;
pub mod tables;

use std::collections::BTreeMap;
use std::path::Path;

use aya::Ebpf;
use aya::maps::MapError;
use postern_policy::{Action, ClassId, Plan, Subject, Tables};

use self::attach::Mode;
use self::bpffs::BpffsError;
use self::endpoints::{EndpointError, Endpoints, Wanted};
use self::maps::Maps;
use self::object::{LoadError, Settings};
use self::program_log::ProgramLogError;
use self::tables::{WriteError, Writer};

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
    /// The folder for links.
    #[error("{}: {source}", path.display())]
    Links {
        /// The folder.
        path: std::path::PathBuf,
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
    /// Reading back what the maps hold.
    #[error("reading the maps: {0}")]
    Read(#[from] MapError),
}

/// Everything this agent has in the kernel.
pub struct Datapath {
    ebpf: Ebpf,
    maps: Maps,
    writer: Writer,
    endpoints: Endpoints,
    /// Removals of verdicts that only packets already on their way may still look up.
    condemned: Vec<Action>,
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
        let mut ebpf = object::load(Some(pins), settings)?;
        let mut maps = Maps::take(&mut ebpf)?;
        let (writer, first_class) = Writer::begin(&mut maps)?;
        let endpoints = Endpoints::begin(mode, pins, &maps)
            .map_err(|source| SetupError::Links { path: pins.to_owned(), source })?;
        Ok((Self { ebpf, maps, writer, endpoints, condemned: Vec::new() }, first_class))
    }

    /// Passes what the programs say on to the agent's log; they say something only with [`Settings::debug`].
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn follow_programs(&mut self) -> Result<(), ProgramLogError> {
        program_log::follow(&mut self.ebpf)
    }

    /// What the veths carry.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The policy generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.writer.generation()
    }

    /// Carries out a plan, action by action. Verdicts that nothing refers to any more are condemned, and go with the
    /// next [`collect`](Self::collect).
    ///
    /// # Errors
    ///
    /// The kernel refused a write: the actions before it are done, those after it are not. [`Self::recorded`] says
    /// where that leaves the maps.
    pub fn execute(&mut self, plan: &Plan) -> Result<(), ExecuteError> {
        self.collect()?;
        let epoch = self.writer.epoch();
        for action in &plan.steps {
            match action {
                Action::SetSubject { pod, subject } => {
                    let classes = (subject.ingress, subject.egress);
                    self.endpoints.set_classes(&mut self.maps, epoch, pod, classes)?;
                }
                Action::RemoveSubject { pod } => {
                    let open = (ClassId::NOT_ISOLATED, ClassId::NOT_ISOLATED);
                    self.endpoints.set_classes(&mut self.maps, epoch, pod, open)?;
                }
                Action::RemoveVerdict { .. } => self.condemned.push(action.clone()),
                other => self.writer.execute(&mut self.maps, other)?,
            }
        }
        Ok(())
    }

    /// Removes condemned verdicts, once every packet that may have read a class before it was flipped has been judged:
    /// a packet that found its class but not its verdict any more would be dropped for nothing.
    ///
    /// Takes a few milliseconds where there is something to remove; nobody waits for what it does.
    ///
    /// # Errors
    ///
    /// The kernel refused a write. What is left goes with the next [recovery](Self::recorded).
    pub fn collect(&mut self) -> Result<(), ExecuteError> {
        if self.condemned.is_empty() {
            return Ok(());
        }
        grace::wait();
        for action in std::mem::take(&mut self.condemned) {
            self.writer.execute(&mut self.maps, &action)?;
        }
        Ok(())
    }

    /// Makes the veths carry what they are to. Returns what failed. With `hold`, veths that an earlier agent left with
    /// programs keep them as they are: for when it is not known yet what they should carry.
    pub fn reconcile(&mut self, wanted: &BTreeMap<u32, Wanted>, hold: bool) -> Vec<ExecuteError> {
        let epoch = self.writer.epoch();
        let (changed, errors) = self.endpoints.reconcile(&mut self.ebpf, &mut self.maps, epoch, wanted, hold);
        let mut errors: Vec<ExecuteError> = errors.into_iter().map(Into::into).collect();
        if changed {
            // What passed under the classes a veth had before is to be judged by those it has now.
            errors.extend(
                self.writer.execute(&mut self.maps, &Action::AdvanceGeneration).map_err(Into::into).err(),
            );
        }
        errors
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

    /// What the maps really hold, in the engine's terms: where to go on after a failure.
    ///
    /// # Errors
    ///
    /// A map cannot be read.
    pub fn recorded(&self) -> Result<Tables, ExecuteError> {
        let subjects = self.endpoints.carried().values().filter_map(|carried| {
            let subject = Subject { ingress: carried.ingress, egress: carried.egress, addresses: Vec::new() };
            Some((carried.pod.clone()?, subject))
        });
        Ok(Tables {
            subjects: subjects.collect(),
            peers: tables::read_peers(&self.maps, self.writer.epoch())?,
            verdicts: tables::read_verdicts(&self.maps)?,
        })
    }
}
