//! Policy: what the agent has written of the pod, of its peer, and of what both may exchange.
//!
//! | | |
//! |---|---|
//! | [`judge`] | may these two exchange this, as [`query`] has it? |
//! | [`verdict`] | what the agent says between two classes |
//! | [`cache`] | what this CPU has looked up already |
//! | [`addressed`] | to whom a frame is addressed, and where it comes from |
//! | [`tunnel`] | what the node would take apart |

pub mod addressed;
pub mod cache;
pub mod judge;
pub mod query;
pub mod tunnel;
pub mod verdict;
