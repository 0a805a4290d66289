//! Addresses and networks, read as the API server reads them.
//!
//! It kept on accepting IPv4 with leading zeros, which are decimal (kubernetes/kubernetes#108074), and IPv4 written as
//! IPv6 (`::ffff:10.0.0.1`), which is IPv4 on every wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Problem;

/// All IPv4 addresses written as IPv6 lie in `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

/// Parses an address.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let address = decimal(text).map(IpAddr::V4).or_else(|| text.parse().ok())?;
    Some(address.to_canonical())
}

/// Parses a network in CIDR notation. Host bits do not count: 10.1.2.3/8 is 10.0.0.0/8.
pub(super) fn network(field: &str, text: &str) -> Result<IpNet, Problem> {
    let none = || Problem::new(field, format!("{text:?} is not a CIDR such as 10.0.0.0/8"));
    let (address, bits) = text.split_once('/').ok_or_else(none)?;
    // Nothing but digits: `u8` would take a sign.
    let bits = Some(bits).filter(|bits| bits.bytes().all(|byte| byte.is_ascii_digit()));
    let bits: u8 = bits.and_then(|bits| bits.parse().ok()).ok_or_else(none)?;
    if let Some(v4) = decimal(address) {
        return Ipv4Net::new(v4, bits).map(|it| it.trunc().into()).map_err(|_| none());
    }
    let v6: Ipv6Addr = address.parse().map_err(|_| none())?;
    let Some(v4) = v6.to_ipv4_mapped() else {
        return Ipv6Net::new(v6, bits).map(|it| it.trunc().into()).map_err(|_| none());
    };
    let bits = bits.checked_sub(MAPPED_BITS).ok_or_else(|| {
        let message =
            format!("{text:?} is IPv4 written as IPv6, of more than all IPv4 addresses; write 0.0.0.0/0");
        Problem::new(field, message)
    })?;
    Ipv4Net::new(v4, bits).map(|it| it.trunc().into()).map_err(|_| none())
}

/// Four decimal numbers, leading zeros or not.
fn decimal(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_the_api_server_reads_them() {
        let cases = [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("010.244.000.000/24", Some("10.244.0.0/24")),
            ("10.08.0.9/16", Some("10.8.0.0/16")),
            ("10.0.0.0/08", Some("10.0.0.0/8")),
            ("::ffff:10.244.0.0/120", Some("10.244.0.0/24")),
            ("::ffff:af4:0/112", Some("10.244.0.0/16")),
            ("::ffff:0:0/96", Some("0.0.0.0/0")),
            // Wider than all of IPv4: nobody can tell which of the two families was meant.
            ("::ffff:0:0/95", None),
            ("::ffff:10.0.0.0/24", None),
            ("::/0", Some("::/0")),
            ("fd00::1/64", Some("fd00::/64")),
            ("10.0.0.0", None),
            ("10.0.0/8", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/+8", None),
            ("0x0a.0.0.0/8", None),
            ("256.0.0.0/8", None),
            ("+10.0.0.0/8", None),
        ];
        for (text, expected) in cases {
            let read = network("cidr", text).ok().map(|it| it.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn addresses_are_read_as_the_api_server_reads_them() {
        let cases = [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.0.0.08", Some("10.0.0.8")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("fd00::1", Some("fd00::1")),
            ("10.0.0.256", None),
            ("10.0.0.1.2", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(address(text).map(|it| it.to_string()).as_deref(), expected, "{text}");
        }
    }
}
