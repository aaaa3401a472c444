//! The daemon's actors, and how they know each other. What lies outside (processes, memory, the store's file, sockets) comes
//! in by traits, so that a simulation has the same actors as the daemon.

use std::path::PathBuf;
use std::sync::Arc;

use actix::{Actor, Addr, ArbiterHandle};
use actors::auth_checker::{Admittance, AuthChecker};
use actors::bridge::Bridge;
use actors::broker_statistics::BrokerStatistics;
use actors::conversation::{Conversation, ConversationConfig};
use actors::events::Events;
use actors::external_broker::{ExternalBroker, ExternalBrokerConfig, LinkGauge};
use actors::holdings::Holdings;
use actors::hub::Hub;
use actors::inference_worker::host::{Host, OwnProgram};
use actors::memory_governor::{Governed, MemoryGauge, MemoryGovernor, Meter, ThisMachine};
use actors::metrics::RequestMetrics;
use actors::packer::{Packer, PackerSpec};
use actors::reception::Reception;
use actors::restoration;
use actors::scheduler::{Scheduler, SchedulerGauge};
use actors::start_room::ModelSizes;
use actors::stats::Stats;
use actors::store::{Accepted, Record, RestoredSessions, Store};
use actors::supervisor::{Start, Supervisor};
use actors::switchboard::Switchboard;
use actors::topic_router::TopicRouter;
use models::Precision;
use opentelemetry::metrics::Meter as Instruments;
use topics::access::AccessPolicy;
use topics::message::Message;

use super::beside::{Assistant, Beside};
use super::configure::{
    bans, conversation_config, failover, memory_config, remembered, retained_bounds, schedule,
    session_config, session_config_of_strangers, start_room, worker_spec,
};
use super::{DaemonError, backoff};
use crate::net::Room;
use crate::settings::Settings;
use crate::telemetry::observe;

/// What the actors need of the world.
pub(super) struct Surroundings {
    /// Where inference processes run.
    pub(super) host: Arc<dyn Host>,
    /// Has lower precisions packed; None where nobody does.
    pub(super) packer: Option<PackerSpec>,
    /// Measures memory.
    pub(super) meter: Arc<dyn Meter>,
    /// Counts.
    pub(super) stats: Arc<Stats>,
    /// Who understands commands beside another model.
    pub(super) assistant: Option<Assistant>,
    /// What outlives the daemon, with the retained messages of the last one.
    pub(super) store: Option<(Arc<dyn Store>, Vec<Message>)>,
    /// What was said to the last daemons.
    pub(super) conversations: Vec<Record>,
    /// The broker in the place of our own doors.
    pub(super) link: Option<ExternalBrokerConfig>,
}

impl Surroundings {
    /// This machine.
    pub(super) fn here(settings: &Settings, program: PathBuf, stats: Arc<Stats>) -> Self {
        let packer = settings.model.path.as_ref().map(|path| PackerSpec {
            program: program.clone(),
            arguments: vec!["pack-weights".into()],
            model: path.clone(),
            directory: settings.data_dir.join("packed"),
        });
        Self {
            host: Arc::new(OwnProgram {
                program,
                arguments: vec!["inference-worker".into()],
            }),
            packer: packer.filter(|_| settings.model.keep_lower_precisions),
            meter: Arc::new(ThisMachine),
            stats,
            assistant: None,
            store: None,
            conversations: Vec::new(),
            link: None,
        }
    }
}

/// The actors that there are one of.
pub(super) struct Core {
    pub(super) hub: Hub,
    pub(super) switchboard: Switchboard,
    pub(super) scheduler: Addr<Scheduler>,
    pub(super) supervisor: Option<Addr<Supervisor>>,
    pub(super) beside: Option<Beside>,
    pub(super) link: Option<Addr<ExternalBroker>>,
    pub(super) gauge: Arc<SchedulerGauge>,
    pub(super) memory: Arc<MemoryGauge>,
    pub(super) link_gauge: Option<Arc<LinkGauge>>,
}

impl Core {
    /// Starts them. No client is let in yet, and what the last daemon left is not taken up.
    pub(super) async fn start(
        settings: &Settings,
        model: Option<Arc<dyn ModelSizes>>,
        surroundings: Surroundings,
        instruments: &Instruments,
    ) -> Result<Self, DaemonError> {
        let Surroundings {
            host,
            packer,
            meter,
            stats,
            assistant,
            store,
            conversations,
            link,
        } = surroundings;
        let bind = |error: String| DaemonError::Bind(error);
        let switchboard = TopicRouter::launch(retained_bounds(settings), stats);
        if let Some((store, retained)) = store {
            switchboard.keep_in(store, retained);
        }
        let events = Events::through(switchboard.clone());
        let gauge = Arc::<SchedulerGauge>::default();
        let metrics = RequestMetrics::new(instruments);
        let scheduler = Scheduler::new(
            model.is_some(),
            schedule(settings),
            metrics.clone(),
            gauge.clone(),
            events.clone(),
        )
        .start();
        let (mut governed, beside_host) = (None, host.clone());
        let memory = Arc::<MemoryGauge>::default();
        let with_model = settings.model.path.as_ref().zip(model.as_ref());
        let supervisor = with_model.map(|(path, model)| {
            let start = Start {
                room: start_room(settings, model.clone(), meter.clone()),
                memory: memory.clone(),
            };
            let spec = worker_spec(settings, host.clone(), path.clone());
            let worker = spec.gauge.clone();
            let packer = packer.map(|spec| Packer::new(spec, scheduler.clone()).start());
            let (backoff, failover) = (backoff(settings), failover(settings));
            let scheduler = scheduler.clone();
            let supervisor =
                Supervisor::new(spec, start, scheduler, backoff, failover, packer, events.clone()).start();
            governed = Some(Governed {
                model: path.clone(),
                packed_directory: settings.data_dir.join("packed"),
                precision: settings.model.precision.unwrap_or(model.summary().precision),
                kv_bytes: settings.model.cache_bytes.map(|bytes| bytes as u64),
                worker,
                host,
                supervisor: supervisor.clone(),
            });
            supervisor
        });
        let worker = governed.as_ref().map(|governed| governed.worker.clone());
        let beside = assistant
            .map(|assistant| Beside::start(settings, assistant, beside_host, meter.clone(), metrics));
        let holdings = Holdings {
            switchboard: switchboard.clone(),
            requests: gauge.clone(),
        };
        MemoryGovernor::new(
            memory_config(settings),
            meter,
            governed,
            memory.clone(),
            events,
            holdings,
        )
        .with_assistant(beside.as_ref().map(|beside| beside.worker.clone()))
        .start();
        observe::observe(instruments, &switchboard, &gauge, &memory);
        let asked_for = settings.model.precision;
        let asked_for = model
            .as_ref()
            .map(|model| asked_for.unwrap_or(model.summary().precision));
        observe::observe_models(
            instruments,
            asked_for.map_or(0, Precision::bits),
            worker,
            beside.as_ref().map(|beside| beside.gauge.clone()),
        );

        // Before the application, whose first words it keeps until there is a connection.
        let mut link_gauge = None;
        let link = link.map(|config| {
            let gauge = Arc::<LinkGauge>::default();
            observe::observe_link(instruments, &gauge);
            link_gauge = Some(gauge.clone());
            ExternalBroker::launch(config, switchboard.clone(), gauge)
        });

        // Several daemons that share a broker's requests would each remember a part.
        let remembers = model.as_ref().filter(|_| link.is_none());
        let remembers = remembers.map(|model| model.summary());
        let memory_of_words = remembered(settings, remembers, conversations, &switchboard);
        let binding = Conversation::binding(
            ConversationConfig {
                commands: beside.as_ref().map(|beside| beside.commands.clone()),
                ..conversation_config(settings, memory_of_words, gauge.clone())
            },
            switchboard.clone(),
            scheduler.clone(),
        )
        .map_err(|error| bind(error.to_string()))?;
        let bound = switchboard.router().send(binding).await;
        bound
            .map_err(|error| bind(error.to_string()))?
            .map_err(|error| bind(error.to_string()))?;
        let hub = Hub::new(switchboard.clone());
        Bridge::launch(hub.clone())
            .await
            .map_err(|error| bind(error.to_string()))?;
        Ok(Self {
            hub,
            switchboard,
            scheduler,
            supervisor,
            beside,
            link,
            gauge,
            memory,
            link_gauge,
        })
    }

    /// Begins to tell how the broker does, where it is to.
    pub(super) fn tell_statistics(&self, settings: &Settings) {
        if let Some(interval) = settings.mqtt.sys_interval {
            BrokerStatistics::new(self.switchboard.clone(), env!("CARGO_PKG_VERSION"), interval).start();
        }
    }

    /// A room on each of these arbiters, in which those are received who are let in.
    pub(super) fn rooms(
        &self,
        settings: &Settings,
        admittance: &Admittance,
        arbiters: &[ArbiterHandle],
    ) -> Vec<Room> {
        let gate = match admittance {
            Admittance::Known(gate) => Some(gate.clone()),
            Admittance::Everybody => None,
        };
        let sessions = Arc::new(session_config(settings));
        let strangers = Arc::new(session_config_of_strangers(&sessions));
        let stats = self.switchboard.stats();
        let bans = bans(settings, stats.clone());
        let policy = AccessPolicy::new(settings.access.clone());
        let room = |arbiter: &ArbiterHandle| {
            let checker = AuthChecker::new(admittance.clone(), stats.clone()).with_policy(policy.clone());
            let reception = Reception {
                switchboard: self.switchboard.clone(),
                auth: AuthChecker::start_in_arbiter(arbiter, |_| checker),
                gate: gate.clone(),
                sessions: sessions.clone(),
                strangers: strangers.clone(),
                connect_timeout: settings.mqtt.connect_timeout,
                bans: bans.clone(),
            };
            Room {
                arbiter: arbiter.clone(),
                reception: Arc::new(reception),
            }
        };
        arbiters.iter().map(room).collect()
    }

    /// Gives sessions their places in the rooms, in turn.
    pub(super) async fn restore(&self, sessions: RestoredSessions, rooms: &[Room]) {
        let Some(first) = rooms.first() else { return };
        let homes: Vec<_> = rooms
            .iter()
            .map(|room| (room.arbiter.clone(), room.reception.auth.clone()))
            .collect();
        restoration::restore(sessions, &self.switchboard, &first.reception.sessions, &homes).await;
    }

    /// Gives actors what the last daemon had accepted for them and not finished.
    pub(super) async fn resume(&self, accepted: Vec<Accepted>) {
        restoration::resume(accepted, &self.switchboard).await;
    }
}
