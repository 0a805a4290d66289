//! How the compiler lays out loops. Kernels before 6.7 refuse a program in which an instruction that is no jump is followed by the head of
//! a loop that it is a part of (`push_insn` in `kernel/bpf/verifier.c`, "back-edge from insn"): the way back must be a jump. Found here
//! without any of these kernels, as soon as the compiler does so.

use aya_obj::Object;
use postern::datapath::object::OBJECT;

/// Classes and operations of instructions (`linux/bpf_common.h`, `linux/bpf.h`).
const CLASS: u8 = 0x07;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const OPERATION: u8 = 0xf0;
const JA: u8 = 0x00;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
/// `BPF_LD | BPF_IMM | BPF_DW`: two instructions in one.
const LOAD_IMMEDIATE: u8 = 0x18;

/// An instruction, as far as it matters here: its code, and how far it jumps.
type Insn = (u8, i16);

/// Where an instruction leads, in the order in which these kernels go there; and whether it may be a way back.
fn next(code: &[Insn], at: usize) -> Vec<(usize, bool)> {
    let (insn, off) = code[at];
    let jump = || at.checked_add_signed(1 + isize::from(off)).unwrap();
    match (insn & CLASS, insn & OPERATION) {
        (JMP, EXIT) => vec![],
        (JMP, CALL) => vec![(at + 1, false)],
        (JMP, JA) => vec![(jump(), true)],
        (JMP | JMP32, _) => vec![(at + 1, true), (jump(), true)],
        _ if insn == LOAD_IMMEDIATE => vec![(at + 2, false)],
        _ => vec![(at + 1, false)],
    }
}

/// The first way back of a function that is no jump: from which instruction to which.
fn back_edge(code: &[Insn]) -> Option<(usize, usize)> {
    let (mut begun, mut done) = (vec![false; code.len()], vec![false; code.len()]);
    begun[0] = true;
    // Instructions on the way to where we are, and which ways of each are left.
    let mut way = vec![(0, next(code, 0))];
    while let Some((at, left)) = way.last_mut() {
        let at = *at;
        if left.is_empty() {
            done[at] = true;
            way.pop();
            continue;
        }
        let (to, is_jump) = left.remove(0);
        if !begun[to] {
            begun[to] = true;
            way.push((to, next(code, to)));
        } else if !done[to] && !is_jump {
            return Some((at, to));
        }
    }
    None
}

#[test]
fn no_function_goes_back_other_than_by_a_jump() {
    let object = Object::parse(OBJECT).unwrap();
    assert!(object.functions.len() > 50, "{}", object.functions.len());
    for function in object.functions.values() {
        let code: Vec<Insn> = function.instructions.iter().map(|insn| (insn.code, insn.off)).collect();
        let found = back_edge(&code);
        assert_eq!(found, None, "{}: kernels before 6.7 refuse this way back", function.name);
    }
}

#[test]
fn such_a_way_back_is_found() {
    let (add, go, exit) = (0x07, JMP | JA, (JMP | EXIT, 0));
    // A loop that is entered behind its last instruction, which is the one before its head.
    let head = (JMP | 0x20, 1);
    assert_eq!(back_edge(&[(go, 1), (add, 0), head, (go, -3), exit]), Some((1, 2)));
    // The same, where that one jumps.
    assert_eq!(back_edge(&[(go, 2), (add, 0), (go, 0), head, (go, -4), exit]), None);
}
