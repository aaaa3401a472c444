//! A PostgreSQL server of its own for a test, with TLS by an authority of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use super::broker::make_certificates;
use super::daemon::Launch;
use super::{PATIENCE, process, skip, wait_for};

/// Of the user `clawdbot`.
pub(crate) const PASSWORD: &str = "open sesame";

/// See the module.
pub(crate) struct Server {
    directory: TempDir,
    programs: PathBuf,
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// None where PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Server> {
        let Some(programs) = programs() else {
            skip("PostgreSQL's server is not installed; `tests/run` installs it");
            return None;
        };
        let directory = TempDir::with_prefix("postgres-").expect("a temporary directory");
        let here = directory.path();
        make_certificates(here);
        fs::write(here.join("password"), PASSWORD).expect("a file");
        fs::set_permissions(here.join("server.key"), fs::Permissions::from_mode(0o600)).expect("a file");
        give_away(here);
        let mut initdb = as_somebody(&programs.join("initdb"));
        initdb.args([
            "--username=clawdbot",
            "--auth=scram-sha-256",
            "--no-locale",
            "--encoding=UTF8",
        ]);
        initdb.arg("--pwfile").arg(here.join("password"));
        process::finish(initdb.arg("--pgdata").arg(here.join("data"))).assert_code(0);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let process = spawn(&programs, here, address);
        Some(Server {
            directory,
            programs,
            process,
            address,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What is said to reach it, with a part for TLS.
    pub(crate) fn url(&self, more: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user=clawdbot dbname=postgres {more}",
            self.address.port()
        )
    }

    /// A daemon that keeps its store here.
    pub(crate) fn daemon(&self, launch: Launch) -> Launch {
        let settings = self.settings();
        settings
            .into_iter()
            .fold(launch, |launch, (key, value)| launch.set(key, value))
    }

    /// What such a daemon is told.
    pub(crate) fn settings(&self) -> [(&'static str, String); 3] {
        [
            ("store.mode", "postgres".to_owned()),
            ("store.postgres_url", self.url("")),
            (
                "store.postgres_password_file",
                self.path("password").display().to_string(),
            ),
        ]
    }

    /// What the server answers to a query.
    pub(crate) fn ask(&self, query: &str) -> String {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", query])
            .arg(self.url("sslmode=disable"))
            .env("PGPASSWORD", PASSWORD);
        let answer = process::finish(&mut psql);
        answer.assert_code(0);
        answer.stdout.trim().to_owned()
    }

    /// It ends at once, as in a crash: what was committed must be found in its log afterwards.
    pub(crate) fn crash(&mut self) {
        process::signal(self.process.id(), Signal::QUIT);
        process::wait(&mut self.process, PATIENCE).expect("PostgreSQL ends");
    }

    pub(crate) fn start_again(&mut self) {
        self.process = spawn(&self.programs, self.directory.path(), self.address);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if process::is_running(self.process.id()) {
            process::signal(self.process.id(), Signal::QUIT);
        }
        let _ = process::wait(&mut self.process, PATIENCE);
    }
}

fn spawn(programs: &Path, directory: &Path, address: SocketAddr) -> Child {
    let setting = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
    let file = |name: &str| directory.join(name).display().to_string();
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .expect("a file");
    let mut postgres = as_somebody(&programs.join("postgres"));
    let child = postgres
        .arg("-D")
        .arg(directory.join("data"))
        .args([
            setting("port", &address.port()),
            setting("listen_addresses", &"127.0.0.1"),
            setting("unix_socket_directories", &file("")),
            setting("ssl", &"on"),
            setting("ssl_cert_file", &file("server.pem")),
            setting("ssl_key_file", &file("server.key")),
        ])
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("PostgreSQL is installed");
    wait_for("PostgreSQL to listen", || TcpStream::connect(address).ok());
    child
}

/// The folder with the server's programs.
fn programs() -> Option<PathBuf> {
    // Debian puts them where nobody looks for programs.
    let debian = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut places: Vec<PathBuf> = debian.map(|version| version.path().join("bin")).collect();
    places.sort();
    places.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let has_all = |place: &PathBuf| {
        ["initdb", "postgres", "psql"]
            .iter()
            .all(|name| place.join(name).exists())
    };
    places.into_iter().rev().find(has_all)
}

/// A server refuses to be root.
fn as_somebody(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = somebody() {
        command.uid(user).gid(group);
    }
    command.current_dir("/");
    command
}

/// Who the server is, where the tests are root's.
fn somebody() -> Option<(u32, u32)> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0);
    let users = is_root.then(|| fs::read_to_string("/etc/passwd").expect("users"))?;
    let numbers = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line
            .split(':')
            .skip(2)
            .map(|field| field.parse().expect("a number"));
        Some((fields.next()?, fields.next()?))
    };
    numbers("postgres").or_else(|| numbers("nobody"))
}

fn give_away(directory: &Path) {
    let Some((user, group)) = somebody() else { return };
    let files = fs::read_dir(directory).expect("a directory").flatten();
    for path in files.map(|file| file.path()).chain([directory.to_path_buf()]) {
        chown(path, Some(user), Some(group)).expect("root may");
    }
}
