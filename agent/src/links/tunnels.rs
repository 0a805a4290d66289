//! On which UDP ports tunnel devices receive: what comes there is taken apart, and what is in it goes on.

use std::collections::BTreeSet;

use netlink_packet_route::link::{
    InfoAmt, InfoBareUdp, InfoData, InfoGeneve, InfoGre, InfoGre6, InfoIpTunnel, InfoVxlan, LinkAttribute,
    LinkInfo, LinkMessage,
};

/// Ports of GTP, which no device has elsewhere (3GPP TS 29.060 10.1.2.1; `GTP0_PORT`, `GTP1U_PORT` in `include/net/gtp.h`).
const GTP: [u16; 2] = [3386, 2152];

/// Those of a link, as its message tells. What comes by FOU or GUE has sockets that belong to no device; devices that send that way say where
/// to, which as a rule is where they are sent to.
pub(super) fn ports(link: &LinkMessage) -> BTreeSet<u16> {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let data = infos.flatten().filter_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    data.flat_map(of_kind).filter(|port| *port != 0).collect()
}

fn of_kind(data: &InfoData) -> Vec<u16> {
    fn all<T>(attributes: &[T], port: impl Fn(&T) -> Option<u16>) -> Vec<u16> {
        attributes.iter().filter_map(port).collect()
    }
    match data {
        InfoData::Vxlan(it) => all(it, |it| if let InfoVxlan::Port(port) = it { Some(*port) } else { None }),
        InfoData::Geneve(it) => {
            all(it, |it| if let InfoGeneve::Port(port) = it { Some(*port) } else { None })
        }
        InfoData::BareUdp(it) => {
            all(it, |it| if let InfoBareUdp::Port(port) = it { Some(*port) } else { None })
        }
        InfoData::Amt(it) => all(it, |it| match it {
            InfoAmt::RelayPort(port) | InfoAmt::GatewayPort(port) => Some(*port),
            _ => None,
        }),
        InfoData::Gtp(_) => GTP.to_vec(),
        InfoData::IpTunnel(it) => {
            all(it, |it| if let InfoIpTunnel::EncapDPort(port) = it { Some(*port) } else { None })
        }
        InfoData::GreTap(it) | InfoData::GreTun(it) | InfoData::ErSpan(it) => {
            all(it, |it| if let InfoGre::DestinationPort(port) = it { Some(*port) } else { None })
        }
        InfoData::GreTap6(it) | InfoData::GreTun6(it) | InfoData::Ip6ErSpan(it) => {
            all(it, |it| if let InfoGre6::DestinationPort(port) = it { Some(*port) } else { None })
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::InfoKind;

    use super::*;

    fn link(kind: InfoKind, data: InfoData) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
        link
    }

    #[test]
    fn each_kind_says_where_it_receives() {
        let table = [
            (InfoKind::Vxlan, InfoData::Vxlan(vec![InfoVxlan::Id(7), InfoVxlan::Port(8472)]), vec![8472]),
            (InfoKind::Geneve, InfoData::Geneve(vec![InfoGeneve::Port(6081)]), vec![6081]),
            (InfoKind::BareUdp, InfoData::BareUdp(vec![InfoBareUdp::Port(6635)]), vec![6635]),
            (InfoKind::Gtp, InfoData::Gtp(Vec::new()), vec![2152, 3386]),
            (InfoKind::IpIp, InfoData::IpTunnel(vec![InfoIpTunnel::EncapDPort(5555)]), vec![5555]),
            (InfoKind::GreTun, InfoData::GreTun(vec![InfoGre::DestinationPort(0)]), vec![]),
            (InfoKind::Veth, InfoData::Other(Vec::new()), vec![]),
        ];
        for (kind, data, expected) in table {
            assert_eq!(ports(&link(kind.clone(), data)).into_iter().collect::<Vec<_>>(), expected, "{kind}");
        }
    }
}
