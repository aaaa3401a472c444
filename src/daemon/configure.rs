//! What the checked settings mean to each part.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::Actor;
use actors::bans::Bans;
use actors::conversation::{ConversationConfig, Memory, MemoryConfig, MemoryKeeper, RequestLimits};
use actors::inference_worker::WorkerSpec;
use actors::inference_worker::host::Host;
use actors::memory_governor::Meter;
use actors::policy::failover::FailoverConfig;
use actors::policy::flapping::FlappingConfig;
use actors::policy::schedule::{Ageing, PerPriority, ScheduleConfig};
use actors::scheduler::SchedulerGauge;
use actors::start_room::{ModelSizes, StartRoom};
use actors::stats::Stats;
use actors::store::{Record, Table};
use actors::switchboard::Switchboard;
use models::{EngineOptions, ModelSummary};
use topics::retained::RetainedBounds;
use topics::session::{RateLimit, SessionConfig};

use crate::backup::KeeperConfig;
use crate::identity::{IdentityConfig, Invitation};
use crate::net::Doors;
use crate::security::DataDir;
use crate::security::certificates::OwnCertificates;
use crate::settings::{AuthMode, Settings};
use crate::store::CaretakerConfig;

/// Clients whose disconnects are counted, and as many that are banned. Of an identifier no more than 256 bytes
/// are kept, so that neither costs more than a few megabytes.
const MAX_WATCHED_CLIENTS: usize = 10_000;

pub(super) fn retained_bounds(settings: &Settings) -> RetainedBounds {
    RetainedBounds {
        max_messages: settings.mqtt.max_retained_messages,
        max_bytes: settings.mqtt.max_retained_bytes,
    }
}

pub(super) fn session_config(settings: &Settings) -> SessionConfig {
    let mqtt = &settings.mqtt;
    SessionConfig {
        receive_maximum: mqtt.receive_maximum,
        max_packet_bytes: mqtt.max_packet_bytes,
        max_keep_alive_s: mqtt.max_keep_alive_s,
        max_session_expiry_s: mqtt.max_session_expiry_s,
        max_queued_messages: mqtt.max_queued_messages,
        max_queued_bytes: mqtt.max_queued_bytes,
        max_subscriptions: mqtt.max_subscriptions,
        publish_rate: RateLimit {
            messages_per_s: mqtt.max_messages_per_s,
            bytes_per_s: mqtt.max_bytes_per_s,
        },
        max_topic_levels: mqtt.max_topic_levels,
        max_topic_bytes: mqtt.max_topic_bytes,
        max_inflight: mqtt.max_inflight,
        ..SessionConfig::default()
    }
}

/// Whoever wants to be paired asks one question, and is nobody yet.
pub(super) fn session_config_of_strangers(sessions: &SessionConfig) -> SessionConfig {
    SessionConfig {
        max_packet_bytes: sessions.max_packet_bytes.min(4096),
        max_session_expiry_s: 0,
        max_subscriptions: sessions.max_subscriptions.min(4),
        max_queued_messages: sessions.max_queued_messages.min(16),
        max_queued_bytes: sessions.max_queued_bytes.min(16 * 1024),
        receive_maximum: sessions.receive_maximum.min(4),
        max_inflight: sessions.max_inflight.min(4),
        topic_alias_maximum: 0,
        ..sessions.clone()
    }
}

pub(super) fn identity_config(settings: &Settings, data_dir: DataDir) -> IdentityConfig {
    IdentityConfig {
        data_dir,
        token_lifetime: settings.auth.token_lifetime,
        max_devices: settings.auth.max_devices,
    }
}

/// Where a device is sent to be paired; None where nobody is asked who it is.
pub(super) fn invitation(settings: &Settings, doors: &Doors) -> Option<Invitation> {
    if settings.auth.mode == AuthMode::None {
        return None;
    }
    let own = settings
        .mqtt
        .certificate
        .as_ref()
        .and_then(|files| files.own.as_deref())
        .map(OwnCertificates::at);
    match doors.address("tls") {
        Some(tls) => Some(Invitation::to_tls(tls, own.as_ref())),
        None => doors.address("mqtt").map(Invitation::to_plain_text),
    }
}

/// Where nobody proves who it is, everybody could get everybody banned.
pub(super) fn bans(settings: &Settings, stats: Arc<Stats>) -> Option<Arc<Bans>> {
    let flapping = &settings.flapping;
    let config = FlappingConfig {
        max_disconnects: flapping.max_disconnects,
        window: flapping.window,
        ban: flapping.ban,
        max_clients: MAX_WATCHED_CLIENTS,
    };
    (settings.auth.mode == AuthMode::Token && flapping.max_disconnects > 0).then(|| Bans::new(config, stats))
}

/// What is remembered of conversations. A model without a chat template continues texts, and adds nothing to it.
pub(super) fn remembered(
    settings: &Settings,
    model: Option<&ModelSummary>,
    records: Vec<Record>,
    switchboard: &Switchboard,
) -> Memory {
    let model = model.filter(|model| model.has_chat_template);
    // The rest of the context is for what is asked now, and its answer.
    let most_tokens = model.map_or(0, |model| model.context_length / 2);
    let config = MemoryConfig {
        most_tokens: settings.conversation.history_tokens.min(most_tokens),
        retention: settings.conversation.retention,
    };
    let conversations = records
        .into_iter()
        .filter(|record| record.table == Table::Conversations);
    let memory = Memory::new(config, conversations, switchboard.clone());
    MemoryKeeper(memory.clone()).start();
    memory
}

pub(super) fn conversation_config(
    settings: &Settings,
    memory: Memory,
    requests: Arc<SchedulerGauge>,
) -> ConversationConfig {
    let conversation = &settings.conversation;
    ConversationConfig {
        limits: RequestLimits {
            max_prompt_bytes: conversation.max_prompt_bytes,
            default_max_tokens: conversation.default_max_tokens,
            max_tokens_limit: conversation.max_tokens_limit,
        },
        max_queued: conversation.max_queued,
        undeliverable_grace: conversation.undeliverable_grace,
        idle: conversation.idle,
        memory,
        requests,
        commands: None,
        capture_content: settings.telemetry.capture_content,
    }
}

pub(super) fn worker_spec(settings: &Settings, host: Arc<dyn Host>, model: PathBuf) -> WorkerSpec {
    WorkerSpec {
        host,
        model,
        fallback: settings.model.fallback.clone(),
        engine: EngineOptions {
            // What stands still counts as well: background requests because memory is short, and those that have begun in
            // their places because something urgent came.
            max_sequences: 3 * settings.model.max_sequences,
            max_context_tokens: None,
            precision: settings.model.precision,
            threads: settings.model.threads,
            packed_directory: Some(settings.data_dir.join("packed")),
            cache_bytes: settings.model.cache_bytes,
            kv: settings.model.kv_precision,
        },
        slots: settings.model.max_sequences,
        load_timeout: settings.model.load_timeout,
        heartbeat_interval: settings.supervisor.heartbeat_interval,
        heartbeat_timeout: settings.supervisor.heartbeat_timeout,
        gauge: Arc::default(),
    }
}

pub(super) fn start_room(
    settings: &Settings,
    footprint: Arc<dyn ModelSizes>,
    meter: Arc<dyn Meter>,
) -> StartRoom {
    StartRoom {
        footprint,
        meter,
        kv: settings.model.kv_precision,
        cache_bytes: settings.model.cache_bytes.map(|bytes| bytes as u64),
        keep_free_percent: settings.memory.keep_free_percent,
    }
}

pub(super) fn schedule(settings: &Settings) -> ScheduleConfig {
    let scheduler = &settings.scheduler;
    ScheduleConfig {
        // The sum of those below, so that what is less important never takes the room of what is more.
        max_queued: 2 * scheduler.max_queued + scheduler.max_queued_background,
        max_queued_of_class: PerPriority {
            urgent: scheduler.max_queued,
            interactive: scheduler.max_queued,
            background: scheduler.max_queued_background,
        },
        // A conversation hands in one of each priority at a time, and keeps its device's others in order.
        max_queued_of_device: scheduler.max_queued,
        ageing: Ageing {
            background_after: scheduler.background_after,
            oldest_first_after: scheduler.oldest_first_after,
        },
        retry_before_learnt: Duration::from_secs(2),
    }
}

pub(super) fn memory_config(settings: &Settings) -> actors::memory_governor::MemoryConfig {
    let memory = &settings.memory;
    actors::memory_governor::MemoryConfig {
        interval: memory.interval,
        keep_free_percent: memory.keep_free_percent,
        recovery_margin_percent: memory.recovery_margin_percent,
        dwell: memory.dwell,
    }
}

pub(super) fn failover(settings: &Settings) -> FailoverConfig {
    let supervisor = &settings.supervisor;
    FailoverConfig {
        intensity: supervisor.intensity,
        period: supervisor.period,
        rise_after: supervisor.step_up_after,
    }
}

/// None where none are to be made by themselves.
pub(super) fn backups(settings: &Settings) -> Option<KeeperConfig> {
    let backup = &settings.backup;
    Some(KeeperConfig {
        directory: backup.directory.clone()?,
        interval: backup.interval,
        keep: backup.keep,
    })
}

pub(super) fn care(settings: &Settings) -> CaretakerConfig {
    let store = &settings.store;
    CaretakerConfig {
        interval: Some(store.check_interval).filter(|interval| !interval.is_zero()),
        bytes_per_s: store.check_bytes_per_s,
    }
}

/// Sessions spread over the arbiters once, at their first connection. One for every two cores: what is
/// routed between two of them costs more than what stays in one, and the model wants cores as well.
pub(super) fn session_arbiters(settings: &Settings) -> usize {
    match settings.mqtt.session_threads {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
        chosen => chosen,
    }
}
