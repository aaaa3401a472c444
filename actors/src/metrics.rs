//! The instruments of requests, in OpenTelemetry's GenAI terms. Boundaries are in seconds and
//! chosen for what each measures; no device, topic or prompt is ever an attribute.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

use crate::policy::priority::Priority;

/// See the module.
pub struct RequestMetrics {
    duration_s: Histogram<f64>,
    first_token_s: Histogram<f64>,
    per_token_s: Histogram<f64>,
    queue_s: Histogram<f64>,
    tokens: Histogram<u64>,
    ended: Counter<u64>,
}

/// How a request ended.
pub(crate) enum Ending<'a> {
    /// With a finish reason of its own.
    Finished(&'static str),
    /// With an error, by its code.
    Failed(&'a str),
}

impl RequestMetrics {
    /// Made once, from the daemon's meter.
    pub fn new(meter: &Meter) -> Self {
        let histogram = |name: &'static str, description: &'static str, boundaries: &[f64]| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries(boundaries.to_vec())
                .build()
        };
        Self {
            // The GenAI conventions' boundaries, with 0.5 added for the design's P99 target.
            duration_s: histogram(
                "gen_ai.server.request.duration",
                "From a request's acceptance to its end",
                &[
                    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96,
                    81.92,
                ],
            ),
            first_token_s: histogram(
                "gen_ai.server.time_to_first_token",
                "From a request's acceptance to its first text",
                &[
                    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
                    10.0,
                ],
            ),
            // Finer than the conventions' at the lower end: small models on a CPU get there.
            per_token_s: histogram(
                "gen_ai.server.time_per_output_token",
                "Between tokens after the first",
                &[
                    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
                    0.5, 1.0,
                ],
            ),
            queue_s: histogram(
                "clawdbot.request.queue.duration",
                "From a request's acceptance to its beginning",
                &[0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0],
            ),
            tokens: meter
                .u64_histogram("gen_ai.client.token.usage")
                .with_unit("{token}")
                .with_description("Tokens a request read and wrote")
                .with_boundaries(vec![
                    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0,
                ])
                .build(),
            ended: meter
                .u64_counter("clawdbot.requests.ended")
                .with_description("Requests that ended, by how")
                .build(),
        }
    }

    /// A request began.
    pub(crate) fn began(&self, priority: Priority, queue_s: f64) {
        self.queue_s.record(queue_s, &[priority_of(priority)]);
    }

    /// A request's first text came.
    pub(crate) fn first_text(&self, priority: Priority, model: &str, seconds: f64) {
        self.first_token_s.record(
            seconds,
            &[priority_of(priority), operation(), response_model(model)],
        );
    }

    /// A request ended.
    pub(crate) fn ended(&self, priority: Priority, model: &str, ending: &Ending<'_>, duration_s: f64) {
        let how = match ending {
            Ending::Finished(reason) => KeyValue::new("finish_reason", *reason),
            // Codes are a fixed few, so this stays bounded.
            Ending::Failed(code) => KeyValue::new("error.type", (*code).to_owned()),
        };
        self.ended.add(1, &[priority_of(priority), how.clone()]);
        self.duration_s.record(
            duration_s,
            &[priority_of(priority), operation(), response_model(model), how],
        );
    }

    /// What a complete request used.
    pub(crate) fn used(
        &self,
        priority: Priority,
        model: &str,
        prompt: usize,
        completion: usize,
        decode_s: Option<f64>,
    ) {
        for (kind, tokens) in [("input", prompt), ("output", completion)] {
            let kind = KeyValue::new("gen_ai.token.type", kind);
            self.tokens
                .record(tokens as u64, &[kind, operation(), response_model(model)]);
        }
        if let Some(seconds) = decode_s.filter(|_| completion > 1) {
            let attributes = [priority_of(priority), operation(), response_model(model)];
            self.per_token_s
                .record(seconds / (completion - 1) as f64, &attributes);
        }
    }
}

fn priority_of(priority: Priority) -> KeyValue {
    KeyValue::new("priority", priority.as_str())
}

fn operation() -> KeyValue {
    KeyValue::new("gen_ai.operation.name", "chat")
}

fn response_model(model: &str) -> KeyValue {
    KeyValue::new("gen_ai.response.model", model.to_owned())
}
