//! Tunnels that a node takes apart: what a pod sends into one leaves the node as something else.

/// Words of map `TUNNEL_PORTS`: a bit for each UDP port, the lowest of the first word for port 0.
pub const TUNNEL_WORDS: usize = (1 << 16) / u64::BITS as usize;

/// IP protocols of tunnels without ports: IPv4 and IPv6 in IP (RFC 2003, RFC 4213), GRE (RFC 2784), L2TP (RFC 3931), MPLS in IP
/// (RFC 4023).
pub const TUNNEL_PROTOCOLS: [u8; 5] = [4, 41, 47, 115, 137];

/// Index of a port's word in map `TUNNEL_PORTS`, and its bit there.
#[must_use]
pub const fn place(port: u16) -> (u32, u64) {
    (port as u32 / u64::BITS, 1 << (port as u32 % u64::BITS))
}

const _: () = assert!(TUNNEL_WORDS == 1024, "a bit for each port");
