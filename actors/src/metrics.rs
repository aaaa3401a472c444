//! The instruments of requests, in OpenTelemetry's GenAI terms. Boundaries are in seconds and
//! chosen for what each measures; no device, topic or prompt is ever an attribute.

use models::Precision;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

use crate::conversation::Usage;
use crate::policy::priority::Priority;

/// Of a prompt that counts as short where its first token is waited for: what is not in the cache already, in tokens.
const SHORT_PROMPT: usize = 256;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct RequestMetrics {
    duration_s: Histogram<f64>,
    first_token_s: Histogram<f64>,
    per_token_s: Histogram<f64>,
    queue_s: Histogram<f64>,
    tokens: Histogram<u64>,
    ended: Counter<u64>,
    prefix_queries: Counter<u64>,
    prefix_hits: Counter<u64>,
}

/// What computed an answer.
#[derive(Clone, Copy)]
pub(crate) struct By<'a> {
    /// The model's name; empty where none had begun.
    pub(crate) model: &'a str,
    /// How many bits a weight has.
    pub(crate) precision: Option<Precision>,
}

impl By<'_> {
    fn labels(self, priority: Priority) -> Vec<KeyValue> {
        let precision = self.precision.map_or_else(String::new, |bits| bits.to_string());
        vec![
            priority_of(priority),
            operation(),
            KeyValue::new("gen_ai.response.model", self.model.to_owned()),
            KeyValue::new("precision", precision),
        ]
    }
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
            prefix_queries: meter
                .u64_counter("clawdbot.prefix_cache.queries")
                .with_description("Tokens of prompts")
                .build(),
            prefix_hits: meter
                .u64_counter("clawdbot.prefix_cache.hits")
                .with_description(
                    "Tokens of prompts that were in the cache, as an earlier request had begun alike",
                )
                .build(),
        }
    }

    /// A request began.
    pub(crate) fn began(&self, priority: Priority, queue_s: f64) {
        self.queue_s.record(queue_s, &[priority_of(priority)]);
    }

    /// A request ended.
    pub(crate) fn ended(&self, priority: Priority, by: By<'_>, ending: &Ending<'_>, duration_s: f64) {
        let how = match ending {
            Ending::Finished(reason) => KeyValue::new("finish_reason", *reason),
            // Codes are a fixed few, so this stays bounded.
            Ending::Failed(code) => KeyValue::new("error.type", (*code).to_owned()),
        };
        self.ended.add(1, &[priority_of(priority), how.clone()]);
        let mut labels = by.labels(priority);
        labels.push(how);
        self.duration_s.record(duration_s, &labels);
    }

    /// What a complete request used, when its first text came, and how long the tokens behind that took.
    pub(crate) fn used(
        &self,
        priority: Priority,
        by: By<'_>,
        usage: Usage,
        first_s: Option<f64>,
        decode_s: Option<f64>,
    ) {
        let labels = by.labels(priority);
        let cached = usage.prompt_tokens_details.cached_tokens.min(usage.prompt_tokens);
        self.prefix_queries.add(usage.prompt_tokens as u64, &[]);
        self.prefix_hits.add(cached as u64, &[]);
        for (kind, tokens) in [
            ("input", usage.prompt_tokens),
            ("output", usage.completion_tokens),
        ] {
            let kind = KeyValue::new("gen_ai.token.type", kind);
            let model = KeyValue::new("gen_ai.response.model", by.model.to_owned());
            self.tokens.record(tokens as u64, &[kind, operation(), model]);
        }
        if let Some(seconds) = first_s {
            let is_short = usage.prompt_tokens - cached <= SHORT_PROMPT;
            let prompt = if is_short { "short" } else { "long" };
            let mut labels = labels.clone();
            labels.push(KeyValue::new("prompt", prompt));
            self.first_token_s.record(seconds, &labels);
        }
        if let Some(seconds) = decode_s.filter(|_| usage.completion_tokens > 1) {
            let tokens = (usage.completion_tokens - 1) as f64;
            self.per_token_s.record(seconds / tokens, &labels);
        }
    }
}

fn priority_of(priority: Priority) -> KeyValue {
    KeyValue::new("priority", priority.as_str())
}

fn operation() -> KeyValue {
    KeyValue::new("gen_ai.operation.name", "chat")
}
