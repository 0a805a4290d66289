//! One look at all links and addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt as _;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_sys::AsyncSocket as _;
use rtnetlink::Handle;

use super::{LinkError, Veth, View};

/// A netlink connection for looking.
#[derive(Debug)]
pub struct Scanner {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Scanner {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Scanner {
    /// Opens the connection in this thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses the socket, or is older than 4.20.
    pub fn open() -> Result<Self, LinkError> {
        let (mut connection, handle, _) = rtnetlink::new_connection()?;
        // Without strict checking the kernel passes IFA_TARGET_NETNSID over and answers for this namespace.
        connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Looks at all veths and addresses.
    ///
    /// # Errors
    ///
    /// The kernel refuses a dump.
    pub async fn scan(&self) -> Result<View, LinkError> {
        let failed = |what| move |source| LinkError::Request { what, source: Box::new(source) };
        let mut view = View::default();
        let mut addresses = self.handle.address().get().execute();
        let mut uplinks = BTreeSet::new();
        while let Some(message) = addresses.try_next().await.map_err(failed("the node's addresses"))? {
            let Some(address) = address(&message) else { continue };
            let full = if address.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS };
            if u32::from(message.header.prefix_len) < full && !is_link_local(&address) {
                uplinks.insert(message.header.index);
            }
            view.local.push(address);
        }
        let mut links = self.handle.link().get().execute();
        while let Some(message) = links.try_next().await.map_err(failed("the node's links"))? {
            let Some((interface, netns, peer)) = veth(&message) else { continue };
            let ifindex = message.header.index;
            // A namespace that went away in between has no addresses; the link is about to go too.
            let addresses = self.addresses(netns, peer).await.unwrap_or_default();
            let uplink = uplinks.contains(&ifindex);
            view.veths.push(Veth { ifindex, interface, netns, addresses, uplink });
        }
        view.veths.sort_by_key(|veth| veth.ifindex);
        view.local.sort();
        view.local.dedup();
        Ok(view)
    }

    /// Addresses of one interface of another namespace.
    async fn addresses(&self, netns: i32, index: u32) -> Result<Vec<IpAddr>, rtnetlink::Error> {
        let mut request = self.handle.address().get();
        let message = request.message_mut();
        message.header.index = index;
        message.attributes.push(AddressAttribute::TargetNetNsId(netns));
        let mut found = Vec::new();
        let mut messages = request.execute();
        while let Some(message) = messages.try_next().await? {
            found.extend(address(&message).filter(|it| !is_link_local(it)));
        }
        found.sort();
        Ok(found)
    }
}

/// Name, peer's namespace id and peer's index of a veth that leads to another namespace.
fn veth(message: &LinkMessage) -> Option<(String, i32, u32)> {
    let (mut is_veth, mut name, mut netns, mut peer) = (false, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(it) => name = Some(it.clone()),
            LinkAttribute::LinkNetNsId(it) => netns = Some(*it),
            LinkAttribute::Link(it) => peer = Some(*it),
            LinkAttribute::LinkInfo(info) => {
                is_veth = info.iter().any(|it| matches!(it, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    if is_veth { Some((name?, netns?, peer?)) } else { None }
}

/// The interface's own address: `IFA_LOCAL` where there is one, since `IFA_ADDRESS` is the other end's on
/// point-to-point links.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(it) => return Some(*it),
            AddressAttribute::Address(it) => found = Some(*it),
            _ => {}
        }
    }
    found
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
