//! What the broker says to us: that we are let in, requests, and that it has a message of ours.

use std::sync::Arc;
use std::time::Instant;

use actix::Context;
use bytestring::ByteString;
use rumqttc::v5::mqttbytes::v5::{ConnAck, PubAck, Publish, SubAck, SubscribeReasonCode};
use topics::access::AccessRules;
use topics::device::DeviceId;
use topics::name::TopicName;

use super::receipt::Receipt;
use super::verdict::{Allowed, refusal};
use super::{ExternalBroker, Stopping, wire};
use crate::switchboard::{Publisher, Routed};
use crate::topic_router::RouteRequest;

impl ExternalBroker {
    pub(super) fn admitted(&mut self, ack: &ConnAck, ctx: &mut Context<Self>) {
        if !ack.session_present {
            self.requests.session_lost();
        }
        let allowed = match Allowed::by(ack) {
            Ok(allowed) => allowed,
            Err(why) => return self.lost(why, ctx),
        };
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.allowed = Some(allowed);
        if !connection.subscribe(&self.config) {
            return self.lost("the subscriptions could not be asked for".into(), ctx);
        }
        let expiry = ack.properties.as_ref().and_then(|p| p.session_expiry_interval);
        if let Some(granted) = expiry.filter(|granted| *granted < self.config.session_expiry_s) {
            tracing::warn!(
                granted_s = granted,
                "the broker keeps our session for less time than broker.session_expiry_s"
            );
        }
    }

    pub(super) fn subscribed(&mut self, ack: &SubAck, ctx: &mut Context<Self>) {
        let refused = self
            .config
            .serve
            .iter()
            .zip(&ack.return_codes)
            .find(|(_, code)| !matches!(code, SubscribeReasonCode::Success(_)));
        if let Some((served, code)) = refused {
            let why = format!(
                "the broker does not let us subscribe to {} ({code:?}); allow it to this user",
                served.filter
            );
            return self.lost(why, ctx);
        }
        self.backoff.started(Instant::now());
        self.gauge.up();
        tracing::info!(
            host = self.config.host,
            port = self.config.port,
            client_id = self.config.client_id,
            "connected to the broker"
        );
        self.say("online");
    }

    /// A message came. Gives back what the router has to see to before the next one.
    pub(super) fn received(&mut self, publish: Publish) -> Option<RouteRequest> {
        let (packet_id, dup) = (publish.pkid, publish.dup);
        self.gauge.messages_received.add(1);
        if !matches!(self.stopping, Stopping::No) {
            // Not acknowledged: it is there when we are back.
            return None;
        }
        let usable = wire::message_of(publish, Instant::now()).and_then(|message| {
            let from = publisher(&message.topic)?;
            Some((Arc::new(message), from))
        });
        let Some((message, from)) = usable else {
            // Nobody could be answered. It is taken off the broker's hands, or it would come for ever.
            self.gauge.dropped_unusable.add(1);
            if let Some(connection) = self.connection.as_mut().filter(|_| packet_id != 0) {
                connection.acknowledge(packet_id);
            }
            return None;
        };
        let receipt = if packet_id == 0 {
            None
        } else {
            let key = self.requests.received(packet_id, dup, &message)?;
            self.gauge.requests_received.add(1);
            Some(Receipt::new(key, self.bell.clone()))
        };
        match self.switchboard.route_request(&message, &from, receipt.clone()) {
            Routed::First => {
                return Some(RouteRequest {
                    message,
                    from,
                    receipt,
                });
            }
            Routed::To(0) | Routed::Spared | Routed::Malformed => {
                self.gauge.dropped_unusable.add(1);
                tracing::debug!(topic = %message.topic, "a message from the broker that no actor wants");
                if let Some(receipt) = receipt {
                    receipt.done();
                }
            }
            // A full mailbox, or one without an actor, dropped its receipt: the request comes again.
            Routed::To(_) | Routed::Full | Routed::Gone => {}
        }
        None
    }

    /// The broker has a message of ours, or will not have it.
    pub(super) fn taken(&mut self, ack: &PubAck) {
        let sent = self.connection.as_mut().and_then(|c| c.acknowledged(ack.pkid));
        let Some(sent) = sent else { return };
        if let Some(refusal) = refusal(ack) {
            self.gauge.rejected.add(1);
            tracing::warn!(
                topic = %sent.message.topic, reason = refusal,
                "the broker did not take a message; allow this user to publish to clawdbot/#"
            );
        }
        // Refused or not: asked once more it would end the same way.
        if let Some(receipt) = sent.receipt {
            receipt.done();
        }
    }
}

/// The device whose topic it is: the broker let nobody else publish there. What the device names as
/// its Response Topic must be its own, for the broker does not know on whose behalf we publish. Nothing
/// for `bridge` and whatever else is no device.
fn publisher(topic: &TopicName) -> Option<Arc<Publisher>> {
    let device = DeviceId::parse(topic.levels().nth(1)?.into()).ok()?;
    Some(Arc::new(Publisher {
        client_id: ByteString::from_static("external broker"),
        rules: Arc::new(AccessRules::device_default(&device)),
        device_id: Some(device),
    }))
}
