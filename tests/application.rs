//! Actors of one's own in a running daemon, with real clients: what the thermostat is told and tells,
//! what its publishers hear, and what `clawdbot topics` shows of it.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use actix::{Actor, Context, Handler};
use clawdbot::application::{ApplicationError, Hub, Mailbox, Overflow, Received};
use clawdbot::daemon::{DaemonError, run_with};
use clawdbot::security::{DataDir, keys};
use clawdbot::settings::Settings;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::support::applications::Keeper;
use crate::support::client::{Client, Login, Properties, Version};
use crate::support::raw::{RawClient, packet, text};
use crate::support::{PATIENCE, process};
use crate::thermostat;

/// A daemon in this process, with an application. It stops when this is dropped.
struct Running {
    data_dir: TempDir,
    mqtt: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), DaemonError>>>,
}

impl Running {
    fn start<F>(application: fn(Hub) -> F) -> Running
    where
        F: Future<Output = Result<(), ApplicationError>> + 'static,
    {
        for _ in 0..20 {
            match Running::try_start(application) {
                Ok(running) => return running,
                // Somebody else took the port in between.
                Err(DaemonError::Listen { .. }) => {}
                Err(error) => panic!("the daemon did not start: {error}"),
            }
        }
        panic!("no free port in twenty attempts");
    }

    fn try_start<F>(application: fn(Hub) -> F) -> Result<Running, DaemonError>
    where
        F: Future<Output = Result<(), ApplicationError>> + 'static,
    {
        let data_dir = TempDir::with_prefix("clawdbot-").expect("a temporary directory");
        let mut settings = Settings::default_for_tests(data_dir.path());
        settings.mqtt.tcp = free_port();
        let mqtt = settings.mqtt.tcp;
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix::System::new().block_on(run_with(
                settings,
                async {
                    let _dropped = stopped.await;
                },
                // The listeners are open when the application starts: who connects from now on is served.
                |hub| async move {
                    let installed = application(hub).await;
                    let _nobody_waits = ready.send(());
                    installed
                },
            ))
        });
        let mut running = Running {
            data_dir,
            mqtt,
            stop: Some(stop),
            thread: Some(thread),
        };
        match is_ready.recv_timeout(PATIENCE) {
            Ok(()) => Ok(running),
            Err(_) => Err(running
                .join()
                .expect_err("a daemon that ended without being asked")),
        }
    }

    fn join(&mut self) -> Result<(), DaemonError> {
        drop(self.stop.take());
        let thread = self.thread.take().expect("joined once");
        thread.join().expect("the daemon does not panic")
    }

    fn token(&self, device: &str) -> String {
        let dir = DataDir::prepare(self.data_dir.path()).expect("a data directory");
        let key = keys::load_or_create(&dir).expect("a key");
        let lifetime = Duration::from_secs(900);
        key.issue(device, SystemTime::now(), lifetime).expect("a token")
    }

    async fn client(&self, version: Version, device: &str) -> Client {
        let login = Login::with_token(version, device, self.token(device));
        Client::connect(self.mqtt, login).await.expect("admitted")
    }

    /// The row of a topic in what `clawdbot topics --json` prints.
    fn topic(&self, topic: &str) -> Value {
        let finished = process::finish(
            Command::new(env!("CARGO_BIN_EXE_clawdbot"))
                .args(["topics", "--json", "--data-dir"])
                .arg(self.data_dir.path())
                .env_clear(),
        );
        finished.assert_code(0);
        let all: Value = serde_json::from_str(&finished.stdout).expect("JSON");
        let rows = all["topics"].as_array().expect("rows");
        let found = rows.iter().find(|row| row["topic"] == topic);
        found
            .unwrap_or_else(|| panic!("{topic} is missing in {all}"))
            .clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _already_failing = self.join();
        }
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}

/// Publishes at QoS 1 and returns the reason in the PUBACK.
fn publish(client: &mut RawClient, topic: &str, payload: &str) -> u8 {
    let body = [&text(topic.as_bytes())[..], &[0, 1, 0], payload.as_bytes()].concat();
    client.send(&packet(0x32, &body));
    let answer = client.packet().expect("a PUBACK");
    assert_eq!(answer[0], 0x40, "{answer:02x?} is no PUBACK");
    answer.get(4).copied().unwrap_or_default()
}

const NO_SUBSCRIBERS: u8 = 0x10;
const NOT_AUTHORIZED: u8 = 0x87;
const QUOTA_EXCEEDED: u8 = 0x97;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;

#[tokio::test]
async fn telemetry_goes_to_the_thermostat_and_its_command_to_the_heating() {
    let daemon = Running::start(thermostat::install);
    for (version, device) in [(Version::V4, "kitchen"), (Version::V5, "attic")] {
        let mut client = daemon.client(version, device).await;
        client.subscribe(&format!("clawdbot/{device}/heating"), 1).await;
        for (celsius, on) in [(18.0, true), (22.5, false)] {
            // The device named in the payload is of no consequence: the topic says whose it is.
            let payload = json!({"celsius": celsius, "device_id": "cellar"}).to_string();
            client
                .publish(&format!("clawdbot/{device}/telemetry"), 1, false, payload)
                .await;
            let command = client.message().await;
            assert_eq!(command.topic, format!("clawdbot/{device}/heating"));
            let command: Value = serde_json::from_slice(&command.payload).expect("JSON");
            assert_eq!(command, json!({"on": on}));
        }
    }
    let row = daemon.topic("clawdbot/{device_id}/telemetry");
    assert_eq!(row["actor"], "Thermostat");
    assert_eq!((&row["actors"], &row["messages_in"]), (&json!(2), &json!(4)));
    assert_eq!((&row["bound"], &row["overflow"]), (&json!(16), &json!("reject")));
}

#[tokio::test]
async fn telemetry_that_cannot_be_read_is_refused_counted_and_harms_nobody() {
    let daemon = Running::start(thermostat::install);
    let mut raw = RawClient::admitted(daemon.mqtt, 5, "raw", &daemon.token("kitchen"));
    let topic = "clawdbot/kitchen/telemetry";
    let garbage = ["{", "[\"kitchen\", 1]", "{\"celsius\": \"warm\"}", "\u{1}\u{2}"];
    for payload in garbage {
        assert_eq!(
            publish(&mut raw, topic, payload),
            PAYLOAD_FORMAT_INVALID,
            "{payload}"
        );
    }
    // MQTT 3.1.1 has no word for it: it is acknowledged, and counted.
    let mut old = daemon.client(Version::V4, "kitchen").await;
    old.publish(topic, 1, false, "garbage").await;
    old.publish(topic, 2, false, "garbage").await;
    assert_eq!(publish(&mut raw, topic, "{\"celsius\": 1}"), 0);
    let row = daemon.topic("clawdbot/{device_id}/telemetry");
    assert_eq!((&row["messages_in"], &row["malformed"]), (&json!(1), &json!(6)));
    assert_eq!(
        publish(&mut raw, "clawdbot/cellar/telemetry", "{}"),
        NOT_AUTHORIZED
    );
}

/// Full without any clock.
async fn keepers(hub: Hub) -> Result<(), ApplicationError> {
    let [strict, lossy] = [Keeper::default().start(), Keeper::default().start()];
    hub.bind(
        "clawdbot/{device_id}/strict",
        Mailbox::new(2, Overflow::Reject),
        &strict,
    )
    .await?;
    hub.bind(
        "clawdbot/{device_id}/lossy",
        Mailbox::new(3, Overflow::DropNewest),
        &lossy,
    )
    .await?;
    Ok(())
}

#[test]
fn a_full_mailbox_rejects_or_drops_as_its_binding_says_and_both_are_counted() {
    let daemon = Running::start(keepers);
    let mut raw = RawClient::admitted(daemon.mqtt, 5, "raw", &daemon.token("a"));
    let codes: Vec<u8> = (0..4)
        .map(|_| publish(&mut raw, "clawdbot/a/strict", "{}"))
        .collect();
    assert_eq!(codes, [0, 0, QUOTA_EXCEEDED, QUOTA_EXCEEDED]);
    let codes: Vec<u8> = (0..5)
        .map(|_| publish(&mut raw, "clawdbot/a/lossy", "{}"))
        .collect();
    assert_eq!(codes, [0, 0, 0, NO_SUBSCRIBERS, NO_SUBSCRIBERS]);
    for (topic, depth, bound) in [("strict", 2, 2), ("lossy", 3, 3)] {
        let row = daemon.topic(&format!("clawdbot/{{device_id}}/{topic}"));
        assert_eq!(
            (&row["depth"], &row["bound"]),
            (&json!(depth), &json!(bound)),
            "{row}"
        );
        assert_eq!(
            (&row["messages_in"], &row["rejected"]),
            (&json!(depth), &json!(2)),
            "{row}"
        );
    }
}

/// Answers with what it was told about the message.
struct Clerk;

impl Actor for Clerk {
    type Context = Context<Self>;
}

impl Handler<Received<String>> for Clerk {
    type Result = ();

    fn handle(&mut self, message: Received<String>, _: &mut Self::Context) {
        let device = message.publisher().device_id.as_ref().map(ToString::to_string);
        let told = json!({
            "text": *message,
            "level": message.level("name"),
            "device": device,
            "client": message.publisher().client_id.to_string(),
            "qos": message.qos() as u8,
        });
        message.reply(&told).expect("a Response Topic of its own");
    }
}

async fn clerk(hub: Hub) -> Result<(), ApplicationError> {
    let clerk = Clerk.start();
    hub.bind("clawdbot/{name}/ask", Mailbox::new(4, Overflow::Reject), &clerk)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_handler_knows_who_asked_and_answers_with_one_call() {
    let daemon = Running::start(clerk);
    let mut client = daemon.client(Version::V5, "phone").await;
    client.subscribe("clawdbot/phone/answers/#", 1).await;
    let properties = Properties {
        response_topic: Some("clawdbot/phone/answers/7".to_owned()),
        correlation_data: Some(b"seven".to_vec()),
        message_expiry_s: None,
        user_properties: Vec::new(),
    };
    client
        .publish_with("clawdbot/phone/ask", "\"hello\"", properties)
        .await;
    let answer = client.message_on("clawdbot/phone/answers/7").await;
    assert_eq!(answer.correlation_data.as_deref(), Some(&b"seven"[..]));
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    let expected = json!({"text": "hello", "level": "phone", "device": "phone", "client": "phone", "qos": 1});
    assert_eq!(answer, expected);
}

async fn second_conversation(hub: Hub) -> Result<(), ApplicationError> {
    let keeper = Keeper::default().start();
    hub.bind(
        "clawdbot/{device_id}/command",
        Mailbox::new(1, Overflow::Reject),
        &keeper,
    )
    .await?;
    Ok(())
}

#[test]
fn an_application_that_cannot_bind_keeps_the_daemon_from_starting_and_says_why() {
    let error = Running::try_start(|hub| async move {
        let bound = second_conversation(hub).await;
        // What the helper waits for comes after this; leave before.
        bound.map_err(|error| -> ApplicationError { format!("{error}").into() })
    });
    let daemon = error.map(|mut running| running.join().expect_err("it must not run"));
    let (Ok(error) | Err(error)) = daemon;
    let said = error.to_string();
    for part in [
        "application's own actors",
        "clawdbot/{device_id}/command",
        "Conversation",
    ] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
}
