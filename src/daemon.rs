//! Build, run, stop. Preparing does everything that can fail: directories, keys, the model's
//! header, listeners. Starting makes the actors. Stopping lets what runs finish.

mod beside;
mod configure;
mod core;
mod serving;
#[cfg(test)]
mod simulation;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix::{Addr, Arbiter};
use actors::auth_checker::Admittance;
use actors::device_session::ShutDown;
use actors::external_broker::{ExternalBroker, ExternalBrokerConfig, OpenLink, StopLink};
use actors::hub::Hub;
use actors::policy::backoff::BackoffConfig;
use actors::scheduler::{AskLeave, Drain, Scheduler};
use actors::start_room::ModelSizes;
use actors::stats::Stats;
use actors::store::{RestoredSessions, Store as _, Table};
use actors::supervisor::{StopSupervisor, Supervisor};
use actors::switchboard::Switchboard;
use models::Footprint;
use opentelemetry::metrics::Meter as Instruments;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::admin::{AdminError, AdminListener};
use crate::backup::{BackupGauge, BackupKeeper, Subject};
use crate::broker::{self, BrokerError};
use crate::identity::{Desk, Forgetful, Identities, InStore, Keeper};
use crate::kept_certificate::KeptCertificate;
use crate::library::{Library, LibraryError};
use crate::net::peers::Reach;
use crate::net::permits::Permits;
use crate::net::{DoorError, Doors, Entrance, open_files};
use crate::security::certificates::{WatchError, WatchedCertificate};
use crate::security::{DataDir, DataDirError, KeyError, KeyRing, MasterKeyPlace, crypto_provider};
use crate::service::Watch;
use crate::settings::{AuthMode, Settings, StoreMode};
use crate::store::{AskForLeave, Caretaker, DurableStore, Restored, StoreError, StorePlace};
use crate::store_desk::StoreDesk;
use crate::telemetry::disk::DiskProbe;
use crate::telemetry::metrics::LastNumbers;
use crate::telemetry::traces::Traces;
use crate::telemetry::{Metrics, metrics, observe, panics};

use beside::{Assistant, Beside};
use configure::{backups, care, identity_config, invitation, session_arbiters};
use core::{Core, Surroundings};
use serving::{Beginning, Listeners, Watched, serve};

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
    #[error(
        "{0}; mend model.path or model.fallback (a path, or a name of `clawdbot model list`; `clawdbot model pull` brings a model), or leave \
         it empty to route without one"
    )]
    Model(#[from] models::ModelError),
    /// The models folder.
    #[error(transparent)]
    Library(#[from] LibraryError),
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
    /// What is sent to a collector.
    #[error(
        "telemetry.otlp_endpoint cannot be used: {0}; write for example \"http://127.0.0.1:4318\", or leave it empty"
    )]
    Traces(String),
    /// A fault of ours: the daemon's own topics could not be bound.
    #[error("the daemon's own topics could not be bound: {0}")]
    Bind(String),
    /// The application that was started with the daemon.
    #[error("the application's own actors could not be started: {0}")]
    Application(ApplicationError),
    /// The system.
    #[error(
        "the daemon's threads could not be started: {0}; lower mqtt.session_threads, or raise the system's limit on threads"
    )]
    Threads(std::io::Error),
    /// The program's own file, from which the inference process is started.
    #[error("the program's own file cannot be found: {0}; start it by its full path")]
    OwnProgram(std::io::Error),
}

impl DaemonError {
    /// Whether it is the configuration that must change: exit code 2.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::DataDir(_) | Self::Key(_) | Self::Model(_) | Self::Broker(_) | Self::Certificate(_) => true,
            Self::Store(error) => !error.may_pass(),
            _ => false,
        }
    }
}

/// How long a backup may take to see that the daemon stops, and to clear away what it had begun.
const LAST_WORD_OF_A_BACKUP: Duration = Duration::from_secs(1);

/// How soon a check of the store sees that it may begin, or that the daemon stops.
const LEAVE_LOOKED_FOR_EVERY: Duration = Duration::from_millis(100);

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
    let (router, scheduler) = (started.switchboard.router().clone(), started.scheduler.clone());
    let watch = Watch::begin(router, scheduler).map_err(DaemonError::Threads)?;
    shutdown.await;
    if let Some(watch) = watch {
        watch.stops();
    }
    started.stop().await;
    Ok(())
}

/// Everything that can fail has been done; nothing runs yet.
struct Prepared {
    settings: Settings,
    data_dir: DataDir,
    ring: KeyRing,
    model: Option<Arc<Footprint>>,
    /// None where it is the model itself, or is not to stand beside it.
    assistant: Option<Assistant>,
    /// None where an external broker takes their place.
    doors: Option<Doors>,
    /// None where there is no TLS.
    certificate: Option<WatchedCertificate>,
    max_connections: usize,
    link: Option<ExternalBrokerConfig>,
    stats: Arc<Stats>,
    /// What outlives the daemon, and what did.
    store: Option<(DurableStore, Restored, MasterKeyPlace)>,
    http: TcpListener,
    admin: AdminListener,
    metrics: Metrics,
    traces: Option<Traces>,
    program: PathBuf,
}

/// The daemon at work.
struct Started {
    timeout: Duration,
    stop: watch::Sender<bool>,
    switchboard: Switchboard,
    scheduler: Addr<Scheduler>,
    supervisor: Option<Addr<Supervisor>>,
    beside: Option<Beside>,
    link: Option<Addr<ExternalBroker>>,
    store: Option<StoreDesk>,
    /// None where none are made by themselves.
    backups: Option<BackupKeeper>,
    /// Held for as long as the daemon runs; none where it is not to probe.
    _disk_probe: Option<DiskProbe>,
    /// What waits to be sent goes with the end.
    _traces: Option<Traces>,
    _last_numbers: Option<LastNumbers>,
    arbiters: Vec<Arbiter>,
    served: Vec<actix_rt::task::JoinHandle<()>>,
}

impl Prepared {
    async fn open(mut settings: Settings) -> Result<Self, DaemonError> {
        crypto_provider::install();
        let data_dir = DataDir::prepare(&settings.data_dir)?;
        let ring = KeyRing::load_or_create(&data_dir, SystemTime::now())?;
        let library = Library::of(&settings.data_dir);
        for path in [&settings.model.path, &settings.model.fallback]
            .into_iter()
            .flatten()
        {
            library.unpack(path)?;
        }
        let model = settings.model.path.as_deref().map(Footprint::of).transpose()?;
        if let Some(model) = &model {
            settings.model.suit(model.summary());
        }
        let talks = model.as_ref().is_some_and(|model| !model.summary().assistant);
        let assistant = (settings.model.commands && talks).then(|| assistant(&library));
        settings
            .model
            .fallback
            .as_deref()
            .map(models::inspect)
            .transpose()?;
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
        panics::watch();
        // Before anything is made that measures.
        let metrics = metrics::install(&settings.telemetry)?;
        let traces = Traces::install(&settings.telemetry).map_err(DaemonError::Traces)?;
        let stats = Arc::<Stats>::default();
        // Behind the status socket, which no two daemons of one data directory have.
        let store = match (settings.store.mode, &link) {
            (StoreMode::Embedded | StoreMode::Postgres, None) => {
                Some(open_store(&data_dir, &settings, stats.clone())?)
            }
            _ => None,
        };
        let http = listen("metrics.listen", settings.metrics.listen).await?;
        let program = own_program().map_err(DaemonError::OwnProgram)?;
        Ok(Self {
            settings,
            data_dir,
            ring,
            model: model.map(Arc::new),
            assistant: assistant.flatten(),
            doors,
            certificate,
            max_connections,
            link,
            stats,
            store,
            http,
            admin,
            metrics,
            traces,
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
            assistant,
            doors,
            certificate,
            max_connections,
            link,
            stats,
            store,
            http,
            admin,
            metrics,
            traces,
            program,
        } = self;
        let (stop, stopped) = watch::channel(false);
        let (mut kept_sessions, mut accepted) = (RestoredSessions::default(), Vec::new());
        let mut devices = Vec::new();
        let instruments = opentelemetry::global::meter("clawdbot");
        let mut surroundings = Surroundings::here(&settings, program, stats.clone());
        surroundings.link = link;
        surroundings.assistant = assistant;
        let store = store.map(|(store, restored, master_key)| {
            let store = Arc::new(store);
            surroundings.store = Some((store.clone(), restored.retained));
            (kept_sessions, accepted) = (restored.sessions, restored.accepted);
            (devices, surroundings.conversations) = restored
                .records
                .into_iter()
                .partition(|record| record.table != Table::Conversations);
            (store, master_key)
        });
        let keeper: Arc<dyn Keeper> = match &store {
            Some((store, _)) => Arc::new(InStore(store.clone())),
            None => Arc::new(Forgetful),
        };
        let sizes = model.clone().map(|model| model as Arc<dyn ModelSizes>);
        let core = Core::start(&settings, sizes, surroundings, &instruments).await?;
        let subject = Subject::of(&settings, data_dir.clone());
        let store = store.map(|(store, master_key)| {
            let leave = leave_for("checking the store", core.scheduler.clone());
            let caretaker = Caretaker::start(store.clone(), care(&settings), leave, stats.clone());
            observe::observe_store(&instruments, &caretaker.gauge(), settings.store.check_interval);
            StoreDesk {
                store,
                caretaker: Arc::new(caretaker),
                master_key,
                subject: subject.clone(),
            }
        });
        let backup_gauge = Arc::<BackupGauge>::default();
        let schedule = backups(&settings);
        let interval = schedule.as_ref().map(|schedule| schedule.interval);
        observe::observe_backups(&instruments, &backup_gauge, interval.unwrap_or_default());
        observe::observe_process(&instruments, &settings.data_dir);
        let disk_probe = disk_probe(&settings, &instruments)?;
        application(core.hub.clone())
            .await
            .map_err(DaemonError::Application)?;
        if let Some(link) = &core.link {
            // The first word to it: its mailbox has room.
            link.do_send(OpenLink);
        }
        core.tell_statistics(&settings);

        let desk = Desk {
            identities: Identities::new(
                ring,
                identity_config(&settings, data_dir),
                devices,
                keeper,
                core.switchboard.clone(),
            )
            .map_err(|_| KeyError::NoRandomness)?,
            switchboard: core.switchboard.clone(),
            invitation: doors.as_ref().and_then(|doors| invitation(&settings, doors)),
        };
        let certificate =
            certificate.map(|certificate| KeptCertificate::start(certificate, &settings.mqtt, &instruments));
        let admittance = match settings.auth.mode {
            AuthMode::Token => Admittance::Known(desk.identities.clone()),
            AuthMode::None => Admittance::Everybody,
        };
        let arbiters = (0..session_arbiters(&settings))
            .map(|_| Arbiter::try_with_tokio_rt(session_runtime))
            .collect::<Result<Vec<_>, _>>()
            .map_err(DaemonError::Threads)?;
        let handles: Vec<_> = arbiters.iter().map(Arbiter::handle).collect();
        let rooms = core.rooms(&settings, &admittance, &handles);
        core.restore(kept_sessions, &rooms).await;
        desk.identities.shut_out_the_revoked();
        core.resume(accepted).await;
        // What is there is whole from here on.
        let backups = schedule.map(|schedule| {
            let store = store.as_ref().map(|desk| desk.store.clone());
            let leave = leave_for("making a backup", core.scheduler.clone());
            BackupKeeper::start(schedule, subject, store, leave, backup_gauge)
        });
        let Core {
            switchboard,
            scheduler,
            supervisor,
            beside,
            link,
            gauge,
            memory,
            link_gauge,
            ..
        } = core;
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
        let last_numbers = metrics.last_numbers();
        let served = serve(
            Listeners { doors, http, admin },
            &entrance,
            &switchboard,
            desk,
            Watched {
                metrics,
                gauge,
                commands: beside.as_ref().map(|beside| beside.gauge.clone()),
                memory,
                model: model.map(|model| model.summary().clone()),
                link: link_gauge,
                certificate,
                store: store.clone(),
                scheduler: scheduler.clone(),
                began: Beginning::now(),
            },
            &stopped,
        );
        Ok(Started {
            timeout: settings.shutdown.timeout,
            stop,
            switchboard,
            scheduler,
            supervisor,
            beside,
            link,
            store,
            backups,
            _disk_probe: disk_probe,
            _traces: traces,
            _last_numbers: last_numbers,
            arbiters,
            served,
        })
    }
}

impl Started {
    async fn stop(self) {
        let (timeout, store) = (self.timeout, self.store.clone());
        if let Some(backups) = &self.backups {
            backups.begin_to_stop();
        }
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
        if let Some(beside) = &self.beside {
            beside.commands.stop().await;
        }
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
        let beside = self.beside.map(|beside| beside.supervisor);
        let stopped = self.supervisor.into_iter().chain(beside);
        let stopped: Vec<_> = stopped
            .map(|supervisor| supervisor.send(StopSupervisor))
            .collect();
        for stopped in stopped {
            // A supervisor that is gone took its worker along.
            let _ = stopped.await;
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
        if let Some(backups) = self.backups {
            backups.wait(LAST_WORD_OF_A_BACKUP);
        }
        tracing::info!("stopped");
    }
}

fn open_store(
    dir: &DataDir,
    settings: &Settings,
    stats: Arc<Stats>,
) -> Result<(DurableStore, Restored, MasterKeyPlace), DaemonError> {
    let place = StorePlace::of(&settings.store, dir.store());
    let master_key = MasterKeyPlace::of(dir, settings.store.master_key.as_ref());
    let (store, restored) = DurableStore::open(&place, master_key.load_or_create(&place)?, stats)?;
    master_key.settle(restored.opened_by)?;
    tracing::info!(
        retained = restored.retained.len(),
        sessions = restored.sessions.sessions.len(),
        messages = restored.sessions.deliveries.len(),
        requests = restored.accepted.len(),
        damaged = restored.damaged,
        %place,
        "store opened"
    );
    Ok((store, restored, master_key))
}

/// The scheduler's leave for a check of the store or a backup, waited for on a thread of their own.
fn leave_for(what: &'static str, scheduler: Addr<Scheduler>) -> AskForLeave {
    Box::new(move |waits| {
        let (tell, mut told) = oneshot::channel();
        // A scheduler with no room, or one that is gone, is not waited for: the work goes on without its leave.
        scheduler.try_send(AskLeave { what, tell }).ok()?;
        while waits() {
            match told.try_recv() {
                Ok(leave) => return Some(Box::new(leave)),
                Err(oneshot::error::TryRecvError::Closed) => return None,
                Err(oneshot::error::TryRecvError::Empty) => std::thread::sleep(LEAVE_LOOKED_FOR_EVERY),
            }
        }
        None
    })
}

/// What understands commands beside the model. Without it that answers all of them, which is no reason not to start.
fn assistant(library: &Library) -> Option<Assistant> {
    let path = library.embedded();
    let unpacked = library.unpack(&path).map_err(DaemonError::from);
    let sizes = unpacked.and_then(|()| Ok(Footprint::of(&path)?));
    match sizes {
        Ok(sizes) => Some(Assistant {
            path,
            sizes: Arc::new(sizes),
        }),
        Err(error) => {
            tracing::warn!(%error, "the assistant cannot be written down: the model answers commands as well");
            None
        }
    }
}

fn disk_probe(settings: &Settings, instruments: &Instruments) -> Result<Option<DiskProbe>, DaemonError> {
    let interval = settings.metrics.disk_probe_interval;
    let begin = |interval| DiskProbe::start(settings.data_dir.clone(), interval, instruments);
    interval.map(begin).transpose().map_err(DaemonError::Threads)
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
