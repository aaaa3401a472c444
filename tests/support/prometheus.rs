//! A real Prometheus with the configuration and the rules that the project ships.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;

use super::daemon::Daemon;
use super::foreign::prometheus;
use super::free_port;

/// A file of `config/`.
pub(crate) fn config(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(path)
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(config(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A Prometheus of our own, ended when it is let go of.
pub(crate) struct Prometheus {
    process: Child,
    address: String,
    _home: tempfile::TempDir,
}

impl Prometheus {
    /// With the configuration as it is shipped, but for the address and the pace.
    pub(crate) fn scraping(daemon: &Daemon) -> Option<Self> {
        Self::with_rules(daemon, &read("prometheus/clawdbot.rules.yml"))
    }

    /// With rules that do not wait before they raise an alert.
    pub(crate) fn hasty(daemon: &Daemon) -> Option<Self> {
        let shipped = read("prometheus/clawdbot.rules.yml");
        let waits = |line: &&str| line.trim_start().starts_with("for: ");
        let rules: Vec<&str> = shipped.lines().filter(|line| !waits(line)).collect();
        Self::with_rules(daemon, &rules.join("\n"))
    }

    fn with_rules(daemon: &Daemon, rules: &str) -> Option<Self> {
        let mut command = prometheus("prometheus")?;
        let home = tempfile::tempdir().expect("a directory");
        let target = daemon.listener("http").to_string();
        fs::write(home.path().join("clawdbot.rules.yml"), rules).expect("written");
        let shipped = read("prometheus/prometheus.yml");
        let adapted = shipped.replace("127.0.0.1:9464", &target).replace("15s", "1s");
        assert!(adapted.contains(&target), "{shipped}");
        let file = home.path().join("prometheus.yml");
        fs::write(&file, adapted).expect("written");
        let address = format!("127.0.0.1:{}", free_port());
        let process = command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                home.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(home.path().join("log")).expect("a log"))
            .spawn()
            .expect("it starts");
        Some(Self {
            process,
            address,
            _home: home,
        })
    }

    /// What an expression comes to now.
    pub(crate) fn query(&self, expression: &str) -> Option<Vec<Value>> {
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
        let answer = agent
            .get(format!("http://{}/api/v1/query", self.address))
            .query("query", expression)
            .config()
            .http_status_as_error(false)
            .build()
            .call();
        let text = answer.ok()?.body_mut().read_to_string().ok()?;
        let answer: Value = serde_json::from_str(&text).ok()?;
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().cloned()
    }

    /// The alerts that are raised now.
    pub(crate) fn firing(&self) -> BTreeSet<String> {
        let alerts = self.query("ALERTS{alertstate=\"firing\"}").unwrap_or_default();
        let names = alerts
            .iter()
            .filter_map(|alert| alert["metric"]["alertname"].as_str());
        names.map(str::to_owned).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // One that ended by itself is gone, too.
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}
