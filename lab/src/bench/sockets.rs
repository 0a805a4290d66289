//! The sockets that stay open in every site for the whole run. A socket stays in the namespace it was opened in, so one
//! process holds them all.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::policy::{Pods, TCP_PORT, UDP_PORT};
use super::site::Site;
use crate::netlink::{self, Netlink};
use crate::netns::{self, Netns};
use crate::topology::ETH0;

/// What waits longer than this has lost its other end.
const PATIENCE: Duration = Duration::from_secs(10);
/// The default of every link (`GSO_MAX_SEGS`).
const ANY_SEGMENTS: u32 = 65_535;

/// A site's sockets could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The kernel refuses a setting of a link.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
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
}

/// How a stream's packets leave the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segments {
    /// Many segments in one packet, as veths do by default.
    Many,
    /// One segment in a packet.
    One,
}

/// What the client holds of a site.
#[derive(Debug)]
pub(super) struct ClientEnd {
    /// The client pod's namespace, for new connections.
    pub(super) netns: PathBuf,
    /// Where the server serves TCP.
    pub(super) server: SocketAddr,
    /// For requests and responses.
    pub(super) requests: TcpStream,
    /// For bulk data, by [`Segments`].
    pub(super) streams: [TcpStream; 2],
    /// For datagrams.
    pub(super) datagrams: UdpSocket,
    /// The server pod's end of that: the client reads it too, between two bursts.
    pub(super) datagrams_arrive: UdpSocket,
}

/// What the server holds of a site.
#[derive(Debug)]
pub(super) struct ServerEnd {
    /// For requests and responses.
    pub(super) requests: TcpStream,
    /// For bulk data, by [`Segments`].
    pub(super) streams: [TcpStream; 2],
    /// For new connections.
    pub(super) listener: TcpListener,
}

/// Opens a site's sockets.
pub(super) fn open(site: &Site) -> Result<(ClientEnd, ServerEnd), Error> {
    let failed = |step| move |error| Error::Socket { scenario: site.enforcer.to_string(), step, error };
    let Pods { client, server } = site.pods;
    let tcp = SocketAddr::new(server.into(), TCP_PORT);
    let listener = site.server.within(|| listen(tcp))?.map_err(failed("listen"))?;
    let connect = || {
        let connect =
            || Ok((site.client.within(|| TcpStream::connect_timeout(&tcp, PATIENCE)), listener.accept()?));
        let (near, (far, _)) = connect().map_err(failed("accept"))?;
        let near = near?.map_err(failed("connect"))?;
        for stream in [&near, &far] {
            prepare(stream).map_err(failed("prepare a connection"))?;
        }
        Ok::<_, Error>((near, far))
    };
    let (requests, requests_arrive) = connect()?;
    let (stream, stream_arrives) = connect()?;
    // A connection keeps what its link could do when it was made.
    let mut link = Netlink::open_in(&site.client)?;
    link.set_gso_max_segments(ETH0, 1)?;
    let (segments, segments_arrive) = connect()?;
    link.set_gso_max_segments(ETH0, ANY_SEGMENTS)?;

    let (near, far) = (SocketAddr::new(client.into(), UDP_PORT), SocketAddr::new(server.into(), UDP_PORT));
    let bind = |netns: &Netns, own, other| netns.within(|| datagrams(own, other));
    let datagrams = bind(&site.client, near, far)?.map_err(failed("bind UDP"))?;
    let datagrams_arrive = bind(&site.server, far, near)?.map_err(failed("bind UDP"))?;
    let near = ClientEnd {
        netns: site.client.path(),
        server: tcp,
        requests,
        streams: [stream, segments],
        datagrams,
        datagrams_arrive,
    };
    let far = ServerEnd { requests: requests_arrive, streams: [stream_arrives, segments_arrive], listener };
    Ok((near, far))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn datagrams(own: SocketAddr, other: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(own)?;
    socket.connect(other)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

impl ClientEnd {
    /// One datagram each way: what tracks connections knows the flow then, and that it is answered.
    pub(super) fn greet(&self) -> io::Result<()> {
        let mut byte = [0];
        self.datagrams.send(&[1])?;
        self.datagrams_arrive.recv(&mut byte)?;
        self.datagrams_arrive.send(&[1])?;
        self.datagrams.recv(&mut byte)?;
        Ok(())
    }

    /// The connection for bulk data.
    pub(super) fn stream(&self, segments: Segments) -> &TcpStream {
        &self.streams[usize::from(segments == Segments::One)]
    }
}

impl ServerEnd {
    /// The connection for bulk data.
    pub(super) fn stream(&self, segments: Segments) -> &TcpStream {
        &self.streams[usize::from(segments == Segments::One)]
    }
}
