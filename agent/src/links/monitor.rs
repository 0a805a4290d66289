//! Tells when links or addresses may have changed, here or in a pod's namespace.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket as _, SocketAddr};
use rtnetlink::MulticastGroup;
use tracing::warn;

use super::LinkError;
use crate::debounce::Debounce;

/// How long events must be quiet: a veth's creation makes a dozen.
const QUIET: Duration = Duration::from_millis(1);
/// How long at the most that may take: a pod waits for its programs.
const PATIENCE: Duration = Duration::from_millis(5);
/// How long until a socket that cannot be opened again is tried once more.
const REOPEN: Duration = Duration::from_secs(1);

/// A running watch.
#[derive(Debug)]
pub struct Monitor {
    watch: Watch,
    debounce: Debounce,
}

/// Its socket.
#[derive(Debug)]
struct Watch {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Opens a watch in this thread's network namespace.
///
/// # Errors
///
/// The kernel refuses the socket.
pub fn open() -> Result<Monitor, LinkError> {
    Ok(Monitor { watch: Watch::open()?, debounce: Debounce::new(QUIET, PATIENCE) })
}

impl Monitor {
    /// Waits for the next change, and until what comes with it has settled. Cancel safe.
    pub async fn changed(&mut self) {
        let watch = &mut self.watch;
        let _ = self.debounce.settled(async || watch.next().await).await;
    }
}

impl Watch {
    fn open() -> std::io::Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        // Events of pods' namespaces too (NETLINK_LISTEN_ALL_NSID), or an address given after the veth's creation stays
        // unseen.
        connection.socket_mut().socket_mut().set_listen_all_namespaces(true)?;
        Ok(Self { messages, connection: tokio::spawn(connection) })
    }

    /// Waits for the next event. That events were lost (ENOBUFS, which is a message of its own), or may have been while the socket was
    /// opened anew, is one too.
    async fn next(&mut self) -> Instant {
        while self.messages.next().await.is_none() {
            match Self::open() {
                Ok(watch) => {
                    warn!("the watch for links and addresses broke off, and is open again");
                    *self = watch;
                    break;
                }
                Err(error) => {
                    warn!(%error, "the watch for links and addresses broke off; opening it again failed");
                    tokio::time::sleep(REOPEN).await;
                }
            }
        }
        Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_watch_that_breaks_off_is_opened_again() {
        let patience = Duration::from_secs(10);
        let mut monitor = open().unwrap();
        for _ in 0..2 {
            monitor.watch.connection.abort();
            timeout(patience, monitor.changed()).await.expect("what was missed may be a change");
        }
    }
}
