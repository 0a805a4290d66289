//! What is measured: five workloads, each in slices of some milliseconds, each slice of one site giving one figure.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::server::{Job, LAST, PIECE, Work};
use super::sockets::{ClientEnd, Segments};
use super::statistics::median;
use crate::netns;

/// How long requests are sent in a slice.
const REQUESTS: Duration = Duration::from_millis(25);
/// Requests that are not measured: the server's thread is woken by the first.
const WARM_UP: u32 = 10;
/// Datagrams in a burst: as many as fit into the default receive buffer, with room to spare.
const BURST: u32 = 128;
/// Bursts in a slice.
const BURSTS: u32 = 40;
/// Payload of a datagram.
const DATAGRAM: [u8; 64] = [0; 64];
/// Connections in a slice.
const CONNECTIONS: u32 = 100;
/// How long data is sent in a slice.
const STREAM: Duration = Duration::from_millis(50);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Time from a request of one byte to its response, over an open TCP connection. Nanoseconds.
    TcpLatency,
    /// CPU time of one UDP datagram, from the call that sends it until it is in the receiver's socket. Nanoseconds.
    UdpCpu,
    /// Time to open a TCP connection, have it accepted, and close it at both ends. Nanoseconds.
    Connection,
    /// One TCP stream. Bits a second.
    Throughput,
    /// One TCP stream without segmentation offload. Bits a second.
    ThroughputWithoutGso,
}

impl Workload {
    /// Everything that is measured.
    pub const ALL: [Self; 5] =
        [Self::TcpLatency, Self::UdpCpu, Self::Connection, Self::Throughput, Self::ThroughputWithoutGso];
}

/// The measuring end: runs slices, one after the other.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) ends: Vec<ClientEnd>,
    pub(super) jobs: Sender<Job>,
}

impl Client {
    /// Measures one slice at one site.
    ///
    /// # Errors
    /// A socket fails.
    pub(super) fn slice(&self, workload: Workload, site: usize) -> io::Result<f64> {
        let end = &self.ends[site];
        let server = |work| self.jobs.send(Job { site, work }).map_err(|_| io::ErrorKind::BrokenPipe);
        match workload {
            Workload::TcpLatency => {
                server(Work::Echo)?;
                latency(&end.requests)
            }
            Workload::UdpCpu => udp_cpu(end),
            Workload::Connection => {
                netns::enter(&end.netns).map_err(|error| error.error)?;
                server(Work::Accept(CONNECTIONS))?;
                connection(end)
            }
            Workload::Throughput | Workload::ThroughputWithoutGso => {
                let segments = if workload == Workload::Throughput { Segments::Many } else { Segments::One };
                server(Work::Sink(segments))?;
                throughput(end.stream(segments))
            }
        }
    }
}

fn latency(mut stream: &TcpStream) -> io::Result<f64> {
    let mut ask = |byte| {
        let (begin, mut answer) = (Instant::now(), [0]);
        stream.write_all(&[byte])?;
        stream.read_exact(&mut answer)?;
        Ok::<_, io::Error>(nanoseconds(begin.elapsed()))
    };
    for _ in 0..WARM_UP {
        ask(b'w')?;
    }
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < REQUESTS {
        times.push(ask(b'r')?);
    }
    ask(LAST)?;
    Ok(median(&mut times))
}

/// A veth hands packets on in the context of who sends: the thread's CPU time holds all hops to the receiving socket.
fn udp_cpu(end: &ClientEnd) -> io::Result<f64> {
    end.greet()?;
    let mut times = Vec::new();
    let mut buffer = [0; DATAGRAM.len()];
    for _ in 0..BURSTS {
        let begin = cpu_time()?;
        for _ in 0..BURST {
            end.datagrams.send(&DATAGRAM)?;
        }
        let took = cpu_time()?.saturating_sub(begin);
        times.push(nanoseconds(took) / f64::from(BURST));
        for _ in 0..BURST {
            end.datagrams_arrive.recv(&mut buffer)?;
        }
    }
    Ok(median(&mut times))
}

fn connection(end: &ClientEnd) -> io::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..CONNECTIONS {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(end.server)?;
        // The server closes first: its end is what waits out the late packets.
        if stream.read(&mut [0])? != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        drop(stream);
        times.push(nanoseconds(begin.elapsed()));
    }
    Ok(median(&mut times))
}

fn throughput(mut stream: &TcpStream) -> io::Result<f64> {
    let piece = vec![0; PIECE];
    let (begin, mut pieces) = (Instant::now(), 0_u32);
    while begin.elapsed() < STREAM {
        stream.write_all(&piece)?;
        pieces += 1;
    }
    stream.write_all(&[LAST])?;
    stream.read_exact(&mut [0])?;
    let took = begin.elapsed().as_secs_f64();
    let bits = u32::try_from(PIECE * 8).unwrap_or(u32::MAX);
    Ok(f64::from(pieces) * f64::from(bits) / took)
}

fn cpu_time() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}
