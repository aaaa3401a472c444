//! A client of ours over rumqttc, the same for MQTT 3.1.1 and 5.0, in which each step is awaited.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5 as packet5;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;
use super::answer::Answer;
use super::daemon::Daemon;

/// Which protocol to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V5,
}

pub(crate) const BOTH: [Version; 2] = [Version::V4, Version::V5];

/// How to log in.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) username: String,
    pub(crate) token: Option<String>,
    pub(crate) clean: bool,
    pub(crate) keep_alive: Duration,
    pub(crate) will: Option<Will>,
    /// MQTT 5 only; in 3.1.1 a session that is not clean stays.
    pub(crate) session_expiry_s: Option<u32>,
}

/// What is said for a client that is lost.
#[derive(Clone, Debug)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
}

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) correlation_data: Option<Vec<u8>>,
}

/// What a request carries beside its payload; MQTT 5 only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Properties {
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation_data: Option<Vec<u8>>,
    pub(crate) message_expiry_s: Option<u32>,
    pub(crate) user_properties: Vec<(String, String)>,
}

/// A connected client. Dropped, it is lost without a goodbye.
pub(crate) struct Client {
    handle: Handle,
    events: mpsc::UnboundedReceiver<Event>,
    inbox: VecDeque<Incoming>,
    task: JoinHandle<()>,
    /// What CONNACK said.
    pub(crate) session_present: bool,
}

enum Handle {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

#[derive(Debug)]
enum Event {
    Connected {
        session_present: bool,
    },
    /// Granted QoS levels; nothing where a filter was refused.
    Subscribed(Vec<Option<u8>>),
    Unsubscribed,
    /// A publish of ours is in safe hands: PUBACK or PUBCOMP.
    Acknowledged,
    Message(Incoming),
    Closed(String),
}

/// Requests that wait for the event loop.
const REQUESTS: usize = 64;

impl Login {
    /// As one of a device's clients, with its token.
    pub(crate) fn new(version: Version, daemon: &Daemon, device: &str, client_id: &str) -> Login {
        Login::with_token(version, client_id, daemon.token(device))
    }

    /// With a token at hand.
    pub(crate) fn with_token(version: Version, client_id: &str, token: String) -> Login {
        Login {
            version,
            client_id: client_id.to_owned(),
            username: "test".to_owned(),
            token: Some(token),
            clean: true,
            keep_alive: Duration::from_secs(30),
            will: None,
            session_expiry_s: None,
        }
    }

    /// By MQTT 5 at a broker that is not ours, with a name and a password.
    pub(crate) fn elsewhere(username: &str, password: &str, client_id: &str) -> Login {
        Login {
            version: Version::V5,
            client_id: client_id.to_owned(),
            username: username.to_owned(),
            token: Some(password.to_owned()),
            clean: true,
            keep_alive: Duration::from_secs(30),
            will: None,
            session_expiry_s: None,
        }
    }

    /// With a session that outlives its connection.
    pub(crate) fn persistent(mut self) -> Login {
        self.clean = false;
        self.session_expiry_s = Some(600);
        self
    }

    pub(crate) fn will(mut self, topic: &str, payload: &str, qos: u8, retain: bool) -> Login {
        self.will = Some(Will {
            topic: topic.to_owned(),
            payload: payload.to_owned(),
            qos,
            retain,
        });
        self
    }
}

impl Client {
    /// A client of a device, connected.
    pub(crate) async fn of(daemon: &Daemon, device: &str, client_id: &str) -> Client {
        Client::connect(daemon.mqtt, Login::new(Version::V5, daemon, device, client_id))
            .await
            .expect("admitted")
    }

    /// Whoever may use the bridge's topics.
    pub(crate) async fn steward(daemon: &Daemon, version: Version) -> Client {
        let acl = serde_json::json!([{"permission": "allow", "action": "all", "topic": "clawdbot/bridge/#"}]);
        let mut login = Login::new(version, daemon, "steward", "steward");
        login.token = Some(daemon.home().token_with_acl("steward", acl));
        Client::connect(daemon.mqtt, login).await.expect("admitted")
    }

    /// Connects, or says how it was refused.
    pub(crate) async fn connect(address: SocketAddr, login: Login) -> Result<Client, String> {
        let (sender, events) = mpsc::unbounded_channel();
        let (handle, task) = match login.version {
            Version::V4 => {
                let (client, event_loop) = rumqttc::AsyncClient::new(options_v4(address, &login), REQUESTS);
                (Handle::V4(client), tokio::spawn(pump_v4(event_loop, sender)))
            }
            Version::V5 => {
                let (client, event_loop) = v5::AsyncClient::new(options_v5(address, &login), REQUESTS);
                (Handle::V5(client), tokio::spawn(pump_v5(event_loop, sender)))
            }
        };
        let mut client = Client {
            handle,
            events,
            inbox: VecDeque::new(),
            task,
            session_present: false,
        };
        match client.event("CONNACK").await {
            Event::Connected { session_present } => {
                client.session_present = session_present;
                Ok(client)
            }
            Event::Closed(why) => Err(why),
            other => panic!("{other:?} instead of CONNACK"),
        }
    }

    /// Subscribes and returns the granted QoS; nothing where it was refused.
    pub(crate) async fn try_subscribe(&mut self, filter: &str, qos: u8) -> Option<u8> {
        match &self.handle {
            Handle::V4(client) => client
                .subscribe(filter, qos_v4(qos))
                .await
                .expect("a running client"),
            Handle::V5(client) => client
                .subscribe(filter, qos_v5(qos))
                .await
                .expect("a running client"),
        }
        loop {
            match self.event("SUBACK").await {
                Event::Subscribed(granted) => return granted[0],
                other => self.keep(other, "SUBACK"),
            }
        }
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) {
        assert_eq!(self.try_subscribe(filter, qos).await, Some(qos), "{filter}");
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) {
        match &self.handle {
            Handle::V4(client) => client.unsubscribe(filter).await.expect("a running client"),
            Handle::V5(client) => client.unsubscribe(filter).await.expect("a running client"),
        }
        loop {
            match self.event("UNSUBACK").await {
                Event::Unsubscribed => return,
                other => self.keep(other, "UNSUBACK"),
            }
        }
    }

    /// Publishes and, above QoS 0, awaits that it is in safe hands.
    pub(crate) async fn publish(&mut self, topic: &str, qos: u8, retain: bool, payload: impl Into<Vec<u8>>) {
        let payload = payload.into();
        match &self.handle {
            Handle::V4(client) => {
                client
                    .publish(topic, qos_v4(qos), retain, payload)
                    .await
                    .expect("a running client");
            }
            Handle::V5(client) => {
                client
                    .publish(topic, qos_v5(qos), retain, payload)
                    .await
                    .expect("a running client");
            }
        }
        if qos > 0 {
            self.acknowledged().await;
        }
    }

    /// Publishes at QoS 1 with MQTT 5 properties.
    pub(crate) async fn publish_with(
        &mut self,
        topic: &str,
        payload: impl Into<Vec<u8>>,
        properties: Properties,
    ) {
        let Handle::V5(client) = &self.handle else {
            panic!("properties need MQTT 5")
        };
        let properties = packet5::PublishProperties {
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data.map(Into::into),
            message_expiry_interval: properties.message_expiry_s,
            user_properties: properties.user_properties,
            ..Default::default()
        };
        client
            .publish_with_properties(
                topic,
                v5::mqttbytes::QoS::AtLeastOnce,
                false,
                payload.into(),
                properties,
            )
            .await
            .expect("a running client");
        self.acknowledged().await;
    }

    async fn acknowledged(&mut self) {
        loop {
            match self.event("PUBACK").await {
                Event::Acknowledged => return,
                other => self.keep(other, "PUBACK"),
            }
        }
    }

    /// The next message.
    pub(crate) async fn message(&mut self) -> Incoming {
        if let Some(message) = self.inbox.pop_front() {
            return message;
        }
        match self.event("a message").await {
            Event::Message(message) => message,
            other => panic!("{other:?} instead of a message"),
        }
    }

    /// A message on this topic; others wait.
    pub(crate) async fn message_on(&mut self, topic: &str) -> Incoming {
        let mut others = VecDeque::new();
        let found = loop {
            let message = self.message().await;
            if message.topic == topic {
                break message;
            }
            others.push_back(message);
        };
        others.append(&mut self.inbox);
        self.inbox = others;
        found
    }

    /// The next item of whichever answer.
    pub(crate) async fn item(&mut self) -> Value {
        let message = self.message().await;
        let item = serde_json::from_slice(&message.payload);
        item.unwrap_or_else(|error| panic!("{message:?} is no item: {error}"))
    }

    /// The answer to a request by its id; messages about other things wait.
    pub(crate) async fn answer(&mut self, id: &str) -> Answer {
        self.answer_where(|item| item["id"] == id).await
    }

    /// The answer that comes next, whatever its id is.
    pub(crate) async fn next_answer(&mut self) -> Answer {
        let mut id = None;
        self.answer_where(move |item| {
            item["id"].is_string() && id.get_or_insert_with(|| item["id"].clone()) == &item["id"]
        })
        .await
    }

    async fn answer_where(&mut self, mut is_ours: impl FnMut(&Value) -> bool) -> Answer {
        let (mut answer, mut others) = (Answer::default(), VecDeque::new());
        while !answer.is_complete() {
            let message = self.message().await;
            match serde_json::from_slice::<Value>(&message.payload) {
                Ok(item) if is_ours(&item) => answer.take(item),
                _ => others.push_back(message),
            }
        }
        others.append(&mut self.inbox);
        self.inbox = others;
        answer
    }

    /// Whether anything came that nobody asked for yet. Tells nothing about what is on the way: have
    /// the daemon answer something first.
    pub(crate) fn is_quiet(&mut self) -> bool {
        while let Ok(event) = self.events.try_recv() {
            self.keep(event, "silence");
        }
        self.inbox.is_empty()
    }

    /// Waits for the end of the connection and returns how it ended.
    pub(crate) async fn closed(&mut self) -> String {
        loop {
            match self.event("the end of the connection").await {
                Event::Closed(why) => return why,
                other => self.keep(other, "the end of the connection"),
            }
        }
    }

    /// Says goodbye and waits until the daemon has closed.
    pub(crate) async fn disconnect(mut self) {
        match &self.handle {
            Handle::V4(client) => client.disconnect().await.expect("a running client"),
            Handle::V5(client) => client.disconnect().await.expect("a running client"),
        }
        self.closed().await;
    }

    async fn event(&mut self, what: &str) -> Event {
        match timeout(PATIENCE, self.events.recv()).await {
            Ok(Some(event)) => event,
            Ok(None) => Event::Closed("the event loop had ended before".to_owned()),
            Err(_) => panic!("waited {PATIENCE:?} for {what}"),
        }
    }

    fn keep(&mut self, event: Event, instead_of: &str) {
        match event {
            Event::Message(message) => self.inbox.push_back(message),
            other => panic!("{other:?} instead of {instead_of}"),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes events on until the connection ends; polled once more, it would connect again.
///
/// Where the end comes together with packets, rumqttc reports the end and leaves the packets in its
/// buffer, so they are taken from there.
async fn pump_v4(mut event_loop: rumqttc::EventLoop, events: mpsc::UnboundedSender<Event>) {
    let end = loop {
        match event_loop.poll().await {
            Ok(event) => say(&events, read_v4(event)),
            Err(error) => break error,
        }
    };
    let left = std::mem::take(&mut event_loop.state.events);
    left.into_iter().for_each(|event| say(&events, read_v4(event)));
    say(&events, Some(Event::Closed(format!("{end:?}"))));
}

/// As [`pump_v4`]. Why a broker disconnects is not told: rumqttc 0.25 takes a DISCONNECT with a reason
/// and without properties for the beginning of a longer one.
async fn pump_v5(mut event_loop: v5::EventLoop, events: mpsc::UnboundedSender<Event>) {
    let end = loop {
        match event_loop.poll().await {
            Ok(event) => say(&events, read_v5(event)),
            Err(error) => break error,
        }
    };
    let left = std::mem::take(&mut event_loop.state.events);
    left.into_iter().for_each(|event| say(&events, read_v5(event)));
    say(&events, Some(Event::Closed(format!("{end:?}"))));
}

fn say(events: &mpsc::UnboundedSender<Event>, event: Option<Event>) {
    if let Some(event) = event {
        // A test that is over listens no more.
        let _nobody_listens = events.send(event);
    }
}

fn options_v4(address: SocketAddr, login: &Login) -> rumqttc::MqttOptions {
    let mut options = rumqttc::MqttOptions::new(&login.client_id, address.ip().to_string(), address.port());
    options
        .set_keep_alive(login.keep_alive)
        .set_clean_session(login.clean);
    if let Some(token) = &login.token {
        options.set_credentials(&login.username, token);
    }
    if let Some(Will {
        topic,
        payload,
        qos,
        retain,
    }) = &login.will
    {
        options.set_last_will(rumqttc::LastWill::new(
            topic,
            payload.clone(),
            qos_v4(*qos),
            *retain,
        ));
    }
    options
}

fn options_v5(address: SocketAddr, login: &Login) -> v5::MqttOptions {
    let mut options = v5::MqttOptions::new(&login.client_id, address.ip().to_string(), address.port());
    options
        .set_keep_alive(login.keep_alive)
        .set_clean_start(login.clean);
    if let Some(token) = &login.token {
        options.set_credentials(&login.username, token);
    }
    if login.session_expiry_s.is_some() {
        options.set_session_expiry_interval(login.session_expiry_s);
    }
    if let Some(Will {
        topic,
        payload,
        qos,
        retain,
    }) = &login.will
    {
        options.set_last_will(packet5::LastWill::new(
            topic,
            payload.clone(),
            qos_v5(*qos),
            *retain,
            None,
        ));
    }
    options
}

fn read_v4(event: rumqttc::Event) -> Option<Event> {
    let rumqttc::Event::Incoming(packet) = event else {
        return None;
    };
    match packet {
        rumqttc::Packet::ConnAck(ack) => Some(Event::Connected {
            session_present: ack.session_present,
        }),
        rumqttc::Packet::SubAck(ack) => {
            let granted = ack.return_codes.iter().map(|code| match code {
                rumqttc::SubscribeReasonCode::Success(qos) => Some(*qos as u8),
                rumqttc::SubscribeReasonCode::Failure => None,
            });
            Some(Event::Subscribed(granted.collect()))
        }
        rumqttc::Packet::UnsubAck(_) => Some(Event::Unsubscribed),
        rumqttc::Packet::PubAck(_) | rumqttc::Packet::PubComp(_) => Some(Event::Acknowledged),
        rumqttc::Packet::Publish(publish) => Some(Event::Message(Incoming {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            qos: publish.qos as u8,
            retain: publish.retain,
            correlation_data: None,
        })),
        _ => None,
    }
}

fn read_v5(event: v5::Event) -> Option<Event> {
    let v5::Event::Incoming(packet) = event else {
        return None;
    };
    match packet {
        packet5::Packet::ConnAck(ack) => Some(Event::Connected {
            session_present: ack.session_present,
        }),
        packet5::Packet::SubAck(ack) => {
            let granted = ack.return_codes.iter().map(|code| match code {
                packet5::SubscribeReasonCode::Success(qos) => Some(*qos as u8),
                _ => None,
            });
            Some(Event::Subscribed(granted.collect()))
        }
        packet5::Packet::UnsubAck(_) => Some(Event::Unsubscribed),
        packet5::Packet::PubAck(_) | packet5::Packet::PubComp(_) => Some(Event::Acknowledged),
        packet5::Packet::Publish(publish) => Some(Event::Message(Incoming {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos as u8,
            retain: publish.retain,
            correlation_data: publish
                .properties
                .and_then(|p| p.correlation_data)
                .map(|data| data.to_vec()),
        })),
        _ => None,
    }
}

fn qos_v4(qos: u8) -> rumqttc::QoS {
    rumqttc::qos(qos).expect("a QoS")
}

fn qos_v5(qos: u8) -> v5::mqttbytes::QoS {
    v5::mqttbytes::qos(qos).expect("a QoS")
}
