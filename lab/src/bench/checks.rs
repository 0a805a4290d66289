//! What must hold before and after measuring: every scenario enforces its policy, only those without policy let everything
//! through, and only rule sets rest on the kernel's conntrack. A figure of an unprotected path would be worth nothing.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::policy::{FORBIDDEN_PORT, TCP_PORT};
use super::site::Site;
use crate::netns::{self, Netns};

/// How long what is forbidden gets to come through after all.
const DENIED: Duration = Duration::from_millis(500);
/// How long what nobody forbids gets on a busy machine.
const OPEN: Duration = Duration::from_secs(10);

/// A scenario is not what it is taken for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// A socket failed.
    #[error("{scenario}: {step}: {error}")]
    Socket {
        /// The scenario.
        scenario: String,
        /// What was tried.
        step: &'static str,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// Something forbidden came through.
    #[error("{scenario} does not enforce its policy: {what} came through")]
    NotEnforced {
        /// The scenario.
        scenario: String,
        /// What.
        what: &'static str,
    },
    /// Something did not come through although nothing is enforced: the attempt itself proves nothing.
    #[error("{scenario} has no policy, and yet {what} did not come through")]
    NotOpen {
        /// The scenario.
        scenario: String,
        /// What.
        what: &'static str,
    },
    /// Conntrack is used where it must not be, or the other way round.
    #[error("{scenario}: conntrack of {netns} has {count} entries, which is not as it must be")]
    Conntrack {
        /// The scenario.
        scenario: String,
        /// Where.
        netns: String,
        /// How many.
        count: u64,
    },
    /// A stream's packets are not of the size that they must have.
    #[error(
        "{scenario}: packets of the stream {which} segmentation offload hold {bytes:.0} bytes on average"
    )]
    PacketSize {
        /// The scenario.
        scenario: String,
        /// Which stream.
        which: &'static str,
        /// Their size.
        bytes: f64,
    },
}

/// An attempt at something forbidden.
struct Attempt<'a> {
    site: &'a Site,
    what: &'static str,
    listener: Listener,
}

enum Listener {
    Tcp(TcpStream, #[expect(dead_code, reason = "must be there to be reached")] TcpListener),
    Udp(UdpSocket),
}

/// Tries what nobody may do, in every site at once.
pub(super) fn enforcement(sites: &[Site]) -> Result<(), Error> {
    let begin = Instant::now();
    let mut attempts = Vec::new();
    for site in sites {
        attempts.extend(attempts_in(site)?);
    }
    thread::sleep(DENIED);
    for Attempt { site, what, listener } in &attempts {
        let scenario = || site.enforcer.to_string();
        let failed = |step| move |error| Error::Socket { scenario: scenario(), step, error };
        let mut arrived = listener.arrived().map_err(failed("look whether it came through"))?;
        let open = site.enforcer.is_open();
        while open && !arrived && begin.elapsed() < OPEN {
            thread::sleep(Duration::from_millis(10));
            arrived = listener.arrived().map_err(failed("look whether it came through"))?;
        }
        match (open, arrived) {
            (true, true) | (false, false) => {}
            (true, false) => return Err(Error::NotOpen { scenario: scenario(), what }),
            (false, true) => return Err(Error::NotEnforced { scenario: scenario(), what }),
        }
    }
    Ok(())
}

fn attempts_in(site: &Site) -> Result<[Attempt<'_>; 3], Error> {
    let failed = |step| move |error| Error::Socket { scenario: site.enforcer.to_string(), step, error };
    let (client, server) = (IpAddr::V4(site.pods.client), IpAddr::V4(site.pods.server));
    let tcp = |from: &Netns, to: &Netns, address, port| {
        let address = SocketAddr::new(address, port);
        let listener = to.within(|| TcpListener::bind(address))?.map_err(failed("listen"))?;
        let stream = from.within(|| start_connecting(address))?.map_err(failed("connect"))?;
        Ok::<_, Error>(Listener::Tcp(stream, listener))
    };
    let address = SocketAddr::new(server, FORBIDDEN_PORT);
    let udp = site.server.within(|| UdpSocket::bind(address))?.map_err(failed("bind UDP"))?;
    udp.set_nonblocking(true).map_err(failed("bind UDP"))?;
    let sender = site.client.within(|| UdpSocket::bind(SocketAddr::new(client, 0)))?;
    sender.and_then(|sender| sender.send_to(&[1], address)).map_err(failed("send a datagram"))?;
    let attempt = |what, listener| Attempt { site, what, listener };
    Ok([
        attempt(
            "a connection to a port that is not allowed",
            tcp(&site.client, &site.server, server, FORBIDDEN_PORT)?,
        ),
        attempt(
            "a connection from the server to the client",
            tcp(&site.server, &site.client, client, TCP_PORT)?,
        ),
        attempt("a datagram to a port that is not allowed", Listener::Udp(udp)),
    ])
}

fn start_connecting(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

impl Listener {
    fn arrived(&self) -> io::Result<bool> {
        match self {
            Self::Tcp(stream, _) => Ok(stream.peer_addr().is_ok()),
            Self::Udp(socket) => match socket.recv(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                received => received.map(|_| true),
            },
        }
    }
}

/// Looks for connections that the kernel tracks, once there was traffic: a hook would have seen it.
pub(super) fn conntrack(sites: &[Site]) -> Result<(), Error> {
    for site in sites {
        for netns in [&site.client, &site.node, &site.server] {
            let count = netns.within(tracked)?;
            let expected = site.enforcer.tracks_connections() && netns.name() == site.node.name();
            if expected != (count > 0) {
                let scenario = site.enforcer.to_string();
                return Err(Error::Conntrack { scenario, netns: netns.name().to_owned(), count });
            }
        }
    }
    Ok(())
}

/// A kernel without conntrack tracks nothing.
fn tracked() -> u64 {
    let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    count.ok().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Packets and bytes that a pod got so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    packets: f64,
    bytes: f64,
}

impl Received {
    /// By the counters of the server pod's link.
    pub(super) fn by(site: &Site) -> Result<Self, Error> {
        let read = || {
            let text = fs::read_to_string("/proc/thread-self/net/dev")?;
            let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
            let mut numbers = line.unwrap_or_default().split_whitespace().map_while(|word| word.parse().ok());
            let bytes = numbers.next().ok_or(io::ErrorKind::InvalidData)?;
            let packets = numbers.next().ok_or(io::ErrorKind::InvalidData)?;
            Ok(Self { packets, bytes })
        };
        let failed = |error| Error::Socket {
            scenario: site.enforcer.to_string(),
            step: "read the link's counters",
            error,
        };
        site.server.within(read)?.map_err(failed)
    }

    /// Checks the size of the packets since then. An Ethernet frame is larger than this only with many segments.
    pub(super) fn check(self, site: &Site, many_segments: bool) -> Result<(), Error> {
        const ONE_SEGMENT: f64 = 1514.0;
        let now = Self::by(site)?;
        let bytes = (now.bytes - self.bytes) / (now.packets - self.packets);
        if (bytes > 2.0 * ONE_SEGMENT) == many_segments && (bytes <= ONE_SEGMENT) != many_segments {
            return Ok(());
        }
        let which = if many_segments { "with" } else { "without" };
        Err(Error::PacketSize { scenario: site.enforcer.to_string(), which, bytes })
    }
}
