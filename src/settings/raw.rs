//! Settings as they were written: the right keys, nothing else known yet. A value of the wrong type
//! is kept as [`Given::Wrong`] instead of ending the reading, so that all faults come out together.

use config::{Value, ValueKind};
use serde::{Deserialize, Deserializer};

/// A value as it was written, if it has the type that its key wants.
#[derive(Clone, Debug)]
pub(super) enum Given<T> {
    Right(T),
    /// What stands there instead, and what should.
    Wrong {
        found: String,
        expected: &'static str,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSettings {
    pub(super) data_dir: Given<String>,
    pub(super) mqtt: RawMqtt,
    pub(super) flapping: RawFlapping,
    pub(super) broker: RawBroker,
    pub(super) auth: RawAuth,
    pub(super) model: RawModel,
    pub(super) hub: RawHub,
    pub(super) conversation: RawConversation,
    pub(super) scheduler: RawScheduler,
    pub(super) supervisor: RawSupervisor,
    pub(super) store: RawStore,
    pub(super) backup: RawBackup,
    pub(super) memory: RawMemory,
    pub(super) metrics: RawMetrics,
    pub(super) telemetry: RawTelemetry,
    pub(super) log: RawLog,
    pub(super) shutdown: RawShutdown,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMqtt {
    pub(super) tcp: Given<String>,
    pub(super) websocket: Given<String>,
    pub(super) unix: Given<String>,
    pub(super) tls: Given<String>,
    pub(super) secure_websocket: Given<String>,
    pub(super) tls_certificate: Given<String>,
    pub(super) tls_key: Given<String>,
    pub(super) tls_check_interval_s: Given<u64>,
    pub(super) tls_renew_before_days: Given<u64>,
    pub(super) tls_client_ca: Given<String>,
    pub(super) tls_require_client_certificate: Given<bool>,
    pub(super) allow_plaintext_beyond_loopback: Given<bool>,
    pub(super) allow_beyond_private_network: Given<bool>,
    pub(super) max_connections: Given<u64>,
    pub(super) max_connections_per_address: Given<u64>,
    pub(super) max_packet_bytes: Given<u64>,
    pub(super) connect_timeout_s: Given<u64>,
    pub(super) max_keep_alive_s: Given<u64>,
    pub(super) receive_maximum: Given<u64>,
    pub(super) max_queued_messages: Given<u64>,
    pub(super) max_queued_bytes: Given<u64>,
    pub(super) max_session_expiry_s: Given<u64>,
    pub(super) max_retained_messages: Given<u64>,
    pub(super) max_retained_bytes: Given<u64>,
    pub(super) max_subscriptions: Given<u64>,
    pub(super) max_messages_per_s: Given<u64>,
    pub(super) max_bytes_per_s: Given<u64>,
    pub(super) max_topic_levels: Given<u64>,
    pub(super) max_topic_bytes: Given<u64>,
    pub(super) max_inflight: Given<u64>,
    pub(super) session_threads: Given<u64>,
    pub(super) sys_interval_s: Given<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFlapping {
    pub(super) max_disconnects: Given<u64>,
    pub(super) window_s: Given<u64>,
    pub(super) ban_s: Given<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBroker {
    pub(super) mode: Given<String>,
    pub(super) address: Given<String>,
    pub(super) allow_plaintext_beyond_loopback: Given<bool>,
    pub(super) client_id: Given<String>,
    pub(super) share_group: Given<String>,
    pub(super) username: Given<String>,
    pub(super) password_file: Given<String>,
    pub(super) password_variable: Given<String>,
    pub(super) ca_certificate: Given<String>,
    pub(super) client_certificate: Given<String>,
    pub(super) client_key: Given<String>,
    pub(super) keep_alive_s: Given<u64>,
    pub(super) session_expiry_s: Given<u64>,
    pub(super) receive_maximum: Given<u64>,
    pub(super) max_queued_messages: Given<u64>,
    pub(super) max_queued_bytes: Given<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuth {
    pub(super) mode: Given<String>,
    pub(super) token_lifetime_s: Given<u64>,
    pub(super) max_devices: Given<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    pub(super) path: Given<String>,
    pub(super) max_sequences: Given<u64>,
    pub(super) precision: Given<String>,
    pub(super) kv_precision: Given<String>,
    pub(super) cache_mib: Given<u64>,
    pub(super) threads: Given<u64>,
    pub(super) load_timeout_s: Given<u64>,
    pub(super) commands: Given<String>,
    pub(super) commands_within_ms: Given<u64>,
    pub(super) fallback: Given<String>,
    pub(super) keep_lower_precisions: Given<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHub {
    pub(super) endpoint: Given<String>,
    pub(super) token_file: Given<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConversation {
    pub(super) max_prompt_bytes: Given<u64>,
    pub(super) max_queued: Given<u64>,
    pub(super) default_max_tokens: Given<u64>,
    pub(super) max_tokens_limit: Given<u64>,
    pub(super) undeliverable_grace_s: Given<u64>,
    pub(super) idle_s: Given<u64>,
    pub(super) history_tokens: Given<u64>,
    pub(super) retention_days: Given<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScheduler {
    pub(super) max_queued: Given<u64>,
    pub(super) max_queued_background: Given<u64>,
    pub(super) background_after_s: Given<u64>,
    pub(super) oldest_first_after_s: Given<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSupervisor {
    pub(super) min_backoff_ms: Given<u64>,
    pub(super) max_backoff_ms: Given<u64>,
    pub(super) random_factor: Given<f64>,
    pub(super) reset_backoff_after_s: Given<u64>,
    pub(super) intensity: Given<u64>,
    pub(super) period_s: Given<u64>,
    pub(super) step_up_after_s: Given<u64>,
    pub(super) heartbeat_interval_s: Given<u64>,
    pub(super) heartbeat_timeout_s: Given<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    pub(super) mode: Given<String>,
    pub(super) master_key_file: Given<String>,
    pub(super) master_key_variable: Given<String>,
    pub(super) master_key_keychain: Given<String>,
    pub(super) check_interval_s: Given<u64>,
    pub(super) check_mib_per_s: Given<u64>,
    pub(super) postgres_url: Given<String>,
    pub(super) postgres_password_file: Given<String>,
    pub(super) postgres_password_variable: Given<String>,
    pub(super) postgres_ca_certificate: Given<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackup {
    pub(super) directory: Given<String>,
    pub(super) interval_h: Given<u64>,
    pub(super) keep: Given<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMemory {
    pub(super) keep_free_percent: Given<u64>,
    pub(super) recovery_margin_percent: Given<u64>,
    pub(super) dwell_s: Given<u64>,
    pub(super) interval_s: Given<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTelemetry {
    pub(super) otlp_endpoint: Given<String>,
    pub(super) otlp_protocol: Given<String>,
    pub(super) trace_percent: Given<u64>,
    pub(super) capture_content: Given<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetrics {
    pub(super) disk_probe_interval_s: Given<u64>,
    pub(super) listen: Given<String>,
    pub(super) allow_beyond_loopback: Given<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) format: Given<String>,
    pub(super) level: Given<String>,
    pub(super) file: Given<String>,
    pub(super) max_mib: Given<u64>,
    pub(super) keep: Given<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawShutdown {
    pub(super) timeout_s: Given<u64>,
}

/// Types that a setting can have. Variables and `--set` only know text, so text that reads as a
/// number or a truth value is one; the `config` crate's own conversions go further and would take
/// 1.5 for 2 and 1 for true.
pub(super) trait Kind: Sized {
    const EXPECTED: &'static str;
    fn from_kind(kind: &ValueKind) -> Option<Self>;
}

impl Kind for u64 {
    const EXPECTED: &'static str = "a whole number, 0 or more";
    fn from_kind(kind: &ValueKind) -> Option<u64> {
        match kind {
            ValueKind::I64(number) => u64::try_from(*number).ok(),
            ValueKind::U64(number) => Some(*number),
            ValueKind::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
}

impl Kind for f64 {
    const EXPECTED: &'static str = "a number";
    fn from_kind(kind: &ValueKind) -> Option<f64> {
        match kind {
            ValueKind::Float(number) => Some(*number),
            ValueKind::I64(number) => Some(*number as f64),
            ValueKind::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
}

impl Kind for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_kind(kind: &ValueKind) -> Option<bool> {
        match kind {
            ValueKind::Boolean(truth) => Some(*truth),
            ValueKind::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
}

impl Kind for String {
    const EXPECTED: &'static str = "text in quotes";
    fn from_kind(kind: &ValueKind) -> Option<String> {
        match kind {
            ValueKind::String(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl<'de, T: Kind> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Given<T>, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(match T::from_kind(&value.kind) {
            Some(right) => Given::Right(right),
            None => Given::Wrong {
                found: describe(&value.kind),
                expected: T::EXPECTED,
            },
        })
    }
}

fn describe(kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        scalar => scalar.to_string(),
    }
}
