//! What is known of the packet at hand.

pub mod claim;

use core::ops::{Deref, DerefMut};

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{Flow, Row};
use postern_common::direction::EGRESS;
use postern_common::endpoint::Endpoint;
use postern_common::state::State;

use crate::config;
use crate::context::claim::PLACES;
use crate::family::{self, Family};
use crate::flow::cursor::{DirectoryCursor, EstablishedCursor, HalfOpenCursor, step};
use crate::maps::STATE;
use crate::opaque::opaque;
use crate::parse::Packet;
use crate::parse::frame::{self, Unreadable};
use crate::policy::query::Query;

/// Room for what is known of the packet at hand: the verifier follows every value on the stack through the whole
/// program, but takes what comes from a map as it comes. Nobody else reads it. One of them is used; where programs of one CPU interrupt each other,
/// whichever is free (see [`claim`]).
#[btf_map]
pub static SCENES4: PerCpuArray<Context<u32>, { PLACES as usize }> = PerCpuArray::new();

/// The same for IPv6.
#[btf_map]
pub static SCENES6: PerCpuArray<Context<[u32; 4]>, { PLACES as usize }> = PerCpuArray::new();

/// A packet, and everything that it is judged by other than policy. Each part is filled by one module, and says something from then on:
/// this is memory where packets before this one have written. What is not filled for every packet stands behind a type of those that have
/// it: [`Isolated`], or [`crate::flow::half_open::Bucket`].
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Context<A: Family> {
    /// Nanoseconds by the kernel's ticks, see [`config::now`].
    pub now: u64,
    /// Policy generation, read before any table: a flow judged by tables of which some were newer is judged again.
    pub generation: u32,
    /// Interface index of the veth.
    pub ifindex: u32,
    /// Where the IP header begins.
    pub start: u32,
    /// Which way the packet goes (see [`postern_common::direction`]).
    pub direction: u8,
    /// One of [`readable`]'s constants.
    pub readable: u8,
    /// What the packet does to its flow, once it was judged: one of [`step`]'s constants.
    pub step: u8,
    /// See [`Isolated::astray`].
    astray: bool,
    /// 1: a process of the pod's node started the packet's flow, and the packet, which the pod gets, comes from elsewhere. By
    /// [`crate::flow::known`], for packets whose flow is looked for there.
    pub from_elsewhere: u8,
    /// What the packet says. By [`crate::parse`].
    pub packet: Packet<A>,
    /// Both sides. By [`Self::take_sides`]; whoever reads them has an [`Isolated`].
    sides: Sides<A>,
    /// What the agent says of the veth. By [`crate::policy::cache`]; as the sides.
    endpoint: Endpoint,
    /// What policy is asked, and what it said. By [`crate::policy::judge`].
    pub query: Query<A>,
    /// How far the packet's flow got, once one was found. By [`crate::flow`], as what follows.
    pub flow: Flow,
    /// Where that is among established flows.
    pub established: EstablishedCursor<A::FlowKey>,
    /// Where that is among half-open flows.
    pub half_open: HalfOpenCursor,
    /// Where that may be in the directory of established flows.
    pub directory: DirectoryCursor<A::FlowKey>,
    /// Nothing of the packet at hand.
    pub cpu: Cpu,
    /// A row to make others of: zeroes but for the interface index. No [`Row`], whose lock may not stand here.
    empty: [u64; size_of::<Row>() / 8],
}

/// Both sides of a packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Sides<A> {
    /// Address and port of the pod.
    pub pod: (A, u16),
    /// Address and port of the other side.
    pub peer: (A, u16),
}

/// What a CPU remembers from packet to packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Cpu {
    /// Packets of this family that crossed on this CPU.
    pub crossings: u32,
    /// Which of this CPU's places the context is, where there are several (see [`claim`]).
    pub place: u32,
}

/// Whether a packet could be read. No enum, as of [`step`].
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
    pub fn take_sides<const DIRECTION: u8>(&mut self) -> &Sides<A> {
        self.sides = self.sides::<DIRECTION>();
        &self.sides
    }

    /// Names the packet's flow, once the packet is known.
    #[inline(always)]
    pub fn name_flow<const DIRECTION: u8>(&mut self) {
        let Sides { pod, peer } = self.sides::<DIRECTION>();
        self.established.key = A::flow_key(self.ifindex, pod, peer, self.packet.protocol);
        self.established.absent = 0;
    }

    /// Both sides, by what the packet says.
    #[inline(always)]
    fn sides<const DIRECTION: u8>(&self) -> Sides<A> {
        let source = (self.packet.source, self.packet.transport.source_port);
        let destination = (self.packet.destination, self.packet.transport.destination_port);
        if DIRECTION == EGRESS {
            Sides { pod: source, peer: destination }
        } else {
            Sides { pod: destination, peer: source }
        }
    }

    /// Memory for what the agent says of the veth: for whoever fills it.
    #[inline(always)]
    pub fn endpoint_to_fill(&mut self) -> &mut Endpoint {
        &mut self.endpoint
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

    /// The context of an isolated pod's packet, whose endpoint was filled. `astray`: see [`Isolated::astray`].
    #[inline(always)]
    pub fn isolated<const DIRECTION: u8>(&mut self, astray: bool) -> &mut Isolated<A> {
        self.take_sides::<DIRECTION>();
        self.astray = astray;
        Isolated::of_stage(self)
    }

    /// That of a stage which is called with the context, see [`crate::global`].
    #[inline(always)]
    pub fn of_stage(context: &mut Self) -> &mut Self {
        context
    }
}

/// The context of an isolated pod's packet, with its sides and endpoint. The same memory: the type says that these were filled. Only the
/// slow path gets here, by [`Context::isolated`], and calls what else has one.
#[repr(transparent)]
pub struct Isolated<A: Family>(Context<A>);

impl<A: Family> Isolated<A> {
    /// That of a stage which is called with the context, see [`crate::global`]: for stages that the slow path calls.
    #[inline(always)]
    pub fn of_stage(context: &mut Context<A>) -> &mut Self {
        // SAFETY: they are the same in memory.
        unsafe { &mut *(&raw mut *context).cast::<Self>() }
    }

    /// What the agent says of the veth.
    #[inline(always)]
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Address and port of the pod.
    #[inline(always)]
    pub fn pod(&self) -> (A, u16) {
        self.0.sides.pod
    }

    /// Address and port of the other side.
    #[inline(always)]
    pub fn peer(&self) -> (A, u16) {
        self.0.sides.peer
    }

    /// Whether the pod sends the packet to somebody else than its node, by the MAC address: see [`crate::policy::addressed::strays`].
    #[inline(always)]
    pub fn astray(&self) -> bool {
        self.0.astray
    }
}

impl<A: Family> Deref for Isolated<A> {
    type Target = Context<A>;

    #[inline(always)]
    fn deref(&self) -> &Context<A> {
        &self.0
    }
}

impl<A: Family> DerefMut for Isolated<A> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Context<A> {
        &mut self.0
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
    // SAFETY: the packet of a running program is valid.
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
