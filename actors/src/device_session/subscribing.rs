//! What the client subscribes to: judged here, asked of the router, answered in its order.

use actix::prelude::*;
use topics::filter::TopicFilter;
use topics::packet::ReasonCode;
use topics::session::Wanted;

use super::DeviceSession;
use crate::denials::Denied;
use crate::topic_router::{Subscribe, Unsubscribe};

impl DeviceSession {
    pub(super) fn subscribe(&mut self, packet_id: u16, mut wanted: Vec<Wanted>, ctx: &mut Context<Self>) {
        for wanted in &mut wanted {
            let Ok(filter) = &wanted.filter else { continue };
            if Self::may_await(self.admission.proof, filter) {
                continue;
            }
            let decision = self
                .admission
                .rules
                .may_subscribe(filter, wanted.options.qos as u8);
            if !decision.is_allowed() {
                let filter = filter.as_str();
                self.switchboard
                    .denied(Denied::Subscribe, &self.publisher, filter, &decision);
                wanted.filter = Err(ReasonCode::NotAuthorized);
            }
        }
        let ask = Subscribe {
            session: self.handle.clone(),
            wanted: wanted.clone(),
        };
        self.ask_router(ask, ctx, move |act, reasons, ctx| {
            let reasons = reasons.unwrap_or_else(|| vec![ReasonCode::UnspecifiedError; wanted.len()]);
            act.step(ctx, |session, effects| {
                session.subscribed(packet_id, &wanted, reasons, effects);
            });
        });
    }

    /// The client has new rules, by a new token or another list in the configuration: what it subscribed to under
    /// the old ones must not outlive them.
    pub(super) fn withdraw_subscriptions(&mut self, ctx: &mut Context<Self>) {
        let (rules, board, from) = (&self.admission.rules, &self.switchboard, &self.publisher);
        let proof = self.admission.proof;
        let filters = self.session.withdraw(|filter, qos| {
            if Self::may_await(proof, filter) {
                return true;
            }
            let decision = rules.may_subscribe(filter, qos as u8);
            if !decision.is_allowed() {
                board.denied(Denied::Subscribe, from, filter.as_str(), &decision);
            }
            decision.is_allowed()
        });
        if filters.is_empty() {
            return;
        }
        self.keep_session();
        let ask = Unsubscribe {
            session: self.handle.clone(),
            filters: filters.clone(),
        };
        self.ask_router(ask, ctx, move |act, _, ctx| {
            let filters: Vec<_> = filters.into_iter().map(Some).collect();
            act.leave_shares(&filters, ctx);
        });
    }

    pub(super) fn unsubscribe(
        &mut self,
        packet_id: u16,
        filters: Vec<Option<TopicFilter>>,
        ctx: &mut Context<Self>,
    ) {
        let ask = Unsubscribe {
            session: self.handle.clone(),
            filters: filters.iter().flatten().cloned().collect(),
        };
        self.ask_router(ask, ctx, move |act, _, ctx| {
            act.step(ctx, |session, effects| {
                session.unsubscribed(packet_id, &filters, effects)
            });
            act.leave_shares(&filters, ctx);
        });
    }

    /// The client hears that its session began anew when the router knows it: from then on nobody's message comes by
    /// a subscription of the session before.
    pub(super) fn forget(&mut self, filters: Vec<TopicFilter>, ctx: &mut Context<Self>) {
        let unsubscribe = Unsubscribe {
            session: self.handle.clone(),
            filters,
        };
        self.ask_router(unsubscribe, ctx, |act, _, _| {
            act.bequeath(act.handle.outbox.extract(|_| true));
        });
    }
}
