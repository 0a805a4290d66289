//! clsact qdiscs and their filters, as the kernel lists them.

use std::collections::BTreeSet;

use aya::programs::TcAttachType;
use futures::TryStreamExt as _;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::Handle;

use super::attach::{HANDLE, Layer};
use crate::links::{self, LinkError, Scanner};

/// Qdiscs could not be listed or changed.
#[derive(Debug, thiserror::Error)]
pub enum QdiscError {
    /// The socket.
    #[error("opening a route netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// Which interfaces are pods' veths.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// A request.
    #[error("{what}: {source}; this needs CAP_NET_ADMIN")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: Box<rtnetlink::Error>,
    },
}

/// A clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clsact {
    /// Its interface.
    pub(super) ifindex: u32,
    /// The interface's name.
    pub(super) interface: String,
}

/// How many filters there are at a hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filters {
    /// Of one of our priorities, and our handle.
    pub(super) ours: usize,
    /// All others.
    pub(super) others: usize,
}

/// A netlink connection for looking at qdiscs.
#[derive(Debug)]
pub(super) struct Qdiscs {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Qdiscs {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Qdiscs {
    /// Opens the connection in this thread's network namespace.
    pub(super) fn open() -> Result<Self, QdiscError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// All clsact qdiscs of this network namespace.
    pub(super) async fn clsact(&self) -> Result<Vec<Clsact>, QdiscError> {
        let qdiscs: Vec<TcMessage> =
            self.handle.qdisc().get().execute().try_collect().await.map_err(failed("listing qdiscs"))?;
        let clsact = qdiscs.iter().filter(|it| is_kind(it, "clsact"));
        Ok(clsact
            .filter_map(|it| {
                let ifindex = u32::try_from(it.header.index).ok()?;
                // One that is gone by now has taken its qdisc along.
                let interface = links::name(ifindex)?;
                Some(Clsact { ifindex, interface })
            })
            .collect())
    }

    /// The filters at a hook.
    pub(super) async fn filters(&self, ifindex: u32, hook: TcAttachType) -> Result<Filters, QdiscError> {
        let Ok(ifindex) = i32::try_from(ifindex) else { return Ok(Filters::default()) };
        let request = self.handle.traffic_filter(ifindex).get();
        let request =
            if matches!(hook, TcAttachType::Ingress) { request.ingress() } else { request.egress() };
        let listed: Vec<TcMessage> =
            request.execute().try_collect().await.map_err(failed("listing filters"))?;
        let mut filters = Filters::default();
        // Handle 0 is the head of a list of filters, not one of them.
        for filter in listed.iter().filter(|it| it.header.handle != TcHandle::UNSPEC) {
            // The upper half is the priority, the lower one the protocol (`TC_H_MAKE` in net/sched/cls_api.c).
            let priority = filter.header.info >> 16;
            let ours = Layer::ALL.iter().any(|layer| u32::from(layer.priority()) == priority)
                && u32::from(filter.header.handle) == u32::from(HANDLE)
                && is_kind(filter, "bpf");
            *(if ours { &mut filters.ours } else { &mut filters.others }) += 1;
        }
        Ok(filters)
    }

    /// Removes the clsact qdiscs on which no filter is left, of pods' veths and of these devices. Nothing tells who made an empty one; it
    /// does nothing, and whoever needs it adds it again before a filter.
    pub(super) async fn remove_empty(&self, devices: &BTreeSet<u32>) -> Result<usize, QdiscError> {
        let veths = Scanner::open()?.scan().await?.veths;
        let devices: BTreeSet<u32> =
            veths.into_iter().map(|veth| veth.ifindex).chain(devices.iter().copied()).collect();
        let mut removed = 0;
        for Clsact { ifindex, .. } in self.clsact().await? {
            let mut left = Filters::default();
            for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                let filters = self.filters(ifindex, hook).await?;
                left = Filters { ours: left.ours + filters.ours, others: left.others + filters.others };
            }
            if left != Filters::default() || !devices.contains(&ifindex) {
                continue;
            }
            let mut request = self.handle.qdisc().del(ifindex.cast_signed());
            request.message_mut().header.parent = TcHandle::CLSACT;
            request.execute().await.map_err(failed("removing a clsact qdisc"))?;
            removed += 1;
        }
        Ok(removed)
    }
}

fn is_kind(message: &TcMessage, kind: &str) -> bool {
    message.attributes.iter().any(|it| matches!(it, TcAttribute::Kind(it) if it == kind))
}

fn failed(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> QdiscError {
    move |source| QdiscError::Request { what, source: Box::new(source) }
}
