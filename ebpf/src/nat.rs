//! Services: what is on its way to a backend is judged once more, where it is known which one.
//!
//! | | |
//! |---|---|
//! | [`tag`] | on the pod's side of the choice: what is noted of a packet, and put on it |
//! | [`postrouting`], [`tc_egress`] | behind it: in netfilter's hook, or on the devices that packets leave by |
//! | [`target`] | what policy says of where the packet goes, and what flows remember of that |
//! | [`hairpin`] | what comes back to the pod that sent it |
//! | [`unconfirmed`] | what a pod may not get, before conntrack remembers it |
//! | [`endpoint`] | what the agent says of a veth, for programs that TC's may interrupt |

pub mod endpoint;
pub mod hairpin;
pub mod postrouting;
pub mod tag;
pub mod target;
pub mod tc_egress;
pub mod unconfirmed;
