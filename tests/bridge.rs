//! Questions about the hub itself: `clawdbot topics`, and the bridge over MQTT.

use serde_json::{Value, json};

use crate::support::client::{BOTH, Client, Properties, Version};
use crate::support::daemon::Daemon;

const REQUEST: &str = "clawdbot/bridge/request/topics";
const RESPONSE: &str = "clawdbot/bridge/response/topics";

async fn ask(client: &mut Client, request: &str, payload: &str) -> Value {
    let topic = format!("clawdbot/bridge/request/{request}");
    client.publish(&topic, 1, false, payload).await;
    let answer = client.message().await;
    assert_eq!(answer.topic, format!("clawdbot/bridge/response/{request}"));
    serde_json::from_slice(&answer.payload).expect("JSON")
}

fn names(data: &Value) -> Vec<&str> {
    let rows = data["topics"].as_array().expect("rows");
    rows.iter()
        .map(|row| row["topic"].as_str().expect("a name"))
        .collect()
}

#[tokio::test]
async fn the_bridge_lists_bound_topics_in_zigbee2mqtts_shape() {
    let daemon = Daemon::launch().start();
    for version in BOTH {
        let mut client = Client::steward(&daemon, version).await;
        client.subscribe("clawdbot/bridge/response/#", 1).await;
        let answer = ask(&mut client, "topics", r#"{"transaction": 5}"#).await;
        assert_eq!(
            (&answer["status"], &answer["transaction"]),
            (&json!("ok"), &json!(5))
        );
        let own = [
            "clawdbot/bridge/request/{name}",
            "clawdbot/{device_id}/cancel",
            "clawdbot/{device_id}/command",
            "clawdbot/{device_id}/conversation/reset",
        ];
        assert_eq!(names(&answer["data"]), own);
        let [bridge, _, command, _] = answer["data"]["topics"].as_array().expect("rows") as &[Value] else {
            panic!("{answer}")
        };
        assert_eq!(
            (&bridge["actor"], &bridge["depth"]),
            (&json!("Bridge"), &json!(1)),
            "{bridge}"
        );
        assert_eq!(command["actor"], "Conversation");

        let first = ask(&mut client, "topics", r#"{"limit": 2}"#).await;
        assert_eq!(names(&first["data"]), own[..2]);
        assert_eq!(first["data"]["total"], own.len());
        assert!(first.get("transaction").is_none() && first.get("error").is_none());
        let rest = json!({"after": first["data"]["next"]}).to_string();
        let rest = ask(&mut client, "topics", &rest).await;
        assert_eq!(
            (names(&rest["data"]), &rest["data"]["next"]),
            (own[2..].to_vec(), &Value::Null)
        );
        client.disconnect().await;
    }
}

#[tokio::test]
async fn a_request_that_makes_no_sense_gets_an_answer_that_says_what_would() {
    let daemon = Daemon::launch().start();
    let mut client = Client::steward(&daemon, Version::V5).await;
    client.subscribe("clawdbot/bridge/response/#", 1).await;
    for (request, payload, says) in [
        ("dance", "", "there is no request `dance`; there is `topics`"),
        ("topics", "{", "neither empty nor a JSON object"),
        ("topics", "[1]", "neither empty nor a JSON object"),
        ("topics", r#"{"limit": 0}"#, "choose from 1 to 1000"),
        ("topics", r#"{"limit": "many"}"#, "expected usize"),
        ("topics", r#"{"colour": 1}"#, "unknown field `colour`"),
    ] {
        let answer = ask(&mut client, request, payload).await;
        assert_eq!(
            (&answer["status"], &answer["data"]),
            (&json!("error"), &json!({}))
        );
        let error = answer["error"].as_str().expect("a reason");
        assert!(error.contains(says), "{payload}: {error}");
    }
}

#[tokio::test]
async fn an_answer_goes_to_the_response_topic_if_the_asker_may_write_there() {
    let daemon = Daemon::launch().start();
    let mut client = Client::steward(&daemon, Version::V5).await;
    client.subscribe("clawdbot/bridge/#", 1).await;
    let asking_for = |topic: &str| Properties {
        response_topic: Some(topic.to_owned()),
        correlation_data: Some(b"c".to_vec()),
        message_expiry_s: None,
        user_properties: Vec::new(),
    };
    let mine = "clawdbot/bridge/mine";
    client.publish_with(REQUEST, "", asking_for(mine)).await;
    let answer = client.message_on(mine).await;
    assert_eq!(answer.correlation_data.as_deref(), Some(&b"c"[..]));
    for foreign in ["clawdbot/phone/inbox", REQUEST] {
        client
            .publish_with(REQUEST, r#"{"transaction": "t"}"#, asking_for(foreign))
            .await;
        let answer = client.message_on(RESPONSE).await;
        assert_eq!(answer.correlation_data.as_deref(), Some(&b"c"[..]));
        let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
        assert_eq!(
            (&answer["status"], &answer["transaction"]),
            (&json!("error"), &json!("t"))
        );
        assert!(
            answer["error"].as_str().expect("a reason").contains(foreign),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_device_may_not_ask_the_bridge_unless_its_token_says_so() {
    let daemon = Daemon::launch().start();
    let mut device = Client::of(&daemon, "phone", "phone").await;
    assert_eq!(device.try_subscribe(RESPONSE, 1).await, None);
    device.publish(REQUEST, 1, false, "").await;
    for action in ["publish", "subscribe"] {
        let denied = format!("clawdbot_mqtt_access_denied_{action}_total");
        assert_eq!(daemon.metric(&denied), Some(1.0), "{action}");
    }
    let mut steward = Client::steward(&daemon, Version::V5).await;
    steward.subscribe("clawdbot/bridge/response/#", 1).await;
    let answer = ask(&mut steward, "topics", "").await;
    assert_eq!(
        answer["data"]["topics"][0]["messages_in"], 1,
        "only its own: {answer}"
    );
}

#[tokio::test]
async fn the_command_line_shows_the_same_topics_to_people_and_to_programs() {
    let daemon = Daemon::launch().start();
    let mut device = Client::of(&daemon, "phone", "phone").await;
    device.publish("clawdbot/phone/command", 1, false, "hello").await;
    let people = daemon.cli(&["topics"]);
    people.assert_code(0);
    let lines: Vec<&str> = people.stdout.lines().collect();
    assert_eq!(lines.len(), 5, "{people:#?}");
    assert!(lines[0].starts_with("topic ") && lines[0].ends_with("malformed"));
    assert!(lines[3].starts_with("clawdbot/{device_id}/command") && lines[3].contains("Conversation"));

    let programs = daemon.cli(&["topics", "--json"]);
    programs.assert_code(0);
    let all: Value = serde_json::from_str(&programs.stdout).expect("JSON");
    assert_eq!(all["total"], 4);
    let command = &all["topics"][2];
    assert_eq!(
        (&command["actors"], &command["messages_in"]),
        (&json!(1), &json!(1))
    );
    assert_eq!((&command["depth"], &command["bound"]), (&json!(0), &json!(640)));

    let nobody = crate::support::daemon::Home::new();
    let unasked = crate::support::process::finish(&mut nobody.command(&["topics"]));
    unasked.assert_code(1);
}
