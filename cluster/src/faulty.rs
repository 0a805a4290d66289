//! An API server that misbehaves: a proxy in front of the real one that answers wrongly, late, twice or not to the end,
//! for what the real one will not do on demand.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, StreamExt as _};
use http::{StatusCode, header};
use kube::Client;
use postern_lab::netns::Netns;
use serde_json::json;
use tokio::sync::watch;

use crate::{api, files};

/// The proxy could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] postern_lab::netns::Error),
    /// No socket.
    #[error("proxy in front of the API server: {0}")]
    Socket(#[from] std::io::Error),
    /// Its kubeconfig cannot be written.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Every request is answered with this status.
    Status(u16),
    /// Watches that want to go on from where they were are told that it is gone, as the first event of the stream. Lists
    /// and streamed lists work.
    Expired,
    /// Streamed lists are refused, as by a server that does not know them.
    NoStreaming,
    /// Streamed lists never say that they are complete.
    Endless,
    /// Every event of a watch comes twice.
    Twice,
    /// In every event of a watch, the first text is replaced by the second.
    Replace(&'static str, &'static str),
    /// Every answer, and every piece of a stream, takes this long.
    Slow(Duration),
}

#[derive(Debug)]
struct Orders {
    fault: Fault,
    /// Watches begun under an earlier number end.
    epoch: u64,
    end: bool,
}

/// A proxy. Dropping it ends it.
#[derive(Debug)]
pub struct Faulty {
    kubeconfig: PathBuf,
    orders: watch::Sender<Orders>,
    requests: Arc<std::sync::Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Shared {
    client: Client,
    orders: watch::Receiver<Orders>,
    requests: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Faulty {
    /// Listens on a free port of the loopback of `netns`, without TLS and for everyone, and asks the API server of the
    /// kubeconfig `upstream` from the caller's own namespace. `kubeconfig` is where its own is written.
    ///
    /// # Errors
    /// No socket, or the file cannot be written.
    pub fn start(netns: &Netns, upstream: &Path, kubeconfig: PathBuf) -> Result<Self, Error> {
        let listener = netns.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
        listener.set_nonblocking(true)?;
        files::write(&kubeconfig, open_kubeconfig(listener.local_addr()?))?;
        let (orders, receiver) = watch::channel(Orders { fault: Fault::None, epoch: 0, end: false });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let requests = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (upstream, noted) = (upstream.to_owned(), requests.clone());
        let thread = thread::spawn(move || {
            if let Err(error) = runtime.block_on(serve(listener, &upstream, receiver, noted)) {
                eprintln!("postern-cluster: proxy in front of the API server: {error:#}");
            }
        });
        Ok(Self { kubeconfig, orders, requests, thread: Some(thread) })
    }

    /// A kubeconfig that goes through it, for a process in its namespace.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// From now on, this is wrong. Streams that have begun go on as they were, until [`Self::close`].
    pub fn set(&self, fault: Fault) {
        self.orders.send_modify(|orders| orders.fault = fault);
    }

    /// Ends every watch that is under way, in an orderly manner, as an API server does that restarts: it answers what is
    /// answered at once to the end.
    pub fn close(&self) {
        self.orders.send_modify(|orders| orders.epoch += 1);
    }

    /// The requests since this was asked last, path and query.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().map(|mut it| std::mem::take(&mut *it)).unwrap_or_default()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.orders.send_modify(|orders| orders.end = true);
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

/// A kubeconfig without TLS and without a user.
fn open_kubeconfig(address: SocketAddr) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "faulty",
        "clusters": [{ "name": "faulty", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "nobody", "user": {} }],
        "contexts": [{ "name": "faulty", "context": { "cluster": "faulty", "user": "nobody" } }],
    })
    .to_string()
}

async fn serve(
    listener: TcpListener,
    upstream: &Path,
    mut orders: watch::Receiver<Orders>,
    requests: Arc<std::sync::Mutex<Vec<String>>>,
) -> anyhow::Result<()> {
    let shared = Shared { client: api::client(upstream).await?, orders: orders.clone(), requests };
    let routes = axum::Router::new().fallback(forward).with_state(shared);
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::select! {
        served = async { axum::serve(listener, routes).await } => served?,
        // Connections that are still open go with the runtime.
        _ = orders.wait_for(|orders| orders.end) => {}
    }
    Ok(())
}

async fn forward(State(shared): State<Shared>, request: Request) -> Response {
    let (fault, epoch) = {
        let orders = shared.orders.borrow();
        (orders.fault, orders.epoch)
    };
    let asked = request.uri().to_string();
    if let Ok(mut requests) = shared.requests.lock() {
        requests.push(asked.clone());
    }
    let watches = asked.contains("watch=true");
    let streams = asked.contains("sendInitialEvents=true");
    match fault {
        Fault::Status(code) => return status(code, "the proxy was told to answer so"),
        Fault::Expired if watches && !streams => {
            let event = json!({ "type": "ERROR", "object": refusal(410, "too old resource version") });
            return format!("{event}\n").into_response();
        }
        Fault::NoStreaming if streams => {
            let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList \
                           feature gate is enabled";
            return status(422, message);
        }
        Fault::Slow(delay) => tokio::time::sleep(delay).await,
        _ => {}
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else { return status(400, "no body") };
    let mut upstream = http::Request::builder().method(parts.method).uri(parts.uri);
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            upstream = upstream.header(name, value);
        }
    }
    let Ok(upstream) = upstream.body(kube::client::Body::from(body)) else {
        return status(400, "no request");
    };
    let response = match shared.client.send(upstream).await {
        Ok(response) => response,
        Err(error) => return status(502, &error.to_string()),
    };
    let (parts, body) = response.into_parts();
    let pieces = http_body_util::BodyDataStream::new(body);
    let mut orders = shared.orders.clone();
    let closed = async move {
        // The sender is gone: that ends it too.
        let _ = orders.wait_for(|orders| orders.end || (watches && orders.epoch != epoch)).await;
    };
    let body = match fault {
        Fault::Twice if watches => Body::from_stream(lines(pieces).map(twice).take_until(closed)),
        Fault::Replace(text, by) if watches => {
            Body::from_stream(lines(pieces).map(move |piece| replaced(piece, text, by)).take_until(closed))
        }
        Fault::Endless if streams => Body::from_stream(lines(pieces).map(without_end).take_until(closed)),
        Fault::Slow(delay) => Body::from_stream(pieces.take_until(closed).then(move |piece| async move {
            tokio::time::sleep(delay).await;
            piece
        })),
        _ => Body::from_stream(pieces.take_until(closed)),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = parts.status;
    if let Some(value) = parts.headers.get(header::CONTENT_TYPE) {
        answer.headers_mut().insert(header::CONTENT_TYPE, value.clone());
    }
    answer
}

/// A stream's pieces, cut anew so that each ends with a line.
fn lines<E>(pieces: impl Stream<Item = Result<Bytes, E>>) -> impl Stream<Item = Result<Bytes, E>> {
    let mut rest = Vec::new();
    pieces.map(move |piece| {
        rest.extend_from_slice(&piece?);
        let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Ok(rest.drain(..end).collect::<Vec<u8>>().into())
    })
}

fn twice<E>(piece: Result<Bytes, E>) -> Result<Bytes, E> {
    let piece = piece?;
    let lines = piece.split_inclusive(|byte| *byte == b'\n');
    Ok(lines.flat_map(|line| [line, line]).collect::<Vec<_>>().concat().into())
}

fn replaced<E>(piece: Result<Bytes, E>, text: &str, by: &str) -> Result<Bytes, E> {
    Ok(String::from_utf8_lossy(&piece?).replace(text, by).into_bytes().into())
}

fn without_end<E>(piece: Result<Bytes, E>) -> Result<Bytes, E> {
    let piece = piece?;
    let lines = piece.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| !String::from_utf8_lossy(line).contains("k8s.io/initial-events-end"));
    Ok(kept.collect::<Vec<_>>().concat().into())
}

fn refusal(code: u16, message: &str) -> serde_json::Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
        "reason": if code == 410 { "Expired" } else { "Injected" },
    })
}

fn status(code: u16, message: &str) -> Response {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, [(header::CONTENT_TYPE, "application/json")], refusal(code.as_u16(), message).to_string())
        .into_response()
}
