//! The few routing-netlink requests that wiring a cluster takes, each sent and acknowledged on a socket that was
//! opened inside the namespace it works on.
//!
//! Links are made with the interface index that the caller chose, so nothing has to be looked up afterwards.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::netns::{self, Netns};

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace could not be entered to open the socket.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The socket failed.
    #[error("netlink in {netns}: {error}")]
    Socket {
        /// Where.
        netns: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The kernel refused.
    #[error("netlink in {netns}: {request}: {error}")]
    Refused {
        /// Where.
        netns: String,
        /// What was asked, in the words of `ip`.
        request: String,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// A hardware address.
pub type Mac = [u8; 6];

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: &'a str,
    /// Hardware address.
    pub mac: Mac,
}

/// A route through one interface.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Next hop; it need not be on a connected network (`onlink`). `None`: the destination is on the link.
    pub via: Option<IpAddr>,
    /// Out of which interface.
    pub index: u32,
}

/// A routing-netlink socket of one namespace.
#[derive(Debug)]
pub struct Netlink {
    netns: String,
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket inside `netns`.
    ///
    /// # Errors
    /// The namespace cannot be entered or the socket not be opened.
    pub fn open_in(netns: &Netns) -> Result<Self, Error> {
        let socket = netns.within(|| {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        })?;
        let name = netns.name().to_owned();
        match socket {
            Ok(socket) => Ok(Self { netns: name, socket, sequence: 0 }),
            Err(error) => Err(Error::Socket { netns: name, error }),
        }
    }

    /// `ip link add NAME type bridge`, up.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_bridge(&mut self, index: u32, name: &str, mac: Mac) -> Result<(), Error> {
        let end = End { index, name, mac };
        let mut link = link_message(&end);
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        set_up_flag(&mut link);
        let request = format!("link add {name} type bridge");
        self.send(request, RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// `ip link add NEAR type veth peer name FAR netns OTHER`. The near end comes up, the far one stays down.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_veth(&mut self, near: &End<'_>, far: &End<'_>, other: &Netns) -> Result<(), Error> {
        let mut peer = link_message(far);
        peer.attributes.push(LinkAttribute::NetNsFd(other.as_fd().as_raw_fd()));
        let mut link = link_message(near);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        set_up_flag(&mut link);
        let request = format!(
            "link add {} type veth peer name {} index {} netns {}",
            near.name,
            far.name,
            far.index,
            other.name()
        );
        self.send(request, RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// `ip link set INDEX up`
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_up(&mut self, index: u32) -> Result<(), Error> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        set_up_flag(&mut link);
        self.send(format!("link set {index} up"), RouteNetlinkMessage::SetLink(link), 0)
    }

    /// `ip link set INDEX master BRIDGE`
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enslave(&mut self, index: u32, bridge: u32) -> Result<(), Error> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::Controller(bridge));
        self.send(format!("link set {index} master {bridge}"), RouteNetlinkMessage::SetLink(link), 0)
    }

    /// `bridge link set INDEX hairpin on`: what comes from a port may go back to it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_hairpin(&mut self, index: u32) -> Result<(), Error> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let port = InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]);
        let info = vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(port)];
        link.attributes.push(LinkAttribute::LinkInfo(info));
        // Not SetLink, which passes over what is of the port.
        self.send(format!("bridge link set {index} hairpin on"), RouteNetlinkMessage::NewLink(link), 0)
    }

    /// `ip link set INDEX gso_max_segs SEGMENTS`: how many segments one packet may hold on its way out. 1 is what turning
    /// segmentation offload off comes to.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_gso_max_segments(&mut self, index: u32, segments: u32) -> Result<(), Error> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::GsoMaxSegs(segments));
        let request = format!("link set {index} gso_max_segs {segments}");
        self.send(request, RouteNetlinkMessage::SetLink(link), 0)
    }

    /// `ip address add ADDRESS dev INDEX nodad`
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.attributes.push(AddressAttribute::Address(address.addr()));
        message.attributes.push(AddressAttribute::Local(address.addr()));
        let mut flags = AddressFlags::Noprefixroute;
        if address.addr().is_ipv6() {
            flags |= AddressFlags::Nodad;
        }
        message.attributes.push(AddressAttribute::Flags(flags));
        let request = format!("address add {address} dev {index}");
        self.send(request, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// `ip route replace DESTINATION [via GATEWAY onlink] dev INDEX`
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_route(&mut self, route: &Route) -> Result<(), Error> {
        let request = format!("route replace {route}");
        let message = RouteNetlinkMessage::NewRoute(route_message(route));
        self.send(request, message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// `ip route delete DESTINATION [via GATEWAY] dev INDEX`. One that is gone already is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        let request = format!("route delete {route}");
        let message = RouteNetlinkMessage::DelRoute(route_message(route));
        match self.send(request, message, 0) {
            Err(Error::Refused { error, .. }) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// `ip link delete INDEX`. One that is gone already is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        match self.send(format!("link delete {index}"), RouteNetlinkMessage::DelLink(link), 0) {
            Err(Error::Refused { error, .. }) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    fn send(&mut self, request: String, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        self.sequence += 1;
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        let answer = self.exchange(&buffer);
        let refused = |error| Error::Refused { netns: self.netns.clone(), request, error };
        match answer {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(refused(error)),
            Err(error) => Err(Error::Socket { netns: self.netns.clone(), error }),
        }
    }

    /// Sends one request and reads its acknowledgement: `None` is success.
    fn exchange(&self, buffer: &[u8]) -> io::Result<Option<io::Error>> {
        self.socket.send(buffer, 0)?;
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&received)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => Ok(Some(error.to_io())),
                _ => Ok(None),
            };
        }
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(via) = self.via {
            write!(f, " via {via} onlink")?;
        }
        write!(f, " dev {}", self.index)
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn link_message(end: &End<'_>) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = end.index;
    link.attributes.push(LinkAttribute::IfName(end.name.to_owned()));
    link.attributes.push(LinkAttribute::Address(end.mac.to_vec()));
    link
}

fn set_up_flag(link: &mut LinkMessage) {
    link.header.flags |= LinkFlags::Up;
    link.header.change_mask |= LinkFlags::Up;
}

fn route_message(route: &Route) -> RouteMessage {
    let address = |address| match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.addr());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    if let Some(via) = route.via {
        message.header.flags |= RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(address(via)));
    }
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(address(route.destination.network())));
    }
    message.attributes.push(RouteAttribute::Oif(route.index));
    message
}
