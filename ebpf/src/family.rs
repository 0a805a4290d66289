//! What differs between IPv4 and IPv6: the width of an address, and the maps it is looked up in.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY, BPF_EXIST, BPF_NOEXIST};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use postern_common::conntrack::{DirectoryRow, Flow, Flow4, Flow6, IPV6, Row, RowKey, wide};
use postern_common::direction::EGRESS;
use postern_common::endpoint::{ANY_VETH, PodAddress4, PodAddress6};
use postern_common::peer::{
    EPOCH_BITS, LOCAL_NODE, Peer, PeerKey4, PeerKey6, PrefixAddress4, PrefixAddress6,
};
use postern_common::reason::Reason;
use postern_common::service::{Crossing, Frontend, FrontendKey4, FrontendKey6};

use crate::config;
use crate::context::Context;
use crate::flow::sockets::{self, Socket};
use crate::global;
use crate::global::{Flows, Stage};
use crate::hash;
use crate::maps::{
    DIRECTORY4, DIRECTORY6, FLOWS4, FLOWS6, FRONTENDS4, FRONTENDS6, PEERS4, PEERS6, POD_ADDRESSES4,
    POD_ADDRESSES6, PREFIXES4, PREFIXES6, SCENES4, SCENES6,
};
use crate::nat::postrouting::{Sender, Target};
use crate::parse::frame::Unreadable;
use crate::parse::skb::Routed;
use crate::parse::{self, Packet};
use crate::seqcount;

/// An address of one family, as it stands in a packet: a number that is never counted with.
pub trait Address: Copy + Default + PartialEq {
    /// Its bytes, as they stand in keys.
    type Bytes;

    /// Key of this family's flow map.
    type FlowKey: Copy;

    /// The address's bytes.
    fn bytes(self) -> Self::Bytes;

    /// Parses a packet of this family at a byte offset of the frame.
    fn parse(ctx: &TcContext, start: usize, packet: &mut Packet<Self>) -> Result<(), Unreadable>;

    /// Gives an ICMP error the identity of the flow it is about, as a packet of that flow which goes the error's way.
    ///
    /// Says whether it could: the quoted packet must be readable and have been sent by whom the error goes to
    /// (RFC 5508 4.2). Nothing is changed where it could not.
    fn quote(ctx: &TcContext, packet: &mut Packet<Self>) -> bool;

    /// Whether this is a message that the link does not work without, as its RFC has it.
    fn is_link(ctx: &TcContext, context: &Context<Self>) -> bool;

    /// Whether somebody who is not strict takes this for such a message.
    fn may_be_link(packet: &Packet<Self>) -> bool;

    /// Whether no router passes on what goes to this address: it is multicast, or the link's alone.
    fn stays_on_link(self) -> bool;

    /// Whether the address is that of several hosts, of which the node may be one: multicast, or the limited broadcast.
    fn is_group(self) -> bool;

    /// The flow between a pod and a peer, from the pod's point of view.
    fn flow_key(ifindex: u32, pod: (Self, u16), peer: (Self, u16), protocol: u8) -> Self::FlowKey;

    /// The established flow's entry.
    fn flow(key: &Self::FlowKey) -> Option<*mut Flow>;

    /// Remembers an established flow, which [`crate::flow::directory`] has a place for.
    fn remember(key: &Self::FlowKey, flow: &Flow) -> Result<(), i32>;

    /// Writes what became of an established flow, if it is there: by its key, since the memory that a look-up found may be another
    /// flow's by now.
    fn update(key: &Self::FlowKey, flow: &Flow);

    /// Forgets an established flow.
    fn forget(key: &Self::FlowKey);

    /// A row of a veth's directory of established flows.
    fn directory_row(key: &RowKey) -> Option<*mut DirectoryRow<Self::FlowKey>>;

    /// Makes such a row, where there is none: of the first bytes of an empty row of half-open flows.
    fn make_directory_row(key: &RowKey, empty: &Row);

    /// The peer that an address is, by its own entry.
    fn peer_exact(self, epoch: u32) -> Option<Peer>;

    /// Whether the address is the own node's: each of these has an entry of its own.
    fn is_local_node(self, epoch: u32) -> bool;

    /// The peer that an address is, where it has no entry of its own: by the longest CIDR that holds it.
    fn peer_lpm(self, epoch: u32) -> Option<Peer>;

    /// What is known of a port of this address, where a Service's backends are behind it.
    fn frontend(self, epoch: u32, protocol: u8, port: u16) -> Option<Frontend>;

    /// Whether the address is one of the pod's own.
    fn is_own(self, ifindex: u32) -> bool;

    /// The veth of the pod of this node that has the address; none, or zero, where there is not exactly one.
    fn owner(self) -> Option<u32>;

    /// Whether nobody in particular has the address: it may be sent from, and is judged like any other.
    fn is_unspecified_or_link_local(self) -> bool;

    /// A socket of a network namespace with this remote and local end.
    fn socket(ctx: &TcContext, remote: (Self, u16), local: (Self, u16), netns: u32) -> Socket;

    /// Protocol of a packet that has been routed, and byte offset of its transport header behind the IP header's beginning:
    /// [`parse::NO_HEADER`] where that is in an earlier fragment.
    fn transport(skb: impl Routed) -> Result<(u8, u32), Unreadable>;

    /// The address where both families share a map.
    fn widen(self) -> [u64; 2];

    /// The reverse of [`Self::widen`].
    fn narrow(wide: [u64; 2]) -> Self;

    /// One of this CPU's places for what is known of the packet at hand (see [`crate::context::claim`]).
    fn context(place: u32) -> Option<*mut Context<Self>>;

    /// Calls a stage of the packet path that the verifier checks apart: see [`crate::global`].
    ///
    /// # Safety
    ///
    /// The `skb` must be the running program's, and nobody else may use the context meanwhile.
    unsafe fn call(stage: Stage, skb: *mut __sk_buff, context: *mut Context<Self>) -> u32;

    /// [`crate::flow::midstream::decide`], checked apart.
    ///
    /// # Safety
    ///
    /// As above.
    unsafe fn pick_up(skb: *mut __sk_buff, context: *mut Context<Self>, reason: u32) -> u32;

    /// [`crate::policy::cache::look_for_pods`], checked apart.
    fn is_known_as_pods(&self, ifindex: u32) -> bool;

    /// [`crate::filter::finish`], checked apart.
    fn finish(context: &mut Context<Self>);

    /// [`crate::nat::postrouting::verdict`], checked apart.
    fn verdict(sender: &Sender, target: &Target<Self>) -> Reason;

    /// [`crate::nat::postrouting::remember`], checked apart.
    fn remember_target(crossing: &Crossing, target: &Target<Self>, reason: Reason, believed: bool) -> Reason;

    /// [`crate::nat::postrouting::is_allowed_already`], checked apart.
    fn is_allowed_already(ifindex: u32, source: &Self, target: &Target<Self>) -> bool;

    /// [`crate::flow::half_open::probe_in`], checked apart.
    ///
    /// # Safety
    ///
    /// The flows must be a row's.
    unsafe fn seek(context: &mut Context<Self>, flows: *const Flows, initiator: u8) -> bool;

    /// Mixes the address into a hash, as a number: its last bytes, in which neighbours differ, must be the lowest.
    fn mix(self, hash: u64) -> u64;

    /// Added to the protocol in keys that both families share.
    const FAMILY: u32;

    /// Byte offset of the source address in the IP header; the destination's is behind it.
    const SOURCE: u32;

    /// Bytes of a frame that hold all headers that are read.
    const HEADERS: u32;
}

/// Which of this CPU's places a context is.
///
/// # Safety
///
/// There must be a context.
#[inline(always)]
unsafe fn place_of<A: Address>(context: *const Context<A>) -> u32 {
    // SAFETY: the caller's.
    if config::realtime() { unsafe { (*context).place } } else { 0 }
}

macro_rules! address_family {
    ($address:ty, $bytes:literal, $flow:ident, $peer:ident, $prefix:ident, $own:ident, $flows:ident, $peers:ident, $prefixes:ident, $owns:ident, $scenes:ident, $frontend:ident, $frontends:ident, $directory:ident, $apart:ident, { $($own_items:tt)* }) => {
        impl Address for $address {
            type Bytes = [u8; $bytes];
            type FlowKey = $flow;

            #[inline(always)]
            fn flow_key(ifindex: u32, pod: (Self, u16), peer: (Self, u16), protocol: u8) -> $flow {
                $flow {
                    ifindex,
                    pod: pod.0.bytes(),
                    peer: peer.0.bytes(),
                    pod_port: pod.1,
                    peer_port: peer.1,
                    protocol: u32::from(protocol),
                }
            }

            #[inline(always)]
            fn flow(key: &$flow) -> Option<*mut Flow> {
                $flows.get_ptr_mut(key)
            }

            #[inline(always)]
            fn remember(key: &$flow, flow: &Flow) -> Result<(), i32> {
                $flows.insert(key, flow, u64::from(BPF_ANY))
            }

            #[inline(always)]
            fn update(key: &$flow, flow: &Flow) {
                // One that was removed meanwhile stays so; without memory, what stands there is nearly the same.
                let _ = $flows.insert(key, flow, u64::from(BPF_EXIST));
            }

            #[inline(always)]
            fn directory_row(key: &RowKey) -> Option<*mut DirectoryRow<$flow>> {
                $directory.get_ptr_mut(key)
            }

            #[inline(always)]
            fn make_directory_row(key: &RowKey, empty: &Row) {
                // SAFETY: both begin with a lock and the interface index; all else is zeroes, and the other one is longer.
                let empty = unsafe { &*(&raw const *empty).cast::<DirectoryRow<$flow>>() };
                // Another CPU may have been faster; where there is no room, the look-up that follows finds nothing.
                let _ = $directory.insert(key, empty, u64::from(BPF_NOEXIST));
            }

            #[inline(always)]
            fn forget(key: &$flow) {
                // Another CPU may have been faster: gone is gone.
                let _ = $flows.remove(key);
            }

            #[inline(always)]
            fn peer_exact(self, epoch: u32) -> Option<Peer> {
                let key = $peer { epoch, address: self.bytes() };
                seqcount::read(|| $peers.get_ptr(&key))
            }

            #[inline(always)]
            fn is_local_node(self, epoch: u32) -> bool {
                let key = $peer { epoch, address: self.bytes() };
                seqcount::read_or_default(|| $peers.get_ptr(&key)).flags & LOCAL_NODE != 0
            }

            #[inline(always)]
            fn peer_lpm(self, epoch: u32) -> Option<Peer> {
                let address = $prefix { epoch: epoch.to_be_bytes(), address: self.bytes() };
                $prefixes.get(&Key::new(EPOCH_BITS + $bytes * 8, address)).copied()
            }

            #[inline(always)]
            fn frontend(self, epoch: u32, protocol: u8, port: u16) -> Option<Frontend> {
                let key = $frontend { epoch, address: self.bytes(), port, protocol: u16::from(protocol) };
                seqcount::read(|| $frontends.get_ptr(&key))
            }

            #[inline(always)]
            fn is_own(self, ifindex: u32) -> bool {
                $owns.get_ptr($own { ifindex, address: self.bytes() }).is_some()
            }

            #[inline(always)]
            fn owner(self) -> Option<u32> {
                seqcount::read(|| $owns.get_ptr($own { ifindex: ANY_VETH, address: self.bytes() }))
            }

            #[inline(always)]
            fn widen(self) -> [u64; 2] {
                let mut bytes = [0; 16];
                bytes[..$bytes].copy_from_slice(&self.bytes());
                wide(bytes)
            }

            #[inline(always)]
            fn context(place: u32) -> Option<*mut Context<Self>> {
                $scenes.get_ptr_mut(place)
            }

            #[inline(always)]
            unsafe fn call(stage: Stage, skb: *mut __sk_buff, context: *mut Context<Self>) -> u32 {
                // SAFETY: the caller's.
                unsafe {
                    let place = place_of(context);
                    match stage {
                        Stage::Judge => global::$apart::judge(skb, context, place),
                        Stage::JudgeAgain => global::$apart::judge_again(skb, context, place),
                        Stage::SlowPath(EGRESS) => global::$apart::slow_path_from_pod(skb, context, place),
                        Stage::SlowPath(_) => global::$apart::slow_path_to_pod(skb, context, place),
                        Stage::Error(EGRESS) => global::$apart::error_from_pod(skb, context, place),
                        Stage::Error(_) => global::$apart::error_to_pod(skb, context, place),
                        Stage::Syn(EGRESS) => global::$apart::syn_from_pod(skb, context, place),
                        Stage::Syn(_) => global::$apart::syn_to_pod(skb, context, place),
                        Stage::Flow(EGRESS) => global::$apart::flow_from_pod(skb, context, place),
                        Stage::Flow(_) => global::$apart::flow_to_pod(skb, context, place),
                    }
                }
            }

            #[inline(always)]
            unsafe fn pick_up(skb: *mut __sk_buff, context: *mut Context<Self>, reason: u32) -> u32 {
                // SAFETY: the caller's.
                unsafe { global::$apart::pick_up(skb, context, place_of(context), reason) }
            }

            #[inline(always)]
            fn is_known_as_pods(&self, ifindex: u32) -> bool {
                // SAFETY: it is an address.
                unsafe { global::$apart::is_own(self, ifindex) != 0 }
            }

            #[inline(always)]
            fn finish(context: &mut Context<Self>) {
                // SAFETY: nobody else has it.
                unsafe { global::$apart::finish(context, place_of(context)) };
            }

            #[inline(always)]
            fn verdict(sender: &Sender, target: &Target<Self>) -> Reason {
                // SAFETY: they are what they say.
                unsafe { Reason::of(global::$apart::verdict(sender, target)) }
            }

            #[inline(always)]
            fn remember_target(
                crossing: &Crossing,
                target: &Target<Self>,
                reason: Reason,
                believed: bool,
            ) -> Reason {
                let (reason, believed) = (reason as u32, u32::from(believed));
                // SAFETY: they are what they say.
                unsafe { Reason::of(global::$apart::remember(crossing, target, reason, believed)) }
            }

            #[inline(always)]
            fn is_allowed_already(ifindex: u32, source: &Self, target: &Target<Self>) -> bool {
                // SAFETY: they are what they say.
                unsafe { global::$apart::is_allowed_already(ifindex, source, target) != 0 }
            }

            #[inline(always)]
            unsafe fn seek(context: &mut Context<Self>, flows: *const Flows, initiator: u8) -> bool {
                // SAFETY: nobody else has the context; and the caller's.
                unsafe { global::$apart::seek(context, place_of(context), flows, u32::from(initiator)) != 0 }
            }

            $($own_items)*
        }
    };
}

address_family!(
    u32,
    4,
    Flow4,
    PeerKey4,
    PrefixAddress4,
    PodAddress4,
    FLOWS4,
    PEERS4,
    PREFIXES4,
    POD_ADDRESSES4,
    SCENES4,
    FrontendKey4,
    FRONTENDS4,
    DIRECTORY4,
    ipv4,
    {
        #[inline(always)]
        fn bytes(self) -> [u8; 4] {
            self.to_ne_bytes()
        }

        #[inline(always)]
        fn parse(ctx: &TcContext, start: usize, packet: &mut Packet<Self>) -> Result<(), Unreadable> {
            parse::ipv4(ctx, start, packet)
        }

        #[inline(always)]
        fn quote(ctx: &TcContext, packet: &mut Packet<Self>) -> bool {
            parse::quote_ipv4(ctx, packet)
        }

        #[inline(always)]
        fn is_link(_ctx: &TcContext, _scene: &Context<Self>) -> bool {
            false
        }

        #[inline(always)]
        fn may_be_link(_packet: &Packet<Self>) -> bool {
            false
        }

        #[inline(always)]
        fn stays_on_link(self) -> bool {
            self.is_group()
        }

        #[inline(always)]
        fn is_group(self) -> bool {
            let address = u32::from_be(self);
            // RFC 5771, RFC 919.
            address >> 28 == 0xe || address == u32::MAX
        }

        #[inline(always)]
        fn is_unspecified_or_link_local(self) -> bool {
            self == 0
        }

        #[inline(always)]
        fn socket(ctx: &TcContext, remote: (Self, u16), local: (Self, u16), netns: u32) -> Socket {
            sockets::ipv4(ctx, remote, local, netns)
        }

        #[inline(always)]
        fn transport(skb: impl Routed) -> Result<(u8, u32), Unreadable> {
            parse::transport_behind_ipv4(skb)
        }

        #[inline(always)]
        fn mix(self, hash: u64) -> u64 {
            hash::mix(hash, u64::from(u32::from_be(self)))
        }

        #[inline(always)]
        fn narrow([first, _]: [u64; 2]) -> Self {
            let [a, b, c, d, ..] = first.to_ne_bytes();
            Self::from_ne_bytes([a, b, c, d])
        }

        const FAMILY: u32 = 0;

        const SOURCE: u32 = 12;

        // Ethernet with two tags, the longest IPv4 header and the longest TCP header.
        const HEADERS: u32 = 22 + 60 + 60;
    }
);

address_family!(
    [u32; 4],
    16,
    Flow6,
    PeerKey6,
    PrefixAddress6,
    PodAddress6,
    FLOWS6,
    PEERS6,
    PREFIXES6,
    POD_ADDRESSES6,
    SCENES6,
    FrontendKey6,
    FRONTENDS6,
    DIRECTORY6,
    ipv6,
    {
        #[inline(always)]
        fn bytes(self) -> [u8; 16] {
            // SAFETY: both are sixteen plain bytes.
            unsafe { core::mem::transmute(self) }
        }

        #[inline(always)]
        fn parse(ctx: &TcContext, start: usize, packet: &mut Packet<Self>) -> Result<(), Unreadable> {
            parse::ipv6(ctx, start, packet)
        }

        #[inline(always)]
        fn quote(ctx: &TcContext, packet: &mut Packet<Self>) -> bool {
            parse::quote_ipv6(ctx, packet)
        }

        #[inline(always)]
        fn is_link(ctx: &TcContext, context: &Context<Self>) -> bool {
            parse::is_link(ctx, &context.packet, context.start as usize)
        }

        #[inline(always)]
        fn may_be_link(packet: &Packet<Self>) -> bool {
            parse::may_be_link_message(packet)
        }

        #[inline(always)]
        fn stays_on_link(self) -> bool {
            self.is_group() || parse::is_link_local(&self)
        }

        #[inline(always)]
        fn is_group(self) -> bool {
            parse::is_multicast(&self)
        }

        #[inline(always)]
        fn is_unspecified_or_link_local(self) -> bool {
            self == [0; 4] || parse::is_link_local(&self)
        }

        #[inline(always)]
        fn socket(ctx: &TcContext, remote: (Self, u16), local: (Self, u16), netns: u32) -> Socket {
            sockets::ipv6(ctx, remote, local, netns)
        }

        #[inline(always)]
        fn transport(skb: impl Routed) -> Result<(u8, u32), Unreadable> {
            parse::transport_behind_ipv6(skb)
        }

        #[inline(always)]
        fn mix(self, hash: u64) -> u64 {
            let [first, second] = self.widen();
            hash::mix(hash::mix(hash, u64::from_be(first)), u64::from_be(second))
        }

        #[inline(always)]
        fn narrow(wide: [u64; 2]) -> Self {
            // SAFETY: both are sixteen plain bytes.
            unsafe { core::mem::transmute(wide) }
        }

        const FAMILY: u32 = IPV6;

        const SOURCE: u32 = 8;

        // As far as a transport header may begin, and the longest TCP header.
        const HEADERS: u32 = parse::MAX_OFFSET as u32 + 60;
    }
);
