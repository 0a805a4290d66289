//! What one packet says about its connection.

/// In place of the byte offset of a transport header: it is in an earlier fragment.
pub const NO_HEADER: u32 = 0;

/// What one packet says about its connection.
///
/// Parsers fill one in place: a `Result` of this size would have the compiler copy around bytes that are not set on its
/// error side, which the verifier does not let it read.
#[derive(Clone, Copy, Default)]
pub struct Packet<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// `IPPROTO_*`
    pub protocol: u8,
    /// IPv6: the hop limit, which tells messages of the link itself from others.
    pub hop_limit: u8,
    /// IPv6: what the fixed header says is next.
    pub next_header: u8,
    /// Place in a fragmented datagram.
    pub fragment: Fragment,
    /// The fragmented datagram.
    pub datagram: Datagram,
    /// Offset in the frame of the packet's end; padding may follow.
    pub end: usize,
    /// How far the IPv4 options were walked, in bytes.
    pub cursor: usize,
    /// The transport header; empty for later fragments.
    pub transport: Transport,
}

/// What a fragment says of its datagram.
#[derive(Clone, Copy, Default)]
pub struct Datagram {
    /// Tells it from others with the same addresses.
    pub identification: u32,
    /// What the IP header, or the fragment header, says is next: the same in all fragments (RFC 8200 4.5).
    pub protocol: u8,
    /// Where in it this fragment begins, in bytes.
    pub offset: usize,
    /// Bytes of it in this fragment.
    pub length: usize,
}

impl<A> Packet<A> {
    /// Forgets everything. By words: the compiler's way is a function that writes byte by byte, which takes as long as reading
    /// the packet.
    #[inline(always)]
    pub fn clear(&mut self) {
        const { assert!(size_of::<Self>().is_multiple_of(size_of::<u64>())) };
        let words = (&raw mut *self).cast::<u64>();
        let mut word = 0;
        while word < size_of::<Self>() / size_of::<u64>() {
            // SAFETY: the word is one of the packet's, which is aligned for its `usize`, and zeroes are a value of each of its
            // fields. Volatile: or else the compiler has its way.
            unsafe { words.add(word).write_volatile(0) };
            word += 1;
        }
    }
}

/// Place in a fragmented datagram.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented.
    #[default]
    Whole,
    /// The first fragment: it holds the ports.
    First,
    /// Any other.
    Later,
}

/// What the transport header says.
#[expect(clippy::struct_excessive_bools, reason = "a header has that many flags")]
#[derive(Clone, Copy, Default)]
pub struct Transport {
    /// Source port in host byte order; an ICMP echo's identifier; zero where there is none.
    pub source_port: u16,
    /// Destination port in host byte order; an ICMP echo's identifier; zero where there is none.
    pub destination_port: u16,
    /// Belongs to a flow: TCP, UDP, SCTP, or an ICMP echo.
    pub flow: bool,
    /// TCP: SYN without ACK; ICMP: an echo request. Always starts a flow.
    pub opens: bool,
    /// An answer by its very kind (TCP: SYN with ACK; ICMP: an echo reply): never starts a flow.
    pub answers: bool,
    /// TCP: it belongs to a connection that has been there for a while, having no SYN.
    pub midstream: bool,
    /// TCP: FIN.
    pub finishes: bool,
    /// TCP: RST.
    pub resets: bool,
    /// ICMP and ICMPv6: an error, which quotes the packet it is about.
    pub error: bool,
    /// ICMP and ICMPv6: type.
    pub kind: u8,
    /// ICMP and ICMPv6: code.
    pub code: u8,
    /// Offset in the frame of what follows the eight bytes of an ICMP or ICMPv6 header; with ports, of the header itself.
    pub body: usize,
}
