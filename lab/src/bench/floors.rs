//! Programs on the same hooks of the same veths as Postern's, which enforce nothing: what any of its kind costs at least.

use std::io;

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfError};
use nix::net::if_::if_nameindex;
use postern::datapath::object::BENCH;

use super::enforcer::Floor;
use crate::netns::{self, Netns};

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The object.
    #[error("load the programs: {0}")]
    Load(#[source] Box<EbpfError>),
    /// The program.
    #[error("attach the program: {0}")]
    Program(#[source] Box<ProgramError>),
    /// The veths.
    #[error("list the veths: {0}")]
    Interfaces(#[source] io::Error),
    /// Another build.
    #[error("the object has no program {0}")]
    Missing(&'static str),
}

impl From<EbpfError> for Error {
    fn from(error: EbpfError) -> Self {
        Self::Load(Box::new(error))
    }
}

impl From<ProgramError> for Error {
    fn from(error: ProgramError) -> Self {
        Self::Program(Box::new(error))
    }
}

/// Attaches a program to both hooks of all of a node's veths, until what is returned is dropped.
///
/// # Errors
/// The kernel refuses one.
pub(super) fn attach(node: &Netns, floor: Floor) -> Result<Ebpf, Error> {
    let name = match floor {
        Floor::Empty => "bench_empty",
        Floor::Flow => "bench_flow",
    };
    let mut ebpf = Ebpf::load(BENCH)?;
    let program: &mut SchedClassifier = ebpf.program_mut(name).ok_or(Error::Missing(name))?.try_into()?;
    program.load()?;
    node.within(|| {
        let interfaces = if_nameindex().map_err(|errno| Error::Interfaces(errno.into()))?;
        let names = interfaces.iter().map(|interface| interface.name().to_string_lossy().into_owned());
        for veth in names.filter(|name| name.starts_with("veth")) {
            for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                program.attach(&veth, hook)?;
            }
        }
        Ok::<_, Error>(())
    })??;
    Ok(ebpf)
}
