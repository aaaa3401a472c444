//! From raw to checked: every value in its range, every pair of values in agreement.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use models::{KvPrecision, Precision};

use super::access::{self, AccessList};
use super::raw::{Given, RawSettings};
use super::{
    Auth, AuthMode, BrokerMode, Conversation, Flapping, Hub, Memory, Metrics, Model, Origin, Problem,
    Scheduler, Settings, Shutdown, Supervisor,
};
use crate::library::{EMBEDDED, Library};

/// A day, the longest that anything here waits; longer is a slip of the finger or the wrong unit.
pub(super) const DAY_S: u64 = 24 * 60 * 60;
const DAY: Duration = Duration::from_secs(DAY_S);
/// A gibibyte; room for one machine's queues and far from overflowing anything.
pub(super) const GIB: u64 = 1 << 30;
/// A million: more connections, messages or tokens than one machine has.
pub(super) const MILLION: u64 = 1_000_000;
/// The largest packet that MQTT's length field can announce, fixed header included.
pub(super) const MQTT_MAX_PACKET_BYTES: u64 = 268_435_455 + 5;

/// Collects faults while it converts. A faulty value is replaced by some harmless one: nobody sees
/// it, because with a fault there are no settings.
pub(super) struct Checker<'a> {
    pub(super) origins: &'a HashMap<String, Origin>,
    pub(super) platform_data_dir: Option<&'a Path>,
    pub(super) file: Option<&'a Path>,
    pub(super) problems: Vec<Problem>,
}

impl Checker<'_> {
    pub(super) fn settings(&mut self, raw: RawSettings, access: Option<AccessList>) -> Settings {
        let (access_origin, access) = access.map(|list| (list.origin, list.entries)).unzip();
        let data_dir = self.data_dir(raw.data_dir);
        let library = Library::of(&data_dir);
        let settings = Settings {
            file: self.file.and_then(|file| std::path::absolute(file).ok()),
            mqtt: self.mqtt(raw.mqtt, &data_dir),
            data_dir: data_dir.clone(),
            flapping: Flapping {
                max_disconnects: self.number(
                    "flapping.max_disconnects",
                    raw.flapping.max_disconnects,
                    0..=MILLION,
                ),
                window: self.seconds("flapping.window_s", raw.flapping.window_s, 1..=DAY_S),
                ban: self.seconds("flapping.ban_s", raw.flapping.ban_s, 1..=DAY_S),
            },
            broker: self.broker(raw.broker),
            auth: Auth {
                mode: self.choice(
                    "auth.mode",
                    raw.auth.mode,
                    &[("token", AuthMode::Token), ("none", AuthMode::None)],
                    AuthMode::Token,
                ),
                token_lifetime: self.seconds("auth.token_lifetime_s", raw.auth.token_lifetime_s, 1..=DAY_S),
                max_devices: self.number("auth.max_devices", raw.auth.max_devices, 1..=MILLION),
            },
            access: access.unwrap_or_default(),
            model: Model {
                path: self.model_path("model.path", raw.model.path, &library),
                commands: self.choice(
                    "model.commands",
                    raw.model.commands,
                    &[(EMBEDDED, true), ("none", false)],
                    true,
                ),
                commands_within: Duration::from_millis(self.number(
                    "model.commands_within_ms",
                    raw.model.commands_within_ms,
                    1..=60_000,
                )),
                fallback: self.fallback(raw.model.fallback, &library),
                max_sequences: self.number("model.max_sequences", raw.model.max_sequences, 1..=1024),
                precision: self.choice(
                    "model.precision",
                    raw.model.precision,
                    &[
                        ("auto", None),
                        ("f32", Some(Precision::F32)),
                        ("f16", Some(Precision::F16)),
                        ("int8", Some(Precision::Int8)),
                        ("int4", Some(Precision::Int4)),
                    ],
                    None,
                ),
                kv_precision: self.choice(
                    "model.kv_precision",
                    raw.model.kv_precision,
                    &[("f16", KvPrecision::F16), ("int8", KvPrecision::Int8)],
                    KvPrecision::F16,
                ),
                cache_bytes: Some(self.number::<usize>("model.cache_mib", raw.model.cache_mib, 0..=MILLION))
                    .filter(|mib| *mib > 0)
                    .map(|mib| mib.saturating_mul(1 << 20)),
                threads: Some(self.number("model.threads", raw.model.threads, 0..=1024))
                    .filter(|threads| *threads > 0),
                load_timeout: self.seconds("model.load_timeout_s", raw.model.load_timeout_s, 1..=DAY_S),
                keep_lower_precisions: self
                    .plain("model.keep_lower_precisions", raw.model.keep_lower_precisions),
            },
            hub: Hub {
                endpoint: self.optional("hub.endpoint", raw.hub.endpoint),
                token_file: self.optional_path("hub.token_file", raw.hub.token_file),
            },
            conversation: Conversation {
                max_prompt_bytes: self.number(
                    "conversation.max_prompt_bytes",
                    raw.conversation.max_prompt_bytes,
                    1..=MQTT_MAX_PACKET_BYTES,
                ),
                max_queued: self.number(
                    "conversation.max_queued",
                    raw.conversation.max_queued,
                    0..=MILLION,
                ),
                default_max_tokens: self.number(
                    "conversation.default_max_tokens",
                    raw.conversation.default_max_tokens,
                    1..=MILLION,
                ),
                max_tokens_limit: self.number(
                    "conversation.max_tokens_limit",
                    raw.conversation.max_tokens_limit,
                    1..=MILLION,
                ),
                undeliverable_grace: self.seconds(
                    "conversation.undeliverable_grace_s",
                    raw.conversation.undeliverable_grace_s,
                    0..=DAY_S,
                ),
                idle: self.seconds("conversation.idle_s", raw.conversation.idle_s, 1..=DAY_S),
                history_tokens: self.number(
                    "conversation.history_tokens",
                    raw.conversation.history_tokens,
                    0..=MILLION,
                ),
                retention: DAY
                    * self.number(
                        "conversation.retention_days",
                        raw.conversation.retention_days,
                        1..=36_500,
                    ),
            },
            scheduler: Scheduler {
                max_queued: self.number("scheduler.max_queued", raw.scheduler.max_queued, 1..=MILLION),
                max_queued_background: self.number(
                    "scheduler.max_queued_background",
                    raw.scheduler.max_queued_background,
                    1..=MILLION,
                ),
                background_after: self.seconds(
                    "scheduler.background_after_s",
                    raw.scheduler.background_after_s,
                    1..=DAY_S,
                ),
                oldest_first_after: self.seconds(
                    "scheduler.oldest_first_after_s",
                    raw.scheduler.oldest_first_after_s,
                    1..=DAY_S,
                ),
            },
            supervisor: Supervisor {
                min_backoff: self.milliseconds("supervisor.min_backoff_ms", raw.supervisor.min_backoff_ms),
                max_backoff: self.milliseconds("supervisor.max_backoff_ms", raw.supervisor.max_backoff_ms),
                random_factor: self.fraction("supervisor.random_factor", raw.supervisor.random_factor),
                reset_backoff_after: self.seconds(
                    "supervisor.reset_backoff_after_s",
                    raw.supervisor.reset_backoff_after_s,
                    1..=DAY_S,
                ),
                intensity: self.number("supervisor.intensity", raw.supervisor.intensity, 0..=1000),
                period: self.seconds("supervisor.period_s", raw.supervisor.period_s, 1..=DAY_S),
                step_up_after: self.seconds(
                    "supervisor.step_up_after_s",
                    raw.supervisor.step_up_after_s,
                    1..=DAY_S,
                ),
                heartbeat_interval: self.seconds(
                    "supervisor.heartbeat_interval_s",
                    raw.supervisor.heartbeat_interval_s,
                    1..=3600,
                ),
                heartbeat_timeout: self.seconds(
                    "supervisor.heartbeat_timeout_s",
                    raw.supervisor.heartbeat_timeout_s,
                    1..=3600,
                ),
            },
            store: self.store(raw.store),
            backup: self.backup(raw.backup),
            memory: Memory {
                keep_free_percent: self.number(
                    "memory.keep_free_percent",
                    raw.memory.keep_free_percent,
                    0..=99,
                ),
                recovery_margin_percent: self.number(
                    "memory.recovery_margin_percent",
                    raw.memory.recovery_margin_percent,
                    0..=90,
                ),
                dwell: self.seconds("memory.dwell_s", raw.memory.dwell_s, 1..=DAY_S),
                interval: self.seconds("memory.interval_s", raw.memory.interval_s, 1..=3600),
            },
            telemetry: self.telemetry(raw.telemetry),
            metrics: Metrics {
                disk_probe_interval: Some(self.seconds(
                    "metrics.disk_probe_interval_s",
                    raw.metrics.disk_probe_interval_s,
                    0..=DAY_S,
                ))
                .filter(|interval| !interval.is_zero()),
                listen: self.address("metrics.listen", raw.metrics.listen),
                allow_beyond_loopback: self
                    .plain("metrics.allow_beyond_loopback", raw.metrics.allow_beyond_loopback),
            },
            log: self.log(raw.log, &data_dir),
            shutdown: Shutdown {
                timeout: self.seconds("shutdown.timeout_s", raw.shutdown.timeout_s, 1..=3600),
            },
            former: Vec::new(),
        };
        // Pairs are only compared when each value alone is right, or one slip would be told twice.
        if self.problems.is_empty() {
            self.exposure(&settings);
            self.agreement(&settings);
            self.broker_agreement(&settings.broker);
            if let Some(origin) = access_origin {
                self.access_agreement(&settings, origin);
            }
        }
        settings
    }

    /// Rules that nobody would hold to are worse than none.
    fn access_agreement(&mut self, settings: &Settings, origin: Origin) {
        let reason = match (settings.auth.mode, settings.broker.mode) {
            _ if settings.access.is_empty() => return,
            (AuthMode::None, _) => {
                "with auth.mode = \"none\" everybody may do everything; take the rules out, or use \"token\""
            }
            (_, BrokerMode::External) => {
                "an external broker has an access list of its own, which alone counts; write them there, see \
                 config/external-broker/README.md"
            }
            _ => return,
        };
        self.problems.push(Problem {
            key: access::KEY.to_owned(),
            value: format!("{} entries", settings.access.len()),
            origin,
            reason: reason.to_owned(),
        });
    }

    /// What would let strangers in.
    fn exposure(&mut self, settings: &Settings) {
        let metrics = settings.metrics.listen;
        for (name, address) in settings.mqtt.plaintext_listeners() {
            if !address.ip().is_loopback() && !settings.mqtt.allow_plaintext_beyond_loopback {
                self.refuse(
                    name,
                    address,
                    "plain text beyond loopback shows tokens to the network; listen on 127.0.0.1, use mqtt.tls and \
                     mqtt.secure_websocket, or set mqtt.allow_plaintext_beyond_loopback = true if that network is \
                     yours alone",
                );
            }
        }
        if !metrics.ip().is_loopback() && !settings.metrics.allow_beyond_loopback {
            self.refuse(
                "metrics.listen",
                metrics,
                "health and metrics would be open to everybody on that network; listen on 127.0.0.1, or set \
                 metrics.allow_beyond_loopback = true",
            );
        }
        if settings.auth.mode == AuthMode::None {
            for (name, address) in settings.listeners() {
                if !address.ip().is_loopback() {
                    self.refuse(
                        "auth.mode",
                        "\"none\"",
                        &format!(
                            "without authentication every listener must be on loopback, and {name} = {address} is \
                             not; use auth.mode = \"token\", or listen on 127.0.0.1"
                        ),
                    );
                }
            }
        }
    }

    /// What cannot work together.
    fn agreement(&mut self, settings: &Settings) {
        let listeners = settings.listeners();
        for (at, (name, address)) in listeners.iter().enumerate() {
            let before = listeners.iter().take(at);
            let same = before
                .clone()
                .find(|(_, other)| other == address && address.port() != 0);
            if let Some((other, _)) = same {
                self.refuse(
                    name,
                    address,
                    &format!("{other} has the same address; change one port"),
                );
            }
        }
        let conversation = &settings.conversation;
        if conversation.default_max_tokens > conversation.max_tokens_limit {
            self.refuse(
                "conversation.default_max_tokens",
                conversation.default_max_tokens,
                &format!(
                    "it is above conversation.max_tokens_limit = {}; lower it",
                    conversation.max_tokens_limit
                ),
            );
        }
        let supervisor = &settings.supervisor;
        if supervisor.min_backoff > supervisor.max_backoff {
            self.refuse(
                "supervisor.min_backoff_ms",
                supervisor.min_backoff.as_millis(),
                &format!(
                    "it is above supervisor.max_backoff_ms = {}; lower it",
                    supervisor.max_backoff.as_millis()
                ),
            );
        }
        if supervisor.heartbeat_interval >= supervisor.heartbeat_timeout {
            self.refuse(
                "supervisor.heartbeat_interval_s",
                supervisor.heartbeat_interval.as_secs(),
                &format!(
                    "the first heartbeat would come when supervisor.heartbeat_timeout_s = {} is over; lower it",
                    supervisor.heartbeat_timeout.as_secs()
                ),
            );
        }
    }

    fn data_dir(&mut self, given: Given<String>) -> PathBuf {
        let text = self.text("data_dir", given);
        let path = if text.is_empty() {
            self.platform_data_dir
        } else {
            Some(Path::new(&text))
        };
        let Some(path) = path else {
            let reason =
                "this system names no home directory, so there is no default; set data_dir (flag --data-dir)";
            self.refuse("data_dir", "\"\"", reason);
            return PathBuf::new();
        };
        // The inference process and later commands may run elsewhere; they must mean the same place.
        std::path::absolute(path).unwrap_or_else(|error| {
            self.refuse(
                "data_dir",
                path.display(),
                &format!("it cannot be made absolute: {error}; write it in full"),
            );
            PathBuf::new()
        })
    }

    /// The assistant has answers of its own, and takes up nobody's words.
    fn fallback(&mut self, given: Given<String>, library: &Library) -> Option<PathBuf> {
        const KEY: &str = "model.fallback";
        let path = self.model_path(KEY, given, library)?;
        if path == library.embedded() {
            let reason = "the embedded assistant cannot go on with another model's answer; name a smaller model of the same kind, or none";
            self.refuse(KEY, format!("{EMBEDDED:?}"), reason);
            return None;
        }
        Some(path)
    }

    /// A path, or the name of a model in the models folder.
    fn model_path(&mut self, key: &'static str, given: Given<String>, library: &Library) -> Option<PathBuf> {
        let text = self.optional(key, given)?;
        match library.resolve(&text) {
            Ok(path) => Some(path),
            Err(error) => {
                self.refuse(key, format!("{text:?}"), &error.to_string());
                None
            }
        }
    }

    pub(super) fn address(&mut self, key: &str, given: Given<String>) -> SocketAddr {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        match given {
            Given::Right(text) => text.trim().parse().unwrap_or_else(|_| {
                let reason =
                    "not an IP address and a port; write for example \"127.0.0.1:1883\" or \"[::1]:1883\"";
                self.refuse(key, format!("{text:?}"), reason);
                nowhere
            }),
            wrong => self.wrong_type(key, wrong, nowhere),
        }
    }

    pub(super) fn seconds(&mut self, key: &str, given: Given<u64>, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.number(key, given, range))
    }

    fn milliseconds(&mut self, key: &str, given: Given<u64>) -> Duration {
        Duration::from_millis(self.number(key, given, 1..=DAY_S * 1000))
    }

    pub(super) fn number<T: TryFrom<u64> + Default>(
        &mut self,
        key: &str,
        given: Given<u64>,
        range: RangeInclusive<u64>,
    ) -> T {
        let number = match given {
            Given::Right(number) => number,
            wrong => return self.wrong_type(key, wrong, T::default()),
        };
        match T::try_from(number) {
            Ok(fitting) if range.contains(&number) => fitting,
            _ => {
                let reason = format!("out of range; choose from {} to {}", range.start(), range.end());
                self.refuse(key, number, &reason);
                T::default()
            }
        }
    }

    fn fraction(&mut self, key: &str, given: Given<f64>) -> f64 {
        match given {
            Given::Right(number) if (0.0..=1.0).contains(&number) => number,
            Given::Right(number) => {
                self.refuse(key, number, "out of range; choose from 0.0 to 1.0");
                0.0
            }
            wrong => self.wrong_type(key, wrong, 0.0),
        }
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        given: Given<String>,
        choices: &[(&str, T)],
        otherwise: T,
    ) -> T {
        let text = match given {
            Given::Right(text) => text,
            wrong => return self.wrong_type(key, wrong, otherwise),
        };
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text.trim()) {
            return *value;
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        self.refuse(
            key,
            format!("{text:?}"),
            &format!("not one of the choices; write {}", names.join(" or ")),
        );
        otherwise
    }

    pub(super) fn text(&mut self, key: &str, given: Given<String>) -> String {
        self.plain(key, given)
    }

    pub(super) fn plain<T: Default>(&mut self, key: &str, given: Given<T>) -> T {
        match given {
            Given::Right(value) => value,
            wrong => self.wrong_type(key, wrong, T::default()),
        }
    }

    fn wrong_type<T, R>(&mut self, key: &str, given: Given<T>, otherwise: R) -> R {
        if let Given::Wrong { found, expected } = given {
            self.refuse(key, found, &format!("the wrong type; write {expected}"));
        }
        otherwise
    }

    pub(super) fn refuse(&mut self, key: &str, value: impl Display, reason: &str) {
        self.problems.push(Problem {
            key: key.to_owned(),
            value: value.to_string(),
            origin: self.origins.get(key).cloned().unwrap_or(Origin::Default),
            reason: reason.to_owned(),
        });
    }
}
