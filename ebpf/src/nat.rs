//! Services: what is on its way to a backend is judged once more, where it is known which one.

pub mod postrouting;
pub mod tag;
pub mod tc_egress;
pub mod unconfirmed;
