//! The pod's own sockets, which know of connections that are older than the programs.
//!
//! Minimum kernel version: 5.2 (`bpf_skc_lookup_tcp`).

use aya_ebpf::bindings::{
    bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::{bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::programs::TcContext;

use crate::context::Context;
use crate::family::Address;
use crate::policy::addressed;

/// Whether one of the node's own processes sent what a pod gets: the packet still carries the socket that sent it, and came in by no
/// interface. What a bridge passes on from another pod carries that pod's socket.
#[inline(always)]
pub fn sent(ctx: &TcContext) -> bool {
    // SAFETY: the context of a running program is valid.
    unsafe { !(*ctx.skb.skb).__bindgen_anon_2.sk.is_null() && !addressed::came_in(ctx) }
}

/// What a look-up found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// None.
    Nothing,
    /// One that waits for connections.
    Listening,
    /// A connection, not necessarily open any more.
    Connected,
}

/// States of TCP sockets (`net/tcp_states.h`).
mod state {
    pub(super) const SYN_SENT: u32 = 2;
    pub(super) const SYN_RECEIVED: u32 = 3;
    pub(super) const CLOSE: u32 = 7;
    pub(super) const LISTEN: u32 = 10;
    pub(super) const NEW_SYN_RECEIVED: u32 = 12;
}

/// What the pod's sockets know of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Nothing, or they cannot be asked.
    Unknown,
    /// It is there, and the pod listens on its own port: the peer started it.
    FromPeer,
    /// It is there, and the pod does not listen: the pod started it, or has stopped listening.
    FromPod,
}

/// Asks the pod's sockets for the TCP connection between a pod and a peer; `netns` as in
/// [`postern_common::endpoint::Endpoint`]. A function of its own, for its stack.
#[inline(never)]
pub fn connection<A: Address>(ctx: &TcContext, context: &Context<A>) -> Connection {
    let Context { endpoint, pod, peer, .. } = context;
    if endpoint.netns == 0 {
        return Connection::Unknown;
    }
    let netns = endpoint.netns - 1;
    if A::socket(ctx, *peer, *pod, netns) != Socket::Connected {
        return Connection::Unknown;
    }
    // No connection has port zero: this finds who listens.
    match A::socket(ctx, (peer.0, 0), *pod, netns) {
        Socket::Listening => Connection::FromPeer,
        _ => Connection::FromPod,
    }
}

/// Looks up an IPv4 socket by its remote and local end.
#[inline(always)]
pub fn ipv4(ctx: &TcContext, remote: (u32, u16), local: (u32, u16), netns: u32) -> Socket {
    let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
        saddr: remote.0,
        daddr: local.0,
        sport: remote.1.to_be(),
        dport: local.1.to_be(),
    };
    look_up(ctx, bpf_sock_tuple__bindgen_ty_1 { ipv4 }, size_of_val(&ipv4), netns)
}

/// Looks up an IPv6 socket by its remote and local end.
#[inline(always)]
pub fn ipv6(ctx: &TcContext, remote: ([u32; 4], u16), local: ([u32; 4], u16), netns: u32) -> Socket {
    let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
        saddr: remote.0,
        daddr: local.0,
        sport: remote.1.to_be(),
        dport: local.1.to_be(),
    };
    look_up(ctx, bpf_sock_tuple__bindgen_ty_1 { ipv6 }, size_of_val(&ipv6), netns)
}

#[inline(always)]
fn look_up(ctx: &TcContext, ends: bpf_sock_tuple__bindgen_ty_1, size: usize, netns: u32) -> Socket {
    let mut tuple = bpf_sock_tuple { __bindgen_anon_1: ends };
    // SAFETY: the context is valid, and `size` bytes of the tuple are set: those of its family.
    let socket =
        unsafe { bpf_skc_lookup_tcp(ctx.skb.skb.cast(), &raw mut tuple, size as u32, u64::from(netns), 0) };
    if socket.is_null() {
        return Socket::Nothing;
    }
    // SAFETY: the look-up holds a reference until it is released below.
    let state = unsafe { (*socket).state };
    // SAFETY: it was looked up above, and is released once.
    unsafe { bpf_sk_release(socket.cast()) };
    match state {
        state::LISTEN => Socket::Listening,
        state::SYN_SENT | state::SYN_RECEIVED | state::NEW_SYN_RECEIVED | state::CLOSE => Socket::Nothing,
        _ => Socket::Connected,
    }
}
