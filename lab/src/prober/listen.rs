//! Serving a party's ports. Whoever connects sends a token and gets it back with the party's name and the address that
//! it was seen under, so that a probe knows who answered and whether it was translated on the way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_policy::model::Protocol;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::{Listen, sctp};

/// How many connections may wait for [`TcpListener::accept`]: all sources at once, on a busy machine.
const BACKLOG: u32 = 4096;
/// How long a connection may take to send its token.
const TOKEN_PATIENCE: Duration = Duration::from_secs(30);

/// A port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{name}: cannot listen on {address}/{protocol}: {reason}")]
pub(super) struct CannotListen {
    name: String,
    address: SocketAddr,
    protocol: Protocol,
    #[source]
    reason: io::Error,
}

/// Opens all ports; they are served for as long as the process lives.
pub(super) fn serve(name: &str, ports: &[Listen]) -> Result<(), CannotListen> {
    let shared: Arc<str> = name.into();
    for &Listen { address, protocol } in ports {
        let opened = match protocol {
            Protocol::Tcp => tcp(address).map(|listener| {
                tokio::spawn(serve_tcp(listener, Arc::clone(&shared)));
            }),
            Protocol::Udp => udp(address).map(|socket| {
                tokio::spawn(serve_udp(socket, Arc::clone(&shared)));
            }),
            Protocol::Sctp => sctp::serve(name, address),
        };
        opened.map_err(|reason| CannotListen { name: name.to_owned(), address, protocol, reason })?;
    }
    Ok(())
}

/// What a server answers to `token` from `peer`.
pub(super) fn answer(token: &str, name: &str, peer: SocketAddr) -> String {
    format!("{token} {name} {}", peer.ip().to_canonical())
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn serve_tcp(listener: TcpListener, name: Arc<str>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let name = Arc::clone(&name);
                tokio::spawn(async move {
                    // A client that went away is its own business.
                    let _ = tokio::time::timeout(TOKEN_PATIENCE, serve_connection(stream, peer, &name)).await;
                });
            }
            // Out of sockets for the moment, or a connection that was reset while it waited.
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, name: &str) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    // Until the client closes: a long-lived connection may send one token after the other.
    while stream.read_line(&mut line).await? > 0 {
        let answer = format!("{}\n", answer(line.trim_end(), name, peer));
        stream.write_all(answer.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

async fn serve_udp(socket: UdpSocket, name: Arc<str>) {
    let mut buffer = [0; 512];
    loop {
        // Errors are ICMP messages about earlier answers: nothing to do about them.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let token = String::from_utf8_lossy(&buffer[..length]);
            let _ = socket.send_to(answer(&token, &name, peer).as_bytes(), peer).await;
        }
    }
}
