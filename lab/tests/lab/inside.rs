//! What a process inside a namespace of the lab does, with plain sockets: a node's own processes have no helper.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use postern_lab::lab::Lab;
use postern_lab::netns::Netns;
use postern_policy::model::NamespacedName;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// What is denied gets no answer in this time; what is allowed gets one in far less.
pub(crate) const PATIENCE: Duration = Duration::from_millis(400);

pub(crate) fn node<'a>(lab: &'a Lab, name: &str) -> &'a Netns {
    lab.topology().nodes().find(|(node, _)| *node == name).unwrap().1
}

pub(crate) fn pod<'a>(lab: &'a Lab, id: &str) -> &'a Netns {
    let (namespace, name) = id.split_once('/').unwrap();
    lab.topology().pod_netns(&NamespacedName::new(namespace, name)).unwrap()
}

pub(crate) fn external<'a>(lab: &'a Lab, name: &str) -> &'a Netns {
    lab.topology().external_netns(name).unwrap()
}

/// Runs a command inside and returns what it prints.
pub(crate) fn command(netns: &Netns, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = netns.within(|| Command::new(words[0]).args(&words[1..]).output()).unwrap();
    let output = output.unwrap_or_else(|error| panic!("{line}: {error} (the lab's tests need it)"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A connection to a helper that has let us through. `None`: no answer.
pub(crate) fn connect(netns: &Netns, to: SocketAddr) -> Option<TcpStream> {
    connect_from(netns, 0, to)
}

/// As [`connect`], from a port of ours.
pub(crate) fn connect_from(netns: &Netns, port: u16, to: SocketAddr) -> Option<TcpStream> {
    let connected = netns.within(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&any(to, port).into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok::<_, io::Error>(socket.into())
    });
    connected.unwrap().ok()
}

fn any(like: SocketAddr, port: u16) -> SocketAddr {
    let unspecified: IpAddr = if like.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    SocketAddr::new(unspecified, port)
}

/// One question over a connection, and the helper's answer: our token, its name, the address that it sees us under.
pub(crate) fn ask(stream: &TcpStream, token: &str, patience: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut writer = stream;
    writer.write_all(format!("{token}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    answer.starts_with(token).then_some(answer.trim_end().to_owned()).ok_or(io::ErrorKind::InvalidData.into())
}

/// Asks a helper over UDP, again and again until it answers.
pub(crate) fn ask_udp(netns: &Netns, port: u16, to: SocketAddr, token: &str, patience: Duration) -> bool {
    let asked = netns.within(|| {
        let socket = UdpSocket::bind(any(to, port))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let begin = Instant::now();
        let mut buffer = [0; 512];
        while begin.elapsed() < patience {
            // Refused so far, or too long for the path: the next one may do.
            let _ = socket.send(token.as_bytes());
            if socket.recv(&mut buffer).is_ok() {
                return Ok::<_, io::Error>(true);
            }
        }
        Ok(false)
    });
    asked.unwrap().unwrap()
}

/// Sends an echo request and waits for the reply.
pub(crate) fn ping(netns: &Netns, to: IpAddr) -> bool {
    static IDENTIFIERS: AtomicU16 = AtomicU16::new(1);
    ping_as(netns, to, IDENTIFIERS.fetch_add(1, Ordering::Relaxed))
}

/// As [`ping`], with an identifier of ours.
pub(crate) fn ping_as(netns: &Netns, to: IpAddr, identifier: u16) -> bool {
    netns.within(|| echo(to, identifier)).unwrap().unwrap()
}

fn echo(to: IpAddr, identifier: u16) -> io::Result<bool> {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.connect(&SockAddr::from(SocketAddr::new(to, 0)))?;
    // Type, code, checksum, identifier, sequence number. The kernel sums up ICMPv6 itself.
    let [high, low] = identifier.to_be_bytes();
    let mut message = [request, 0, 0, 0, high, low, 0, 1];
    if to.is_ipv4() {
        let sum: u32 = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX);
        message[2..4].copy_from_slice(&(!folded).to_be_bytes());
    }
    socket.send(&message)?;
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 512];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        let Ok(length) = (&socket).read(&mut buffer) else { return Ok(false) };
        // A raw IPv4 socket shows the IP header too.
        let skip = if to.is_ipv4() { 20 } else { 0 };
        let answer = buffer[..length].get(skip..).unwrap_or_default();
        if answer.first() == Some(&reply) && answer.get(4..6) == Some(&[high, low]) {
            return Ok(true);
        }
    }
}
