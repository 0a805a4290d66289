//! Flows: what is remembered of packets that were allowed, so that those that follow are not judged anew.

pub mod backend;
pub mod cursor;
pub mod directory;
pub mod established;
pub mod fragment;
pub mod half_open;
pub mod known;
pub mod midstream;
pub mod peek;
pub mod recheck;
pub mod row;
pub mod sockets;
