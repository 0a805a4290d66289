//! One look at all links and addresses.
//!
//! What is not known is not taken for gone: a link is gone when the kernel says so of its index, and addresses that cannot be
//! asked for stay what they were.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};

use super::dump::{Ask, Connection, DumpError};
use super::{LinkError, Veth, View, tunnels};

/// How often a dump is made that is interrupted each time. All of these together are taken then: a link or address that was there
/// all along is in one of them.
const ATTEMPTS: usize = 5;

/// A netlink connection for looking, and what was seen.
#[derive(Debug)]
pub struct Scanner {
    connection: Connection,
    /// Veths that there were at the last look; without what was seen where an earlier agent knew them.
    known: BTreeMap<u32, Option<Veth>>,
}

impl Scanner {
    /// Opens the connection in this thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses the socket, or is older than 4.20.
    pub fn open() -> Result<Self, LinkError> {
        Ok(Self { connection: Connection::open()?, known: BTreeMap::new() })
    }

    /// Takes note of veths that an earlier agent knew: if a look does not show one, the kernel is asked for it.
    pub fn expect(&mut self, ifindexes: impl IntoIterator<Item = u32>) {
        for ifindex in ifindexes {
            self.known.entry(ifindex).or_default();
        }
    }

    /// Looks at all veths and addresses.
    ///
    /// # Errors
    ///
    /// The kernel refuses a dump, or does not tell whether a veth is gone.
    pub async fn scan(&mut self) -> Result<View, LinkError> {
        if self.connection.is_closed() {
            self.connection = Connection::open()?;
        }
        let view = look(&self.connection, &self.known).await?;
        self.known = view.veths.iter().map(|veth| (veth.ifindex, Some(veth.clone()))).collect();
        Ok(view)
    }
}

/// What there is, where `known` was there before.
async fn look(ask: &impl Ask, known: &BTreeMap<u32, Option<Veth>>) -> Result<View, LinkError> {
    let failed = |what| move |source| LinkError::Request { what, source };
    let mut view = View::default();
    let mut uplinks = BTreeSet::new();
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    for message in whole(ask, request).await.map_err(failed("the node's addresses"))? {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        let Some(address) = address(&message) else { continue };
        let full = if address.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS };
        if u32::from(message.header.prefix_len) < full && !is_link_local(&address) {
            uplinks.insert(message.header.index);
        }
        view.local.push(address);
    }
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut links = BTreeMap::new();
    for message in whole(ask, request).await.map_err(failed("the node's links"))? {
        let RouteNetlinkMessage::NewLink(message) = message else { continue };
        links.insert(message.header.index, message);
    }
    for ifindex in known.keys() {
        if !links.contains_key(ifindex) {
            let link = ask.link(*ifindex).await.map_err(failed("a link that its list lacks"))?;
            links.extend(link.map(|link| (*ifindex, link)));
        }
    }
    view.tunnel_ports = links.values().flat_map(tunnels::ports).collect();
    view.devices = links.iter().filter_map(way_out).collect();
    let mut masters: BTreeMap<u32, Option<[u8; 6]>> = BTreeMap::new();
    for (ifindex, link) in &links {
        let Some(end) = veth(link) else { continue };
        let ifindex = *ifindex;
        let before = known.get(&ifindex).and_then(Option::as_ref);
        let seen = behind(ask, ifindex, end, before, &mut view.unknown).await.map_err(failed("a link"))?;
        let Some((end, addresses)) = seen else { continue };
        let uplink = uplinks.contains(&ifindex);
        let End { interface, netns, master, .. } = end;
        if master != 0 && !masters.contains_key(&master) {
            let link = match links.get(&master) {
                Some(link) => Some(link.clone()),
                None => ask.link(master).await.map_err(failed("a bridge"))?,
            };
            masters.insert(master, link.as_ref().and_then(bridge));
        }
        let bridge = masters.get(&master).copied().flatten();
        view.veths.push(Veth { ifindex, interface, netns, master, bridge, addresses, uplink });
    }
    view.local.sort();
    view.local.dedup();
    Ok(view)
}

/// A veth's other end and its addresses; those of `before` where they cannot be asked for. None: the veth is gone, or leads nowhere else.
async fn behind(
    ask: &impl Ask,
    ifindex: u32,
    end: End,
    before: Option<&Veth>,
    unknown: &mut Vec<String>,
) -> Result<Option<(End, Vec<IpAddr>)>, DumpError> {
    if let Ok(addresses) = addresses(ask, &end).await {
        return Ok(Some((end, addresses)));
    }
    // The other end may have moved, or gone with this one.
    let Some(end) = ask.link(ifindex).await?.as_ref().and_then(veth) else { return Ok(None) };
    let error = match addresses(ask, &end).await {
        Ok(addresses) => return Ok(Some((end, addresses))),
        Err(error) => error,
    };
    // Its namespace is on its way out (`rtnl_get_net_ns_capable`), and this end goes with it.
    if error.errno() != Some(libc::EINVAL) {
        let interface = &end.interface;
        unknown.push(format!(
            "asking the kernel for the addresses behind {interface}: {error}; those known before stay"
        ));
    }
    let before = before.filter(|before| before.netns == end.netns);
    Ok(Some((end, before.map(|before| before.addresses.clone()).unwrap_or_default())))
}

/// A whole dump; if none of several is, all of them together.
async fn whole(ask: &impl Ask, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, DumpError> {
    let mut all = Vec::new();
    for _ in 0..ATTEMPTS {
        let dump = ask.dump(request.clone()).await?;
        if !dump.interrupted {
            return Ok(dump.messages);
        }
        all.extend(dump.messages);
    }
    Ok(all)
}

/// Addresses of a veth's other end, link-local ones left out.
async fn addresses(ask: &impl Ask, end: &End) -> Result<Vec<IpAddr>, DumpError> {
    let mut request = AddressMessage::default();
    request.header.index = end.peer;
    request.attributes.push(AddressAttribute::TargetNetNsId(end.netns));
    let mut found = Vec::new();
    for message in whole(ask, RouteNetlinkMessage::GetAddress(request)).await? {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        found.extend(address(&message).filter(|it| !is_link_local(it)));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// What a veth's link message tells of the other end.
struct End {
    interface: String,
    netns: i32,
    master: u32,
    peer: u32,
}

/// Of a veth that leads to another namespace.
fn veth(message: &LinkMessage) -> Option<End> {
    let (mut is_veth, mut name, mut netns, mut peer, mut master) = (false, None, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(it) => name = Some(it.clone()),
            LinkAttribute::LinkNetNsId(it) => netns = Some(*it),
            LinkAttribute::Controller(it) => master = *it,
            LinkAttribute::Link(it) => peer = Some(*it),
            LinkAttribute::LinkInfo(info) => {
                is_veth = info.iter().any(|it| matches!(it, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    if is_veth { Some(End { interface: name?, netns: netns?, peer: peer?, master }) } else { None }
}

/// Index and name of a device that packets may leave by.
fn way_out((ifindex, message): (&u32, &LinkMessage)) -> Option<(u32, String)> {
    let mut name = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(it) => name = Some(it.clone()),
            LinkAttribute::LinkInfo(info) if info.contains(&LinkInfo::Kind(InfoKind::Ifb)) => return None,
            _ => {}
        }
    }
    let is_loopback = message.header.link_layer_type == LinkLayerType::Loopback;
    if is_loopback { None } else { Some((*ifindex, name?)) }
}

/// The MAC address of a bridge.
fn bridge(message: &LinkMessage) -> Option<[u8; 6]> {
    let kind = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Bridge));
    let is_bridge = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::LinkInfo(info) if info.iter().any(kind));
    if !message.attributes.iter().any(is_bridge) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    })
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
