//! What is published for the hub alone: a code, a question for a token, a new token. It goes no further than here, and
//! answers are given straight to this session, at QoS 0: a secret is never kept for somebody who is away.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use topics::confidential::{Confidential, Request};
use topics::filter::TopicFilter;
use topics::message::Message as AppMessage;
use topics::name::TopicName;
use topics::packet::{PublishProperties, QoS, ReasonCode};
use topics::session::Delivery;

use super::DeviceSession;
use crate::denials::Denied;
use crate::gatekeeper::{Answering, Gate, Proof, Question};
use crate::outside;
use crate::received::own;

/// Where an answer goes, and what tells the client which question it answers.
struct Return {
    topic: TopicName,
    correlation_data: Option<Bytes>,
}

impl DeviceSession {
    pub(super) fn confide(&mut self, message: AppMessage, packet_id: u16, ctx: &mut Context<Self>) {
        match Confidential::of(message.topic.as_str()) {
            Some(Confidential::Token { device }) if self.is_of(device) => {
                self.renew_by_publish(message.payload, packet_id, ctx);
            }
            Some(Confidential::Pair) => self.question(Request::Pair, &message, packet_id, ctx),
            Some(Confidential::IssueToken) => self.question(Request::Token, &message, packet_id, ctx),
            _ => self.refuse_to_hear(&message, packet_id, ctx),
        }
    }

    /// Whether a filter is about answers that this session may ask for. It matches nothing that is ever routed, but
    /// there are libraries that hear nothing before they have subscribed.
    pub(super) fn may_await(proof: Proof, filter: &TopicFilter) -> bool {
        match Confidential::of(filter.as_str()) {
            Some(Confidential::Response(Request::Pair)) => proof == Proof::Pairing,
            Some(Confidential::Response(Request::Token)) => {
                matches!(proof, Proof::Secret { .. })
            }
            _ => false,
        }
    }

    fn is_of(&self, device: &str) -> bool {
        // Where everybody is let in, there are no tokens.
        self.admission.gate.is_some()
            && self
                .admission
                .device_id
                .as_ref()
                .is_some_and(|own| own.as_str() == device)
    }

    fn question(&mut self, request: Request, message: &AppMessage, packet_id: u16, ctx: &mut Context<Self>) {
        let payload = Bytes::copy_from_slice(&message.payload);
        let (Some(answering), false) = (self.answering(request, payload), self.confiding) else {
            return self.refuse_to_hear(message, packet_id, ctx);
        };
        let Some(back) = return_of(request, message) else {
            return self.refuse_to_hear(message, packet_id, ctx);
        };
        self.switchboard.stats().messages_routed.add(1);
        self.routed(packet_id, ReasonCode::Success, ctx);
        self.confiding = true;
        // The session goes on meanwhile: what is to be on disk first may take long.
        ctx.spawn(answering.into_actor(self).map(move |answer, act, ctx| {
            act.confiding = false;
            act.tell(back, answer, ctx);
        }));
    }

    /// The answer to be, where this client may ask. A token gives no further token, or a stolen one would never end.
    fn answering(&self, request: Request, payload: Bytes) -> Option<Answering> {
        let Gate(gate) = self.admission.gate.as_ref()?;
        let question = match (request, self.admission.proof, &self.admission.device_id) {
            (Request::Pair, Proof::Pairing, _) => Question::Pair(payload),
            (Request::Token, proof @ Proof::Secret { .. }, Some(device)) => Question::Token {
                device: device.clone(),
                proof,
                request: payload,
            },
            _ => return None,
        };
        Some(gate.answer(question, outside::calendar()))
    }

    fn tell(&mut self, back: Return, answer: Vec<u8>, ctx: &mut Context<Self>) {
        let mut message = AppMessage::new(back.topic, answer, QoS::AtMostOnce);
        message.properties = back.correlation_data.map(|data| {
            Box::new(PublishProperties {
                correlation_data: Some(data),
                ..PublishProperties::default()
            })
        });
        let delivery = Delivery {
            message: Arc::new(message),
            qos: QoS::AtMostOnce,
            retain: false,
            subscription_identifiers: Vec::new(),
            share: None,
            kept: None,
        };
        self.switchboard.stats().deliveries.add(1);
        self.deliver(&mut VecDeque::from([delivery]), ctx);
        self.arm_timer(ctx);
        self.io.borrow_mut().wake();
    }

    fn refuse_to_hear(&mut self, message: &AppMessage, packet_id: u16, ctx: &mut Context<Self>) {
        self.switchboard.stats().messages_rejected.add(1);
        let rule =
            "what is published there is for the hub alone, from whoever may ask, one question at a time";
        self.switchboard
            .denied(Denied::Publish, &self.publisher, message.topic.as_str(), &rule);
        self.routed(packet_id, ReasonCode::NotAuthorized, ctx);
    }
}

/// The Response Topic may be any: nobody but the one who asks hears the answer.
fn return_of(request: Request, message: &AppMessage) -> Option<Return> {
    let asked = message
        .response_topic()
        .and_then(|topic| TopicName::parse(topic.clone()).ok())
        .map(|topic| topic.detached());
    let topic = match asked {
        Some(topic) => topic,
        None => TopicName::parse(request.response_topic().into()).ok()?,
    };
    Some(Return {
        topic,
        correlation_data: own(message.correlation_data()),
    })
}
