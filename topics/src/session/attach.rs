//! A connection comes to its session: CONNECT in, CONNACK and what was left unsent out.

use std::time::{Duration, Instant};

use bytestring::ByteString;

use crate::message::Message;
use crate::name::TopicName;
use crate::packet::{ConnAck, ConnAckProperties, Connect, Packet, ProtocolVersion, ReasonCode};

use super::effect::Effect;
use super::explain::{self, Explains};
use super::{Detach, Link, Session, Will};

/// What [`Session::attach`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Whether earlier state goes on [MQTT5 3.2.2.1.1].
    pub session_present: bool,
}

/// What a client is told in CONNACK that the session does not know by itself.
#[derive(Clone, Debug, Default)]
pub struct Welcome {
    /// The client identifier, where the broker chose it [MQTT5 3.2.2.3.7].
    pub assigned_client_identifier: Option<ByteString>,
    /// What response topics may begin with, for a client that asks [MQTT5 3.2.2.3.15].
    pub response_information: Option<ByteString>,
}

impl Session {
    /// Attaches an admitted connection. Any earlier one was detached before.
    pub fn attach(
        &mut self,
        now: Instant,
        connect: &Connect,
        welcome: Welcome,
        effects: &mut Vec<Effect>,
    ) -> Result<Attached, ReasonCode> {
        let will = connect
            .will
            .as_ref()
            .map(|w| self.read_will(now, w))
            .transpose()?;
        // A driver detaches first; one that does not must not leave two connections mixed up.
        self.detach(now, Detach::TakenOver, effects);
        // What was due before the client came back has happened, however late the driver's timer is.
        self.expire(now, effects);
        // Whether anything was kept: a session seen for the first time has never had an end.
        let known = self.ends_at.is_some() || self.expiry_s > 0;
        self.ends_at = None;
        if connect.clean_start {
            self.begin_anew(now, effects);
        } else if let Some(old) = &self.will {
            // The client is back before the delay was over [MQTT-3.1.3-9].
            if old.due_at.is_some() {
                self.will = None;
            }
        }
        let session_present = known && !connect.clean_start;
        let is_v5 = connect.protocol == ProtocolVersion::V5;

        let asked_expiry_s = match (is_v5, connect.properties.session_expiry_interval_s) {
            (true, asked) => asked.unwrap_or(0),
            // Before 5.0 a session without Clean Session is kept for good [MQTT3 3.1.2.4].
            (false, _) => {
                if connect.clean_start {
                    0
                } else {
                    u32::MAX
                }
            }
        };
        self.expiry_s = asked_expiry_s.min(self.config.max_session_expiry_s);
        let (asked_s, most_s) = (connect.keep_alive_s, self.config.max_keep_alive_s);
        // Only 5.0 can be told of another keep-alive, so only 5.0 gets one [MQTT-3.2.2-21].
        let keep_alive_s = if is_v5 && most_s > 0 && (asked_s == 0 || asked_s > most_s) {
            most_s
        } else {
            asked_s
        };

        self.will = will;
        self.link = Some(Link {
            version: connect.protocol,
            is_bridge: connect.is_bridge,
            patience: (keep_alive_s > 0).then(|| Duration::from_millis(u64::from(keep_alive_s) * 1500)),
            last_heard: now,
            window: usize::from(
                connect
                    .properties
                    .receive_maximum
                    .unwrap_or(u16::MAX)
                    .min(self.config.max_inflight),
            ),
            client_max_packet_bytes: connect
                .properties
                .maximum_packet_size
                .map_or(usize::MAX, |bytes| bytes as usize),
            explains: Explains::to(connect),
            // Kept beyond the packet it came in, so it must not hold that buffer.
            authentication_method: connect
                .properties
                .authentication_method
                .as_ref()
                .map(|method| method.to_string().into()),
            until: None,
            closing: false,
            connect_expiry_s: asked_expiry_s,
        });

        let aliases = connect.properties.topic_alias_maximum.filter(|_| is_v5);
        self.outbound.connected(aliases.unwrap_or(0));

        let mut properties = ConnAckProperties::default();
        if is_v5 {
            properties.receive_maximum = Some(self.config.receive_maximum);
            properties.maximum_packet_size = u32::try_from(self.config.max_packet_bytes).ok();
            properties.topic_alias_maximum =
                (self.config.topic_alias_maximum > 0).then_some(self.config.topic_alias_maximum);
            properties.assigned_client_identifier = welcome.assigned_client_identifier;
            // [MQTT-3.1.2-28]
            properties.response_information = welcome
                .response_information
                .filter(|_| connect.properties.request_response_information == Some(true));
            // [MQTT-4.12.0-5]
            properties.authentication_method = connect.properties.authentication_method.clone();
            properties.session_expiry_interval_s = (self.expiry_s != asked_expiry_s).then_some(self.expiry_s);
            properties.server_keep_alive_s = (keep_alive_s != asked_s).then_some(keep_alive_s);
        }
        let conn_ack = ConnAck {
            session_present,
            reason: ReasonCode::Success,
            properties,
        };
        self.welcome(now, Packet::ConnAck(Box::new(conn_ack)), effects);
        Ok(Attached { session_present })
    }

    fn welcome(&mut self, now: Instant, conn_ack: Packet, effects: &mut Vec<Effect>) {
        let Some(link) = &self.link else { return };
        let Some(conn_ack) = explain::fit(conn_ack, link.version, link.client_max_packet_bytes) else {
            // The client may not even be told that it is let in [MQTT-3.1.2-24].
            self.will = None;
            return self.hang_up(effects);
        };
        self.send(conn_ack, effects);
        self.pump(now, effects);
    }

    fn begin_anew(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        // The old session ends here, and with it the delay of its will [MQTT5 3.1.3.2.2].
        self.publish_will(now, effects);
        self.forget(effects);
    }

    fn read_will(&self, now: Instant, will: &crate::packet::Will) -> Result<Will, ReasonCode> {
        let topic = TopicName::parse(will.topic.clone()).map_err(|_| ReasonCode::TopicNameInvalid)?;
        if !self.config.takes(topic.as_str()) {
            return Err(ReasonCode::TopicNameInvalid);
        }
        let mut message = Message::new(topic, will.payload.clone(), will.qos);
        message.retain = will.retain;
        let expiry = will.properties.as_ref().and_then(|p| p.message_expiry_interval_s);
        let message = message.with_properties(will.properties.clone(), now).detached();
        Ok(Will {
            message,
            expiry: expiry.map(|s| Duration::from_secs(u64::from(s))),
            delay: Duration::from_secs(u64::from(will.delay_interval_s)),
            due_at: None,
        })
    }
}
