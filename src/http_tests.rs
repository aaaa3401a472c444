//! The HTTP server over real sockets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::metrics::MeterProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;

struct Server {
    address: SocketAddr,
    ready: Arc<AtomicBool>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

async fn server() -> Server {
    server_within(LIMITS).await
}

async fn server_within(limits: Limits) -> Server {
    let metrics = Metrics::new().unwrap();
    metrics
        .provider()
        .meter("test")
        .u64_counter("mqtt.messages.received")
        .build()
        .add(3, &[]);
    let ready = Arc::new(AtomicBool::new(true));
    let readiness = Arc::clone(&ready);
    let health = move || {
        let details = Map::from_iter([("model".to_owned(), Value::from("none"))]);
        Health {
            ready: readiness.load(Ordering::Relaxed),
            details,
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let state = Arc::new(HttpState::new(metrics, health));
    let task = tokio::spawn(serve_within(limits, listener, state, async move {
        let _ = stopped.await;
    }));
    Server {
        address,
        ready,
        stop,
        task,
    }
}

impl Server {
    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        // A reset after the answer is an answer too: what was not read of the request is discarded.
        let _ = stream.read_to_end(&mut response).await;
        String::from_utf8(response).unwrap()
    }

    async fn request(&self, method: &str, path: &str) -> String {
        self.send(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await
    }
}

fn body_of(response: &str) -> &str {
    response.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn health_is_ok_with_details_and_unavailable_when_not_ready() {
    let server = server().await;
    let response = server.request("GET", "/health").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let document: Value = serde_json::from_str(body_of(&response)).unwrap();
    assert_eq!(document, serde_json::json!({"status": "ok", "model": "none"}));

    server.ready.store(false, Ordering::Relaxed);
    let response = server.request("GET", "/health?verbose=1").await;
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.contains("\"status\":\"unavailable\""), "{response}");
}

#[tokio::test]
async fn metrics_come_out_as_prometheus_text() {
    let response = server().await.request("GET", "/metrics").await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(
        response.contains("content-type: text/plain; version=0.0.4"),
        "{response}"
    );
    assert!(
        body_of(&response).contains("mqtt_messages_received_total 3"),
        "{response}"
    );
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_no_body() {
    let server = server().await;
    let get = server.request("GET", "/health").await;
    let head = server.request("HEAD", "/health").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.contains(&format!("content-length: {}", body_of(&get).len())),
        "{head}"
    );
    assert_eq!(body_of(&head), "");
}

#[tokio::test]
async fn other_paths_are_404_and_other_methods_405_with_what_is_allowed() {
    let server = server().await;
    assert!(server.request("GET", "/").await.starts_with("HTTP/1.1 404 "));
    assert!(
        server
            .request("GET", "/metrics/")
            .await
            .starts_with("HTTP/1.1 404 ")
    );
    let response = server.request("POST", "/metrics").await;
    assert!(response.starts_with("HTTP/1.1 405 "), "{response}");
    assert!(response.contains("allow: GET, HEAD"), "{response}");
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_refused() {
    let padding = "x".repeat(MAX_HEAD_BYTES + 1);
    let response = server()
        .await
        .send(&format!("GET /health HTTP/1.1\r\nA: {padding}\r\n\r\n"))
        .await;
    assert!(
        response.is_empty() || response.starts_with("HTTP/1.1 431 "),
        "{response}"
    );
}

#[tokio::test]
async fn what_is_not_http_ends_its_own_connection_only() {
    let server = server().await;
    let response = server.send("\u{10}\u{1f}MQTT\r\n\r\n").await;
    assert!(!response.contains(" 200 "), "{response}");
    assert!(
        server
            .request("GET", "/health")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
}

#[tokio::test]
async fn slow_clients_beyond_the_cap_delay_others_but_do_not_keep_them_out() {
    let limits = Limits {
        max_connections: 4,
        head_time: Duration::from_millis(300),
        ..LIMITS
    };
    let server = server_within(limits).await;
    let mut slow = Vec::new();
    for _ in 0..limits.max_connections {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /health HT").await.unwrap();
        slow.push(stream);
    }
    let begun = Instant::now();
    assert!(
        server
            .request("GET", "/health")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_holds_its_connection_open_is_cut_off() {
    let limits = Limits {
        max_connections: 1,
        connection_time: Duration::from_millis(300),
        ..LIMITS
    };
    let server = server_within(limits).await;
    let mut holder = TcpStream::connect(server.address).await.unwrap();
    let endless = b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
    holder.write_all(endless).await.unwrap();
    assert!(
        server
            .request("GET", "/health")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
}

#[tokio::test]
async fn stopping_ends_within_its_time_even_if_a_client_dawdles() {
    let server = server().await;
    let mut dawdler = TcpStream::connect(server.address).await.unwrap();
    dawdler.write_all(b"GET /hea").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop.send(()).unwrap();
    timeout(STOP_TIME + Duration::from_secs(2), server.task)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
