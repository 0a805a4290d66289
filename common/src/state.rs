//! State of the whole data path.

map_types! {
    /// The one value of map `STATE`.
    pub struct State [32] {
        /// Policy generation. Goes up after verdicts changed, so that flows allowed under an earlier one are judged again.
        pub generation: u32 = 0,
        /// Epoch of the peer tables in use (see [`crate::peer`]); the next agent takes the next one.
        pub epoch: u32 = 4,
        /// 1: packets are judged behind the choice of a backend. 0: nobody does, so nothing may be left to it.
        pub behind_nat: u32 = 8,
        /// Zero.
        pub reserved: u32 = 12,
        /// Goes up before the agent replaces elements that programs copy, and once more after: what was copied while it was even and
        /// the same is what stood in the map, and goes on being that until it moves. Odd for good, programs look twice and remember nothing (an
        /// agent was killed in between).
        pub changes: u64 = 16,
        /// What programs hash flows and datagrams with, so that nobody outside knows which of them share a row or slot: a random number.
        /// Written once, since rows outlive the agent; zero: not yet.
        pub seed: u64 = 24,
    }
}
