//! The programs of `config/guides`, as whoever follows a guide runs them: paired by a code, over TLS with the hub's own
//! authority, against the assistant that comes with the program.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::daemon::{Daemon, Home, Launch};
use crate::support::foreign::{node_with_mqtt_js, python_with_paho};
use crate::support::process::{self, Finished};
use crate::support::{PATIENCE, free_port, wait_for};

const DEVICE: &str = "kitchen";
const SENTENCE: &str = "turn off the lights in the kitchen";
const INTENT: &str = "intent: HassTurnOff";

/// A guide's program with the hub that it is to talk to, if what it needs is here.
type Program = fn(&Daemon) -> Option<Command>;

/// A daemon as everybody has it after `certs init`, and what was made for a device beside it.
struct Guide {
    daemon: Daemon,
    program: Program,
}

/// A program that stays connected; killed when this is dropped.
struct Stays {
    process: Child,
    said: PathBuf,
}

impl Guide {
    /// Nothing where the program cannot run here, which was said then.
    fn start(program: Program) -> Option<Guide> {
        Guide::of(launch().start(), program)
    }

    fn of(daemon: Daemon, program: Program) -> Option<Guide> {
        program(&daemon)?;
        Some(Guide { daemon, program })
    }

    /// The program as this device.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = (self.program)(&self.daemon).expect("it was there before");
        let authority = self.daemon.home().data_dir().join("certs/ca.pem");
        command.arg("--ca").arg(authority);
        command.arg("--secret").arg(self.secret());
        command.args(["--name", DEVICE]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        process::finish(&mut self.command(arguments))
    }

    fn secret(&self) -> PathBuf {
        self.daemon.home().path().join("kitchen.secret")
    }

    /// By a code, as the owner sees it.
    #[track_caller]
    fn pair(&self) {
        let shown = self.daemon.cli(&["device", "pair", DEVICE, "--json"]);
        shown.assert_code(0);
        let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
        let code = shown["code"].as_str().expect("a code");
        let paired = self.run(&["--code", code]);
        paired.assert_code(0);
        assert!(paired.stdout.contains("paired"), "{paired:#?}");
    }

    /// The program without a question, once it hears what the hub understood.
    fn stay(&self) -> Stays {
        let said = self.daemon.home().path().join("said");
        let file = File::create(&said).expect("our own directory");
        let process = self
            .command(&[])
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("it was there before");
        let stays = Stays { process, said };
        stays.says("connected", 1);
        stays
    }
}

impl Stays {
    /// Waits until it has said this so many times.
    fn says(&self, text: &str, times: usize) {
        wait_for(&format!("{text:?} to be said"), || {
            let said = self.so_far();
            (said.matches(text).count() >= times).then_some(())
        });
    }

    fn so_far(&self) -> String {
        // One that was not begun is an empty one.
        fs::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Drop for Stays {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _status = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- what the guide's program said ---\n{}", self.so_far());
        }
    }
}

fn launch() -> Launch {
    let home = Home::new();
    process::finish(&mut home.command(&["certs", "init"])).assert_code(0);
    Daemon::launch_in(home)
        .set("model.path", "embedded")
        .set("mqtt.tls", "127.0.0.1:0")
        .set("mqtt.secure_websocket", "127.0.0.1:0")
}

fn guide(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config/guides")
        .join(path)
}

fn python(daemon: &Daemon) -> Option<Command> {
    let mut command = Command::new(python_with_paho()?);
    let port = daemon.listener("tls").port().to_string();
    command
        .arg(guide("python/clawdbot_device.py"))
        .args(["--hub", "localhost", "--port", &port])
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

fn node(daemon: &Daemon) -> Option<Command> {
    node_at(&format!("mqtts://localhost:{}", daemon.listener("tls").port()))
}

/// As a browser has to: what `browser.html` does is the same module over the same kind of connection.
fn node_by_web_socket(daemon: &Daemon) -> Option<Command> {
    let port = daemon.listener("secure websocket").port();
    node_at(&format!("wss://localhost:{port}/mqtt"))
}

fn node_at(url: &str) -> Option<Command> {
    let mut command = node_with_mqtt_js()?;
    command.arg(guide("javascript/node.cjs")).args(["--hub", url]);
    Some(command)
}

/// Paired, it asks and is answered; one that stays hears what was understood, and is missed when it is lost.
async fn pairs_asks_hears_and_is_missed(program: Program) {
    let Some(guide) = Guide::start(program) else {
        return;
    };
    guide.pair();
    let stays = guide.stay();

    let answered = guide.run(&[SENTENCE]);
    answered.assert_code(0);
    let answer: Value = serde_json::from_str(&answered.stdout).expect("the assistant answers with JSON");
    let wanted = json!([{"intent": "HassTurnOff", "slots": {"area": "kitchen", "domain": "light"}}]);
    assert_eq!(answer["actions"], wanted, "{answered:#?}");
    stays.says(INTENT, 1);

    let mut watcher = Client::of(&guide.daemon, DEVICE, "watcher").await;
    watcher.subscribe("clawdbot/kitchen/state", 1).await;
    assert_eq!(state(&mut watcher).await, json!({"online": true}));
    // Without a goodbye.
    drop(stays);
    assert_eq!(state(&mut watcher).await, json!({"online": false}));
}

async fn state(watcher: &mut Client) -> Value {
    let message = watcher.message().await;
    serde_json::from_slice(&message.payload).expect("JSON")
}

/// It stops, and says why, when trying again would not help.
fn gives_up_when_it_is_refused(program: Program) {
    let Some(guide) = Guide::start(program) else {
        return;
    };
    guide.run(&[SENTENCE]).assert_code(1).assert_says(&["pair first"]);
    // No code waits.
    guide
        .run(&["--code", "ABCD-2345"])
        .assert_code(1)
        .assert_says(&["not paired", "device pair"]);
    guide.pair();
    let mut stays = guide.stay();
    guide.daemon.cli(&["device", "revoke", DEVICE]).assert_code(0);
    let status = process::wait(&mut stays.process, PATIENCE).expect("it gives up");
    assert_eq!(status.code(), Some(1), "{}", stays.so_far());
    assert!(stays.so_far().contains("--again"), "{}", stays.so_far());
    guide.run(&[SENTENCE]).assert_code(1);
}

/// A hub that was killed is found again, with the subscriptions.
fn comes_back(program: Program) {
    let port = free_port();
    let launch = launch().set("mqtt.tls", format!("127.0.0.1:{port}"));
    let Some(mut guide) = Guide::of(launch.clone().start(), program) else {
        return;
    };
    guide.pair();
    let stays = guide.stay();
    guide.daemon.signal(Signal::KILL);
    guide.daemon.exit(PATIENCE).expect("it is dead");
    guide.daemon = launch.start();
    stays.says("connected", 2);
    guide.run(&[SENTENCE]).assert_code(0);
    stays.says(INTENT, 1);
}

#[tokio::test]
async fn the_python_guide_pairs_asks_hears_and_is_missed() {
    pairs_asks_hears_and_is_missed(python).await;
}

#[tokio::test]
async fn the_node_guide_pairs_asks_hears_and_is_missed() {
    pairs_asks_hears_and_is_missed(node).await;
}

#[tokio::test]
async fn the_javascript_guide_does_the_same_over_secure_websocket() {
    pairs_asks_hears_and_is_missed(node_by_web_socket).await;
}

#[test]
fn the_python_guide_gives_up_when_it_is_refused() {
    gives_up_when_it_is_refused(python);
}

#[test]
fn the_node_guide_gives_up_when_it_is_refused() {
    gives_up_when_it_is_refused(node);
}

#[test]
fn the_python_guide_comes_back_after_the_hub_was_killed() {
    comes_back(python);
}

#[test]
fn the_node_guide_comes_back_after_the_hub_was_killed() {
    comes_back(node);
}

#[test]
fn the_flow_for_node_red_is_json_and_names_no_secret() {
    let text = fs::read_to_string(guide("home-automation/node-red.json")).expect("the flow");
    let flow: Value = serde_json::from_str(&text).expect("JSON");
    let nodes = flow.as_array().expect("a list of nodes");
    assert!(nodes.iter().any(|node| node["topic"] == "clawdbot/+/intent"));
    assert!(nodes.iter().all(|node| node.get("credentials").is_none()));
}
