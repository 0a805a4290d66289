//! Programs for processors that do not keep the order of loads tell them where it matters (`ebpf/src/seqcount.rs`); those for others have
//! nothing of the kind, which would cost time. Which of the two, cargo's target decides, and nobody would see it in what packets do.

use aya_obj::Object;
use postern::datapath::object::OBJECT;

/// `BPF_STX | BPF_ATOMIC | BPF_DW` (`linux/bpf_common.h`, `linux/bpf.h`)
const ATOMIC: u8 = 0xdb;
/// `BPF_XCHG` (`linux/bpf.h`)
const EXCHANGE: i32 = 0xe0 | 0x01;

#[test]
fn programs_have_fences_where_the_processor_needs_them() {
    let object = Object::parse(OBJECT).unwrap();
    let code = object.functions.values().flat_map(|function| &function.instructions);
    let fences = code.filter(|insn| (insn.code, insn.imm) == (ATOMIC, EXCHANGE)).count();
    assert_eq!(fences > 0, !cfg!(any(target_arch = "x86_64", target_arch = "s390x")), "{fences} exchanges");
}
