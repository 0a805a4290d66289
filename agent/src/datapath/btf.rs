//! Where this kernel keeps fields of its own structs, as it describes them itself (BTF,
//! `Documentation/bpf/btf.rst`). Only what is needed to find a struct's members.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use postern_common::service::SkbLayout;

/// The kernel's own description.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// `BTF_MAGIC` (`linux/btf.h`)
const MAGIC: u16 = 0xeb9f;

/// Kinds of types (`linux/btf.h`), as far as they differ in length or matter here.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// Bytes of a type without what its kind adds.
const TYPE: usize = 12;

/// Where the running kernel keeps what netfilter programs read, looked up once.
///
/// # Errors
///
/// The kernel has no BTF (`CONFIG_DEBUG_INFO_BTF`), or it does not describe one of the fields.
pub(super) fn skb_layout() -> Result<SkbLayout, &'static io::Error> {
    static LAYOUT: OnceLock<io::Result<SkbLayout>> = OnceLock::new();
    LAYOUT.get_or_init(read_skb_layout).as_ref().copied()
}

fn read_skb_layout() -> io::Result<SkbLayout> {
    let btf = Btf::parse(std::fs::read(Path::new(VMLINUX))?)?;
    let skb = btf.find("sk_buff").ok_or_else(|| unusable("it describes no struct sk_buff"))?;
    let offset = |field: &str| {
        let bits =
            btf.member(skb, field).ok_or_else(|| unusable(&format!("struct sk_buff has no {field}")))?;
        Ok::<_, io::Error>(bits / 8)
    };
    let of_other = |name: &str, field: &str| {
        let bits = btf.find(name).and_then(|found| btf.member(found, field));
        bits.map(|bits| bits / 8)
            .ok_or_else(|| unusable(&format!("it describes no {field} of struct {name}")))
    };
    Ok(SkbLayout {
        tc_index: offset("tc_index")?,
        len: offset("len")?,
        data_len: offset("data_len")?,
        head: offset("head")?,
        network_header: offset("network_header")?,
        // A kernel that tracks no connections has none (`CONFIG_NF_CONNTRACK`).
        nfct: offset("_nfct").unwrap_or(0),
        sk: offset("sk")?,
        out: of_other("nf_hook_state", "out")?,
        ifindex: of_other("net_device", "ifindex")?,
        skb_iif: offset("skb_iif")?,
    })
}

fn unusable(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{VMLINUX}: {why}"))
}

/// Types by their ids.
struct Btf {
    bytes: Vec<u8>,
    /// Where each type begins; there is no type 0.
    types: Vec<usize>,
    strings: usize,
}

impl Btf {
    fn parse(bytes: Vec<u8>) -> io::Result<Self> {
        let mut btf = Self { bytes, types: vec![0], strings: 0 };
        let header = |at| btf.word(at).ok_or_else(|| unusable("it is too short"));
        let (length, types, types_length, strings) = (header(4)?, header(8)?, header(12)?, header(16)?);
        if btf.bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(unusable("it is no BTF"));
        }
        let first = (length + types) as usize;
        let end = first + types_length as usize;
        btf.strings = (length + strings) as usize;
        let mut at = first;
        while at < end {
            btf.types.push(at);
            at += TYPE + btf.added(at).ok_or_else(|| unusable("a type of a kind that is not known"))?;
        }
        Ok(btf)
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    fn name(&self, at: usize) -> Option<&[u8]> {
        let from = self.bytes.get(self.strings + self.word(at)? as usize..)?;
        from.split(|byte| *byte == 0).next()
    }

    /// Kind, and number of what follows: members, values, parameters.
    fn kind(&self, at: usize) -> Option<(u32, usize)> {
        let info = self.word(at + 4)?;
        Some((info >> 24 & 0x1f, (info & 0xffff) as usize))
    }

    /// Bytes that a type's kind adds to it.
    fn added(&self, at: usize) -> Option<usize> {
        let (kind, count) = self.kind(at)?;
        Some(match kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => count * 12,
            kind::ENUM | kind::FUNC_PROTO => count * 8,
            1..=19 => 0,
            _ => return None,
        })
    }

    fn find(&self, name: &str) -> Option<usize> {
        let is_it = |at: &&usize| {
            matches!(self.kind(**at), Some((kind::STRUCT, count)) if count > 0)
                && self.name(**at) == Some(name.as_bytes())
        };
        self.types.iter().skip(1).find(is_it).copied()
    }

    /// Offset in bits of a struct's or union's member, or of one of its members without names.
    fn member(&self, at: usize, name: &str) -> Option<u32> {
        let (kind @ (kind::STRUCT | kind::UNION), count) = self.kind(at)? else { return None };
        let _ = kind;
        (0..count).find_map(|index| {
            let member = at + TYPE + index * 12;
            // With bit fields, the upper byte is the size (`BTF_MEMBER_BIT_OFFSET`).
            let has_bit_fields = self.word(at + 4)? >> 31 != 0;
            let offset = self.word(member + 8)?;
            let offset = if has_bit_fields { offset & 0x00ff_ffff } else { offset };
            match self.name(member)? {
                b"" => {
                    let inner = *self.types.get(self.word(member + 4)? as usize)?;
                    Some(offset + self.member(inner, name)?)
                }
                found => (found == name.as_bytes()).then_some(offset),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's own tool says of the same file is told apart by hand in tests/kernel; here, that the fields are plausible.
    #[test]
    fn this_kernel_describes_its_packets() {
        let SkbLayout { tc_index, len, data_len, head, network_header, nfct, sk, out, ifindex, skb_iif } =
            skb_layout().unwrap();
        assert_eq!(data_len, len + 4);
        assert!(len > 0 && tc_index > data_len && head > network_header && network_header > tc_index);
        assert_eq!((tc_index % 2, head % 8, network_header % 2), (0, 0, 0));
        assert!(sk > 0 && sk < nfct && nfct < len && out > 0 && ifindex > 0);
        assert_eq!((nfct % 8, sk % 8, out % 8, ifindex % 4), (0, 0, 0, 0));
        assert!(skb_iif % 4 == 0 && skb_iif > data_len && skb_iif < network_header);
    }

    #[test]
    fn what_is_no_btf_is_refused() {
        assert!(Btf::parse(vec![0; 64]).is_err());
        assert!(Btf::parse(Vec::new()).is_err());
    }
}
