//! The maps that programs share with the agent, or with each other: with their shape, and who writes them. Pinned by the agent under
//! their names. What each CPU has for itself stands beside what it is of: [`crate::context`], [`crate::policy::cache`],
//! [`crate::flow::midstream`].

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use postern_common::conntrack::{
    Datagram, DirectoryRow, Flow, Flow4, Flow6, MAX_DIRECTORY_ROWS, MAX_FLOWS, MAX_FRAGMENTS, MAX_ROWS, Row,
    RowKey, Slot,
};
use postern_common::endpoint::{Endpoint, MAX_ENDPOINTS, MAX_POD_ADDRESSES, PodAddress4, PodAddress6};
use postern_common::peer::{
    MAX_PEERS, MAX_PREFIXES, Peer, PeerKey4, PeerKey6, PrefixAddress4, PrefixAddress6,
};
use postern_common::reason::Reason;
use postern_common::service::{
    CROSSINGS as MAX_CROSSINGS, Crossing, Frontend, FrontendKey4, FrontendKey6, Hairpin, HairpinSlot,
    MAX_FRONTENDS, MAX_HAIRPINS,
};
use postern_common::state::State;
use postern_common::tunnel::TUNNEL_WORDS;
use postern_common::verdict::{MAX_PORT_PAGES, MAX_VERDICTS, PortPage, PortPageKey, Verdict, VerdictKey};

/// Memory follows the entries in use, not the limit.
const GROWING: usize = BPF_F_NO_PREALLOC as usize;

/// Interface index of the host-side veth -> classes and flags of its pod. Written by the agent.
#[btf_map]
pub static ENDPOINTS: HashMap<u32, Endpoint, MAX_ENDPOINTS, GROWING> = HashMap::new();

/// Address -> peer class. Written by the agent.
#[btf_map]
pub static PEERS4: HashMap<PeerKey4, Peer, MAX_PEERS, GROWING> = HashMap::new();

/// Address -> peer class. Written by the agent.
#[btf_map]
pub static PEERS6: HashMap<PeerKey6, Peer, MAX_PEERS, GROWING> = HashMap::new();

/// CIDR -> peer class, for addresses without an entry of their own. Written by the agent.
#[btf_map]
pub static PREFIXES4: LpmTrie<PrefixAddress4, Peer, MAX_PREFIXES> = LpmTrie::new();

/// CIDR -> peer class, for addresses without an entry of their own. Written by the agent.
#[btf_map]
pub static PREFIXES6: LpmTrie<PrefixAddress6, Peer, MAX_PREFIXES> = LpmTrie::new();

/// (subject class, peer class) -> what they may exchange. Written by the agent.
#[btf_map]
pub static VERDICTS: HashMap<VerdictKey, Verdict, MAX_VERDICTS, GROWING> = HashMap::new();

/// (port set, protocol, high byte of the port) -> bitmap; and one of pages that are allowed whole. Written by the agent.
#[btf_map]
pub static PORT_PAGES: HashMap<PortPageKey, PortPage, MAX_PORT_PAGES, GROWING> = HashMap::new();

/// One value. Written by the agent.
#[btf_map]
pub static STATE: Array<State, 1> = Array::new();

/// (veth, address) -> 1: the pod's own addresses; without the veth, the one that has it, or zero. Written by the agent.
#[btf_map]
pub static POD_ADDRESSES4: HashMap<PodAddress4, u32, MAX_POD_ADDRESSES, GROWING> = HashMap::new();

/// (veth, address) -> 1: the pod's own addresses; without the veth, the one that has it, or zero. Written by the agent.
#[btf_map]
pub static POD_ADDRESSES6: HashMap<PodAddress6, u32, MAX_POD_ADDRESSES, GROWING> = HashMap::new();

/// Frontend -> who judges what goes there. Written by the agent.
#[btf_map]
pub static FRONTENDS4: HashMap<FrontendKey4, Frontend, MAX_FRONTENDS, GROWING> = HashMap::new();

/// Frontend -> who judges what goes there. Written by the agent.
#[btf_map]
pub static FRONTENDS6: HashMap<FrontendKey6, Frontend, MAX_FRONTENDS, GROWING> = HashMap::new();

/// UDP ports on which tunnel devices of the node receive, a bit each. Written by the agent.
#[btf_map]
pub static TUNNEL_PORTS: Array<u64, { TUNNEL_WORDS }> = Array::new();

/// Packets on their way to the choice of a backend. Written by the programs.
#[btf_map]
pub static CROSSINGS: Array<Crossing, { MAX_CROSSINGS as usize }> = Array::new();

/// Slot of a veth -> a packet on its way back to who sent it. Written by the programs; the agent removes what has expired, as of all
/// that follow.
#[btf_map]
pub static HAIRPINS: HashMap<HairpinSlot, Hairpin, MAX_HAIRPINS, GROWING> = HashMap::new();

/// Established flows, from the pod's point of view. Written by the programs.
#[btf_map]
pub static FLOWS4: HashMap<Flow4, Flow, MAX_FLOWS, GROWING> = HashMap::new();

/// Established flows, from the pod's point of view. Written by the programs.
#[btf_map]
pub static FLOWS6: HashMap<Flow6, Flow, MAX_FLOWS, GROWING> = HashMap::new();

/// Row of a veth -> which established flows it has. Written by the programs.
#[btf_map]
pub static DIRECTORY4: HashMap<RowKey, DirectoryRow<Flow4>, MAX_DIRECTORY_ROWS, GROWING> = HashMap::new();

/// Row of a veth -> which established flows it has. Written by the programs.
#[btf_map]
pub static DIRECTORY6: HashMap<RowKey, DirectoryRow<Flow6>, MAX_DIRECTORY_ROWS, GROWING> = HashMap::new();

/// Row of a veth -> flows that are not established yet. The agent makes the first rows, the programs those beyond; the programs write
/// what stands in them.
#[btf_map]
pub static HALF_OPEN: HashMap<RowKey, Row, MAX_ROWS, GROWING> = HashMap::new();

/// Slot of a veth and direction -> a datagram whose first fragment was allowed. Written by the programs.
#[btf_map]
pub static FRAGMENTS: HashMap<Slot, Datagram, MAX_FRAGMENTS, GROWING> = HashMap::new();

/// Packets by direction and reason ([`Reason::counter`]). Written by the programs.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Reason::COUNTERS }> = PerCpuArray::new();
