//! Actors of one's own in daemons that serve somebody else's broker: what they are brought and when it is
//! acknowledged, whatever happens in between.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::broker::{Broker, password_of};
use crate::support::client::{Client, Properties};
use crate::support::daemon::Daemon;
use crate::support::foreign::mosquitto;
use crate::support::{PATIENCE, eventually, process};

use super::{unacknowledged, until_connected, until_unacknowledged};

const TELEMETRY: &str = "clawdbot/phone/telemetry";
const HEATING: &str = "clawdbot/phone/heating";
const ECHO: &str = "clawdbot/phone/echo";

fn cold(number: u32) -> String {
    json!({"celsius": 10, "number": number}).to_string()
}

/// A client of the device `phone` that hears what the application says.
async fn phone(broker: &Broker, topics: &[&str]) -> Client {
    let login = broker.login("phone", "phone-client").persistent();
    let mut client = Client::connect(broker.address, login).await.expect("admitted");
    for topic in topics {
        client.subscribe(topic, 1).await;
    }
    client
}

async fn next(client: &mut Client, topic: &str) -> Value {
    let message = client.message().await;
    assert_eq!(message.topic, topic);
    serde_json::from_slice(&message.payload).expect("JSON")
}

/// The numbers of the messages that come next.
async fn numbers(client: &mut Client, topic: &str, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        let said = next(client, topic).await;
        numbers.push(said["number"].as_u64().expect("a number"));
    }
    numbers
}

async fn until(daemon: &Daemon, metric: &str, value: f64) {
    eventually(metric, || (daemon.metric(metric) == Some(value)).then_some(())).await;
}

/// What `clawdbot topics` tells of a topic.
fn row(daemon: &Daemon, topic: &str) -> Value {
    let finished = daemon.cli(&["topics", "--json"]);
    finished.assert_code(0);
    let all: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    let rows = all["topics"].as_array().expect("rows");
    rows.iter()
        .find(|row| row["topic"] == topic)
        .expect("a row")
        .clone()
}

fn kill(mut daemon: Daemon) {
    daemon.signal(Signal::KILL);
    daemon.exit(PATIENCE).expect("killed");
}

#[tokio::test]
async fn the_thermostat_serves_foreign_clients_of_a_foreign_broker() {
    let Some(broker) = Broker::start() else { return };
    let daemon = broker.daemon("hub-1").application("thermostat").start();
    let client = |program: &str, arguments: &[&str]| {
        let mut command = mosquitto(program)?;
        let (port, password) = (broker.address.port().to_string(), password_of("phone"));
        let login = ["-h", "127.0.0.1", "-p", &port, "-u", "phone", "-P", &password];
        command.args(login).args(arguments).stdin(Stdio::null());
        Some(command)
    };
    for (version, lasting) in [("mqttv311", &[][..]), ("mqttv5", &["-x", "600"])] {
        let listener = ["-V", version, "-i", version, "-c", "-q", "1", "-t", HEATING];
        let listen = |further: &[&str]| client("mosquitto_sub", &[&listener, lasting, further].concat());
        // Subscribes and goes; what is told meanwhile waits for it.
        let Some(mut subscribe) = listen(&["-E"]) else {
            return;
        };
        process::finish(&mut subscribe).assert_code(0);
        for celsius in ["18.5", "21.5"] {
            let payload = format!("{{\"celsius\": {celsius}}}");
            let publish = ["-V", version, "-q", "1", "-t", TELEMETRY, "-m", &payload];
            let Some(mut publisher) = client("mosquitto_pub", &publish) else {
                return;
            };
            process::finish(&mut publisher).assert_code(0);
        }
        let Some(mut receive) = listen(&["-C", "2", "-W", "60"]) else {
            return;
        };
        let heard = process::finish(&mut receive);
        heard.assert_code(0);
        assert_eq!(heard.stdout, "{\"on\":true}\n{\"on\":false}\n");
    }
    until_unacknowledged(&daemon, 0.0).await;
    let row = row(&daemon, "clawdbot/{device_id}/telemetry");
    assert_eq!(
        (&row["actor"], &row["messages_in"]),
        (&json!("Thermostat"), &json!(4))
    );
}

#[tokio::test]
async fn what_a_killed_daemon_had_taken_and_not_handled_is_handled_when_it_is_back() {
    let Some(broker) = Broker::start() else { return };
    let mut phone = phone(&broker, &[HEATING]).await;
    let launch = broker.daemon("hub-1");
    // Its actor has two of them in hand, and the link the others.
    let daemon = launch.clone().application("keeper").start();
    for number in 0..10 {
        phone.publish(TELEMETRY, 1, false, cold(number)).await;
    }
    until_unacknowledged(&daemon, 10.0).await;
    until(&daemon, "clawdbot_broker_messages_held", 8.0).await;
    kill(daemon);
    let daemon = launch.application("thermostat").start();
    for _ in 0..10 {
        assert_eq!(next(&mut phone, HEATING).await["on"], true);
    }
    until_unacknowledged(&daemon, 0.0).await;
    let row = row(&daemon, "clawdbot/{device_id}/telemetry");
    assert_eq!(row["messages_in"], 10, "each of them once");
}

#[tokio::test]
async fn what_comes_before_its_topic_is_bound_waits_for_it() {
    let Some(broker) = Broker::start() else { return };
    let mut phone = phone(&broker, &[HEATING]).await;
    let launch = broker.daemon("hub-1");
    let daemon = launch.clone().application("keeper").start();
    phone.publish(TELEMETRY, 1, false, cold(1)).await;
    until_unacknowledged(&daemon, 1.0).await;
    kill(daemon);
    // The session is there at once, and brings what it has.
    let daemon = launch.application("late thermostat").start();
    assert_eq!(next(&mut phone, HEATING).await["on"], true);
    until_unacknowledged(&daemon, 0.0).await;
    assert_eq!(
        daemon.metric("clawdbot_broker_messages_dropped_unusable_total"),
        Some(0.0)
    );
}

#[tokio::test]
async fn two_daemons_share_the_work_and_each_message_is_handled_once() {
    let Some(broker) = Broker::start() else { return };
    let daemons = ["hub-1", "hub-2"].map(|id| broker.daemon(id).application("thermostat").start());
    let mut phone = phone(&broker, &[HEATING]).await;
    for number in 0..40 {
        phone.publish(TELEMETRY, 1, false, cold(number)).await;
    }
    for _ in 0..40 {
        assert_eq!(next(&mut phone, HEATING).await["on"], true);
    }
    for daemon in &daemons {
        until_unacknowledged(daemon, 0.0).await;
    }
    phone
        .publish(TELEMETRY, 1, false, json!({"celsius": 30}).to_string())
        .await;
    assert_eq!(
        next(&mut phone, HEATING).await["on"],
        false,
        "and none came twice"
    );
    let handled = daemons.each_ref().map(|daemon| {
        let row = row(daemon, "clawdbot/{device_id}/telemetry");
        row["messages_in"].as_u64().expect("a number")
    });
    assert!(handled.iter().all(|messages| *messages > 0), "{handled:?}");
    assert_eq!(handled.iter().sum::<u64>(), 41);
}

#[tokio::test]
async fn a_full_mailbox_keeps_messages_waiting_and_drops_only_what_it_may() {
    let Some(broker) = Broker::start() else { return };
    let daemon = broker.daemon("hub-1").application("keeper").start();
    let mut phone = phone(&broker, &[ECHO]).await;
    for number in 0..12 {
        phone.publish(TELEMETRY, 1, false, cold(number)).await;
    }
    until(&daemon, "clawdbot_broker_messages_held", 10.0).await;
    // QoS 0 promises nothing, and the other binding says itself that it may lose messages.
    phone.publish(TELEMETRY, 0, false, cold(100)).await;
    for number in 0..5 {
        phone
            .publish("clawdbot/phone/lossy", 1, false, cold(200 + number))
            .await;
    }
    until(&daemon, "clawdbot_mqtt_messages_dropped_mailbox_full_total", 4.0).await;
    let (strict, lossy) = (
        row(&daemon, "clawdbot/{device_id}/telemetry"),
        row(&daemon, "clawdbot/{device_id}/lossy"),
    );
    assert_eq!(
        (&strict["messages_in"], &strict["rejected"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(
        (&lossy["messages_in"], &lossy["rejected"]),
        (&json!(2), &json!(3))
    );
    // Acknowledgements keep their order, so all wait for the first.
    assert_eq!(unacknowledged(&daemon), Some(17.0));
    let mut heard = Vec::new();
    while heard.len() < 14 {
        phone.publish("clawdbot/phone/release", 1, false, "{}").await;
        while let Ok(said) = tokio::time::timeout(Duration::from_millis(300), next(&mut phone, ECHO)).await {
            heard.push(said["number"].as_u64().expect("a number"));
        }
    }
    let (telemetry, lossy): (Vec<u64>, Vec<u64>) = heard.into_iter().partition(|number| *number < 100);
    assert_eq!(
        telemetry,
        (0..12).collect::<Vec<_>>(),
        "none is lost, and in their order"
    );
    assert_eq!(lossy, [200, 201]);
    until_unacknowledged(&daemon, 0.0).await;
    assert_eq!(daemon.metric("clawdbot_broker_messages_held"), Some(0.0));
}

#[tokio::test]
async fn what_is_bound_at_run_time_is_served_until_its_actor_stops() {
    let Some(mut broker) = Broker::start() else { return };
    let daemon = broker.daemon("hub-1").application("switch").start();
    let subscriptions = "clawdbot_broker_subscriptions";
    let without = daemon.metric(subscriptions).expect("a metric");
    let mut user = phone(&broker, &[ECHO]).await;
    user.publish("clawdbot/phone/switch", 1, false, "\"on\"").await;
    until(&daemon, subscriptions, without + 1.0).await;
    user.publish(TELEMETRY, 1, false, cold(1)).await;
    assert_eq!(numbers(&mut user, ECHO, 1).await, [1]);

    // A broker that lost its sessions is told again.
    broker.stop();
    broker.forget();
    broker.start_again();
    until_connected(&daemon).await;
    let mut user = phone(&broker, &[ECHO]).await;
    until(&daemon, subscriptions, without + 1.0).await;
    user.publish(TELEMETRY, 1, false, cold(2)).await;
    assert_eq!(numbers(&mut user, ECHO, 1).await, [2]);

    // The actor stops; the router looks for such from time to time, or when a message finds it so.
    user.publish("clawdbot/phone/switch", 1, false, "\"off\"").await;
    until_unacknowledged(&daemon, 0.0).await;
    user.publish(TELEMETRY, 1, false, cold(3)).await;
    until(&daemon, subscriptions, without).await;
    // And another may take its place.
    user.publish("clawdbot/phone/switch", 1, false, "\"on\"").await;
    until(&daemon, subscriptions, without + 1.0).await;
    user.publish(TELEMETRY, 1, false, cold(4)).await;
    assert_eq!(numbers(&mut user, ECHO, 1).await, [4]);
    until_unacknowledged(&daemon, 0.0).await;
}

#[tokio::test]
async fn what_an_actor_publishes_reaches_subscribers_and_another_actor_once() {
    let Some(broker) = Broker::start() else { return };
    let daemons = ["hub-1", "hub-2"].map(|id| broker.daemon(id).application("chain").start());
    let mut phone = phone(&broker, &[HEATING, ECHO]).await;
    for number in 0..10 {
        phone.publish(TELEMETRY, 1, false, cold(number)).await;
    }
    for topic in [HEATING, ECHO] {
        for _ in 0..10 {
            let heard = phone.message_on(topic).await;
            let heard: Value = serde_json::from_slice(&heard.payload).expect("JSON");
            assert_eq!(heard["on"], true);
        }
    }
    for daemon in &daemons {
        until_unacknowledged(daemon, 0.0).await;
    }
    phone.publish("clawdbot/phone/last", 1, false, "x").await;
    phone.subscribe("clawdbot/phone/last", 1).await;
    phone.publish("clawdbot/phone/last", 1, false, "x").await;
    assert_eq!(
        phone.message().await.topic,
        "clawdbot/phone/last",
        "none came twice"
    );
}

#[tokio::test]
async fn an_actor_that_panics_is_made_again_and_what_it_panics_at_is_dropped_in_the_end() {
    let Some(broker) = Broker::start() else { return };
    let daemon = broker
        .daemon("hub-1")
        .application("nervous")
        .set("supervisor.min_backoff_ms", 50)
        .start();
    let mut phone = phone(&broker, &[ECHO]).await;
    phone.publish(TELEMETRY, 1, false, "\"boo\"").await;
    phone.publish(TELEMETRY, 1, false, cold(1)).await;
    assert_eq!(numbers(&mut phone, ECHO, 1).await, [1]);
    until(&daemon, "clawdbot_broker_messages_dropped_failed_total", 1.0).await;
    until_unacknowledged(&daemon, 0.0).await;
    phone.publish(TELEMETRY, 1, false, cold(2)).await;
    let mut heard = numbers(&mut phone, ECHO, 1).await;
    while heard.last() == Some(&1) {
        // What only stood behind it may come again.
        heard = numbers(&mut phone, ECHO, 1).await;
    }
    assert_eq!(heard, [2]);
}

#[tokio::test]
async fn whoever_the_broker_lets_ask_the_bridge_is_answered_once() {
    let Some(broker) = Broker::start() else { return };
    broker.change_password("steward", &password_of("steward"));
    let daemons = ["hub-1", "hub-2"].map(|id| broker.daemon(id).start());
    let mut steward = broker.client("steward").await;
    steward.subscribe("clawdbot/bridge/response/#", 1).await;
    let request = "clawdbot/bridge/request/topics";
    let response = "clawdbot/bridge/response/topics";
    steward.publish(request, 1, false, r#"{"transaction": 7}"#).await;
    let answer = next(&mut steward, response).await;
    assert_eq!(
        (&answer["status"], &answer["transaction"]),
        (&json!("ok"), &json!(7))
    );
    assert_eq!(answer["data"]["total"], 4, "{answer}");
    let asking_for = |topic: &str| Properties {
        response_topic: Some(topic.to_owned()),
        correlation_data: Some(b"c".to_vec()),
        message_expiry_s: None,
        user_properties: Vec::new(),
    };
    let mine = "clawdbot/bridge/response/mine";
    steward.publish_with(request, "", asking_for(mine)).await;
    let answer = steward.message().await;
    assert_eq!(
        (answer.topic.as_str(), answer.correlation_data.as_deref()),
        (mine, Some(&b"c"[..]))
    );
    for foreign in ["clawdbot/phone/reply", "clawdbot/bridge/state/hub-1", request] {
        steward.publish_with(request, "", asking_for(foreign)).await;
        let answer = next(&mut steward, response).await;
        assert_eq!(answer["status"], "error", "{answer}");
    }
    // Without the broker's leave the question does not arrive.
    let mut phone = phone(&broker, &[]).await;
    phone.publish(request, 1, false, "").await;
    for daemon in &daemons {
        until_unacknowledged(daemon, 0.0).await;
    }
    let asked = daemons
        .each_ref()
        .map(|daemon| daemon.metric("clawdbot_broker_requests_received_total").unwrap());
    assert_eq!(asked.iter().sum::<f64>(), 5.0);
}

#[tokio::test]
async fn a_stopping_daemon_leaves_what_its_actors_have_in_hand_to_the_broker() {
    let Some(broker) = Broker::start() else { return };
    let mut phone = phone(&broker, &[HEATING]).await;
    let launch = broker.daemon("hub-1").set("shutdown.timeout_s", 3);
    let mut daemon = launch.clone().application("keeper").start();
    for number in 0..4 {
        phone.publish(TELEMETRY, 1, false, cold(number)).await;
    }
    until_unacknowledged(&daemon, 4.0).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit(PATIENCE).expect("it stops").code(), Some(0));
    let daemon = launch.application("thermostat").start();
    for _ in 0..4 {
        assert_eq!(next(&mut phone, HEATING).await["on"], true);
    }
    until_unacknowledged(&daemon, 0.0).await;
}
