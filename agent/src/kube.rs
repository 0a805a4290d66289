//! The API server as the source of cluster state.
//!
//! Six watches (read-only, see deploy/ for the role), each a task of its own, feed one [`Source`]. Objects are
//! reduced to the policy model while they are parsed; nothing else of them is kept. A watch that ends goes on from where
//! it was; one that cannot lists anew, and the new list replaces the old one at once, as a single change. Whatever goes
//! wrong, what was known last stays.

mod arrived;
mod client;
mod intern;
mod source;
mod trouble;
mod watch;

pub use self::client::{ConnectError, connect};
pub use self::source::{KindStatus, Source};
