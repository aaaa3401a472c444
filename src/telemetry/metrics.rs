//! Metrics: instruments are made anywhere through [`opentelemetry::global::meter`], and come out
//! here as Prometheus text. The names are OpenTelemetry's; Prometheus turns dots into underscores
//! and appends the unit and `_total`.

use opentelemetry::global;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{Aggregation, Instrument, InstrumentKind, SdkMeterProvider, Stream};
use prometheus::{Registry, TextEncoder};

/// Bounds for whole requests and waiting times, in seconds: OpenTelemetry's advice for
/// `gen_ai.server.request.duration`, so that dashboards made for other servers fit.
pub const DURATION_BOUNDARIES_S: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];

/// Bounds for `gen_ai.server.time_to_first_token`, in seconds, as OpenTelemetry advises.
pub const TIME_TO_FIRST_TOKEN_BOUNDARIES_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Bounds for `gen_ai.server.time_per_output_token`, in seconds, as OpenTelemetry advises.
pub const TIME_PER_TOKEN_BOUNDARIES_S: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
];

/// Bounds for `gen_ai.client.token.usage`, in tokens, as OpenTelemetry advises.
pub const TOKEN_BOUNDARIES: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// The process's metrics. Dropping it leaves the global provider in place.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    provider: SdkMeterProvider,
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
pub fn install() -> Result<Metrics, MetricsError> {
    let metrics = Metrics::new()?;
    global::set_meter_provider(metrics.provider.clone());
    Ok(metrics)
}

impl Metrics {
    /// Metrics of one's own, without touching the global provider.
    pub fn new() -> Result<Metrics, MetricsError> {
        let registry = Registry::new();
        // One scope and one process: their labels would stand on every line and tell nothing.
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|error| MetricsError::Setup(error.to_string()))?;
        let resource = Resource::builder()
            .with_service_name("clawdbot")
            .with_attribute(opentelemetry::KeyValue::new(
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ))
            .build();
        let provider = SdkMeterProvider::builder()
            .with_reader(exporter)
            .with_resource(resource)
            .with_view(explicit_boundaries)
            .build();
        Ok(Metrics { registry, provider })
    }

    /// The provider, for instruments that are not made through the global one.
    pub fn provider(&self) -> &SdkMeterProvider {
        &self.provider
    }

    /// Everything measured, in Prometheus' text format.
    pub fn render(&self) -> Result<String, MetricsError> {
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }
}

/// Gives each histogram bounds that fit its unit: the SDK's own are milliseconds in disguise and
/// would put every answer into the first two buckets.
fn explicit_boundaries(instrument: &Instrument) -> Option<Stream> {
    if instrument.kind() != InstrumentKind::Histogram {
        return None;
    }
    let boundaries = match (instrument.name(), instrument.unit()) {
        ("gen_ai.server.time_to_first_token", _) => TIME_TO_FIRST_TOKEN_BOUNDARIES_S,
        ("gen_ai.server.time_per_output_token" | "vllm.inter_token_latency", _) => {
            TIME_PER_TOKEN_BOUNDARIES_S
        }
        (_, "{token}") => TOKEN_BOUNDARIES,
        (_, "s") => DURATION_BOUNDARIES_S,
        _ => return None,
    };
    let aggregation = Aggregation::ExplicitBucketHistogram {
        boundaries: boundaries.to_vec(),
        record_min_max: false,
    };
    Stream::builder().with_aggregation(aggregation).build().ok()
}

#[cfg(test)]
mod tests {
    use opentelemetry::KeyValue;
    use opentelemetry::metrics::MeterProvider;

    use super::*;

    #[test]
    fn seconds_get_bounds_in_seconds_and_the_name_gets_its_unit() {
        let metrics = Metrics::new().unwrap();
        let meter = metrics.provider().meter("clawdbot");
        meter
            .f64_histogram("gen_ai.server.request.duration")
            .with_unit("s")
            .build()
            .record(0.5, &[]);
        meter
            .f64_histogram("gen_ai.server.time_to_first_token")
            .with_unit("s")
            .build()
            .record(0.003, &[]);
        let text = metrics.render().unwrap();
        for line in [
            "gen_ai_server_request_duration_seconds_bucket{le=\"0.32\"} 0",
            "gen_ai_server_request_duration_seconds_bucket{le=\"0.64\"} 1",
            "gen_ai_server_time_to_first_token_seconds_bucket{le=\"0.001\"} 0",
            "gen_ai_server_time_to_first_token_seconds_bucket{le=\"0.005\"} 1",
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
        let metrics = install().unwrap();
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
