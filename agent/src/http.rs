//! What probes and Prometheus ask over HTTP: `/livez`, `/readyz`, `/metrics`. Nothing here changes anything.
//!
//! A connection is for one request, and bounded in every way: in number, in the time to ask and in the time to take the
//! answer.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Request as HttpRequest, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;
use tracing::{debug, info};

use crate::connections::{self, Busy};
use crate::control::{Asking, Request, Status};
use crate::descriptors;
use crate::metrics::Metrics;

/// The main loop answers within this, or something is wrong with it. Rolling out a large policy set takes less.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a client may take to ask.
const ASKING: Duration = Duration::from_secs(5);

/// How long a connection may take as a whole.
const CONNECTION: Duration = Duration::from_secs(30);

/// Connections at once, and the share of the process's descriptors that they may take.
const CONNECTIONS: (usize, u64) = (64, 8);

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct Listening(tokio::task::JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone)]
struct Shared {
    asking: Asking,
    metrics: Metrics,
}

impl Shared {
    async fn status(&self) -> Option<Status> {
        tokio::time::timeout(PATIENCE, self.asking.ask(Request::Status)).await.ok().flatten()
    }
}

/// Answers HTTP at an address.
///
/// # Errors
///
/// Nobody can listen there.
pub async fn listen(address: SocketAddr, asking: Asking, metrics: Metrics) -> std::io::Result<Listening> {
    let listener = TcpListener::bind(address).await?;
    info!(%address, "answering HTTP");
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .with_state(Shared { asking, metrics });
    Ok(Listening(tokio::spawn(async move {
        let serve = |stream, busy| answer(stream, busy, routes.clone());
        let limit = descriptors::at_most(CONNECTIONS.0, CONNECTIONS.1);
        connections::serve("HTTP", limit, listener, serve).await;
    })))
}

/// Answers one request.
async fn answer(stream: TcpStream, busy: Busy, routes: Router) {
    let service = service_fn(move |request: HttpRequest<Incoming>| {
        let (busy, routes) = (busy.clone(), routes.clone());
        async move { busy.during(routes.oneshot(request)).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(ASKING).keep_alive(false);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "HTTP connection ended"),
        Err(_) => debug!("HTTP connection took too long"),
    }
}

/// The main loop turns.
async fn livez(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    match shared.status().await {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent's main loop does not answer\n"),
    }
}

/// The first picture of the cluster is complete, and every isolated pod of this node is enforced. An API server that
/// went away since then does not count: what was known last is enforced. A document of a folder that nobody can read
/// does, whatever stands in for it.
async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.status().await {
        Some(status) if status.ready => (StatusCode::OK, "ok\n".to_owned()),
        Some(status) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}", reasons(&status))),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent's main loop does not answer\n".to_owned()),
    }
}

fn reasons(status: &Status) -> String {
    let pending = status.pending.iter().map(|pod| format!("isolated pod without a veth: {pod}\n"));
    let errors = status.errors.iter().map(|error| format!("{error}\n"));
    status.waiting().map(|line| line + "\n").chain(pending).chain(errors).collect()
}

async fn metrics_page(State(shared): State<Shared>) -> impl IntoResponse {
    let page = shared.status().await.and_then(|status| shared.metrics.page(&status).ok());
    let Some(page) = page else {
        let page = "the agent's main loop does not answer\n".to_owned();
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, "text/plain")], page);
    };
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (StatusCode::OK, [(header::CONTENT_TYPE, format)], page)
}
