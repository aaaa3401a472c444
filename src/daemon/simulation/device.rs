//! A client that is made up: it asks, cancels, goes and comes again, and keeps to the protocol.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actors::device_session::Connection;
use actors::reception::Reception;
use bytes::{Bytes, BytesMut};
use models::Precision;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use topics::packet::{
    Ack, Connect, ConnectProperties, Disconnect, Packet, ProtocolVersion, Publish, PublishProperties, QoS,
    ReasonCode, RetainHandling, Subscribe, SubscribeFilter, SubscriptionOptions, decode,
};

use super::answers::{Answers, Asked};
use super::wire::Wire;
use super::world::{Chance, World};

const VERSION: ProtocolVersion = ProtocolVersion::V5;
/// The subscription's; publications have others.
const SUBSCRIBE_ID: u16 = 60_000;

/// What a device knows from one daemon to the next.
#[derive(Clone)]
pub(super) struct Device(Arc<Mutex<Inner>>);

struct Inner {
    name: String,
    answers: Answers,
    /// Sent, and not acknowledged.
    unacknowledged: BTreeMap<u16, Publish>,
    last_packet_id: u16,
    chance: Chance,
}

/// Why a connection is over.
enum Over {
    /// It said goodbye.
    Left,
    Lost,
}

impl Device {
    pub(super) fn new(name: String, is_forgetful: bool, world: &World) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            name,
            answers: Answers {
                is_forgetful,
                ..Answers::default()
            },
            unacknowledged: BTreeMap::new(),
            last_packet_id: 0,
            chance: world.chance(),
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that must have ended and have not.
    pub(super) fn missing(&self) -> Vec<String> {
        self.inner().answers.missing().cloned().collect()
    }

    /// How its requests ended.
    pub(super) fn ends(&self) -> Vec<String> {
        let inner = self.inner();
        inner
            .answers
            .asked
            .values()
            .filter_map(|asked| asked.end.clone())
            .collect()
    }

    /// Lives for as long as the daemon does.
    pub(super) async fn live(self, world: World, reception: Arc<Reception>) {
        loop {
            let pause = self.inner().chance.pause(0, 3000);
            tokio::time::sleep(pause).await;
            let (wire, theirs) = Wire::new(&world);
            let connection = Connection {
                stream: Box::new(theirs),
                permit: None,
                reactor: Handle::current(),
                certified: None,
            };
            let deadline = Instant::now() + reception.connect_timeout;
            actix_rt::spawn(reception.clone().receive(connection, None, deadline));
            let mut line = Line {
                device: self.clone(),
                world: world.clone(),
                wire,
                input: BytesMut::new(),
                wait_s: 0,
            };
            let name = self.inner().name.clone();
            match line.talk().await {
                Ok(Over::Left) => world.note(format!("{name} leaves")),
                Ok(Over::Lost) => {
                    world.note(format!("{name} is lost"));
                    line.wire.cut();
                }
                Err(error) => world.note(format!("{name} is cut off: {error}")),
            }
        }
    }
}

/// One connection of a device.
struct Line {
    device: Device,
    world: World,
    wire: Wire,
    input: BytesMut,
    wait_s: u64,
}

impl Line {
    async fn talk(&mut self) -> std::io::Result<Over> {
        let (name, is_forgetful) = {
            let inner = self.device.inner();
            (inner.name.clone(), inner.answers.is_forgetful)
        };
        let connect = Connect {
            protocol: VERSION,
            is_bridge: false,
            clean_start: is_forgetful,
            keep_alive_s: 30,
            client_id: name.clone().into(),
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties {
                session_expiry_interval_s: (!is_forgetful).then_some(3600),
                receive_maximum: Some(20),
                ..ConnectProperties::default()
            },
        };
        self.send(Packet::Connect(Box::new(connect))).await?;
        let filter = |what: &str| SubscribeFilter {
            filter: format!("clawdbot/{name}/{what}").into(),
            options: SubscriptionOptions {
                qos: QoS::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::default(),
            },
        };
        let subscribe = Subscribe {
            packet_id: SUBSCRIBE_ID,
            subscription_identifier: None,
            user_properties: Default::default(),
            filters: vec![filter("reply"), filter("intent")],
        };
        self.send(Packet::Subscribe(subscribe)).await?;
        // Sent again they would be asked twice, which QoS 1 allows and is not what is looked at here.
        self.device.inner().unacknowledged.clear();
        let mut act_at = Instant::now();
        loop {
            match timeout_at(act_at, self.wire.stream.read_buf(&mut self.input)).await {
                Ok(Ok(0)) => return Ok(Over::Lost),
                Ok(read) => {
                    read?;
                    while let Some(packet) = decode(&mut self.input, Some(VERSION), 1 << 20)
                        .map_err(|error| std::io::Error::other(error.to_string()))?
                    {
                        self.hear(packet).await?;
                    }
                }
                Err(_) => {
                    if let Some(over) = self.act().await? {
                        return Ok(over);
                    }
                    let pause = self.device.inner().chance.pause(100, 4000);
                    act_at = Instant::now() + pause;
                }
            }
        }
    }

    async fn hear(&mut self, packet: Packet) -> std::io::Result<()> {
        match packet {
            Packet::ConnAck(ack) if ack.reason != ReasonCode::Success => {
                self.world.fault(format!("refused: {:?}", ack.reason));
            }
            Packet::Publish(publish) => {
                let is_intent = publish.topic.ends_with("/intent");
                match serde_json::from_slice(&publish.payload) {
                    Ok(event) if is_intent => {
                        self.world.note(format!("is told {event}"));
                        self.device.inner().answers.hear(&event, &self.world);
                    }
                    Ok(item) => {
                        self.world.note(format!("hears {item}"));
                        self.device.inner().answers.take(item, &self.world);
                    }
                    Err(error) => self.world.fault(format!("no item: {error}")),
                }
                if publish.qos == QoS::AtLeastOnce {
                    let ack = Ack::new(publish.packet_id, ReasonCode::Success);
                    return self.send(Packet::PubAck(ack)).await;
                }
            }
            Packet::PubAck(ack) => {
                let mut inner = self.device.inner();
                let Some(publish) = inner.unacknowledged.remove(&ack.packet_id) else {
                    return Ok(());
                };
                let request = serde_json::from_slice::<serde_json::Value>(&publish.payload);
                let id = request
                    .ok()
                    .and_then(|request| Some(request["id"].as_str()?.to_owned()));
                let asked = id.and_then(|id| inner.answers.asked.get_mut(&id));
                if let Some(asked) = asked.filter(|_| !ack.reason.is_error()) {
                    asked.is_accepted = true;
                }
            }
            Packet::Disconnect(goodbye) => self.world.note(format!("told to go: {:?}", goodbye.reason)),
            _ => {}
        }
        Ok(())
    }

    async fn act(&mut self) -> std::io::Result<Option<Over>> {
        if self.world.is_calm() {
            self.wait_s = 20;
            self.send(Packet::PingReq).await?;
            return Ok(None);
        }
        let choice = self.device.inner().chance.below(100);
        match choice {
            0..55 => self.ask().await?,
            55..70 => self.cancel().await?,
            70..76 => {
                let goodbye = Disconnect::new(ReasonCode::Success);
                self.send(Packet::Disconnect(goodbye)).await?;
                return Ok(Some(Over::Left));
            }
            76..84 => return Ok(Some(Over::Lost)),
            _ => self.send(Packet::PingReq).await?,
        }
        Ok(None)
    }

    async fn ask(&mut self) -> std::io::Result<()> {
        let publish = {
            let mut inner = self.device.inner();
            let inner = &mut *inner;
            let chance = &mut inner.chance;
            let number = inner.answers.asked.len();
            let poison = if chance.one_in(60) { "-poison" } else { "" };
            let id = format!("{}-{number}{poison}", inner.name);
            let max_tokens = 1 + usize::try_from(chance.below(60)).unwrap_or(0);
            let mut request = json!({
                "id": id, "prompt": id, "max_tokens": max_tokens,
                "priority": chance.pick(&["urgent", "interactive", "background"]),
            });
            if chance.one_in(6) {
                request["deadline_ms"] = json!(chance.below(6000));
            }
            let least = chance.pick(&[Precision::Int8, Precision::F16]);
            let min_precision = chance.one_in(8).then_some(least);
            if let Some(least) = min_precision {
                request["min_precision"] = json!(least.name());
            }
            let expiry = chance
                .one_in(8)
                .then(|| u32::try_from(1 + chance.below(20)).unwrap_or(1));
            let properties = expiry.map(|expiry| {
                Box::new(PublishProperties {
                    message_expiry_interval_s: Some(expiry),
                    ..PublishProperties::default()
                })
            });
            let asked = Asked::of(max_tokens, min_precision, self.world.life());
            inner.answers.asked.insert(id, asked);
            inner.publish("command", request.to_string().into(), properties)
        };
        self.world
            .note(format!("asks {}", String::from_utf8_lossy(&publish.payload)));
        self.send(Packet::Publish(publish)).await
    }

    async fn cancel(&mut self) -> std::io::Result<()> {
        let publish = {
            let mut inner = self.device.inner();
            let open: Vec<_> = inner.answers.open().cloned().collect();
            if open.is_empty() {
                return Ok(());
            }
            let at = usize::try_from(inner.chance.below(open.len() as u64)).unwrap_or(0);
            let Some(id) = open.into_iter().nth(at) else {
                return Ok(());
            };
            inner.publish("cancel", id.into(), None)
        };
        self.world
            .note(format!("cancels {}", String::from_utf8_lossy(&publish.payload)));
        self.send(Packet::Publish(publish)).await
    }

    async fn send(&mut self, packet: Packet) -> std::io::Result<()> {
        let mut bytes = BytesMut::new();
        packet
            .encode(VERSION, &mut bytes)
            .map_err(|error| std::io::Error::other(error.to_string()))?;
        self.wire.stream.write_all(&bytes).await
    }
}

impl Inner {
    fn publish(&mut self, what: &str, payload: Bytes, properties: Option<Box<PublishProperties>>) -> Publish {
        self.last_packet_id = self.last_packet_id % 50_000 + 1;
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: format!("clawdbot/{}/{what}", self.name).into(),
            packet_id: self.last_packet_id,
            properties,
            payload,
        };
        self.unacknowledged.insert(self.last_packet_id, publish.clone());
        publish
    }
}

/// How long a life may take until all is answered.
pub(super) const PATIENCE: Duration = Duration::from_secs(900);
