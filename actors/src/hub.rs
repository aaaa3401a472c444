//! The hub as an actor of one's own sees it: topics are bound to it, and it publishes.

use std::any::type_name;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::prelude::*;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use topics::confidential::Confidential;
use topics::message::Message as AppMessage;
use topics::name::{NameError, TopicName};
use topics::packet::{PublishProperties, QoS, ReasonCode};
use topics::pattern::{ExpandError, ParamError, Params, PatternError, TopicPattern};

use crate::external_broker::Handling;
use crate::mailbox::{Entrance, Mailbox, Refusal};
use crate::outside;
use crate::payload::{Shape, decode, shape};
use crate::received::Received;
use crate::served::Audience;
use crate::switchboard::{Inbound, Routed, Switchboard};
use crate::topic_router::{Bind, BindEach, BindError, LazyActor, Retirement};

/// See the module. A handle; clones share everything.
#[derive(Clone)]
pub struct Hub(Switchboard);

impl Hub {
    /// The hub that routes by this switchboard.
    pub fn new(switchboard: Switchboard) -> Self {
        Self(switchboard)
    }

    /// Gives a topic, or every topic of a pattern such as `clawdbot/{device_id}/telemetry`, to one actor.
    ///
    /// The payload is read as JSON into `T`; the levels in braces are fields of `T` beside those of the
    /// payload, and win over fields of the same name. A payload that cannot be read never reaches the
    /// actor: its publisher is told Payload format invalid (MQTT 5, QoS 1 and 2), and it is counted.
    pub async fn bind<T, A>(&self, pattern: &str, mailbox: Mailbox, actor: &Addr<A>) -> Result<(), BindError>
    where
        T: DeserializeOwned + Send + 'static,
        A: Actor<Context = Context<A>> + Handler<Received<T>>,
    {
        let pattern = TopicPattern::parse(pattern)?;
        check_levels::<T>(&pattern)?;
        let entrance = self.entrance(actor.clone().recipient());
        self.ask(Bind {
            pattern,
            actor: short_name::<A>(),
            mailbox,
            entrance,
        })
        .await
    }

    /// As [`bind`](Self::bind), for payloads that are no JSON: the actor gets the message as it came.
    pub async fn bind_raw<A>(&self, pattern: &str, mailbox: Mailbox, actor: &Addr<A>) -> Result<(), BindError>
    where
        A: Actor<Context = Context<A>> + Handler<Inbound>,
    {
        self.ask(Bind {
            pattern: TopicPattern::parse(pattern)?,
            actor: short_name::<A>(),
            mailbox,
            entrance: Arc::new(Raw(actor.clone().recipient())),
        })
        .await
    }

    /// Makes one actor for each distinct set of the levels in braces, when its first message comes, and
    /// stops it when it holds no message and got none for `idle`. The next message makes a new one:
    /// what must outlive that is kept elsewhere.
    ///
    /// The factory runs on the arbiter of the router, and the actors live there; it must not block.
    pub async fn bind_each<T, A>(
        &self,
        pattern: &str,
        mailbox: Mailbox,
        idle: Duration,
        factory: impl Fn(&Params) -> A + Send + 'static,
    ) -> Result<(), BindError>
    where
        T: DeserializeOwned + Send + 'static,
        A: Actor<Context = Context<A>> + Handler<Received<T>>,
    {
        let pattern = TopicPattern::parse(pattern)?;
        check_levels::<T>(&pattern)?;
        let hub = self.clone();
        let factory = move |levels: &Params| {
            let (retire, retired) = tokio::sync::oneshot::channel::<()>();
            let actor = A::create(|ctx| {
                // Without this an actor with a timer would outlive all of its addresses.
                ctx.spawn(wrap_future::<_, A>(retired).map(|_, _, ctx| ctx.stop()));
                factory(levels)
            });
            LazyActor {
                entrance: hub.entrance(actor.recipient()),
                retire: Retirement::WhenEmpty(retire),
            }
        };
        self.ask(BindEach {
            actor: short_name::<A>(),
            patterns: vec![(pattern, Audience::OneDaemon)],
            mailbox,
            idle,
            factory: Box::new(factory),
        })
        .await
    }

    /// Publishes a value as JSON, at QoS 1 and not retained.
    ///
    /// `to` is a topic, or a pattern whose levels in braces are filled by the value's own fields, which
    /// then leave the payload: the reverse of how such a message is received.
    pub fn publish(&self, to: impl Into<Destination>, body: &impl Serialize) -> Result<(), PublishError> {
        self.publish_with(to, body, PublishOptions::default())
    }

    /// As [`publish`](Self::publish), with options.
    pub fn publish_with(
        &self,
        to: impl Into<Destination>,
        body: &impl Serialize,
        options: PublishOptions,
    ) -> Result<(), PublishError> {
        let (topic, payload) = to.into().resolve(body)?;
        self.publish_bytes(topic, payload, options)
    }

    /// Publishes bytes as they are.
    pub fn publish_bytes(
        &self,
        topic: TopicName,
        payload: impl Into<Bytes>,
        options: PublishOptions,
    ) -> Result<(), PublishError> {
        // Nothing is said there that a subscriber could hear.
        if Confidential::of(topic.as_str()).is_some() {
            return Err(PublishError::Refused {
                topic: topic.to_string(),
                reason: ReasonCode::NotAuthorized,
            });
        }
        let mut message = AppMessage::new(topic.clone(), payload, options.qos);
        message.retain = options.retain;
        message.expires_at = options.expires_after.map(|after| outside::now() + after);
        message.properties = options.correlation_data.map(|data| {
            Box::new(PublishProperties {
                correlation_data: Some(data),
                ..PublishProperties::default()
            })
        });
        match self.0.publish(message) {
            // The router hands a first message over when it has made the actor.
            Routed::To(_) | Routed::Spared | Routed::First => Ok(()),
            refused => Err(PublishError::Refused {
                topic: topic.to_string(),
                reason: refused.reason(),
            }),
        }
    }

    pub(crate) fn switchboard(&self) -> &Switchboard {
        &self.0
    }

    fn entrance<T: DeserializeOwned + Send + 'static>(
        &self,
        recipient: Recipient<Received<T>>,
    ) -> Arc<dyn Entrance> {
        let hub = self.clone();
        Arc::new(Decoding { recipient, hub })
    }

    async fn ask<M>(&self, message: M) -> Result<(), BindError>
    where
        M: actix::Message<Result = Result<(), BindError>> + Send + 'static,
        crate::topic_router::TopicRouter: Handler<M>,
    {
        self.0
            .router()
            .send(message)
            .await
            .unwrap_or(Err(BindError::Stopped))
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hub")
    }
}

/// How a message is published.
#[derive(Clone, Debug)]
pub struct PublishOptions {
    /// The quality of service; 1 unless another is asked for.
    pub qos: QoS,
    /// Whether it is kept for whoever subscribes later.
    pub retain: bool,
    /// After what time it is of no use any more.
    pub expires_after: Option<Duration>,
    /// What tells the receiver which request this answers.
    pub correlation_data: Option<Bytes>,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_after: None,
            correlation_data: None,
        }
    }
}

/// Why something was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The pattern is none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The topic is none.
    #[error(transparent)]
    Topic(#[from] NameError),
    /// The value has nothing for a level in braces.
    #[error(
        "{pattern} needs a field `{name}` with text, a number or a truth value; the value published has none"
    )]
    Field {
        /// The pattern.
        pattern: String,
        /// The level.
        name: String,
    },
    /// A field is no level.
    #[error(transparent)]
    Level(#[from] ParamError),
    /// The levels make no topic.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// The value cannot be written as JSON.
    #[error("the value published cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The actor that owns the topic did not take it, or the queue for an external broker is full.
    #[error("the message to {topic} was not taken: {reason}; publish it again later")]
    Refused {
        /// The topic.
        topic: String,
        /// What a client would have been told.
        reason: ReasonCode,
    },
    /// A reply to a message that wants none.
    #[error("the message names no Response Topic; answer only where `response_topic()` is given")]
    NoResponseTopic,
    /// A reply to where its publisher may not write.
    #[error("the Response Topic {topic} is not the publisher's to use, so nothing is sent there")]
    ResponseTopic {
        /// The topic.
        topic: String,
    },
}

/// Where something is published to: a text with or without levels in braces, a topic, or a pattern
/// that was read before.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Text; with braces it is a pattern.
    Text(String),
    /// A topic as it is, braces and all.
    Topic(TopicName),
    /// A pattern.
    Pattern(TopicPattern),
}

impl Destination {
    fn resolve(self, body: &impl Serialize) -> Result<(TopicName, Vec<u8>), PublishError> {
        let pattern = match self {
            Self::Topic(topic) => return Ok((topic, serde_json::to_vec(body)?)),
            Self::Text(text) if !text.contains(['{', '}']) => {
                return Ok((TopicName::parse(text.into())?, serde_json::to_vec(body)?));
            }
            Self::Text(text) => TopicPattern::parse(&text)?,
            Self::Pattern(pattern) => pattern,
        };
        let mut body = serde_json::to_value(body)?;
        let mut levels = Vec::new();
        for name in pattern.names() {
            let field = body.as_object_mut().and_then(|fields| fields.remove(name));
            let level = field
                .as_ref()
                .and_then(text_of)
                .ok_or_else(|| PublishError::Field {
                    pattern: pattern.to_string(),
                    name: name.to_owned(),
                })?;
            levels.push((name, level));
        }
        let levels = Params::new(levels.iter().map(|(name, level)| (*name, level.as_str())))?;
        Ok((pattern.expand(&levels)?, serde_json::to_vec(&body)?))
    }
}

impl From<&str> for Destination {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Destination {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&TopicName> for Destination {
    fn from(topic: &TopicName) -> Self {
        Self::Topic(topic.clone())
    }
}

impl From<&TopicPattern> for Destination {
    fn from(pattern: &TopicPattern) -> Self {
        Self::Pattern(pattern.clone())
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// The way into an actor that is given values, not bytes.
struct Decoding<T: Send + 'static> {
    recipient: Recipient<Received<T>>,
    hub: Hub,
}

impl<T: DeserializeOwned + Send + 'static> Entrance for Decoding<T> {
    fn put(&self, inbound: Inbound) -> Result<(), Refusal> {
        if !self.recipient.connected() {
            return Err(Refusal::Gone);
        }
        let body = decode(&inbound.message.payload, &inbound.params)
            .map_err(|error| Refusal::Malformed(error.to_string()))?;
        let inbound = with_handling(inbound, &self.recipient);
        self.recipient
            .do_send(Received::new(body, inbound, self.hub.clone()));
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.recipient.connected()
    }
}

/// The way into an actor that is given messages as they came.
struct Raw(Recipient<Inbound>);

impl Entrance for Raw {
    fn put(&self, inbound: Inbound) -> Result<(), Refusal> {
        self.0.put(with_handling(inbound, &self.0))
    }

    fn is_open(&self) -> bool {
        self.0.is_open()
    }
}

/// Such an actor knows nothing of receipts: that it handled the message is seen from outside.
fn with_handling<M>(mut inbound: Inbound, actor: &Recipient<M>) -> Inbound
where
    M: actix::Message + Send + 'static,
    M::Result: Send,
{
    inbound.handling = inbound
        .receipt
        .take()
        .map(|receipt| Handling::by(actor.clone(), receipt));
    inbound
}

/// A level that the type has no field for would make every message malformed.
fn check_levels<T: DeserializeOwned>(pattern: &TopicPattern) -> Result<(), BindError> {
    let Some(first) = pattern.names().next() else {
        return Ok(());
    };
    let (kind, fields) = match shape::<T>() {
        Shape::Open => return Ok(()),
        Shape::Fields(fields) => (format!("has only: {}", fields.join(", ")), fields),
        Shape::Closed(kind) => (format!("is {kind}"), &[][..]),
    };
    match pattern.names().find(|name| !fields.contains(name)) {
        None => Ok(()),
        Some(missing) => Err(BindError::Field {
            pattern: pattern.to_string(),
            name: if fields.is_empty() { first } else { missing }.to_owned(),
            kind: format!("{} {kind}", short_name::<T>()),
        }),
    }
}

/// The last part of a type's path, without what it is generic over.
fn short_name<T>() -> &'static str {
    let path = type_name::<T>();
    let plain = path.split('<').next().unwrap_or(path);
    plain.rsplit("::").next().unwrap_or(plain)
}
