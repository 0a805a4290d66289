//! Verdicts: what one subject class and one peer class may exchange.
//!
//! No entry means nothing. Up to [`INLINE_RANGES`] port ranges stand in the verdict itself; where more are needed,
//! all of them go to pages of 256 ports, so that a look-up costs the same however many there are. A page of which all ports are allowed
//! is one bit of one more page, so that a range takes three pages at most, however wide it is.

/// Port ranges that fit into a verdict.
pub const INLINE_RANGES: usize = 4;

/// Every packet is allowed, protocols without ports included.
pub const EVERYTHING: u8 = 1 << 0;
/// Every TCP port.
pub const EVERY_TCP: u8 = 1 << 1;
/// Every UDP port.
pub const EVERY_UDP: u8 = 1 << 2;
/// Every SCTP port.
pub const EVERY_SCTP: u8 = 1 << 3;

/// The page of a port, with some of its ports. Where all are allowed, there is none.
pub const SOME_PORTS: u16 = 0;
/// Which pages of a protocol are allowed whole.
pub const WHOLE_PAGES: u16 = 1;

map_types! {
    /// Key of map `VERDICTS`.
    pub struct VerdictKey [8] {
        /// Subject class, of either direction: they share one space of numbers.
        pub subject: u32 = 0,
        /// Peer class.
        pub peer: u32 = 4,
    }

    /// A range of ports of one protocol.
    pub struct PortRange [8] {
        /// First port, host byte order.
        pub first: u16 = 0,
        /// Last port, included.
        pub last: u16 = 2,
        /// `IPPROTO_*`; zero marks an unused slot.
        pub protocol: u8 = 4,
        /// Zero.
        pub reserved: [u8; 3] = 5,
    }

    /// Value of map `VERDICTS`.
    pub struct Verdict [40] {
        /// [`EVERYTHING`], [`EVERY_TCP`], ... or zero.
        pub whole: u8 = 0,
        /// Zero.
        pub reserved: [u8; 3] = 1,
        /// Number of a port set in map `PORT_PAGES`, or zero: the ranges below are all.
        pub port_set: u32 = 4,
        /// Ranges, unused ones zero.
        pub ranges: [PortRange; 4] = 8,
    }

    /// Key of map `PORT_PAGES`.
    pub struct PortPageKey [8] {
        /// [`Verdict::port_set`]
        pub port_set: u32 = 0,
        /// `IPPROTO_*`
        pub protocol: u8 = 4,
        /// The port's high byte. Zero in the page of whole pages.
        pub page: u8 = 5,
        /// [`SOME_PORTS`] or [`WHOLE_PAGES`].
        pub kind: u16 = 6,
    }

    /// Value of map `PORT_PAGES`: one bit for each low byte of a port, or for each page.
    pub struct PortPage [32] {
        /// Bit `byte % 64` of word `byte / 64`.
        pub bits: [u64; 4] = 0,
    }
}

impl PortPage {
    /// Whether it holds a byte: of a port, or of a page.
    #[inline]
    #[must_use]
    pub fn has(&self, byte: u8) -> bool {
        self.bits[usize::from(byte >> 6)] >> (byte & 63) & 1 != 0
    }

    /// Adds a byte.
    pub fn add(&mut self, byte: u8) {
        self.bits[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
}

const _: () = assert!(INLINE_RANGES == 4, "Verdict.ranges has four slots");

/// Most pairs of a subject class and a peer class.
pub const MAX_VERDICTS: usize = 1 << 20;
/// Most port pages.
pub const MAX_PORT_PAGES: usize = 1 << 16;
