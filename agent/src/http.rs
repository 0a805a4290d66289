//! What probes and Prometheus ask over HTTP: `/livez`, `/readyz`, `/metrics`. Nothing here changes anything.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tracing::{debug, info};

use crate::control::{Asking, Request, Status};
use crate::metrics::Metrics;

/// The main loop answers within this, or something is wrong with it. Rolling out a large policy set takes less.
const PATIENCE: Duration = Duration::from_secs(20);

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
        if let Err(error) = axum::serve(listener, routes).await {
            debug!(%error, "HTTP ended");
        }
    })))
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
