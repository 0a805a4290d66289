//! The pod's own sockets, which know of connections that are older than the programs.
//!
//! Minimum kernel version: 5.2 (`bpf_skc_lookup_tcp`).

use aya_ebpf::bindings::bpf_sock_tuple;
use aya_ebpf::helpers::{bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::programs::TcContext;

use crate::context::Isolated;
use crate::family::Family;

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
pub fn connection<A: Family>(ctx: &TcContext, context: &Isolated<A>) -> Connection {
    let (pod, peer, netns) = (context.pod(), context.peer(), context.endpoint().netns);
    if netns == 0 {
        return Connection::Unknown;
    }
    let netns = netns - 1;
    if look_up(ctx, peer, pod, netns) != Socket::Connected {
        return Connection::Unknown;
    }
    // No connection has port zero: this finds who listens.
    match look_up(ctx, (peer.0, 0), pod, netns) {
        Socket::Listening => Connection::FromPeer,
        _ => Connection::FromPod,
    }
}

/// Looks up a socket by its remote and local end.
#[inline(always)]
fn look_up<A: Family>(ctx: &TcContext, remote: (A, u16), local: (A, u16), netns: u32) -> Socket {
    let (ends, size) = A::socket_tuple(remote, local);
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
