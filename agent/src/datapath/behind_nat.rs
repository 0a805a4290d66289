//! The programs behind the choice of a Service's backend: loaded and hooked into netfilter here, since aya does not know their type.
//!
//! Minimum kernel version: 6.4, with BTF and `CONFIG_NETFILTER_BPF_LINK`. Elsewhere, frontends are judged by all of their
//! backends together.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for loading a netfilter program")]

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::Map;
use aya_obj::Object;

use super::bpf::bpf;
use super::btf;
use super::link::{self, Hook};
use super::object::OBJECT;

/// `BPF_PROG_LOAD`
const PROG_LOAD: libc::c_int = 5;
/// `BPF_PROG_TYPE_NETFILTER`
const NETFILTER: u32 = 32;

/// `NF_INET_POST_ROUTING`: behind destination NAT for all that a node forwards, whoever chose.
const POST_ROUTING: u32 = 4;
/// In front of `NF_IP_PRI_NAT_SRC` (100), so that packets still carry their pod's address. An agent that takes over from another one
/// takes the other number: for a moment, both are asked.
const PRIORITIES: [i32; 2] = [90, 91];

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`, and their program's name.
pub(super) const PROGRAMS: [(u32, &CStr); 2] = [(2, c"postern_behind_nat4"), (10, c"postern_behind_nat6")];

/// Room for what the verifier says of a program that it refuses.
const LOG: usize = 1 << 20;

/// Why there are no programs behind NAT.
#[derive(Debug, thiserror::Error)]
pub enum BehindNatError {
    /// The object.
    #[error("the eBPF object: {0}; the build is broken")]
    Object(String),
    /// The kernel has no BTF, or it cannot be used.
    #[error("where the kernel keeps a packet's fields is not known: {0}")]
    Layout(#[source] &'static io::Error),
    /// The verifier refused, or there are no such programs.
    #[error("loading {program}: {source}{log}")]
    Load {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What the verifier said.
        log: String,
    },
    /// The kernel does not tell of a program.
    #[error("asking the kernel about a program: {0}")]
    Info(#[source] io::Error),
    /// Netfilter refused.
    #[error("hooking into netfilter: {0}")]
    Attach(#[source] io::Error),
    /// A pin.
    #[error("{}: {source}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The programs, loaded, and whether netfilter calls them.
#[derive(Debug)]
pub struct BehindNat {
    programs: Vec<(u32, OwnedFd)>,
    links: PathBuf,
    attached: bool,
}

impl BehindNat {
    /// Loads the programs from the object that `ebpf` was loaded from, onto its maps, and tries whether netfilter takes them.
    /// Nothing calls them yet, other than what an earlier agent pinned.
    ///
    /// # Errors
    ///
    /// See [`BehindNatError`]: this kernel cannot.
    pub fn load(ebpf: &Ebpf, links: &Path) -> Result<Self, BehindNatError> {
        btf::skb_layout().map_err(BehindNatError::Layout)?;
        let programs = load(OBJECT, ebpf)?;
        let behind_nat = Self { programs, links: links.to_owned(), attached: false };
        // Not kept: it is detached at once.
        behind_nat.hook()?;
        Ok(behind_nat)
    }

    /// Has netfilter call the programs, whether this agent lives or not, and nobody else's.
    ///
    /// # Errors
    ///
    /// The kernel refused. What an earlier agent left goes on.
    pub fn attach(&mut self) -> Result<(), BehindNatError> {
        if self.attached {
            return Ok(());
        }
        let earlier = pins(&self.links)?;
        let hooked = self.hook()?;
        let pinned = hooked.iter().try_for_each(|(pin, link)| {
            link::pin(link, pin).map_err(|source| BehindNatError::Pin { path: pin.clone(), source })
        });
        if let Err(error) = pinned {
            // Half of it would take a number from the next attempt.
            let of_this: Vec<_> =
                pins(&self.links)?.into_iter().filter(|pin| !earlier.contains(pin)).collect();
            remove(&of_this)?;
            return Err(error);
        }
        remove(&earlier)?;
        self.attached = true;
        Ok(())
    }

    /// Has netfilter call none of them.
    ///
    /// # Errors
    ///
    /// A link cannot be detached.
    pub fn detach(&mut self) -> Result<(), BehindNatError> {
        self.attached = false;
        Self::forget(&self.links)
    }

    /// Takes off what any agent pinned.
    ///
    /// # Errors
    ///
    /// A link cannot be detached.
    pub fn forget(links: &Path) -> Result<(), BehindNatError> {
        remove(&pins(links)?)
    }

    /// Links of both families, by where to pin them, with a priority that nobody has.
    fn hook(&self) -> Result<Vec<(PathBuf, OwnedFd)>, BehindNatError> {
        let hooked = |priority: i32| {
            let links = self.programs.iter().map(|(family, program)| {
                let hook = Hook { family: *family, number: POST_ROUTING, priority };
                Ok((self.links.join(pin_name(*family, priority)), link::netfilter(program, hook)?))
            });
            links.collect::<io::Result<Vec<_>>>()
        };
        let is_free = |priority: &&i32| {
            !self.programs.iter().any(|(family, _)| self.links.join(pin_name(*family, **priority)).exists())
        };
        let priority = PRIORITIES.iter().find(is_free).unwrap_or(&PRIORITIES[0]);
        hooked(*priority).map_err(BehindNatError::Attach)
    }
}

/// What is pinned of these programs in the folder for links.
fn pins(links: &Path) -> Result<Vec<PathBuf>, BehindNatError> {
    let error = |source| BehindNatError::Pin { path: links.to_owned(), source };
    let entries = std::fs::read_dir(links).map_err(error)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let is_ours = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PIN_PREFIX))
    };
    Ok(paths.map_err(error)?.into_iter().filter(is_ours).collect())
}

/// How pins of these links begin; those of veths begin with a number.
const PIN_PREFIX: &str = "behind-nat";

fn pin_name(family: u32, priority: i32) -> String {
    format!("{PIN_PREFIX}-{family}-{priority}")
}

fn remove(pins: &[PathBuf]) -> Result<(), BehindNatError> {
    for pin in pins {
        let error = |source| BehindNatError::Pin { path: pin.clone(), source };
        link::detach(pin).map_err(error)?;
        std::fs::remove_file(pin).map_err(error)?;
    }
    Ok(())
}

/// Loads the programs and lets go of them. Returns how many instructions the verifier went through for each; zero where the kernel
/// does not tell.
///
/// # Errors
///
/// See [`BehindNatError`]: this kernel cannot.
pub fn verify(ebpf: &Ebpf) -> Result<Vec<(&'static str, u32)>, BehindNatError> {
    btf::skb_layout().map_err(BehindNatError::Layout)?;
    let names = PROGRAMS.iter().map(|(_, name)| name.to_str().unwrap_or_default());
    let programs = load(OBJECT, ebpf)?;
    names.zip(programs).map(|(name, (_, program))| Ok((name, verified_instructions(&program)?))).collect()
}

/// `BPF_OBJ_GET_INFO_BY_FD`
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// What `BPF_OBJ_GET_INFO_BY_FD` reads of `union bpf_attr`.
#[repr(C)]
struct ObjGetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

fn verified_instructions(program: &OwnedFd) -> Result<u32, BehindNatError> {
    // SAFETY: zeroes are a value of this struct of integers.
    let mut info: aya_obj::generated::bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut get = ObjGetInfo {
        bpf_fd: program.as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of_val(&info)).unwrap_or(0),
        info: (&raw mut info) as u64,
    };
    // SAFETY: the attribute is what the command reads, and what it points to outlives the call.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut get) }.map_err(BehindNatError::Info)?;
    Ok(info.verified_insns)
}

fn load(object: &[u8], ebpf: &Ebpf) -> Result<Vec<(u32, OwnedFd)>, BehindNatError> {
    let broken = |error: &dyn std::fmt::Display| BehindNatError::Object(error.to_string());
    let mut object = Object::parse(object).map_err(|error| broken(&error))?;
    let maps: Vec<_> = object.maps.drain().collect();
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let opened =
        maps.iter().filter_map(|(name, map)| Some((name.as_str(), descriptor(ebpf.map(name)?)?, map)));
    object.relocate_maps(opened, &sections).map_err(|error| broken(&error))?;
    object.relocate_calls(&sections).map_err(|error| broken(&error))?;
    let load = |(family, name): (u32, &'static CStr)| {
        let text = name.to_str().map_err(|error| broken(&error))?;
        let program = object.programs.get(text).ok_or_else(|| broken(&format!("no program {text}")))?;
        let function = object.functions.get(&program.function_key());
        let function = function.ok_or_else(|| broken(&format!("no code for {text}")))?;
        Ok((family, load_program(name, text, &function.instructions)?))
    };
    PROGRAMS.into_iter().map(load).collect()
}

fn descriptor(map: &Map) -> Option<RawFd> {
    let (Map::Array(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::LpmTrie(data)
    | Map::PerCpuArray(data)
    | Map::RingBuf(data)
    | Map::Unsupported(data)) = map
    else {
        return None;
    };
    Some(data.fd().as_fd().as_raw_fd())
}

/// What `BPF_PROG_LOAD` reads of `union bpf_attr`, as far as it is of use here.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

fn load_program(
    name: &CStr,
    text: &'static str,
    instructions: &[aya_obj::generated::bpf_insn],
) -> Result<OwnedFd, BehindNatError> {
    if let Ok(program) = try_load(name, instructions, &mut []) {
        return Ok(program);
    }
    // Once more, with what the verifier says.
    let mut log = vec![0; LOG];
    try_load(name, instructions, &mut log).map_err(|source| {
        let said = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default());
        // What matters is at the end.
        let mut last: Vec<&str> = said.lines().rev().take(8).collect();
        last.reverse();
        let log = last.iter().fold(String::new(), |log, line| format!("{log}\n  {line}"));
        BehindNatError::Load { program: text, source, log }
    })
}

fn try_load(
    name: &CStr,
    instructions: &[aya_obj::generated::bpf_insn],
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let mut prog_name = [0; 16];
    // The kernel keeps fifteen bytes of it; the end tells the family.
    let bytes = name.to_bytes();
    let tail = &bytes[bytes.len().saturating_sub(15)..];
    prog_name[..tail.len()].copy_from_slice(tail);
    let mut load = ProgLoad {
        prog_type: NETFILTER,
        insn_cnt: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(io::Error::other)?,
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: link::NETFILTER,
    };
    // SAFETY: the attribute is what the command reads, and what it points to outlives the call.
    let descriptor = unsafe { bpf(PROG_LOAD, &mut load)? };
    // SAFETY: the kernel just opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
