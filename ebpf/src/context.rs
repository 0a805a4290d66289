//! What is known of the packet at hand.

pub mod claim;

use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{FROM_NODE, Flow, Identity, NODE, Row, SERVICE};
use postern_common::direction::EGRESS;
use postern_common::endpoint::Endpoint;
use postern_common::state::State;

use crate::config;
use crate::family::{self, Family};
use crate::maps::{SCENES4, SCENES6, STATE};
use crate::opaque::opaque;
use crate::parse::Packet;
use crate::parse::frame::{self, Unreadable};
use crate::policy::query::{CacheKey, Question};

/// A packet, and everything that it is judged by other than policy.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Context<A: Family> {
    /// Nanoseconds by the kernel's ticks, see [`config::now`].
    pub now: u64,
    /// Policy generation, read before any table: a flow judged by tables of which some were newer is judged again.
    pub generation: u32,
    /// Interface index of the veth.
    pub ifindex: u32,
    /// What the agent says of the veth; not set before it is needed.
    pub endpoint: Endpoint,
    /// What tells the packet's flow from other half-open ones.
    pub identity: Identity,
    /// Hash of that.
    pub hash: u64,
    /// How far the flow got, once it was found.
    pub flow: Flow,
    /// Index in its row at which a half-open flow was found, or else may take its place.
    pub way: u32,
    /// 1: that is in its overflow row.
    pub in_overflow: u32,
    /// Index in its first row at which it may take its place, if there is no overflow row.
    pub base_way: u32,
    /// Where in its row of the directory it may take its place.
    pub directory_way: u32,
    /// When the half-open flow expires that is there.
    pub first: u64,
    /// Key of the established flow that is there.
    pub displaced: A::FlowKey,
    /// Key of an established flow that is looked at.
    pub candidate: A::FlowKey,
    /// What the packet says.
    pub packet: Packet<A>,
    /// Address and port of the pod; not set before it is needed, as what follows.
    pub pod: (A, u16),
    /// Address and port of the other side.
    pub peer: (A, u16),
    /// Key of the packet's flow among the established ones.
    pub key: A::FlowKey,
    /// 1: there is no established flow with that key, as far as was looked already.
    pub absent: u8,
    /// What the packet does to its flow, once it was judged: one of [`step`]'s constants.
    pub step: u8,
    /// Which way the packet goes (see [`postern_common::direction`]).
    pub direction: u8,
    /// It goes to a Service, or to the pod's own node, so that it may end elsewhere; known once policy was asked.
    pub service: bool,
    /// Whether the peer that policy was asked about last is the pod's own node.
    pub is_peer_node: bool,
    /// Whether what policy was asked about last came from a process of that node, and passes by that alone.
    pub is_from_node: bool,
    /// Packets of this family that crossed on this CPU: nothing of the packet at hand.
    pub crossings: u32,
    /// What policy is asked.
    pub question: Question<A>,
    /// The same, as the tables are asked.
    pub cache_key: CacheKey,
    /// Where the IP header begins.
    pub start: u32,
    /// Which of this CPU's places this is, where there are several: nothing of the packet at hand (see [`crate::context::claim`]).
    pub place: u32,
    /// One of [`readable`]'s constants.
    pub readable: u8,
    /// The pod sends it to somebody else than its node, by the MAC address: see [`crate::policy::addressed::strays`].
    pub astray: bool,
    /// What policy was asked about last opens no flow: it is astray, and to the node or a Service by its addresses; or it comes from
    /// where a tunnel ends, which may not be answered.
    pub flowless: bool,
    /// A row to make others of: zeroes but for the interface index. No [`Row`], whose lock may not stand here.
    pub empty: [u64; size_of::<Row>() / 8],
}

/// What a packet does to its flow. No enum, for the same reason as below.
pub mod step {
    /// Nothing that is left to do.
    pub const NOTHING: u8 = 0;
    /// It goes on in a half-open flow.
    pub const HALF_OPEN: u8 = 1;
    /// It may establish it.
    pub const ESTABLISHES: u8 = 2;
    /// It may establish a flow that nothing was known of.
    pub const MIDSTREAM: u8 = 3;
}

/// Whether a packet could be read. No enum: the compiler would take for granted that memory holds one of its values.
pub mod readable {
    /// It could.
    pub const YES: u8 = 0;
    /// It is too short, or contradicts itself.
    pub const MALFORMED: u8 = 1;
    /// It names routers to go through.
    pub const SOURCE_ROUTED: u8 = 2;
}

impl<A: Family> Context<A> {
    /// Begins with a packet whose IP header is at a byte offset of the frame.
    #[inline(always)]
    pub fn set<const DIRECTION: u8>(&mut self, ctx: &TcContext, start: usize) {
        self.generation = STATE.get(0).map_or(0, |state: &State| state.generation);
        self.now = config::now();
        self.read::<DIRECTION>(ctx, start);
    }

    /// Reads the packet whose IP header is at a byte offset of the frame: what it says, and which flow it is of.
    #[inline(always)]
    pub fn read<const DIRECTION: u8>(&mut self, ctx: &TcContext, start: usize) {
        self.ifindex = ifindex(ctx);
        self.direction = DIRECTION;
        self.service = false;
        self.step = step::NOTHING;
        self.readable = match parse(ctx, self.forget(start), &mut self.packet) {
            Ok(()) => readable::YES,
            Err(Unreadable::SourceRouted) => readable::SOURCE_ROUTED,
            Err(_) => readable::MALFORMED,
        };
        self.name_flow::<DIRECTION>();
    }

    /// Makes the verifier forget how it came by an offset: it would follow frames with and without VLAN tags through the whole
    /// program, each on its own.
    #[inline(always)]
    fn forget(&mut self, start: usize) -> usize {
        let memory = &raw mut self.start;
        // SAFETY: it is a field of the context. Volatile: or else the compiler remembers.
        unsafe {
            memory.write_volatile(start as u32);
            (memory.read_volatile() & MAX_START) as usize
        }
    }

    /// Takes sides, once the packet is known.
    #[inline(always)]
    pub fn take_sides<const DIRECTION: u8>(&mut self) {
        (self.pod, self.peer) = self.sides::<DIRECTION>();
    }

    /// Names the packet's flow, once the packet is known.
    #[inline(always)]
    pub fn name_flow<const DIRECTION: u8>(&mut self) {
        let (pod, peer) = self.sides::<DIRECTION>();
        self.key = A::flow_key(self.ifindex, pod, peer, self.packet.protocol);
        self.absent = 0;
    }

    /// Address and port of the pod, and of the other side.
    #[inline(always)]
    fn sides<const DIRECTION: u8>(&self) -> ((A, u16), (A, u16)) {
        let source = (self.packet.source, self.packet.transport.source_port);
        let destination = (self.packet.destination, self.packet.transport.destination_port);
        if DIRECTION == EGRESS { (source, destination) } else { (destination, source) }
    }

    /// A row without flows, of the veth.
    #[inline(always)]
    pub fn empty_row(&mut self) -> &Row {
        let empty = (&raw mut self.empty).cast::<Row>();
        // SAFETY: as long and aligned as a row, and every bit pattern of its integers is one.
        unsafe {
            (*empty).ifindex = self.ifindex;
            &*empty
        }
    }

    /// Flags of a flow that begins with this packet.
    #[inline(always)]
    pub fn flow_flags(&self) -> u8 {
        let service = if self.service { SERVICE } else { 0 };
        service | if self.is_peer_node { NODE } else { 0 } | if self.is_from_node { FROM_NODE } else { 0 }
    }
}

/// One of this CPU's places for what is known of the packet at hand (see [`claim`]).
#[inline(always)]
pub fn at<A: Family>(place: u32) -> Option<*mut Context<A>> {
    if family::is_ipv4::<A>() {
        SCENES4.get_ptr_mut(place).map(<*mut Context<u32>>::cast)
    } else {
        SCENES6.get_ptr_mut(place).map(<*mut Context<[u32; 4]>>::cast)
    }
}

/// No IP header begins beyond: there are two VLAN tags at most.
const MAX_START: u32 = 31;

/// Interface index of the veth.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context of a running program is valid.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Parses a packet; when its headers are not linear, once more after making them so.
///
/// A loop with one call, not two calls: the compiler would make a function of its own from the parser, and pointers
/// into the packet may not be passed between functions.
#[inline(always)]
fn parse<A: Family>(ctx: &TcContext, start: usize, packet: &mut Packet<A>) -> Result<(), Unreadable> {
    let mut tries = 0;
    loop {
        packet.clear();
        match A::parse(ctx, start, packet) {
            Err(Unreadable::NotLinear) => {}
            parsed => return parsed,
        }
        frame::pull(ctx, A::HEADERS);
        // At the end, and not to be seen through: or else the way back would be no jump, as in `parse::ipv6`.
        tries = opaque(tries + 1);
        if tries > 1 {
            return Err(Unreadable::NotLinear);
        }
    }
}
