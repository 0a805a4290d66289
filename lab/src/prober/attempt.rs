//! One probe: a new socket, one question, one [`Outcome`].

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postern_policy::model::Protocol;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Outcome, Target, listen, sctp};

/// Once connected, policy has spoken; this long the other process may take to answer on a busy machine.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Probes `target` once and waits up to `patience` for it to let us through.
pub(super) async fn attempt(target: &Target, patience: Duration) -> Outcome {
    let outcome = match target.protocol {
        Protocol::Tcp => tcp(target, patience).await,
        Protocol::Udp => udp(target, patience).await,
        Protocol::Sctp => sctp::attempt(target, patience).await,
    };
    outcome.unwrap_or_else(|error| classify(target, &error))
}

/// Connects, without a word said yet: what policy decides.
pub(super) async fn connect(target: &Target, patience: Duration) -> io::Result<Option<TcpStream>> {
    let socket = if target.destination.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(target.source, 0))?;
    match timeout(patience, socket.connect(target.destination)).await {
        Ok(stream) => stream.map(Some),
        Err(_) => Ok(None),
    }
}

async fn tcp(target: &Target, patience: Duration) -> io::Result<Outcome> {
    let Some(stream) = connect(target, patience).await? else { return Ok(Outcome::Dropped) };
    let token = next_token();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let exchange = async {
        stream.write_all(format!("{token}\n").as_bytes()).await?;
        stream.read_line(&mut line).await
    };
    match timeout(ANSWER_PATIENCE, exchange).await {
        Ok(done) => done?,
        Err(_) => return Ok(Outcome::Failed(format!("{}: connected, then no answer", target.destination))),
    };
    Ok(judge(target, &token, line.trim_end()))
}

async fn udp(target: &Target, patience: Duration) -> io::Result<Outcome> {
    let socket = UdpSocket::bind(SocketAddr::new(target.source, 0)).await?;
    socket.connect(target.destination).await?;
    let token = next_token();
    let mut buffer = [0; 512];
    let begin = Instant::now();
    // Datagrams get lost without policy's doing, so a second one follows.
    // To a Service, it might go to another backend: one connection, one choice.
    let shares: &[u32] = if target.answerer.is_some() { &[2, 1] } else { &[1] };
    for &share in shares {
        socket.send(token.as_bytes()).await?;
        if let Ok(received) = timeout_at(begin + patience / share, socket.recv(&mut buffer)).await {
            let answer = String::from_utf8_lossy(&buffer[..received?]).into_owned();
            return Ok(judge(target, &token, &answer));
        }
    }
    Ok(Outcome::Dropped)
}

/// A token that no other probe of this process uses.
pub(super) fn next_token() -> String {
    static TOKENS: AtomicU64 = AtomicU64::new(0);
    format!("{}.{}", std::process::id(), TOKENS.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn judge(target: &Target, token: &str, answer: &str) -> Outcome {
    let Some(answerer) = &target.answerer else {
        let name = answer.strip_prefix(token).and_then(|rest| rest.split_whitespace().next());
        let failed = || Outcome::Failed(format!("{}: got the answer {answer:?}", target.destination));
        return name.map_or_else(failed, |name| Outcome::Answered(name.to_owned()));
    };
    let seen = SocketAddr::new(target.source, 0);
    let expected = listen::answer(token, answerer, seen);
    if answer == expected {
        Outcome::Allowed
    } else {
        Outcome::Failed(format!("{}: expected the answer {expected:?}, got {answer:?}", target.destination))
    }
}

fn classify(target: &Target, error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::TimedOut => Outcome::Dropped,
        _ => Outcome::Failed(format!("{} from {}: {error}", target.destination, target.source)),
    }
}
