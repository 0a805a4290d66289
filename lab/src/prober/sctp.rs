//! SCTP probes over raw packets, so that they work on kernels without SCTP: an INIT out, an INIT ACK back from the other
//! helper. That is what a real association begins with, and all that a policy judges.
//!
//! Checksums are looked at, as a kernel with SCTP would: NAT on the way has to mend them.
//!
//! One raw socket per own address, for both ends. Who serves the port answers INIT ACK with its name as the cookie; who
//! does not answers ABORT, as a kernel with SCTP would.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Outcome, Target, attempt, listen};

const SCTP: i32 = 132;
const COMMON_HEADER: usize = 12;
/// Where the checksum is, in the common header.
const CHECKSUM: Range<usize> = 8..COMMON_HEADER;
/// Length of an INIT or INIT ACK chunk without parameters.
const INIT_LENGTH: usize = 20;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const STATE_COOKIE: u16 = 7;
/// Source ports of probes.
const FIRST_PORT: u32 = 32_768;
const PORTS: u32 = 28_000;

/// The raw sockets of this process, by own address.
static ENDPOINTS: Mutex<BTreeMap<IpAddr, Arc<Endpoint>>> = Mutex::new(BTreeMap::new());

/// A raw socket on one address.
#[derive(Debug)]
struct Endpoint {
    /// A raw socket in fact: tokio has no type for those, and this one's calls are the same.
    socket: UdpSocket,
    name: Mutex<String>,
    served: Mutex<BTreeSet<u16>>,
    /// Probes under way, by the tag that their answer carries.
    waiting: Mutex<BTreeMap<u32, oneshot::Sender<Answer>>>,
}

/// What came back.
#[derive(Debug)]
enum Answer {
    Accepted { cookie: String },
    Aborted,
}

/// Serves a port, in this party's name.
pub(super) fn serve(name: &str, address: SocketAddr) -> io::Result<()> {
    let endpoint = endpoint(address.ip())?;
    name.clone_into(&mut lock(&endpoint.name));
    lock(&endpoint.served).insert(address.port());
    Ok(())
}

/// Probes once.
pub(super) async fn attempt(target: &Target, patience: Duration) -> io::Result<Outcome> {
    static PROBES: AtomicU32 = AtomicU32::new(1);
    let tag = PROBES.fetch_add(1, Ordering::Relaxed);
    let endpoint = endpoint(target.source)?;
    let (sender, answer) = oneshot::channel();
    lock(&endpoint.waiting).insert(tag, sender);
    let port = u16::try_from(FIRST_PORT + tag % PORTS).unwrap_or(u16::MAX);
    let packet = packet(port, target.destination.port(), 0, &init(INIT, tag, ""));
    let sent = endpoint.socket.send_to(&packet, SocketAddr::new(target.destination.ip(), 0)).await;
    let answer = timeout(patience, answer).await;
    lock(&endpoint.waiting).remove(&tag);
    sent?;
    Ok(match answer {
        Ok(Ok(Answer::Accepted { cookie })) => attempt::judge(target, "sctp", &cookie),
        Ok(Ok(Answer::Aborted)) => Outcome::Refused,
        _ => Outcome::Dropped,
    })
}

/// The endpoint of one of our addresses, opened when first asked for.
fn endpoint(address: IpAddr) -> io::Result<Arc<Endpoint>> {
    let mut endpoints = lock(&ENDPOINTS);
    if let Some(endpoint) = endpoints.get(&address) {
        return Ok(Arc::clone(endpoint));
    }
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP)))?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    socket.set_nonblocking(true)?;
    let endpoint = Arc::new(Endpoint {
        socket: UdpSocket::from_std(socket.into())?,
        name: Mutex::default(),
        served: Mutex::default(),
        waiting: Mutex::default(),
    });
    tokio::spawn(receive(Arc::clone(&endpoint)));
    endpoints.insert(address, Arc::clone(&endpoint));
    Ok(endpoint)
}

async fn receive(endpoint: Arc<Endpoint>) {
    let mut buffer = [0; 2048];
    loop {
        // Errors are ICMP messages about earlier packets.
        let Ok((length, peer)) = endpoint.socket.recv_from(&mut buffer).await else { continue };
        let bytes = &buffer[..length];
        // IPv4 raw sockets give the IP header too.
        let header =
            if peer.is_ipv4() { bytes.first().map_or(0, |first| usize::from(first & 15) * 4) } else { 0 };
        let Some(answer) = bytes.get(header..).and_then(|segment| endpoint.take(segment, peer)) else {
            continue;
        };
        // Like any datagram, an answer may get lost.
        let _ = endpoint.socket.send_to(&answer, SocketAddr::new(peer.ip(), 0)).await;
    }
}

impl Endpoint {
    /// Takes one packet in; gives the one to answer with.
    fn take(&self, segment: &[u8], peer: SocketAddr) -> Option<Vec<u8>> {
        if !adds_up(segment) {
            return None;
        }
        let (from, to, tag) = (number16(segment, 0)?, number16(segment, 2)?, number32(segment, 4)?);
        let chunk = segment.get(COMMON_HEADER..)?;
        match *chunk.first()? {
            INIT => {
                let tag = number32(chunk, 4)?;
                let chunk = if lock(&self.served).contains(&to) {
                    init(INIT_ACK, tag, &listen::answer("sctp", &lock(&self.name), peer))
                } else {
                    vec![ABORT, 0, 0, 4]
                };
                return Some(packet(to, from, tag, &chunk));
            }
            INIT_ACK => {
                let length = usize::from(number16(chunk, INIT_LENGTH + 2)?);
                let cookie = chunk.get(INIT_LENGTH + 4..INIT_LENGTH + length)?;
                self.answered(tag, Answer::Accepted { cookie: String::from_utf8_lossy(cookie).into_owned() });
            }
            ABORT => self.answered(tag, Answer::Aborted),
            _ => {}
        }
        None
    }

    fn answered(&self, tag: u32, answer: Answer) {
        if let Some(sender) = lock(&self.waiting).remove(&tag) {
            // The probe may have given up.
            let _ = sender.send(answer);
        }
    }
}

/// An INIT or INIT ACK chunk, with a state cookie when there is one.
fn init(kind: u8, tag: u32, cookie: &str) -> Vec<u8> {
    let parameter = if cookie.is_empty() { 0 } else { 4 + cookie.len() };
    let length = u16::try_from(INIT_LENGTH + parameter).unwrap_or(u16::MAX);
    let mut chunk = vec![kind, 0];
    chunk.extend(length.to_be_bytes());
    chunk.extend(tag.to_be_bytes());
    // Receive window, one stream each way, first sequence number.
    chunk.extend(65_536_u32.to_be_bytes());
    chunk.extend([0, 1, 0, 1]);
    chunk.extend(tag.to_be_bytes());
    if parameter > 0 {
        chunk.extend(STATE_COOKIE.to_be_bytes());
        chunk.extend(u16::try_from(parameter).unwrap_or(u16::MAX).to_be_bytes());
        chunk.extend(cookie.as_bytes());
    }
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    chunk
}

fn packet(from: u16, to: u16, tag: u32, chunk: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(COMMON_HEADER + chunk.len());
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(chunk);
    let checksum = crc32c(&packet).to_le_bytes();
    packet[CHECKSUM].copy_from_slice(&checksum);
    packet
}

/// Whether a packet's checksum is right: the sum over the rest, with zeros in its place.
fn adds_up(packet: &[u8]) -> bool {
    let mut summed = packet.to_vec();
    let Some(place) = summed.get_mut(CHECKSUM) else { return false };
    place.fill(0);
    packet[CHECKSUM] == crc32c(&summed).to_le_bytes()
}

fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// A panic elsewhere leaves these maps as good as they were.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{adds_up, crc32c, packet};

    #[test]
    fn the_checksum_is_crc32c() {
        // RFC 3720, B.4
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_packet_whose_port_was_changed_alone_does_not_add_up() {
        let mut packet = packet(32_768, 3868, 1, &[1, 0, 0, 4]);
        assert!(adds_up(&packet) && !adds_up(&packet[..10]));
        packet[3] += 1;
        assert!(!adds_up(&packet));
    }
}
