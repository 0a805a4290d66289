//! Tells when links or addresses may have changed, here or in a pod's namespace.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use netlink_sys::AsyncSocket as _;
use rtnetlink::MulticastGroup;

use super::LinkError;
use crate::debounce::Debounce;

/// How long events must be quiet: a veth's creation makes a dozen.
const QUIET: Duration = Duration::from_millis(1);
/// How long at the most that may take: a pod waits for its programs.
const PATIENCE: Duration = Duration::from_millis(5);

/// A running watch.
#[derive(Debug)]
pub struct Monitor<S> {
    messages: S,
    debounce: Debounce,
    connection: tokio::task::JoinHandle<()>,
}

impl<S> Drop for Monitor<S> {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Opens a watch in this thread's network namespace.
///
/// # Errors
///
/// The kernel refuses the socket.
pub fn open() -> Result<Monitor<impl futures::Stream + Unpin>, LinkError> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
    // Events of pods' namespaces too (NETLINK_LISTEN_ALL_NSID), or an address given after the veth's creation stays
    // unseen.
    connection.socket_mut().socket_mut().set_listen_all_namespaces(true)?;
    let debounce = Debounce::new(QUIET, PATIENCE);
    Ok(Monitor { messages, debounce, connection: tokio::spawn(connection) })
}

impl<S: futures::Stream + Unpin> Monitor<S> {
    /// Waits for the next change, and until what comes with it has settled. Cancel safe.
    pub async fn changed(&mut self) {
        let messages = &mut self.messages;
        let next = async || match messages.next().await {
            Some(_) => Instant::now(),
            // The connection ended; periodic looks go on.
            None => std::future::pending().await,
        };
        let _ = self.debounce.settled(next).await;
    }
}
