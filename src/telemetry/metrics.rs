//! Metrics: instruments are made anywhere through [`opentelemetry::global::meter`], each histogram
//! with boundaries of its own, and come out here as Prometheus text. The names are OpenTelemetry's; Prometheus turns dots into underscores
//! and appends the unit and `_total`.

use std::time::Duration;

use opentelemetry::global;
use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use prometheus::{Registry, TextEncoder};

use super::otlp::{exporter, resource};
use crate::settings::{Collector, Telemetry};

/// How often a collector is told all numbers.
const SENT_EVERY: Duration = Duration::from_secs(15);
/// How long the end waits for a collector.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The process's metrics. Dropping it leaves the global provider in place.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    provider: SdkMeterProvider,
    goes_to_collector: bool,
}

/// Sends all numbers once more when it is dropped.
#[derive(Debug)]
pub struct LastNumbers(SdkMeterProvider);

impl Drop for LastNumbers {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_WORDS) {
            tracing::warn!(%error, "the last metrics were not sent; see whether the collector at telemetry.otlp_endpoint runs");
        }
    }
}

/// Why metrics could not be set up or written.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The exporter could not be registered.
    #[error("metrics could not be set up: {0}. This is a fault of the program; please report it")]
    Setup(String),
    /// The text could not be written.
    #[error("metrics could not be written: {0}")]
    Encode(#[from] prometheus::Error),
}

/// Makes the meter provider and makes it the global one. Call it before any instrument is created:
/// an instrument stays with the provider that was global when it was made.
///
/// # Errors
/// [`MetricsError::Setup`], also where the collector's place is none.
pub fn install(telemetry: &Telemetry) -> Result<Metrics, MetricsError> {
    let metrics = Metrics::with(telemetry.collector.as_ref())?;
    global::set_meter_provider(metrics.provider.clone());
    Ok(metrics)
}

fn to_collector(collector: &Collector) -> Result<MetricExporter, String> {
    exporter!(MetricExporter, "metrics", collector)
}

impl Metrics {
    /// Metrics of one's own, without touching the global provider.
    pub fn new() -> Result<Metrics, MetricsError> {
        Self::with(None)
    }

    /// The same, which go to a collector as well, where there is one.
    fn with(collector: Option<&Collector>) -> Result<Metrics, MetricsError> {
        let registry = Registry::new();
        // One scope and one process: their labels would stand on every line and tell nothing.
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|error| MetricsError::Setup(error.to_string()))?;
        let mut provider = SdkMeterProvider::builder()
            .with_reader(exporter)
            .with_resource(resource());
        if let Some(collector) = collector {
            let exporter = to_collector(collector).map_err(MetricsError::Setup)?;
            let reader = PeriodicReader::builder(exporter).with_interval(SENT_EVERY);
            provider = provider.with_reader(reader.build());
        }
        Ok(Metrics {
            registry,
            provider: provider.build(),
            goes_to_collector: collector.is_some(),
        })
    }

    /// The provider, for instruments that are not made through the global one.
    pub fn provider(&self) -> &SdkMeterProvider {
        &self.provider
    }

    /// For the end of the daemon: what was counted since the collector was told last is not lost. None where there is no collector.
    pub fn last_numbers(&self) -> Option<LastNumbers> {
        self.goes_to_collector.then(|| LastNumbers(self.provider.clone()))
    }

    /// Everything measured, in Prometheus' text format.
    pub fn render(&self) -> Result<String, MetricsError> {
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::KeyValue;
    use opentelemetry::metrics::MeterProvider;

    use super::*;

    #[test]
    fn a_histogram_keeps_the_bounds_it_was_made_with_and_its_name_gets_its_unit() {
        let metrics = Metrics::new().unwrap();
        let meter = metrics.provider().meter("clawdbot");
        let histogram = meter
            .f64_histogram("gen_ai.server.request.duration")
            .with_unit("s");
        histogram
            .with_boundaries(vec![0.32, 0.5])
            .build()
            .record(0.4, &[]);
        let text = metrics.render().unwrap();
        for line in [
            "gen_ai_server_request_duration_seconds_bucket{le=\"0.32\"} 0",
            "gen_ai_server_request_duration_seconds_bucket{le=\"0.5\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }

    #[test]
    fn counters_gauges_and_token_counts_come_out_by_their_names() {
        let metrics = Metrics::new().unwrap();
        let meter = metrics.provider().meter("clawdbot");
        let input = [KeyValue::new("gen_ai.token.type", "input")];
        meter.u64_counter("mqtt.messages.dropped").build().add(2, &[]);
        meter.i64_up_down_counter("mqtt.connections").build().add(5, &[]);
        meter
            .u64_histogram("gen_ai.client.token.usage")
            .with_unit("{token}")
            .with_boundaries(vec![64.0])
            .build()
            .record(20, &input);
        let text = metrics.render().unwrap();
        for line in [
            "mqtt_messages_dropped_total 2",
            "mqtt_connections 5",
            "gen_ai_client_token_usage_bucket{gen_ai_token_type=\"input\",le=\"64\"} 1",
            "service_name=\"clawdbot\"",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("otel_scope"), "{text}");
    }

    #[test]
    fn the_global_meter_reaches_what_was_installed() {
        let metrics = install(&Telemetry {
            collector: None,
            capture_content: false,
            trace_percent: 0,
        })
        .unwrap();
        global::meter("clawdbot")
            .u64_counter("authentication.failures")
            .build()
            .add(1, &[]);
        assert!(
            metrics
                .render()
                .unwrap()
                .contains("authentication_failures_total 1")
        );
    }
}
