//! The real program as a process of its own, on ports that the system chose, with a home of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use clawdbot::security::{DataDir, keys};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{self, Finished};
use super::{LOOK, PATIENCE, applications, conservation, eventually, wait_for};

/// A running daemon. When it is dropped it is killed, and if the test failed, its log is shown.
pub(crate) struct Daemon {
    process: Child,
    home: Arc<Home>,
    /// Where MQTT is spoken; nowhere with an external broker.
    pub(crate) mqtt: SocketAddr,
    /// Where health and metrics are.
    pub(crate) http: SocketAddr,
}

/// A directory with everything that a daemon of a test owns, and the environment to run programs in.
pub(crate) struct Home {
    directory: TempDir,
}

/// A daemon to be.
#[derive(Clone)]
pub(crate) struct Launch {
    home: Arc<Home>,
    /// One with actors of its own, by its name.
    application: Option<&'static str>,
    model: Option<PathBuf>,
    /// What a shell does before it becomes the daemon.
    before: Option<String>,
    settings: Vec<(String, String)>,
    variables: Vec<(String, String)>,
}

impl Daemon {
    /// One with the defaults, but for its places.
    pub(crate) fn launch() -> Launch {
        Daemon::launch_in(Home::new())
    }

    /// The same, in a home that something was prepared in.
    pub(crate) fn launch_in(home: Home) -> Launch {
        Launch {
            home: Arc::new(home),
            application: None,
            model: None,
            before: None,
            settings: Vec::new(),
            variables: Vec::new(),
        }
    }

    /// One with this model, and otherwise the defaults.
    pub(crate) fn with_model(model: &Path) -> Daemon {
        Daemon::launch().model(model).start()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn log(&self) -> String {
        self.home.log()
    }

    /// Where one of the other listeners is, by its name in the log.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        let message = format!("{name} listens");
        listener(&self.log(), &message).unwrap_or_else(|| panic!("no {name} listens"))
    }

    /// The process in which the model runs now, as the log tells.
    pub(crate) fn worker_pid(&self) -> u32 {
        last_worker(&self.log()).expect("an inference process was started")
    }

    /// The process in which this model runs, named by a part of its path.
    pub(crate) fn worker_pid_of(&self, model: &str) -> u32 {
        worker_of(&self.log(), model).expect("an inference process of this model was started")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    /// Stops the model's process in the middle of whatever it does; what it is told waits.
    pub(crate) fn freeze_worker(&self) -> Frozen {
        let pid = self.worker_pid();
        process::signal(pid, Signal::STOP);
        Frozen { pid }
    }

    /// The same of the process in which this model runs.
    pub(crate) fn freeze_worker_of(&self, model: &str) -> Frozen {
        let pid = self.worker_pid_of(model);
        process::signal(pid, Signal::STOP);
        Frozen { pid }
    }

    /// From now on, and until what this gives is let go of, the model's process, whichever it is, has a tenth of its time.
    pub(crate) fn slow_workers(&self) -> Slowed {
        let (log, is_over) = (self.home.log_path(), Arc::new(AtomicBool::new(false)));
        let ended = is_over.clone();
        let thread = std::thread::spawn(move || {
            while !ended.load(Relaxed) {
                let log = fs::read_to_string(&log).unwrap_or_default();
                let Some(pid) = last_worker(&log) else { continue };
                // One that is gone needs nothing.
                process::signal(pid, Signal::STOP);
                std::thread::sleep(Duration::from_millis(9));
                process::signal(pid, Signal::CONT);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Slowed {
            is_over,
            thread: Some(thread),
        }
    }

    /// How it exits, if it does in time.
    pub(crate) fn exit(&mut self, within: Duration) -> Option<ExitStatus> {
        process::wait(&mut self.process, within)
    }

    /// A token of a device, valid from now on.
    pub(crate) fn token(&self, device: &str) -> String {
        self.home.token_at(device, SystemTime::now())
    }

    /// Tokens for a few clients of a device, with commas between them.
    pub(crate) fn tokens(&self, device: &str) -> String {
        [(); 4].map(|()| self.token(device)).join(",")
    }

    /// Runs `clawdbot` against this daemon.
    #[track_caller]
    pub(crate) fn cli<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Finished {
        process::finish(&mut self.command(arguments))
    }

    /// `clawdbot` with these arguments, set up for this daemon.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = self.home.command(arguments);
        command.env("CLAWDBOT__MQTT__TCP", self.mqtt.to_string());
        command
    }

    /// The status code and the body of a page.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(self.http, path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// The sum over all series of a metric; nothing where there is none.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        self.metric_where(name, "")
    }

    /// The sum over those series of a metric whose labels contain a text.
    pub(crate) fn metric_where(&self, name: &str, label: &str) -> Option<f64> {
        let (code, text) = self.get("/metrics");
        assert_eq!(code, 200, "{text}");
        text.lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let (labels, value) = rest.rsplit_once(' ')?;
                let whole_name = labels.is_empty() || labels.starts_with('{');
                (whole_name && labels.contains(label)).then(|| value.parse::<f64>().expect("a number"))
            })
            .reduce(|sum, value| sum + value)
    }

    /// Waits until nothing runs or waits, and every request that was accepted has ended in one of the named ways.
    pub(crate) async fn accounts_add_up(&self) {
        let of = |state: &str| {
            let label = format!("state=\"{state}\"");
            self.metric_where("clawdbot_requests_account", &label)
                .expect("a metric")
        };
        eventually("the sums to add up", || {
            let ends = [
                "completed",
                "failed",
                "refused",
                "expired",
                "cancelled",
                "dead_lettered",
            ];
            let ended: f64 = ends.iter().map(|state| of(state)).sum();
            (of("accepted") == ended && of("running") + of("queued") + of("waiting_for_turn") == 0.0)
                .then_some(())
        })
        .await;
    }

    /// What `clawdbot status --json` says.
    pub(crate) fn status(&self) -> Value {
        let finished = self.cli(&["status", "--json"]);
        finished.assert_code(0);
        serde_json::from_str(&finished.stdout).expect("the status is JSON")
    }
}

impl Daemon {
    /// Holds the daemon to its sums, if it still runs and answers. What is under way at this moment may take
    /// a while to arrive.
    fn assert_nothing_was_lost_unseen(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut imbalance = None;
        while Instant::now() < deadline {
            let Ok((200, metrics)) = get(self.http, "/metrics") else {
                return;
            };
            imbalance = conservation::imbalance(&metrics);
            if imbalance.is_none() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        if let Some(what) = imbalance {
            panic!("messages are not accounted for: {what}");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let runs = matches!(self.process.try_wait(), Ok(None));
        if runs && !std::thread::panicking() {
            self.assert_nothing_was_lost_unseen();
        }
        // The inference process ends with it: that is one of the things tested.
        let _gone = self.process.kill();
        let _status = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}--- its end ---", self.log());
        }
    }
}

/// A process that does nothing until this is dropped.
pub(crate) struct Frozen {
    pid: u32,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        process::signal(self.pid, Signal::CONT);
    }
}

impl Launch {
    pub(crate) fn model(mut self, model: &Path) -> Launch {
        self.model = Some(model.to_owned());
        self
    }

    /// By a shell that does this first.
    pub(crate) fn after(mut self, script: impl Into<String>) -> Launch {
        self.before = Some(script.into());
        self
    }

    /// With an application of [`applications`], in a process of its own all the same.
    pub(crate) fn application(mut self, name: &'static str) -> Launch {
        self.application = Some(name);
        self
    }

    /// A setting, by its environment variable.
    pub(crate) fn set(mut self, key: &str, value: impl ToString) -> Launch {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// A variable of its environment that is no setting.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Launch {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Starts it and waits until it answers, with its model if it has one.
    pub(crate) fn start(self) -> Daemon {
        let daemon = self.start_unready();
        wait_for("the daemon to be ready", || {
            get(daemon.http, "/health").ok().filter(|(code, _)| *code == 200)
        });
        daemon
    }

    /// Starts it and waits until it says how it is, well or not.
    pub(crate) fn start_unready(self) -> Daemon {
        let arguments: Vec<&OsStr> = match &self.model {
            Some(model) => vec!["serve".as_ref(), "--model".as_ref(), model.as_ref()],
            None => vec!["serve".as_ref()],
        };
        let mut command = match (self.application, &self.before) {
            (None, None) => self.home.command(&arguments),
            (None, Some(script)) => {
                let script = format!("{script} && exec \"$0\" \"$@\"");
                let shell: [&OsStr; 3] = [
                    "-c".as_ref(),
                    script.as_ref(),
                    env!("CARGO_BIN_EXE_clawdbot").as_ref(),
                ];
                self.home
                    .command_of("sh".as_ref(), &[&shell[..], &arguments].concat())
            }
            (Some(name), _) => {
                let this = std::env::current_exe().expect("the tests have a file");
                let mut command = self.home.command_of(this.as_os_str(), &applications::ARGUMENTS);
                command.env(applications::VARIABLE, name);
                command
            }
        };
        for (key, value) in &self.settings {
            command.env(
                format!("CLAWDBOT__{}", key.to_uppercase().replace('.', "__")),
                value,
            );
        }
        command.envs(self.variables.iter().cloned());
        let external = ("broker.mode".to_owned(), "external".to_owned());
        listening(self.home, command, !self.settings.contains(&external))
    }
}

/// Starts a daemon that was set up by hand. Its settings must name no ports and no log format.
pub(crate) fn start(home: Home, command: Command) -> Daemon {
    let daemon = listening(Arc::new(home), command, true);
    wait_for("the daemon to be ready", || {
        get(daemon.http, "/health").ok().filter(|(code, _)| *code == 200)
    });
    daemon
}

fn listening(home: Arc<Home>, mut command: Command, speaks_mqtt: bool) -> Daemon {
    let log = File::create(home.log_path()).expect("a log file");
    let process = command
        .env("CLAWDBOT__LOG__FORMAT", "json")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle of the log"))
        .stderr(log)
        .spawn()
        .expect("the daemon starts");
    // Owned from here on, so that it is killed and its log shown whatever happens next.
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut daemon = Daemon {
        process,
        home,
        mqtt: nowhere,
        http: nowhere,
    };
    (daemon.mqtt, daemon.http) = wait_for("the daemon to listen", || {
        if let Some(status) = daemon.process.try_wait().expect("a child") {
            panic!("the daemon ended at its start with {status}");
        }
        let log = daemon.log();
        let mqtt = listener(&log, "mqtt listens");
        if speaks_mqtt && mqtt.is_none() {
            return None;
        }
        Some((mqtt.unwrap_or(nowhere), listener(&log, "http listens")?))
    });
    daemon
}

/// The inference process that was started last.
fn last_worker(log: &str) -> Option<u32> {
    worker_of(log, "")
}

fn worker_of(log: &str, model: &str) -> Option<u32> {
    let is_it = |line: &Value| {
        let path = line["model"].as_str().unwrap_or_default();
        line["message"] == "inference process started" && path.contains(model)
    };
    let started = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .rfind(is_it)?;
    u32::try_from(started["pid"].as_u64()?).ok()
}

/// See [`Daemon::slow_workers`].
pub(crate) struct Slowed {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it signals");
        }
    }
}

impl Home {
    pub(crate) fn new() -> Home {
        Home {
            directory: TempDir::with_prefix("clawdbot-").expect("a temporary directory"),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.path().join("log")
    }

    pub(crate) fn log(&self) -> String {
        // A log that was never begun is an empty one.
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// `clawdbot` with these arguments, in this home, on any free ports, and with nothing of the
    /// settings of whoever runs the tests.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_clawdbot").as_ref(), arguments)
    }

    /// Another program, with the same surroundings.
    pub(crate) fn command_of<A: AsRef<OsStr>>(&self, program: &OsStr, arguments: &[A]) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("CLAWDBOT__") || name_text.starts_with("XDG_") {
                command.env_remove(&name);
            }
        }
        command
            .args(arguments)
            .env("HOME", self.path())
            .env("CLAWDBOT__DATA_DIR", self.data_dir())
            .env("CLAWDBOT__MQTT__TCP", "127.0.0.1:0")
            .env("CLAWDBOT__MQTT__WEBSOCKET", "127.0.0.1:0")
            .env("CLAWDBOT__METRICS__LISTEN", "127.0.0.1:0")
            // Most of what is tested needs no model.
            .env("CLAWDBOT__MODEL__PATH", "")
            // And what is tested of a model is said by that, whatever it is asked.
            .env("CLAWDBOT__MODEL__COMMANDS", "none");
        command
    }

    /// A token signed at another time than now.
    pub(crate) fn token_at(&self, device: &str, now: SystemTime) -> String {
        let dir = DataDir::prepare(&self.data_dir()).expect("a data directory");
        let key = keys::load_or_create(&dir).expect("a key");
        key.issue(device, now, Duration::from_secs(900)).expect("a token")
    }

    /// A token that ends soon.
    pub(crate) fn short_token(&self, device: &str, lifetime: Duration) -> String {
        let dir = DataDir::prepare(&self.data_dir()).expect("a data directory");
        let key = keys::load_or_create(&dir).expect("a key");
        key.issue(device, SystemTime::now(), lifetime).expect("a token")
    }

    /// A token with rules of its own.
    pub(crate) fn token_with_acl(&self, device: &str, acl: Value) -> String {
        let dir = DataDir::prepare(&self.data_dir()).expect("a data directory");
        // Read as the daemon reads it first, which also makes it where there is none.
        keys::load_or_create(&dir).expect("a key");
        let secret = fs::read(dir.token_signing_key()).expect("a key");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_s = now.expect("a clock").as_secs();
        // Two of one second are two.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let claims =
            json!({"sub": device, "iat": now_s, "exp": now_s + 900, "jti": number.to_string(), "acl": acl});
        let key = jsonwebtoken::EncodingKey::from_secret(&secret);
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        jsonwebtoken::encode(&header, &claims, &key).expect("a token")
    }
}

fn listener(log: &str, message: &str) -> Option<SocketAddr> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.into_iter().find(|line| line["message"] == message)?;
    line["address"].as_str()?.parse().ok()
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let malformed = || std::io::Error::other(format!("not an HTTP response: {response:?}"));
    let (head, body) = response.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let code = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(malformed)?;
    Ok((code, body.to_owned()))
}
