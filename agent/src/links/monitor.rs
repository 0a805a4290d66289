//! Tells when links or addresses may have changed, here or in a pod's namespace.

use std::time::Duration;

use futures::StreamExt as _;
use netlink_sys::AsyncSocket as _;
use rtnetlink::MulticastGroup;

use super::LinkError;

/// How long after an event to wait for its companions: a veth's creation makes a dozen.
const SETTLE: Duration = Duration::from_millis(1);

/// A running watch.
#[derive(Debug)]
pub struct Monitor<S> {
    messages: S,
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
    Ok(Monitor { messages, connection: tokio::spawn(connection) })
}

impl<S: futures::Stream + Unpin> Monitor<S> {
    /// Waits for the next change.
    pub async fn changed(&mut self) {
        if self.messages.next().await.is_none() {
            // The connection ended; periodic looks go on.
            return std::future::pending().await;
        }
        let settled = tokio::time::sleep(SETTLE);
        tokio::pin!(settled);
        loop {
            tokio::select! {
                () = &mut settled => return,
                Some(_) = self.messages.next() => {}
            }
        }
    }
}
