//! Traces, by OTLP to a collector: spans wait in a queue that is bounded, and go out from a thread of their own; what finds the queue
//! full is dropped, which the library says in the log. So nobody waits for a collector.

use std::time::Duration;

use opentelemetry::global;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};

use super::otlp::{exporter, resource};
use crate::settings::Telemetry;

/// Spans that wait; a request has seven.
const WAITING: usize = 4096;
/// How often they go out.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long the end waits for a collector.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The process's traces. Dropping it sends what waits.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Begins to export, if that is set.
    ///
    /// # Errors
    /// What the exporter says of the endpoint.
    pub fn install(telemetry: &Telemetry) -> Result<Option<Self>, String> {
        let Some(collector) = &telemetry.collector else {
            return Ok(None);
        };
        let exporter = exporter!(SpanExporter, "traces", collector)?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING)
            .with_scheduled_delay(INTERVAL)
            .build();
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        // A client that has begun a trace has decided; else so many of a hundred.
        let share = f64::from(telemetry.trace_percent) / 100.0;
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(sampler)
            .with_resource(resource())
            .build();
        global::set_tracer_provider(provider.clone());
        Ok(Some(Self { provider }))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_WORDS) {
            tracing::warn!(%error, "the last traces were not sent; see whether the collector at telemetry.otlp_endpoint runs");
        }
    }
}
