//! Sockets that send frames, and see what arrives.

use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::{Priority, RcvBuf};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recv,
    recvfrom, sendto, setsockopt, socket,
};

use super::world::Place;

/// `PACKET_OUTGOING` (`linux/if_packet.h`)
const OUTGOING: u8 = 4;

/// A pod's interface.
pub(super) struct Tap {
    place: Place,
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Tap {
    /// In the calling thread's namespace, where there is nothing but `eth0` and a loopback device.
    pub(super) fn open(place: Place) -> Self {
        let flags = SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
        setsockopt(&socket, RcvBuf, &(4 << 20)).unwrap();
        let interface = getifaddrs()
            .unwrap()
            .filter(|it| it.interface_name == "eth0")
            .find_map(|it| it.address?.as_link_addr().copied())
            .unwrap();
        Self { place, socket, interface }
    }
}

/// All taps, and the node's own sockets.
pub(super) struct Taps {
    pods: Vec<Tap>,
    /// Of both families: to send with, whatever the header says.
    node: [OwnedFd; 2],
    /// Raw sockets: what the node takes for itself.
    local: Vec<OwnedFd>,
    buffer: Vec<u8>,
}

impl Taps {
    /// Opens the node's, in the calling thread's namespace.
    pub(super) fn open(pods: impl Iterator<Item = Tap>) -> Self {
        let raw =
            |family, protocol| socket(family, SockType::Raw, SockFlag::SOCK_NONBLOCK, protocol).unwrap();
        let (v4, v6) = (AddressFamily::Inet, AddressFamily::Inet6);
        let local = [
            raw(v4, SockProtocol::Udp),
            raw(v4, SockProtocol::Tcp),
            raw(v4, SockProtocol::Icmp),
            raw(v6, SockProtocol::Udp),
            raw(v6, SockProtocol::Tcp),
            raw(v6, SockProtocol::IcmpV6),
        ];
        let node = [v4, v6].map(|family| raw(family, SockProtocol::Raw));
        Self { pods: pods.collect(), node, local: local.into(), buffer: vec![0; 1 << 16] }
    }

    /// Sends a frame with a tag; from the node, what follows the Ethernet header. Whether it got as far as the device.
    pub(super) fn send(&self, from: Place, tag: u16, frame: &[u8], destination: Option<IpAddr>) -> bool {
        let sent = if let Some(tap) = self.pods.iter().find(|tap| tap.place == from) {
            setsockopt(&tap.socket, Priority, &i32::from(tag)).unwrap();
            sendto(tap.socket.as_raw_fd(), frame, &tap.interface, MsgFlags::empty())
        } else {
            match destination {
                Some(IpAddr::V4(to)) => {
                    let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                    sendto(self.node[0].as_raw_fd(), &frame[14..], &to, MsgFlags::empty())
                }
                Some(IpAddr::V6(to)) => {
                    let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                    sendto(self.node[1].as_raw_fd(), &frame[14..], &to, MsgFlags::empty())
                }
                None => Err(Errno::EAFNOSUPPORT),
            }
        };
        sent.is_ok()
    }

    /// What has arrived since, and where.
    pub(super) fn arrived(&mut self, mut at: impl FnMut(Place, &[u8])) {
        let Self { pods, local, buffer, .. } = self;
        for tap in pods {
            loop {
                match recvfrom::<LinkAddr>(tap.socket.as_raw_fd(), buffer) {
                    Ok((length, from)) => {
                        if from.is_none_or(|from| from.pkttype() != OUTGOING) {
                            at(tap.place, &buffer[..length]);
                        }
                    }
                    Err(Errno::EAGAIN) => break,
                    Err(error) => panic!("{:?}: {error}", tap.place),
                }
            }
        }
        for socket in local {
            loop {
                match recv(socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                    Ok(length) => at(Place::Node, &buffer[..length]),
                    Err(Errno::EAGAIN) => break,
                    Err(error) => panic!("the node: {error}"),
                }
            }
        }
    }
}
