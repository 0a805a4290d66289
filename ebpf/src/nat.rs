//! Services: what is on its way to a backend is judged once more, where it is known which one.

pub mod endpoint;
pub mod hairpin;
pub mod postrouting;
pub mod tag;
pub mod target;
pub mod tc_egress;
pub mod unconfirmed;
