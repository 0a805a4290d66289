//! Loading netfilter programs, whose type aya does not know, by bpf(2) from the object that aya loads the others from.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for loading a netfilter program")]

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use aya::Ebpf;
use aya::maps::Map;
use aya_obj::generated::{__BindgenBitfieldUnit, bpf_func_info, bpf_insn};
use aya_obj::{Function, Object};

use super::{BehindNatError, PLACES, Place};
use crate::datapath::bpf;
use crate::datapath::btf;
use crate::datapath::link;
use crate::datapath::object::OBJECT;

/// `BPF_PROG_LOAD`
const PROG_LOAD: libc::c_int = 5;
/// `BPF_PROG_TYPE_NETFILTER`
const NETFILTER: u32 = 32;

/// A program that lets everything pass: `r0 = NF_ACCEPT; exit`.
const ACCEPT: [bpf_insn; 2] = [instruction(0xb7, 1), instruction(0x95, 0)];

const fn instruction(code: u8, imm: i32) -> bpf_insn {
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: __BindgenBitfieldUnit::new([0; 1]), off: 0, imm }
}

/// Room for what the verifier says of a program that it refuses.
const LOG: usize = 1 << 20;

/// Loads the programs and lets go of them. Returns how many instructions the verifier went through for each; zero where the kernel
/// does not tell.
///
/// # Errors
///
/// See [`BehindNatError`]: this kernel cannot.
pub fn verify(ebpf: &Ebpf) -> Result<Vec<(&'static str, u32)>, BehindNatError> {
    btf::skb_layout().map_err(BehindNatError::Layout)?;
    let maps = maps(ebpf).map_err(BehindNatError::Info)?;
    let mut verified = Vec::new();
    for place in PLACES {
        for ((_, name), (_, program)) in place.programs.iter().zip(load(OBJECT, &maps, place)?) {
            verified.push((name.to_str().unwrap_or_default(), verified_instructions(&program)?));
        }
    }
    Ok(verified)
}

fn verified_instructions(program: &OwnedFd) -> Result<u32, BehindNatError> {
    // SAFETY: zeroes are a value of this struct of integers.
    let mut info: aya_obj::generated::bpf_prog_info = unsafe { std::mem::zeroed() };
    // SAFETY: it is the kernel's struct of a program, of zeroes.
    unsafe { bpf::info(program, &mut info) }.map_err(BehindNatError::Info)?;
    Ok(info.verified_insns)
}

pub(super) fn load(
    object: &[u8],
    opened: &[(String, OwnedFd)],
    place: &Place,
) -> Result<Vec<(u32, OwnedFd)>, BehindNatError> {
    let broken = |error: &dyn std::fmt::Display| BehindNatError::Object(error.to_string());
    let mut object = Object::parse(object).map_err(|error| broken(&error))?;
    let maps: HashMap<_, _> = object.maps.drain().collect();
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let opened = opened
        .iter()
        .filter_map(|(name, descriptor)| Some((name.as_str(), descriptor.as_raw_fd(), maps.get(name)?)));
    object.relocate_maps(opened, &sections).map_err(|error| broken(&error))?;
    object.relocate_calls(&sections).map_err(|error| broken(&error))?;
    let features = aya::features().btf().ok_or_else(|| broken(&"this kernel takes no BTF of programs"))?;
    let types = object.fixup_and_sanitize_btf(features).map_err(|error| broken(&error))?;
    let types = types.ok_or_else(|| broken(&"it has no BTF"))?.to_bytes();
    let types = load_types(&types).map_err(BehindNatError::Types)?;
    let load = |(family, name): (u32, &'static CStr)| {
        let text = name.to_str().map_err(|error| broken(&error))?;
        let program = object.programs.get(text).ok_or_else(|| broken(&format!("no program {text}")))?;
        let function = object.functions.get(&program.function_key());
        let function = function.ok_or_else(|| broken(&format!("no code for {text}")))?;
        Ok((family, load_program(name, text, &Code::new(function, &types))?))
    };
    place.programs.into_iter().map(load).collect()
}

/// Descriptors of all maps of a loaded object, of our own: the handles in it are taken out.
pub(super) fn maps(ebpf: &Ebpf) -> io::Result<Vec<(String, OwnedFd)>> {
    let opened = ebpf.maps().filter_map(|(name, map)| Some((name, descriptor(map)?)));
    opened.map(|(name, descriptor)| Ok((name.to_owned(), descriptor.try_clone_to_owned()?))).collect()
}

fn descriptor(map: &Map) -> Option<BorrowedFd<'_>> {
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
    Some(data.fd().as_fd())
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
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
}

/// What `BPF_BTF_LOAD` reads of `union bpf_attr`, as far as it is of use here.
#[repr(C)]
struct BtfLoad {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
    /// Zero, as what stands behind the others has to be on kernels that do not know of it.
    btf_log_true_size: u32,
}

/// `BPF_BTF_LOAD`
const BTF_LOAD: libc::c_int = 18;

/// Tells the kernel of the object's types and functions: of which functions the verifier is to check apart, by their linkage.
fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    let mut load = BtfLoad {
        btf: types.as_ptr() as u64,
        btf_log_buf: 0,
        btf_size: u32::try_from(types.len()).map_err(io::Error::other)?,
        btf_log_size: 0,
        btf_log_level: 0,
        btf_log_true_size: 0,
    };
    // SAFETY: the attribute is what the command reads, and what it points to outlives the call.
    let descriptor = unsafe { bpf::bpf(BTF_LOAD, &mut load)? };
    // SAFETY: the kernel just opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// What a program is made of.
struct Code<'a> {
    instructions: &'a [bpf_insn],
    /// Which function of the object's types begins where.
    functions: &'a [bpf_func_info],
    /// Those, if there are any.
    types: Option<BorrowedFd<'a>>,
}

impl<'a> Code<'a> {
    fn new(function: &'a Function, types: &'a OwnedFd) -> Self {
        let functions = &function.func_info.func_info;
        Self { instructions: &function.instructions, functions, types: Some(types.as_fd()) }
    }
}

/// A program that lets everything pass, to try things with.
pub(super) fn accept() -> io::Result<OwnedFd> {
    try_load(c"accept", &Code { instructions: &ACCEPT, functions: &[], types: None }, &mut [])
}

fn load_program(name: &CStr, text: &'static str, code: &Code<'_>) -> Result<OwnedFd, BehindNatError> {
    if let Ok(program) = try_load(name, code, &mut []) {
        return Ok(program);
    }
    // Once more, with what the verifier says.
    let mut log = vec![0; LOG];
    try_load(name, code, &mut log).map_err(|source| {
        let said = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default());
        // What matters is at the end.
        let mut last: Vec<&str> = said.lines().rev().take(8).collect();
        last.reverse();
        let log = last.iter().fold(String::new(), |log, line| format!("{log}\n  {line}"));
        BehindNatError::Load { program: text, source, log }
    })
}

fn try_load(name: &CStr, code: &Code<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut prog_name = [0; 16];
    // The kernel keeps fifteen bytes of it; the end tells the family.
    let bytes = name.to_bytes();
    let tail = &bytes[bytes.len().saturating_sub(15)..];
    prog_name[..tail.len()].copy_from_slice(tail);
    let mut load = ProgLoad {
        prog_type: NETFILTER,
        insn_cnt: u32::try_from(code.instructions.len()).map_err(io::Error::other)?,
        insns: code.instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(io::Error::other)?,
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: link::NETFILTER,
        prog_btf_fd: code.types.map_or(0, |types| types.as_raw_fd().cast_unsigned()),
        func_info_rec_size: u32::try_from(size_of::<bpf_func_info>()).map_err(io::Error::other)?,
        func_info: code.functions.as_ptr() as u64,
        func_info_cnt: u32::try_from(code.functions.len()).map_err(io::Error::other)?,
        line_info_rec_size: 0,
    };
    // SAFETY: the attribute is what the command reads, and what it points to outlives the call.
    let descriptor = bpf::load(|| unsafe { bpf::bpf(PROG_LOAD, &mut load) }, bpf::is_given_up)?;
    // SAFETY: the kernel just opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
