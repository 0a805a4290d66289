//! Settings fixed at load time: the agent overrides these globals before the verifier runs, which prunes what they
//! switch off, so that an unused feature costs nothing on the packet path.

use core::ptr::read_volatile;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use postern_common::IPPROTO_TCP;
use postern_common::conntrack::{ASKED, HALF_OPEN_ROWS, Lifetimes, state};
use postern_common::service::{SkbLayout, crossings_per_cpu as crossings_per_cpu_of};

/// 1: a flow that was allowed under an earlier policy generation is judged again (`--established=recheck`);
/// 0: it stays (`--established=keep`).
#[unsafe(no_mangle)]
static POSTERN_RECHECK: Global<u8> = Global::new(1);

/// How long flows live without packets (`--timeout`).
#[unsafe(no_mangle)]
static POSTERN_LIFETIMES: Lifetimes = Lifetimes::DEFAULT;

/// 1: the kernel is `PREEMPT_RT`, where a program may be preempted by another one on its CPU.
#[unsafe(no_mangle)]
static POSTERN_REALTIME: Global<u8> = Global::new(0);

/// For how many denied packets of a veth each CPU asks the pod's sockets, from one tick of the kernel to the next.
#[unsafe(no_mangle)]
static POSTERN_ASKED: Global<u32> = Global::new(ASKED);

/// Rows of half-open flows that each veth has; a power of two.
#[unsafe(no_mangle)]
static POSTERN_ROWS: Global<u32> = Global::new(HALF_OPEN_ROWS);

/// What flows and datagrams are hashed with (see [`postern_common::state::State::seed`]).
#[unsafe(no_mangle)]
static POSTERN_SEED: Global<u64> = Global::new(0);

/// Nanoseconds from one tick of the kernel to the next (`TICK_NSEC`, `include/linux/jiffies.h`).
#[unsafe(no_mangle)]
static POSTERN_TICK: Global<u64> = Global::new(4_000_000);

/// Slots of each CPU for packets on their way to the choice of a backend; a power of two.
#[unsafe(no_mangle)]
static POSTERN_CROSSINGS: Global<u32> = Global::new(crossings_per_cpu_of(512));

/// Where the kernel keeps what netfilter programs read of a packet.
#[unsafe(no_mangle)]
static POSTERN_SKB: SkbLayout = SkbLayout {
    tc_index: 0,
    len: 0,
    data_len: 0,
    head: 0,
    network_header: 0,
    nfct: 0,
    sk: 0,
    out: 0,
    ifindex: 0,
    skb_iif: 0,
};

/// Byte offsets in the kernel's own structs.
#[inline(always)]
pub fn skb() -> SkbLayout {
    let layout = &raw const POSTERN_SKB;
    // SAFETY: a static's fields are there; volatile, since the loader puts other values in.
    unsafe {
        SkbLayout {
            tc_index: read_volatile(&raw const (*layout).tc_index),
            len: read_volatile(&raw const (*layout).len),
            data_len: read_volatile(&raw const (*layout).data_len),
            head: read_volatile(&raw const (*layout).head),
            network_header: read_volatile(&raw const (*layout).network_header),
            nfct: read_volatile(&raw const (*layout).nfct),
            sk: read_volatile(&raw const (*layout).sk),
            out: read_volatile(&raw const (*layout).out),
            ifindex: read_volatile(&raw const (*layout).ifindex),
            skb_iif: read_volatile(&raw const (*layout).skb_iif),
        }
    }
}

/// Nanoseconds by the kernel's ticks: all that flows need, and the kernel inlines it, where any other clock takes calls.
#[inline(always)]
pub fn now() -> u64 {
    ticks().wrapping_mul(POSTERN_TICK.load())
}

/// The kernel's ticks.
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: the helper takes nothing and only reads a counter.
    unsafe { bpf_jiffies64() }
}

/// What flows and datagrams are hashed with.
#[inline(always)]
pub fn seed() -> u64 {
    POSTERN_SEED.load()
}

/// Whether programs of one CPU interrupt each other.
#[inline(always)]
pub fn realtime() -> bool {
    POSTERN_REALTIME.load() != 0
}

/// For how many denied packets of a veth a CPU asks the pod's sockets within a tick.
#[inline(always)]
pub fn asked() -> u32 {
    POSTERN_ASKED.load()
}

/// Rows of half-open flows that each veth has.
#[inline(always)]
pub fn rows() -> u32 {
    POSTERN_ROWS.load()
}

/// Slots of each CPU for packets on their way to the choice of a backend.
#[inline(always)]
pub fn crossings_per_cpu() -> u32 {
    POSTERN_CROSSINGS.load()
}

/// Whether flows of earlier policy generations are judged again.
#[inline(always)]
pub fn recheck() -> bool {
    POSTERN_RECHECK.load() != 0
}

/// Nanoseconds that a flow of a protocol lives without packets in a state.
#[inline(always)]
pub fn lifetime(protocol: u8, state: u8) -> u64 {
    let lifetimes = &raw const POSTERN_LIFETIMES;
    // SAFETY: a static's fields are there; volatile, since the loader puts other values in.
    unsafe {
        match (protocol, state) {
            (IPPROTO_TCP, state::OPENING | state::ANSWERED) => {
                read_volatile(&raw const (*lifetimes).tcp_opening)
            }
            (IPPROTO_TCP, state::ESTABLISHED) => read_volatile(&raw const (*lifetimes).tcp_established),
            (IPPROTO_TCP, _) => read_volatile(&raw const (*lifetimes).tcp_closing),
            (_, state::OPENING | state::ANSWERED) => read_volatile(&raw const (*lifetimes).opening),
            _ => read_volatile(&raw const (*lifetimes).established),
        }
    }
}
