//! Settings after every check has passed: the only form that the rest of the daemon sees. What is
//! here can be acted upon without another question, so nothing below this room validates again.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use models::{KvPrecision, ModelSummary, Precision, assistant};

use topics::access::PolicyEntry;

use super::Origin;

mod watched;

pub use watched::{Collector, Log, LogFormat, LogPlace, Metrics, OtlpProtocol, Telemetry};

/// Everything that can be set, checked. `config/default.toml` explains each value in words.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file that they were read from, if there was one.
    pub file: Option<PathBuf>,
    /// Where keys, the status socket and later the store live.
    pub data_dir: PathBuf,
    /// The MQTT listeners and their bounds.
    pub mqtt: Mqtt,
    /// Clients that come and go too often.
    pub flapping: Flapping,
    /// Whose broker carries the messages.
    pub broker: Broker,
    /// Who may connect.
    pub auth: Auth,
    /// Who may publish and subscribe to what, beyond the defaults; in the order of the list.
    pub access: Vec<PolicyEntry>,
    /// The model file and its process.
    pub model: Model,
    /// Where models come from.
    pub hub: Hub,
    /// What one device may ask for.
    pub conversation: Conversation,
    /// The queue before the model.
    pub scheduler: Scheduler,
    /// How fallen parts are started again.
    pub supervisor: Supervisor,
    /// What outlives the daemon.
    pub store: Store,
    /// Copies of it, made on a schedule.
    pub backup: Backup,
    /// Watching the machine's memory.
    pub memory: Memory,
    /// Health and metrics over HTTP.
    pub metrics: Metrics,
    /// What is sent to an OpenTelemetry collector.
    pub telemetry: Telemetry,
    /// Log output.
    pub log: Log,
    /// How long stopping may take.
    pub shutdown: Shutdown,
    /// What is to be said of names that settings had in former versions.
    pub former: Vec<String>,
}

/// The MQTT listeners and the bounds that keep one client from harming the others.
#[derive(Clone, Debug)]
pub struct Mqtt {
    /// Address and port of the plain TCP listener.
    pub tcp: SocketAddr,
    /// Address and port of the plain WebSocket listener, if there is to be one.
    pub websocket: Option<SocketAddr>,
    /// Nobody asked for `websocket`, so that a port in use there is no reason not to start.
    pub websocket_by_default: bool,
    /// Path of the Unix socket, if there is to be one.
    pub unix: Option<PathBuf>,
    /// Address and port of the TLS listener; none without a certificate.
    pub tls: Option<SocketAddr>,
    /// Address and port of the secure WebSocket listener; none without a certificate.
    pub secure_websocket: Option<SocketAddr>,
    /// What `tls` and `secure_websocket` show their clients: configured, or ours where that was made.
    pub certificate: Option<CertificateFiles>,
    /// How often the certificate's files are looked at.
    pub tls_check_interval: Duration,
    /// A certificate of ours that lasts less is renewed.
    pub tls_renew_before: Duration,
    /// Whether `tcp` and `websocket` may leave the machine although they show tokens to the network.
    pub allow_plaintext_beyond_loopback: bool,
    /// Whether peers beyond the private ranges are answered.
    pub allow_beyond_private_network: bool,
    /// Connections at the same time; one more is turned away.
    pub max_connections: usize,
    /// Connections from one address at the same time; one more is turned away.
    pub max_connections_per_address: usize,
    /// Largest packet accepted, its fixed header included.
    pub max_packet_bytes: usize,
    /// Time between the TCP accept and a complete CONNECT.
    pub connect_timeout: Duration,
    /// Longest keep-alive granted in seconds; 0 takes whatever the client wants.
    pub max_keep_alive_s: u16,
    /// QoS 1 and 2 messages that one client may have unacknowledged towards us.
    pub receive_maximum: u16,
    /// Messages queued for one session.
    pub max_queued_messages: usize,
    /// Bytes queued for one session.
    pub max_queued_bytes: usize,
    /// Longest session expiry granted, in seconds as on the wire.
    pub max_session_expiry_s: u32,
    /// Retained messages kept in all.
    pub max_retained_messages: usize,
    /// Bytes of retained messages kept in all.
    pub max_retained_bytes: usize,
    /// Subscriptions of one client.
    pub max_subscriptions: usize,
    /// Publications that one client may send in a second; 0 is no limit.
    pub max_messages_per_s: u32,
    /// Bytes of topics and payloads that one client may send in a second; 0 is no limit.
    pub max_bytes_per_s: u64,
    /// Levels of a topic or a filter.
    pub max_topic_levels: usize,
    /// Bytes of a topic or a filter.
    pub max_topic_bytes: usize,
    /// QoS 1 and 2 messages that we may have unacknowledged towards one client.
    pub max_inflight: u16,
    /// Threads that carry sessions; 0 is half the machine's cores.
    pub session_threads: usize,
    /// Time between two rounds of `$SYS/broker/…`; none publishes nothing there.
    pub sys_interval: Option<Duration>,
}

/// Where a certificate and its key are, and whose certificates clients may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM file with the server's certificate first, then those between it and its root.
    pub certificate: NamedFile,
    /// PEM file with the private key.
    pub key: NamedFile,
    /// How clients show certificates, if they may.
    pub clients: Option<ClientCertificates>,
    /// The directory that both are in, where this program made them and renews them.
    pub own: Option<PathBuf>,
}

/// Certificates by which clients prove which device they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM file with the authority that signs them.
    pub authority: NamedFile,
    /// Whether nobody comes in without one.
    pub required: bool,
}

/// A file, and where it was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// The file.
    pub path: PathBuf,
    /// The setting that named it, and where that was written; none for a file of our own.
    pub named_by: Option<(&'static str, Origin)>,
}

/// When a client that comes and goes is banned.
#[derive(Clone, Debug)]
pub struct Flapping {
    /// Disconnects within the window that bring a ban; 0 bans nobody.
    pub max_disconnects: u32,
    /// The time in which they are counted.
    pub window: Duration,
    /// How long the client identifier stays banned.
    pub ban: Duration,
}

/// Whose broker carries the messages.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Ours, or somebody else's.
    pub mode: BrokerMode,
    /// Where somebody else's is; nothing while ours is used.
    pub address: Option<BrokerAddress>,
    /// Whether the address may be plain TCP to another machine.
    pub allow_plaintext_beyond_loopback: bool,
    /// Our name there, under which it keeps our session.
    pub client_id: String,
    /// The group of daemons that share the requests.
    pub share_group: String,
    /// Who we are there, if it asks.
    pub username: Option<String>,
    /// Where the password is written.
    pub password: Option<PasswordSource>,
    /// Whose signature the broker's certificate must have; the system's authorities if nothing is said.
    pub ca_certificate: Option<PathBuf>,
    /// Our own certificate and its key, if the broker asks for one.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Silence after which a ping is sent.
    pub keep_alive: Duration,
    /// How long the broker keeps our session while we are away, in seconds as on the wire.
    pub session_expiry_s: u32,
    /// Requests that the broker may have with us unacknowledged.
    pub receive_maximum: u16,
    /// Messages that wait for the broker.
    pub max_queued_messages: usize,
    /// Bytes that wait for the broker.
    pub max_queued_bytes: usize,
}

/// Whose broker carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerMode {
    /// The one in this program.
    Embedded,
    /// An existing MQTT 5 broker or cluster, which this daemon is a client of.
    External,
}

/// Where an external broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Whether by TLS.
    pub tls: bool,
    /// Name or IP address, as it goes before the port: IPv6 in brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Where a password is written. The password itself is no setting: settings are shown in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    /// A file whose first line it is.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
}

/// Who may connect.
#[derive(Clone, Debug)]
pub struct Auth {
    /// How a client proves who it is.
    pub mode: AuthMode,
    /// Lifetime of the tokens that we sign.
    pub token_lifetime: Duration,
    /// Devices that are known at once.
    pub max_devices: usize,
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// A JWT in the MQTT password field.
    Token,
    /// Nothing is asked: only on loopback, for benchmarks and conformance runs.
    None,
}

/// The model file and its process.
#[derive(Clone, Debug)]
pub struct Model {
    /// GGUF file, or directory with safetensors; none means that requests get an explanation instead.
    pub path: Option<PathBuf>,
    /// Sequences that run at the same time.
    pub max_sequences: usize,
    /// How many bits a weight has; none for what suits the model.
    pub precision: Option<Precision>,
    /// How keys and values of what was read and said are kept.
    pub kv_precision: KvPrecision,
    /// The most bytes of them; none for as many as running requests need.
    pub cache_bytes: Option<usize>,
    /// Threads that compute; none for as many as there are cores.
    pub threads: Option<usize>,
    /// How long the model may take to load.
    pub load_timeout: Duration,
    /// Whether the embedded assistant understands commands beside it, where it is another model.
    pub commands: bool,
    /// How long a sentence waits for it.
    pub commands_within: Duration,
    /// A smaller model for when the first one runs at no precision.
    pub fallback: Option<PathBuf>,
    /// Whether lower precisions are packed beside the work, to be at hand when memory runs short.
    pub keep_lower_precisions: bool,
}

impl Model {
    /// What is set for models in general, where this one needs less.
    pub fn suit(&mut self, summary: &ModelSummary) {
        if summary.assistant {
            let most = assistant::CACHE_BYTES;
            self.cache_bytes = Some(self.cache_bytes.map_or(most, |bytes| bytes.min(most)));
        }
    }
}

/// Where models come from.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The hub or a mirror of it; none for what `HF_ENDPOINT` names, or Hugging Face's own.
    pub endpoint: Option<String>,
    /// A file with a token in it; none for `HF_TOKEN`, or where the hub's own programs keep one.
    pub token_file: Option<PathBuf>,
}

/// What one device may ask for.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Longest prompt.
    pub max_prompt_bytes: usize,
    /// Requests of one device that wait behind the running one.
    pub max_queued: usize,
    /// Tokens generated where the request does not say.
    pub default_max_tokens: usize,
    /// Most tokens that a request may ask for.
    pub max_tokens_limit: usize,
    /// How long an answer goes on that nobody can receive.
    pub undeliverable_grace: Duration,
    /// How long a conversation with nothing to do stays in memory.
    pub idle: Duration,
    /// Tokens of what was said before that a prompt is given along with; 0 remembers nothing.
    pub history_tokens: usize,
    /// How long what was said is remembered.
    pub retention: Duration,
}

/// The queue before the model.
#[derive(Clone, Debug)]
pub struct Scheduler {
    /// Urgent requests of all devices together that wait, and as many interactive ones.
    pub max_queued: usize,
    /// Background requests of all devices together that wait.
    pub max_queued_background: usize,
    /// A background request that waited so long counts as an interactive one.
    pub background_after: Duration,
    /// A request that waited so long goes before the others of its priority, whoever's turn it is.
    pub oldest_first_after: Duration,
}

/// How fallen parts are started again; the words are Akka's.
#[derive(Clone, Debug)]
pub struct Supervisor {
    /// Wait before the first restart.
    pub min_backoff: Duration,
    /// Longest wait between restarts.
    pub max_backoff: Duration,
    /// Share of the wait that is added at random, 0 to 1.
    pub random_factor: f64,
    /// Time of good behaviour after which the wait starts small again.
    pub reset_backoff_after: Duration,
    /// Failures within the period that the inference process may have before a lower precision is used.
    pub intensity: usize,
    /// The time in which its failures count together.
    pub period: Duration,
    /// Time without a failure after which a higher precision is tried again.
    pub step_up_after: Duration,
    /// Time between heartbeats of the inference process.
    pub heartbeat_interval: Duration,
    /// Silence after which the inference process counts as hung.
    pub heartbeat_timeout: Duration,
}

/// What outlives the daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// Where it is kept.
    pub mode: StoreMode,
    /// Where its master key is, if not in the data directory.
    pub master_key: Option<MasterKeySource>,
    /// Time between two checks of all of it; zero for none.
    pub check_interval: Duration,
    /// What a check may read in a second.
    pub check_bytes_per_s: u64,
    /// The server, if it is kept on one.
    pub postgres: Option<PostgresServer>,
}

/// A database on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresServer {
    /// Where it is and who speaks, as libpq writes it; there is no password in it.
    pub url: String,
    /// Where the password is written.
    pub password: Option<PasswordSource>,
    /// PEM file of the authority that signed its certificate, instead of those that the system trusts.
    pub ca_certificate: Option<PathBuf>,
}

/// Where a master key is written. The key itself is no setting: settings are shown in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeySource {
    /// A file of its own.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// The service of a password in the System keychain.
    Keychain(String),
}

/// Where what outlives the daemon is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    /// In a file of the data directory.
    Embedded,
    /// On a PostgreSQL server.
    Postgres,
    /// Nowhere.
    None,
}

/// Watching the machine's memory.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Share of free memory below which something is given up.
    pub keep_free_percent: u8,
    /// So much more must be free after something was taken back.
    pub recovery_margin_percent: u8,
    /// Least time between two changes of the precision.
    pub dwell: Duration,
    /// Time between readings.
    pub interval: Duration,
}

/// Backups on a schedule.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Where they go; none for no schedule.
    pub directory: Option<PathBuf>,
    /// Time between two of them.
    pub interval: Duration,
    /// So many are kept.
    pub keep: usize,
}

/// How long stopping may take.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Time from the signal to the exit.
    pub timeout: Duration,
}

impl CertificateFiles {
    /// All files that must be as they should.
    pub fn all(&self) -> impl Iterator<Item = &NamedFile> {
        let authority = self.clients.as_ref().map(|clients| &clients.authority);
        [&self.certificate, &self.key].into_iter().chain(authority)
    }
}

impl NamedFile {
    /// One that no setting names.
    pub fn unnamed(path: PathBuf) -> NamedFile {
        NamedFile { path, named_by: None }
    }
}

impl fmt::Display for NamedFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((setting, origin)) = &self.named_by {
            write!(formatter, "{origin}: {setting} = ")?;
        }
        write!(formatter, "{}", self.path.display())
    }
}

impl Mqtt {
    /// The listeners that show what they carry, with their settings' names.
    pub fn plaintext_listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let websocket = self.websocket.map(|address| ("mqtt.websocket", address));
        [Some(("mqtt.tcp", self.tcp)), websocket]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl Settings {
    /// Every address that is listened on, with its setting's name.
    pub fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let encrypted = [
            ("mqtt.tls", self.mqtt.tls),
            ("mqtt.secure_websocket", self.mqtt.secure_websocket),
            ("metrics.listen", Some(self.metrics.listen)),
        ];
        let named = |(name, address): (_, Option<_>)| Some((name, address?));
        let mut listeners = self.mqtt.plaintext_listeners();
        listeners.extend(encrypted.into_iter().filter_map(named));
        listeners
    }

    /// Those that a daemon opens: with an external broker, none for MQTT.
    pub fn opened(&self) -> Vec<(&'static str, SocketAddr)> {
        let mut listeners = self.listeners();
        if self.broker.mode == BrokerMode::External {
            listeners.retain(|(name, _)| *name == "metrics.listen");
        }
        listeners
    }

    /// The defaults, but nothing that two tests at the same time could fight over: ports chosen by
    /// the system and a data directory of one's own.
    pub fn default_for_tests(data_dir: &Path) -> Settings {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Settings {
            file: None,
            data_dir: data_dir.to_path_buf(),
            mqtt: Mqtt {
                tcp: any_port,
                websocket: Some(any_port),
                websocket_by_default: true,
                unix: None,
                tls: None,
                secure_websocket: None,
                certificate: None,
                tls_check_interval: Duration::from_secs(10),
                tls_renew_before: Duration::from_secs(30 * 24 * 3600),
                allow_plaintext_beyond_loopback: false,
                allow_beyond_private_network: false,
                max_connections: 10_000,
                max_connections_per_address: 1_000,
                max_packet_bytes: 1 << 20,
                connect_timeout: Duration::from_secs(10),
                max_keep_alive_s: 0,
                receive_maximum: 100,
                max_queued_messages: 1000,
                max_queued_bytes: 4 << 20,
                max_session_expiry_s: 604_800,
                max_retained_messages: 10_000,
                max_retained_bytes: 64 << 20,
                max_subscriptions: 100,
                max_messages_per_s: 0,
                max_bytes_per_s: 0,
                max_topic_levels: 200,
                max_topic_bytes: 65_535,
                max_inflight: 100,
                session_threads: 0,
                sys_interval: Some(Duration::from_secs(10)),
            },
            flapping: Flapping {
                max_disconnects: 15,
                window: Duration::from_secs(60),
                ban: Duration::from_secs(300),
            },
            broker: Broker {
                mode: BrokerMode::Embedded,
                address: None,
                allow_plaintext_beyond_loopback: false,
                client_id: String::new(),
                share_group: "clawdbot".to_owned(),
                username: None,
                password: None,
                ca_certificate: None,
                client_certificate: None,
                keep_alive: Duration::from_secs(30),
                session_expiry_s: 86_400,
                receive_maximum: 100,
                max_queued_messages: 10_000,
                max_queued_bytes: 16 << 20,
            },
            auth: Auth {
                mode: AuthMode::Token,
                token_lifetime: Duration::from_secs(900),
                max_devices: 1000,
            },
            access: Vec::new(),
            model: Model {
                path: None,
                max_sequences: 4,
                precision: None,
                kv_precision: KvPrecision::F16,
                cache_bytes: Some(2 << 30),
                threads: None,
                load_timeout: Duration::from_secs(600),
                commands: true,
                commands_within: Duration::from_millis(400),
                fallback: None,
                keep_lower_precisions: true,
            },
            hub: Hub {
                endpoint: None,
                token_file: None,
            },
            conversation: Conversation {
                max_prompt_bytes: 65_536,
                max_queued: 256,
                default_max_tokens: 256,
                max_tokens_limit: 4096,
                undeliverable_grace: Duration::from_secs(30),
                idle: Duration::from_secs(300),
                history_tokens: 1024,
                retention: Duration::from_secs(30 * 24 * 3600),
            },
            scheduler: Scheduler {
                max_queued: 1024,
                max_queued_background: 512,
                background_after: Duration::from_secs(120),
                oldest_first_after: Duration::from_secs(60),
            },
            supervisor: Supervisor {
                min_backoff: Duration::from_millis(200),
                max_backoff: Duration::from_secs(30),
                random_factor: 0.2,
                reset_backoff_after: Duration::from_secs(60),
                intensity: 1,
                period: Duration::from_secs(60),
                step_up_after: Duration::from_secs(300),
                heartbeat_interval: Duration::from_secs(2),
                heartbeat_timeout: Duration::from_secs(30),
            },
            store: Store {
                mode: StoreMode::Embedded,
                master_key: None,
                check_interval: Duration::from_secs(86_400),
                check_bytes_per_s: 8 << 20,
                postgres: None,
            },
            backup: Backup {
                directory: None,
                interval: Duration::from_secs(86_400),
                keep: 7,
            },
            memory: Memory {
                keep_free_percent: 20,
                recovery_margin_percent: 5,
                dwell: Duration::from_secs(60),
                interval: Duration::from_secs(2),
            },
            telemetry: Telemetry {
                collector: None,
                trace_percent: 100,
                capture_content: false,
            },
            metrics: Metrics {
                disk_probe_interval: Some(Duration::from_secs(15)),
                listen: any_port,
                allow_beyond_loopback: false,
            },
            log: Log {
                format: LogFormat::Pretty,
                level: "info".to_owned(),
                file: None,
            },
            shutdown: Shutdown {
                timeout: Duration::from_secs(10),
            },
            former: Vec::new(),
        }
    }
}
