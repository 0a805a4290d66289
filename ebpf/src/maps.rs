//! All maps, with their shape and who writes them. Pinned by the agent under their names.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use postern_common::conntrack::{Flow, Flow4, Flow6, Fragment, FragmentKey, MAX_FLOWS, MAX_FRAGMENTS};
use postern_common::endpoint::{Endpoint, MAX_ENDPOINTS};
use postern_common::peer::{
    MAX_PEERS, MAX_PREFIXES, Peer, PeerKey4, PeerKey6, PrefixAddress4, PrefixAddress6,
};
use postern_common::reason::Reason;
use postern_common::state::State;
use postern_common::verdict::{MAX_PORT_PAGES, MAX_VERDICTS, PortPage, PortPageKey, Verdict, VerdictKey};

/// Memory follows the entries in use, not the limit.
const GROWING: usize = BPF_F_NO_PREALLOC as usize;

/// Interface index of the host-side veth -> classes of its pod. Written by the agent.
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

/// (port set, protocol, high byte of the port) -> bitmap. Written by the agent.
#[btf_map]
pub static PORT_PAGES: HashMap<PortPageKey, PortPage, MAX_PORT_PAGES, GROWING> = HashMap::new();

/// One value. Written by the agent.
#[btf_map]
pub static STATE: Array<State, 1> = Array::new();

/// Flows allowed, from the pod's point of view. Written by the programs.
#[btf_map]
pub static FLOWS4: LruHashMap<Flow4, Flow, MAX_FLOWS> = LruHashMap::new();

/// Flows allowed, from the pod's point of view. Written by the programs.
#[btf_map]
pub static FLOWS6: LruHashMap<Flow6, Flow, MAX_FLOWS> = LruHashMap::new();

/// Datagrams whose first fragment was allowed. Written by the programs.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, MAX_FRAGMENTS> = LruHashMap::new();

/// Packets by direction and reason ([`Reason::counter`]). Written by the programs.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Reason::COUNTERS }> = PerCpuArray::new();
