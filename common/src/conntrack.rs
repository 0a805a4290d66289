//! Flows and fragments: what makes replies pass, and later fragments.
//!
//! A flow is keyed from its pod's point of view, so that both directions find the same entry, and by the pod's
//! interface, so that two pods of one node that talk to each other have one each, judged on its own. An interface
//! index never comes back while the node runs, and a flow of an older policy generation is judged again.
//!
//! Flows live in two places. Half-open ones have *rows* of their own veth, found by a hash of the flow, each with room for a few of
//! either direction. Once both sides were heard, and one more packet, a flow moves to the table of established flows of its family.
//! There, it takes a place in its veth's *directory*, rows of keys: one that finds its row full takes the place of another flow of
//! the same veth. Whatever comes through one veth, others keep theirs.

map_types! {
    /// Key of map `FLOWS4`.
    pub struct Flow4 [20] {
        /// Interface index of the host-side veth.
        pub ifindex: u32 = 0,
        /// The pod's address, network byte order.
        pub pod: [u8; 4] = 4,
        /// The other side's address.
        pub peer: [u8; 4] = 8,
        /// The pod's port, host byte order; an ICMP echo's identifier.
        pub pod_port: u16 = 12,
        /// The other side's port; an ICMP echo's identifier.
        pub peer_port: u16 = 14,
        /// `IPPROTO_*`
        pub protocol: u32 = 16,
    }

    /// Key of map `FLOWS6`.
    pub struct Flow6 [44] {
        /// Interface index of the host-side veth.
        pub ifindex: u32 = 0,
        /// The pod's address, network byte order.
        pub pod: [u8; 16] = 4,
        /// The other side's address.
        pub peer: [u8; 16] = 20,
        /// The pod's port, host byte order; an ICMP echo's identifier.
        pub pod_port: u16 = 36,
        /// The other side's port; an ICMP echo's identifier.
        pub peer_port: u16 = 38,
        /// `IPPROTO_*`
        pub protocol: u32 = 40,
    }

    /// Value of both flow maps, and part of a half-open flow.
    pub struct Flow [40] {
        /// When the flow does not count any more: nanoseconds by the kernel's ticks (`jiffies64`), which do not begin with any clock's.
        pub expires: u64 = 0,
        /// Policy generation under which the flow was last judged.
        pub generation: u32 = 8,
        /// Direction of its first packet (see [`crate::direction`]).
        pub initiator: u8 = 12,
        /// One of [`state`]'s constants.
        pub state: u8 = 13,
        /// TCP: which directions have sent a FIN, one bit each (`1 << direction`). Others: packets that nobody has answered
        /// yet, up to [`STREAM`].
        pub progress: u8 = 14,
        /// Any of [`DENIED`], [`SERVICE`], [`NODE`] and [`FROM_NODE`].
        pub flags: u8 = 15,
        /// Where its packets went when last seen behind the choice of a Service's backend, see [`wide`].
        pub backend: [u64; 2] = 16,
        /// The backend's port, host byte order. Zero: no backend is known.
        pub backend_port: u16 = 32,
        /// Number of its row in its veth's directory; of an established flow.
        pub directory_row: u16 = 34,
        /// Part of its hash, by which it is sought; of a half-open flow.
        pub tag: u32 = 36,
    }

    /// Key of map `FRAGMENTS`.
    pub struct Slot [8] {
        /// Interface index of the host-side veth.
        pub ifindex: u32 = 0,
        /// Number of the slot.
        pub number: u16 = 4,
        /// Direction of the first packet: what comes in takes no slot from what goes out.
        pub direction: u16 = 6,
    }

    /// What tells a half-open flow from others of its veth.
    pub struct Identity [40] {
        /// The pod's address, see [`wide`].
        pub pod: [u64; 2] = 0,
        /// The other side's address.
        pub peer: [u64; 2] = 16,
        /// The pod's port, host byte order.
        pub pod_port: u16 = 32,
        /// The other side's port.
        pub peer_port: u16 = 34,
        /// `IPPROTO_*`, [`IPV6`] more for IPv6.
        pub protocol: u32 = 36,
    }

    /// Key of maps `HALF_OPEN`, `DIRECTORY4` and `DIRECTORY6`.
    pub struct RowKey [8] {
        /// Interface index of the host-side veth.
        pub ifindex: u32 = 0,
        /// Number of the row. Half-open flows: below [`HALF_OPEN_ROWS`], or that of an overflow row, from there on. Directories: below
        /// [`DIRECTORY_ROWS`].
        pub number: u32 = 4,
    }

    /// Value of map `HALF_OPEN`: half-open flows of one veth that compete for the same room, [`HALF_OPEN_WAYS`] of each direction. The
    /// first are those that begin with what the pod gets (see [`crate::direction`]).
    pub struct Row [1944] {
        /// Held while flows and their identities are written, or read together.
        pub lock: bpf_spin_lock = 0,
        /// The key's interface index: a row that was removed while it was being looked at may be another veth's by now.
        pub ifindex: u32 = 4,
        /// Until when overflow rows may hold flows of this row that did not fit, by direction; of no meaning in those.
        pub overflow: [u64; 2] = 8,
        /// How far they got. Expired: there is none.
        pub flows: [Flow; 24] = 24,
        /// Whose they are.
        pub identities: [Identity; 24] = 984,
    }

    /// Value of map `FRAGMENTS`: the first fragment of this datagram was allowed (RFC 791 3.2, RFC 8200 4.5).
    pub struct Datagram [56] {
        /// Nanoseconds of `CLOCK_MONOTONIC` after which later fragments are orphans.
        pub expires: u64 = 0,
        /// Source address, see [`wide`].
        pub source: [u64; 2] = 8,
        /// Destination address.
        pub destination: [u64; 2] = 24,
        /// The fragments' identification.
        pub identification: u32 = 40,
        /// What the IP header, or the fragment header, says is next; [`IPV6`] more for IPv6.
        pub protocol: u32 = 44,
        /// Bytes of the datagram that the first fragment holds.
        pub length: u32 = 48,
        /// 1: its first fragment was sent to the pod's node, by its MAC address, or came from there, in by no interface.
        pub by_node: u32 = 52,
    }

    /// Nanoseconds without packets after which a flow does not count any more: a global of the programs, set when they
    /// are loaded.
    pub struct Lifetimes [40] {
        /// TCP before it is established.
        pub tcp_opening: u64 = 0,
        /// TCP.
        pub tcp_established: u64 = 8,
        /// TCP after a RST, or a FIN from both sides.
        pub tcp_closing: u64 = 16,
        /// Others before they are established.
        pub opening: u64 = 24,
        /// Others.
        pub established: u64 = 32,
    }
}

/// Value of maps `DIRECTORY4` and `DIRECTORY6`: keys of established flows of one veth that compete for the same room. A flow that was
/// removed, or has expired, leaves its key behind, in nobody's way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryRow<K> {
    /// Held while a key is written.
    pub lock: bpf_spin_lock,
    /// The key's interface index, as in [`Row`].
    pub ifindex: u32,
    /// Whose keys are here. Zeroes: there is none.
    pub flows: [K; DIRECTORY_WAYS],
}

const _: () = {
    assert!(size_of::<DirectoryRow<Flow4>>() == 8 + size_of::<Flow4>() * DIRECTORY_WAYS, "padding");
    assert!(size_of::<DirectoryRow<Flow6>>() == 8 + size_of::<Flow6>() * DIRECTORY_WAYS, "padding");
    // Programs make both from the same zeroes.
    assert!(core::mem::offset_of!(DirectoryRow<Flow4>, ifindex) == core::mem::offset_of!(Row, ifindex));
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod is how a type says that bpf(2) may copy it byte by byte")]
// SAFETY: `repr(C)`, no padding (asserted above), and every bit pattern of its integer fields is valid.
unsafe impl<K: aya::Pod> aya::Pod for DirectoryRow<K> {}

/// A lock that the kernel finds in map values by its type's name (`struct bpf_spin_lock`, `include/uapi/linux/bpf.h`). Only programs
/// take it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct bpf_spin_lock {
    /// The kernel's business.
    pub val: u32,
}

const _: () = assert!(HALF_OPEN_WAYS * 2 == 24, "Row has twenty-four flows");

impl Lifetimes {
    /// What applies unless told otherwise.
    pub const DEFAULT: Self = Self {
        tcp_opening: 60 * SECOND,
        // RFC 5382 REQ-5 asks for 2 hours 4 minutes at least.
        tcp_established: 6 * 3600 * SECOND,
        tcp_closing: 60 * SECOND,
        opening: 60 * SECOND,
        // RFC 4787 REQ-5 asks for 2 minutes at least.
        established: 180 * SECOND,
    };
}

/// An address of either family where both share a map: its bytes in network byte order, an IPv4 one's first and zeroes
/// behind, taken as two words, which cost less to compare than sixteen bytes.
#[must_use]
pub const fn wide(address: [u8; 16]) -> [u64; 2] {
    let (halves, _) = address.as_chunks::<8>();
    [u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1])]
}

/// Flag of a flow: policy no longer allows it. Remembered, so that the other direction does not open it again.
pub const DENIED: u8 = 1;

/// Flag of a flow: it goes to a Service, or to the pod's own node, and may end elsewhere.
pub const SERVICE: u8 = 2;

/// Flag of a flow: the other side has an address of the pod's own node.
pub const NODE: u8 = 4;

/// Flag of a flow: a process of the pod's own node started it, and that was its only right. What the pod gets of it came in by no
/// interface.
pub const FROM_NODE: u8 = 8;

/// What a flow has shown so far.
pub mod state {
    /// Only the first direction has been seen.
    pub const OPENING: u8 = 0;
    /// Both directions have been seen.
    pub const ANSWERED: u8 = 1;
    /// Both directions, and one more packet; for TCP one of the first direction.
    pub const ESTABLISHED: u8 = 2;
    /// TCP: a RST, or a FIN of each direction.
    pub const CLOSING: u8 = 3;
}

/// Packets of the first direction behind the first one, other than TCP's, that make a flow established though nobody
/// answers: it is a stream, and need not be judged packet by packet.
pub const STREAM: u8 = 7;

/// Rows of a veth's directory of established flows, by family; a power of two. With [`DIRECTORY_WAYS`], 8,192 flows.
pub const DIRECTORY_ROWS: u32 = 1 << 9;

/// Established flows in a row.
pub const DIRECTORY_WAYS: usize = 16;

/// Most established flows of all veths together, by family: 64 veths with every place taken. Beyond, flows stay half-open.
pub const MAX_FLOWS: usize = 1 << 19;

/// Most rows of all directories, by family: 256 veths with every row in use.
pub const MAX_DIRECTORY_ROWS: usize = 1 << 17;

/// Rows of half-open flows that the agent sets aside for a veth while it carries programs; a power of two. Each takes two kilobytes
/// with what the kernel adds, together 32 kB.
pub const HALF_OPEN_ROWS: u32 = 1 << 4;

/// Rows of a veth beyond these, which programs make when a flow finds its row full; a power of two. The agent removes those that hold
/// nothing any more.
pub const OVERFLOW_ROWS: u32 = 1 << 11;

/// Half-open flows of one direction in a row: what fits into two kilobytes.
pub const HALF_OPEN_WAYS: usize = 12;

/// Most rows of half-open flows of all veths together: those of 5,000 veths, and the overflow rows of 80. Beyond, what finds its row
/// full takes the place of another flow there.
pub const MAX_ROWS: usize = 1 << 18;

/// Slots for datagrams in fragments of one veth and direction; a power of two.
pub const FRAGMENT_SLOTS: u16 = 1 << 8;

/// Most datagrams in fragments of all veths: 512 veths with every slot in use.
pub const MAX_FRAGMENTS: usize = 1 << 18;

/// Nanoseconds that later fragments may come after the first: the kernel's own reassembly time-out (`ipfrag_time`).
pub const FRAGMENT_LIFETIME: u64 = 30 * SECOND;

/// Nanoseconds without packets after which it is forgotten that policy denied a flow.
pub const DENIED_LIFETIME: u64 = 180 * SECOND;

/// Added to the protocol where both families share a map.
pub const IPV6: u32 = 256;

/// One second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// For how many denied packets of a veth each CPU asks the pod's sockets within a tick of the kernel, which is one to ten milliseconds:
/// ten thousand connections that are older than the programs are found within two seconds at most.
pub const ASKED: u32 = 64;
