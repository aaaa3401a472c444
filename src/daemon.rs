//! Build, run, stop. Preparing does everything that can fail: directories, keys, the model's
//! header, listeners. Starting makes the actors. Stopping lets what runs finish.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix::{Actor, Addr, Arbiter};
use actors::auth_checker::{Admittance, AuthChecker};
use actors::bans::Bans;
use actors::bridge::Bridge;
use actors::broker_statistics::BrokerStatistics;
use actors::conversation::{
    Conversation, ConversationConfig, Memory, MemoryConfig, MemoryKeeper, RequestLimits,
};
use actors::device_session::ShutDown;
use actors::external_broker::{ExternalBroker, ExternalBrokerConfig, LinkGauge, OpenLink, StopLink};
use actors::hub::Hub;
use actors::inference_worker::WorkerSpec;
use actors::memory_governor::{MemoryGauge, MemoryGovernor};
use actors::metrics::RequestMetrics;
use actors::policy::backoff::BackoffConfig;
use actors::policy::flapping::FlappingConfig;
use actors::reception::Reception;
use actors::restoration;
use actors::scheduler::{Drain, GetStatus, Scheduler, SchedulerGauge};
use actors::stats::Stats;
use actors::store::{Record, RestoredSessions, Store as _, Table};
use actors::supervisor::{StopSupervisor, Supervisor};
use actors::switchboard::Switchboard;
use actors::topic_router::TopicRouter;
use models::ModelSummary;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use topics::access::AccessPolicy;
use topics::retained::RetainedBounds;
use topics::session::{RateLimit, SessionConfig};

use crate::admin::{AdminError, AdminListener, AdminRequest};
use crate::broker::{self, BrokerError};
use crate::http::{self, Health, HttpState};
use crate::identity::{Desk, Forgetful, Identities, IdentityConfig, InStore, Invitation, Keeper};
use crate::kept_certificate::KeptCertificate;
use crate::net::peers::Reach;
use crate::net::permits::Permits;
use crate::net::{DoorError, Doors, Entrance, Room, open_files};
use crate::security::certificates::{OwnCertificates, WatchError, WatchedCertificate};
use crate::security::{DataDir, DataDirError, KeyError, KeyRing, MasterKeyPlace, crypto_provider};
use crate::settings::{AuthMode, Settings, StoreMode};
use crate::store::{Caretaker, CaretakerConfig, EmbeddedStore, Restored, StoreError};
use crate::store_desk::StoreDesk;
use crate::telemetry::{Metrics, metrics, observe};

/// Clients whose disconnects are counted, and as many that are banned. Of an identifier no more than 256 bytes
/// are kept, so that neither costs more than a few megabytes.
const MAX_WATCHED_CLIENTS: usize = 10_000;

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The signing key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The status socket, or another daemon on the same data directory.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// What outlives the daemon.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the external broker needs.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The model file.
    #[error("{0}; mend model.path, or leave it empty to route without a model")]
    Model(#[from] models::ModelError),
    /// The certificate of the TLS listeners.
    #[error(transparent)]
    Certificate(#[from] WatchError),
    /// An MQTT listener.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// The listener of health and metrics.
    #[error("{setting} = {address} cannot be listened on: {source}; stop what uses it, or set another port")]
    Listen {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] metrics::MetricsError),
    /// A fault of ours: the daemon's own topics could not be bound.
    #[error("the daemon's own topics could not be bound: {0}")]
    Bind(String),
    /// The application that was started with the daemon.
    #[error("the application's own actors could not be started: {0}")]
    Application(ApplicationError),
    /// The system.
    #[error(
        "the threads of the sessions could not be started: {0}; lower mqtt.session_threads, or raise the system's limit on threads"
    )]
    Threads(std::io::Error),
    /// The program's own file, from which the inference process is started.
    #[error("the program's own file cannot be found: {0}; start it by its full path")]
    OwnProgram(std::io::Error),
}

impl DaemonError {
    /// Whether it is the configuration that must change: exit code 2.
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::DataDir(_)
                | Self::Key(_)
                | Self::Model(_)
                | Self::Broker(_)
                | Self::Store(_)
                | Self::Certificate(_)
        )
    }
}

/// What an application says when its actors cannot be started.
pub type ApplicationError = Box<dyn std::error::Error + Send + Sync>;

/// Runs until `shutdown` is ready, then stops within `shutdown.timeout_s`. Needs an actix `System`.
pub async fn run(
    settings: Settings,
    shutdown: impl Future<Output = ()> + 'static,
) -> Result<(), DaemonError> {
    run_with(settings, shutdown, |_| async { Ok(()) }).await
}

/// As [`run`], with actors of one's own: `application` starts and binds them before the first client is
/// let in. See [`crate::application`].
pub async fn run_with<F>(
    settings: Settings,
    shutdown: impl Future<Output = ()> + 'static,
    application: impl FnOnce(Hub) -> F,
) -> Result<(), DaemonError>
where
    F: Future<Output = Result<(), ApplicationError>>,
{
    let started = Prepared::open(settings).await?.start(application).await?;
    shutdown.await;
    started.stop().await;
    Ok(())
}

/// Everything that can fail has been done; nothing runs yet.
struct Prepared {
    settings: Settings,
    data_dir: DataDir,
    ring: KeyRing,
    model: Option<ModelSummary>,
    /// None where an external broker takes their place.
    doors: Option<Doors>,
    /// None where there is no TLS.
    certificate: Option<WatchedCertificate>,
    max_connections: usize,
    link: Option<ExternalBrokerConfig>,
    stats: Arc<Stats>,
    /// What outlives the daemon, and what did.
    store: Option<(EmbeddedStore, Restored, MasterKeyPlace)>,
    http: TcpListener,
    admin: AdminListener,
    metrics: Metrics,
    program: PathBuf,
}

/// The daemon at work.
struct Started {
    timeout: Duration,
    stop: watch::Sender<bool>,
    switchboard: Switchboard,
    scheduler: Addr<Scheduler>,
    supervisor: Option<Addr<Supervisor>>,
    link: Option<Addr<ExternalBroker>>,
    store: Option<StoreDesk>,
    arbiters: Vec<Arbiter>,
    served: Vec<actix_rt::task::JoinHandle<()>>,
}

impl Prepared {
    async fn open(settings: Settings) -> Result<Self, DaemonError> {
        crypto_provider::install();
        let data_dir = DataDir::prepare(&settings.data_dir)?;
        let ring = KeyRing::load_or_create(&data_dir, SystemTime::now())?;
        let model = settings.model.path.as_deref().map(models::inspect).transpose()?;
        let link = broker::link_config(&settings, backoff(&settings))?;
        let admin = AdminListener::bind(&data_dir)?;
        let certificate = match (&settings.mqtt.certificate, &link) {
            (Some(files), None) => Some(WatchedCertificate::open(files.clone())?),
            _ => None,
        };
        let (doors, max_connections) = match link {
            None => (
                Some(Doors::open(
                    &settings,
                    certificate.as_ref().map(WatchedCertificate::server_tls),
                )?),
                open_files::make_room(settings.mqtt.max_connections),
            ),
            Some(_) => (None, 0),
        };
        let stats = Arc::<Stats>::default();
        // Behind the status socket, which no two daemons of one data directory have.
        let store = match (settings.store.mode, &link) {
            (StoreMode::Embedded, None) => Some(open_store(&data_dir, &settings, stats.clone())?),
            _ => None,
        };
        let http = listen("metrics.listen", settings.metrics.listen).await?;
        let metrics = metrics::install()?;
        let program = own_program().map_err(DaemonError::OwnProgram)?;
        Ok(Self {
            settings,
            data_dir,
            ring,
            model,
            doors,
            certificate,
            max_connections,
            link,
            stats,
            store,
            http,
            admin,
            metrics,
            program,
        })
    }

    async fn start<F>(self, application: impl FnOnce(Hub) -> F) -> Result<Started, DaemonError>
    where
        F: Future<Output = Result<(), ApplicationError>>,
    {
        let Self {
            settings,
            data_dir,
            ring,
            model,
            doors,
            certificate,
            max_connections,
            link,
            stats,
            store,
            http,
            admin,
            metrics,
            program,
        } = self;
        let (stop, stopped) = watch::channel(false);
        let switchboard = TopicRouter::launch(retained_bounds(&settings), stats.clone());
        let (mut kept_sessions, mut accepted) = (RestoredSessions::default(), Vec::new());
        let (mut devices, mut records) = (Vec::new(), Vec::new());
        let meter = opentelemetry::global::meter("clawdbot");
        let store = store.map(|(store, restored, master_key)| {
            let store = Arc::new(store);
            switchboard.keep_in(store.clone(), restored.retained);
            (kept_sessions, accepted) = (restored.sessions, restored.accepted);
            (devices, records) = restored
                .records
                .into_iter()
                .partition(|record| record.table == Table::Devices);
            let caretaker = Caretaker::start(store.clone(), care(&settings), stats.clone());
            observe::observe_store(&meter, &caretaker.gauge());
            StoreDesk {
                store,
                caretaker: Arc::new(caretaker),
                master_key,
            }
        });
        let keeper: Arc<dyn Keeper> = match &store {
            Some(desk) => Arc::new(InStore(desk.store.clone())),
            None => Arc::new(Forgetful),
        };

        let gauge = Arc::<SchedulerGauge>::default();
        let scheduler = Scheduler::new(
            model.is_some(),
            settings.scheduler.max_queued,
            RequestMetrics::new(&meter),
            gauge.clone(),
        )
        .start();
        let supervisor = settings.model.path.as_ref().map(|path| {
            let spec = worker_spec(&settings, program, path.clone());
            Supervisor::new(spec, scheduler.clone(), backoff(&settings)).start()
        });
        let memory = Arc::<MemoryGauge>::default();
        MemoryGovernor::new(
            settings.memory.interval,
            settings.memory.warn_below_free_percent,
            memory.clone(),
        )
        .start();
        observe::observe(&meter, &switchboard, &gauge, &memory);

        // Before the application, whose first words it keeps until there is a connection.
        let mut link_gauge = None;
        let link = link.map(|config| {
            let gauge = Arc::<LinkGauge>::default();
            observe::observe_link(&meter, &gauge);
            link_gauge = Some(gauge.clone());
            ExternalBroker::launch(config, switchboard.clone(), gauge)
        });

        // Several daemons that share a broker's requests would each remember a part.
        let remembers = model.as_ref().filter(|_| link.is_none());
        let binding = Conversation::binding(
            conversation_config(&settings, remembered(&settings, remembers, records, &switchboard)),
            switchboard.clone(),
            scheduler.clone(),
        )
        .map_err(|e| DaemonError::Bind(e.to_string()))?;
        let bound = switchboard
            .router()
            .send(binding)
            .await
            .map_err(|e| DaemonError::Bind(e.to_string()))?;
        bound.map_err(|e| DaemonError::Bind(e.to_string()))?;
        let hub = Hub::new(switchboard.clone());
        Bridge::launch(hub.clone())
            .await
            .map_err(|e| DaemonError::Bind(e.to_string()))?;
        application(hub).await.map_err(DaemonError::Application)?;
        if let Some(link) = &link {
            // The first word to it: its mailbox has room.
            link.do_send(OpenLink);
        }
        if let Some(interval) = settings.mqtt.sys_interval {
            BrokerStatistics::new(switchboard.clone(), env!("CARGO_PKG_VERSION"), interval).start();
        }

        let desk = Desk {
            identities: Identities::new(
                ring,
                identity_config(&settings, data_dir),
                devices,
                keeper,
                switchboard.clone(),
            )
            .map_err(|_| KeyError::NoRandomness)?,
            switchboard: switchboard.clone(),
            invitation: doors.as_ref().and_then(|doors| invitation(&settings, doors)),
        };
        let certificate =
            certificate.map(|certificate| KeptCertificate::start(certificate, &settings.mqtt, &meter));
        let admittance = match settings.auth.mode {
            AuthMode::Token => Admittance::Known(desk.identities.clone()),
            AuthMode::None => Admittance::Everybody,
        };
        let gate = match &admittance {
            Admittance::Known(gate) => Some(gate.clone()),
            Admittance::Everybody => None,
        };
        let sessions = Arc::new(session_config(&settings));
        let strangers = Arc::new(session_config_of_strangers(&sessions));
        let bans = bans(&settings, stats.clone());
        let arbiters = (0..session_arbiters(&settings))
            .map(|_| Arbiter::try_with_tokio_rt(session_runtime))
            .collect::<Result<Vec<_>, _>>()
            .map_err(DaemonError::Threads)?;
        let policy = AccessPolicy::new(settings.access.clone());
        let room = |arbiter: &Arbiter| {
            let checker = AuthChecker::new(admittance.clone(), stats.clone()).with_policy(policy.clone());
            let reception = Reception {
                switchboard: switchboard.clone(),
                auth: AuthChecker::start_in_arbiter(&arbiter.handle(), |_| checker),
                gate: gate.clone(),
                sessions: sessions.clone(),
                strangers: strangers.clone(),
                connect_timeout: settings.mqtt.connect_timeout,
                bans: bans.clone(),
            };
            Room {
                arbiter: arbiter.handle(),
                reception: Arc::new(reception),
            }
        };
        let rooms: Vec<_> = arbiters.iter().map(room).collect();
        let homes: Vec<_> = rooms
            .iter()
            .map(|room| (room.arbiter.clone(), room.reception.auth.clone()))
            .collect();
        restoration::restore(kept_sessions, &switchboard, &sessions, &homes).await;
        desk.identities.shut_out_the_revoked();
        restoration::resume(accepted, &switchboard).await;
        let entrance = Entrance::new(
            Permits::new(max_connections, settings.mqtt.max_connections_per_address),
            if settings.mqtt.allow_beyond_private_network {
                Reach::Everybody
            } else {
                Reach::PrivateNetworks
            },
            rooms,
            stats.clone(),
        );
        let served = serve(
            Listeners { doors, http, admin },
            &entrance,
            &switchboard,
            desk,
            Watched {
                metrics,
                gauge,
                memory,
                model,
                link: link_gauge,
                certificate,
                store: store.clone(),
                scheduler: scheduler.clone(),
                started_at: Instant::now(),
            },
            &stopped,
        );
        Ok(Started {
            timeout: settings.shutdown.timeout,
            stop,
            switchboard,
            scheduler,
            supervisor,
            link,
            store,
            arbiters,
            served,
        })
    }
}

impl Started {
    async fn stop(self) {
        let (timeout, store) = (self.timeout, self.store.clone());
        if tokio::time::timeout(timeout, self.stop_in_order()).await.is_err() {
            tracing::warn!(
                timeout_s = timeout.as_secs(),
                "stopped without waiting any longer"
            );
            if let Some(desk) = store {
                desk.store.close();
                desk.caretaker.begin_to_stop();
                desk.store.finish();
                desk.caretaker.stop();
            }
        }
    }

    async fn stop_in_order(self) {
        // No more connections; a broken channel would mean that nobody listens any more.
        let _ = self.stop.send(true);
        // From now on it takes no request, and it goes when it has sent the last answer.
        let link_stopped = self.link.map(|link| link.send(StopLink));
        // Most of the time is for answers under way, the rest for goodbyes.
        let grace = self.timeout.mul_f64(0.7);
        if self.scheduler.send(Drain { grace }).await.is_err() {
            tracing::warn!("the scheduler was gone before it was stopped");
        }
        if let Some(stopped) = link_stopped {
            // A link that is gone has stopped; one that cannot get rid of an answer leaves its request to the broker.
            let _ = tokio::time::timeout(self.timeout.mul_f64(0.1), stopped).await;
        }
        let sessions: Vec<_> = self
            .switchboard
            .sessions()
            .iter()
            .map(|entry| entry.session.clone())
            .collect();
        for session in sessions {
            // Past the mailbox's bound: one word to each, and none may be missed.
            session.do_send(ShutDown);
        }
        // Last words are written by tasks of the sessions' arbiters.
        let deadline = Instant::now() + self.timeout.mul_f64(0.1);
        while self.switchboard.stats().connections.get() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Some(supervisor) = self.supervisor {
            // A supervisor that is gone took its worker along.
            let _ = supervisor.send(StopSupervisor).await;
        }
        for served in self.served {
            let _ = served.await;
        }
        if let Some(desk) = &self.store {
            // What sessions hold from now on stays where it is.
            desk.store.close();
        }
        for arbiter in self.arbiters {
            arbiter.stop();
            // An arbiter that panicked has nothing left to stop.
            let _ = arbiter.join();
        }
        if let Some(desk) = self.store {
            desk.caretaker.begin_to_stop();
            desk.store.finish();
            desk.caretaker.stop();
        }
        tracing::info!("stopped");
    }
}

struct Listeners {
    doors: Option<Doors>,
    http: TcpListener,
    admin: AdminListener,
}

/// What health and status are told from.
struct Watched {
    metrics: Metrics,
    gauge: Arc<SchedulerGauge>,
    memory: Arc<MemoryGauge>,
    model: Option<ModelSummary>,
    link: Option<Arc<LinkGauge>>,
    certificate: Option<KeptCertificate>,
    store: Option<StoreDesk>,
    scheduler: Addr<Scheduler>,
    started_at: Instant,
}

fn serve(
    listeners: Listeners,
    entrance: &Arc<Entrance>,
    switchboard: &Switchboard,
    desk: Desk,
    watched: Watched,
    stopped: &watch::Receiver<bool>,
) -> Vec<actix_rt::task::JoinHandle<()>> {
    let until_stop = || {
        let mut stopped = stopped.clone();
        async move {
            // A sender that is gone means stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    if let Ok(address) = listeners.http.local_addr() {
        tracing::info!(%address, "http listens");
    }
    let mut served = listeners
        .doors
        .map(|doors| doors.serve(entrance, until_stop))
        .unwrap_or_default();

    let (gauge, has_model, board) = (watched.gauge, watched.model.is_some(), switchboard.clone());
    let link = watched.link.clone();
    let health = move || health(&board, &gauge, has_model, link.as_deref());
    let http = http::serve(
        listeners.http,
        Arc::new(HttpState::new(watched.metrics, health)),
        until_stop(),
    );

    let (scheduler, memory, started_at) = (watched.scheduler, watched.memory, watched.started_at);
    let (link, certificate, store) = (watched.link, watched.certificate, watched.store);
    let admin = listeners.admin.serve(
        move |request: AdminRequest| {
            let store = store.clone();
            let (desk, scheduler, memory) = (desk.clone(), scheduler.clone(), memory.clone());
            let (link, certificate) = (link.clone(), certificate.clone());
            async move {
                if let Some(store) = store
                    && let Some(answer) = store.answer(&request.command, &request.arguments).await
                {
                    return answer;
                }
                answer(request, desk, scheduler, memory, link, certificate, started_at).await
            }
        },
        until_stop(),
    );
    served.extend([actix_rt::spawn(http), actix_rt::spawn(admin)]);
    served
}

/// Routing works as long as this answers; a configured model that does not answer is worth a 503, and
/// so is an external broker that cannot be reached.
fn health(
    switchboard: &Switchboard,
    gauge: &SchedulerGauge,
    has_model: bool,
    link: Option<&LinkGauge>,
) -> Health {
    let model = match (has_model, gauge.is_ready()) {
        (false, _) => "none",
        (true, true) => "ready",
        (true, false) => "starting",
    };
    let mut details = Map::new();
    details.insert("model".into(), json!(model));
    details.insert("connections".into(), json!(switchboard.stats().connections.get()));
    if let Some(link) = link {
        details.insert("broker".into(), link_status(link));
    }
    Health {
        ready: (!has_model || gauge.is_ready()) && link.is_none_or(LinkGauge::is_well),
        details,
    }
}

fn link_status(link: &LinkGauge) -> Value {
    match link.trouble() {
        None => json!({"connected": link.is_connected()}),
        Some(trouble) => json!({"connected": link.is_connected(), "reason": trouble}),
    }
}

/// What the status socket is asked beside the store: the daemon's status, what the owner says about devices, and all that the bridge
/// knows.
async fn answer(
    request: AdminRequest,
    desk: Desk,
    scheduler: Addr<Scheduler>,
    memory: Arc<MemoryGauge>,
    link: Option<Arc<LinkGauge>>,
    certificate: Option<KeptCertificate>,
    started_at: Instant,
) -> Result<Value, String> {
    if let Some(answer) = desk.answer(&request.command, &request.arguments).await {
        return answer;
    }
    let switchboard = desk.switchboard;
    if request.command != "status" {
        return Bridge::ask(Hub::new(switchboard), &request.command, request.arguments).await;
    }
    let requests = scheduler
        .send(GetStatus)
        .await
        .map_err(|e| format!("the scheduler does not answer: {e}"))?;
    let stats: Map<_, _> = switchboard
        .stats()
        .all()
        .into_iter()
        .map(|(name, counter)| (name.to_owned(), json!(counter.get())))
        .collect();
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_s": started_at.elapsed().as_secs(),
        "inference": requests,
        "retained": switchboard.retained_len(),
        "subscriptions": switchboard.subscriptions_len(),
        "deliveries_waiting": switchboard.deliveries_waiting(),
        "memory": {"total_bytes": memory.total_bytes(), "available_bytes": memory.available_bytes()},
        "counters": stats,
    });
    if let Some(certificate) = certificate {
        status["tls"] = certificate.status();
    }
    if let (Some(link), Value::Object(members)) = (link, &mut status) {
        let mut broker = link_status(&link);
        for (name, number) in link.levels().into_iter().chain(link.counters()) {
            broker[name] = json!(number);
        }
        members.insert("broker".into(), broker);
    }
    Ok(status)
}

fn care(settings: &Settings) -> CaretakerConfig {
    let store = &settings.store;
    CaretakerConfig {
        interval: Some(store.check_interval).filter(|interval| !interval.is_zero()),
        bytes_per_s: store.check_bytes_per_s,
    }
}

fn open_store(
    dir: &DataDir,
    settings: &Settings,
    stats: Arc<Stats>,
) -> Result<(EmbeddedStore, Restored, MasterKeyPlace), DaemonError> {
    let master_key = MasterKeyPlace::of(dir, settings.store.master_key.as_ref());
    let (store, restored) = EmbeddedStore::open(&dir.store(), master_key.load_or_create(dir)?, stats)?;
    master_key.settle(restored.opened_by)?;
    tracing::info!(
        retained = restored.retained.len(),
        sessions = restored.sessions.sessions.len(),
        messages = restored.sessions.deliveries.len(),
        requests = restored.accepted.len(),
        damaged = restored.damaged,
        "store opened"
    );
    Ok((store, restored, master_key))
}

async fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, DaemonError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| DaemonError::Listen {
            setting,
            address,
            source,
        })
}

/// On Linux the running program stays reachable after its file was replaced by an upgrade.
fn own_program() -> std::io::Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() {
        Ok(running)
    } else {
        std::env::current_exe()
    }
}

/// Sessions spread over the arbiters once, at their first connection. One for every two cores: what is
/// routed between two of them costs more than what stays in one, and the model wants cores as well.
fn session_arbiters(settings: &Settings) -> usize {
    match settings.mqtt.session_threads {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
        chosen => chosen,
    }
}

/// Sockets that a session arbiter's reactor tells of at a time. Tasks run in the order of their waking: with
/// tokio's thousand at a time, all publishers of a burst are read before the first of their subscribers is
/// written to. Of 1, 4, 8, 16 and 1,024, eight had the lowest times from publisher to subscriber.
const SOCKETS_AT_A_TIME: usize = 8;

fn session_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(SOCKETS_AT_A_TIME)
        .build()
}

fn retained_bounds(settings: &Settings) -> RetainedBounds {
    RetainedBounds {
        max_messages: settings.mqtt.max_retained_messages,
        max_bytes: settings.mqtt.max_retained_bytes,
    }
}

fn session_config(settings: &Settings) -> SessionConfig {
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
fn session_config_of_strangers(sessions: &SessionConfig) -> SessionConfig {
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

fn identity_config(settings: &Settings, data_dir: DataDir) -> IdentityConfig {
    IdentityConfig {
        data_dir,
        token_lifetime: settings.auth.token_lifetime,
        max_devices: settings.auth.max_devices,
    }
}

/// Where a device is sent to be paired; None where nobody is asked who it is.
fn invitation(settings: &Settings, doors: &Doors) -> Option<Invitation> {
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
fn bans(settings: &Settings, stats: Arc<Stats>) -> Option<Arc<Bans>> {
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
fn remembered(
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

fn conversation_config(settings: &Settings, memory: Memory) -> ConversationConfig {
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
    }
}

fn worker_spec(settings: &Settings, program: PathBuf, model: PathBuf) -> WorkerSpec {
    WorkerSpec {
        program,
        arguments: vec!["inference-worker".into()],
        model,
        max_sequences: settings.model.max_sequences,
        load_timeout: settings.model.load_timeout,
        heartbeat_interval: settings.supervisor.heartbeat_interval,
        heartbeat_timeout: settings.supervisor.heartbeat_timeout,
    }
}

/// How long to wait before what failed is tried again.
pub(crate) fn backoff(settings: &Settings) -> BackoffConfig {
    let supervisor = &settings.supervisor;
    BackoffConfig {
        min_backoff: supervisor.min_backoff,
        max_backoff: supervisor.max_backoff,
        random_factor: supervisor.random_factor,
        reset_backoff_after: supervisor.reset_backoff_after,
    }
}
