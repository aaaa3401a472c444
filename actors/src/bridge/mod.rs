//! The actor that answers questions about the hub itself: `clawdbot/bridge/request/{name}` is
//! answered on `clawdbot/bridge/response/{name}`, in zigbee2mqtt's shape. Each request is a file here.
//!
//! By default no device may publish there: its own topics are all it may use. A token whose `acl`
//! allows it is a token of somebody who looks after the hub.

mod topics;

use std::pin::Pin;

use ::topics::name::TopicName;
use actix::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::hub::{Hub, PublishError, PublishOptions};
use crate::mailbox::{Durability, Mailbox, Overflow};
use crate::received::{own, response_topic};
use crate::switchboard::Inbound;
use crate::topic_router::BindError;

/// Questions that wait; each is answered within a moment.
// A question is worth nothing to the next daemon.
const MAILBOX: Mailbox = Mailbox {
    durability: Durability::Never,
    bound: 64,
    overflow: Overflow::Reject,
};

/// What a request says beside its transaction.
type Arguments = Map<String, Value>;

type Answer = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;

type Request = fn(Hub, Arguments) -> Answer;

/// Every request by its name.
const REQUESTS: [(&str, Request); 1] = [("topics", |hub, arguments| {
    Box::pin(topics::answer(hub, arguments))
})];

/// See the module.
pub struct Bridge {
    hub: Hub,
}

impl Bridge {
    /// Starts the bridge and gives it its topics.
    pub async fn launch(hub: Hub) -> Result<(), BindError> {
        let bridge = Self { hub: hub.clone() }.start();
        hub.bind_raw("clawdbot/bridge/request/{name}", MAILBOX, &bridge)
            .await
    }

    /// Answers a request by its name, for whoever asks by another way than MQTT.
    pub async fn ask(hub: Hub, name: &str, arguments: Arguments) -> Result<Value, String> {
        match REQUESTS.iter().find(|(known, _)| *known == name) {
            Some((_, answer)) => answer(hub, arguments).await,
            None => {
                let names = REQUESTS.map(|(name, _)| format!("`{name}`")).join(", ");
                Err(format!("there is no request `{name}`; there is {names}"))
            }
        }
    }
}

impl Actor for Bridge {
    type Context = Context<Self>;
}

impl Handler<Inbound> for Bridge {
    type Result = ();

    fn handle(&mut self, request: Inbound, ctx: &mut Self::Context) {
        let hub = self.hub.clone();
        // The request keeps its place in the mailbox while it is answered, which bounds the answers.
        ctx.spawn(async move { answer(hub, request).await }.into_actor(self));
    }
}

/// An answer in zigbee2mqtt's shape.
#[derive(Serialize)]
struct Response {
    data: Value,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<Value>,
}

async fn answer(hub: Hub, request: Inbound) {
    let name = request.params.get("name").unwrap_or_default();
    let (arguments, mut transaction) = match parse(&request.message.payload) {
        Ok(mut arguments) => {
            let transaction = arguments.remove("transaction");
            (Ok(arguments), transaction)
        }
        Err(error) => (Err(error), None),
    };
    let (topic, asked) = match response_topic(hub.switchboard(), &request) {
        Ok(Some(topic)) => (Ok(topic), Ok(())),
        Ok(None) => (default_response_topic(name), Ok(())),
        Err(error) => (default_response_topic(name), Err(error.to_string())),
    };
    let topic = match topic {
        Ok(topic) => topic,
        Err(error) => return tracing::warn!(name, %error, "a bridge request has no response topic"),
    };
    let outcome = match asked.and(arguments) {
        Ok(arguments) => Bridge::ask(hub.clone(), name, arguments).await,
        Err(error) => Err(error),
    };
    let response = match outcome {
        Ok(data) => Response {
            data,
            status: "ok",
            error: None,
            transaction: transaction.take(),
        },
        Err(error) => Response {
            data: Value::Object(Map::new()),
            status: "error",
            error: Some(error),
            transaction: transaction.take(),
        },
    };
    let options = PublishOptions {
        correlation_data: own(request.message.correlation_data()),
        ..PublishOptions::default()
    };
    if let Err(error) = hub.publish_with(&topic, &response, options) {
        tracing::warn!(name, %error, "a bridge request was not answered");
    }
}

fn parse(payload: &[u8]) -> Result<Arguments, String> {
    if payload.iter().all(u8::is_ascii_whitespace) {
        return Ok(Arguments::new());
    }
    serde_json::from_slice(payload)
        .map_err(|error| format!("the request is neither empty nor a JSON object: {error}"))
}

fn default_response_topic(name: &str) -> Result<TopicName, PublishError> {
    Ok(TopicName::parse(
        format!("clawdbot/bridge/response/{name}").into(),
    )?)
}
