//! Health and metrics over HTTP, for probes and for Prometheus. Nobody is asked who they are, so
//! everything here is read-only, small and bounded: one request a connection, a few seconds for the
//! whole of it, a fixed number of connections.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::telemetry::Metrics;

/// Bounds that keep slow clients from piling up.
#[derive(Clone, Copy)]
struct Limits {
    /// Connections at the same time. The next ones wait in the system's backlog until one ends,
    /// which takes `connection_time` at most.
    max_connections: usize,
    /// Time for the whole of a connection: the head of the request, the answer and its reading.
    connection_time: Duration,
    /// Time for the head alone.
    head_time: Duration,
}

const LIMITS: Limits = Limits {
    max_connections: 64,
    connection_time: Duration::from_secs(10),
    head_time: Duration::from_secs(5),
};
/// Largest head of a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long requests under way may still take when the daemon stops.
const STOP_TIME: Duration = Duration::from_secs(1);
/// Pause after a failed accept: when file descriptors ran out, trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the server answers from.
pub struct HttpState {
    metrics: Metrics,
    health: Box<dyn Fn() -> Health + Send + Sync>,
}

/// Whether the daemon does its work, and details worth knowing.
#[derive(Clone, Debug)]
pub struct Health {
    /// Ready is 200 with `"status": "ok"`, not ready is 503 with `"status": "unavailable"`.
    pub ready: bool,
    /// Further members of the answer's JSON object.
    pub details: Map<String, Value>,
}

impl HttpState {
    /// The closure is called for each `/health`, so it must be quick and must not block.
    pub fn new(metrics: Metrics, health: impl Fn() -> Health + Send + Sync + 'static) -> HttpState {
        HttpState {
            metrics,
            health: Box::new(health),
        }
    }
}

/// Serves until `stop` is ready. Runs on the current tokio runtime and returns when every
/// connection has ended or been cut.
pub async fn serve(listener: TcpListener, state: Arc<HttpState>, stop: impl Future<Output = ()>) {
    serve_within(LIMITS, listener, state, stop).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    state: Arc<HttpState>,
    stop: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (permit, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let state = Arc::clone(&state);
                    connections.spawn(async move {
                        let _permit = permit;
                        serve_connection(limits, stream, state).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the HTTP listener could not accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // What is left after this time is cut when the set is dropped.
    let _ = timeout(STOP_TIME, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

async fn serve_connection(limits: Limits, stream: TcpStream, state: Arc<HttpState>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, &state);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(MAX_HEAD_BYTES)
        // Probes and scrapes come seconds apart; an idle connection would hold its place for nothing.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(limits.connection_time, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection ended early"),
        Err(_) => tracing::debug!("an HTTP connection took too long and was cut"),
    }
}

/// Answers without reading a body: none of the resources takes one. hyper leaves the body out of
/// the answer to HEAD by itself.
fn respond<B>(request: &Request<B>, state: &HttpState) -> Response<Full<Bytes>> {
    let resource: fn(&HttpState) -> Response<Full<Bytes>> = match request.uri().path() {
        "/health" => health,
        "/metrics" => metrics,
        _ => {
            return text(
                StatusCode::NOT_FOUND,
                "not found; there are /health and /metrics\n",
            );
        }
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    resource(state)
}

fn health(state: &HttpState) -> Response<Full<Bytes>> {
    let Health { ready, mut details } = (state.health)();
    let (code, status) = if ready {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    };
    details.insert("status".to_owned(), status.into());
    body(code, "application/json", format!("{}\n", Value::Object(details)))
}

fn metrics(state: &HttpState) -> Response<Full<Bytes>> {
    match state.metrics.render() {
        Ok(rendered) => body(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            rendered,
        ),
        Err(error) => {
            tracing::warn!(%error, "a scrape got no metrics");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics could not be written; the daemon's log says why\n",
            )
        }
    }
}

fn text(code: StatusCode, message: &'static str) -> Response<Full<Bytes>> {
    body(code, "text/plain; charset=utf-8", message.to_owned())
}

fn body(code: StatusCode, content_type: &'static str, content: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(content)));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl fmt::Debug for HttpState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HttpState(..)")
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
