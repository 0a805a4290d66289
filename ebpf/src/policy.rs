//! Policy: what the agent has written of the pod, of its peer, and of what both may exchange.

pub mod addressed;
pub mod cache;
pub mod judge;
pub mod query;
pub mod tunnel;
pub mod verdict;
