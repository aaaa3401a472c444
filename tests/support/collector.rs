//! Collectors, to which a daemon tells what can be seen of it: one that decodes OTLP by OpenTelemetry's own messages for Python, and
//! rotel, written by others in Rust, which takes it over HTTP and gRPC and passes it on to that one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use serde_json::Value;

use super::foreign::{python_with_otlp, rotel};
use super::{PATIENCE, free_port, wait_for};

/// The one in Python. Ended when it is let go of.
pub(crate) struct Collector {
    process: Child,
    pub(crate) endpoint: String,
    spans: Receiver<Value>,
}

impl Collector {
    pub(crate) fn start() -> Option<Self> {
        let python = python_with_otlp()?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/otlp_receiver.py");
        let mut process = Command::new(python)
            .arg(script)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let port = lines.next().expect("a port").expect("text");
        let (sender, spans) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let span = serde_json::from_str(&line).expect("JSON");
                if sender.send(span).is_err() {
                    return;
                }
            }
        });
        Some(Self {
            process,
            endpoint: format!("http://127.0.0.1:{port}"),
            spans,
        })
    }

    /// The next thing of this name.
    pub(crate) fn next(&self, name: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let told = self.spans.recv_timeout(left).expect("it is told");
            if told["name"] == name {
                return told;
            }
        }
    }

    /// All that is told until it is enough.
    pub(crate) fn until(&self, is_enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut told = Vec::new();
        while !is_enough(&told) {
            let left = deadline.saturating_duration_since(Instant::now());
            let next = self.spans.recv_timeout(left);
            told.push(next.unwrap_or_else(|_| panic!("only this came: {told:#?}")));
        }
        told
    }

    /// The next so many spans, by their names.
    pub(crate) fn spans(&self, count: usize) -> BTreeMap<String, Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut spans = BTreeMap::new();
        while spans.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let span = self.spans.recv_timeout(left);
            let span = span.unwrap_or_else(|_| panic!("only these came: {spans:#?}"));
            let name = span["name"].as_str().expect("a name").to_owned();
            if name != "metrics" && name != "log" {
                spans.insert(name, span);
            }
        }
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // One that ended by itself is gone, too.
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// rotel. Ended when it is let go of.
pub(crate) struct Rotel {
    process: Child,
    /// Where it takes OTLP over HTTP.
    pub(crate) http: String,
    /// Where it takes it over gRPC.
    pub(crate) grpc: String,
}

impl Rotel {
    pub(crate) fn before(collector: &Collector) -> Option<Self> {
        let mut command = rotel()?;
        let [http, grpc] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
        let process = command
            .args([
                "start",
                "--otlp-http-endpoint",
                &http,
                "--otlp-grpc-endpoint",
                &grpc,
            ])
            .args(["--exporter", "otlp", "--otlp-exporter-protocol", "http"])
            .args(["--otlp-exporter-compression", "none"])
            .args(["--otlp-exporter-endpoint", &collector.endpoint])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let started = Self {
            process,
            http: format!("http://{http}"),
            grpc: format!("http://{grpc}"),
        };
        for place in [http, grpc] {
            wait_for("rotel", || TcpStream::connect(&place).ok());
        }
        Some(started)
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        // One that ended by itself is gone, too.
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}
