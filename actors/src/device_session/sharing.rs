//! What a member of shared subscriptions does with their messages when it leaves [MQTT5 4.8.2].

use std::collections::VecDeque;

use actix::prelude::*;
use topics::filter::TopicFilter;
use topics::session::{Delivery, DropReason};

use super::DeviceSession;
use crate::sharing::Heirs;

impl DeviceSession {
    /// The connection is gone, and the session stays: other members that are connected get what waits
    /// for this client, as far as they take it.
    pub(super) fn hand_on_what_waits(&mut self) {
        if self.stopping {
            return;
        }
        let (switchboard, handle) = (&self.switchboard, &self.handle);
        self.session
            .hand_on(&mut |delivery| switchboard.hand_on(handle, delivery, Heirs::Online));
        self.account();
    }

    /// What its publisher sent here while the client was still connected.
    pub(super) fn hand_on_what_came_late(&self, batch: &mut VecDeque<Delivery>) {
        if !self.stopping {
            batch.retain(|delivery| !self.switchboard.hand_on(&self.handle, delivery, Heirs::Online));
        }
    }

    /// The client has unsubscribed. What other members do not take it still gets, in its order.
    pub(super) fn leave_shares(&mut self, filters: &[Option<TopicFilter>], ctx: &mut Context<Self>) {
        for share in filters.iter().flatten().filter(|f| f.share_group().is_some()) {
            let (switchboard, handle) = (&self.switchboard, &self.handle);
            self.session.hand_on_share(share, &mut |delivery| {
                switchboard.hand_on(handle, delivery, Heirs::Online)
            });
            let waiting = handle
                .outbox
                .extract(|delivery| delivery.share.as_deref() == Some(share));
            let mut kept: VecDeque<_> = waiting
                .into_iter()
                .filter(|delivery| !switchboard.hand_on(handle, delivery, Heirs::Online))
                .collect();
            self.account();
            if !kept.is_empty() {
                self.deliver(&mut kept, ctx);
            }
        }
    }

    /// The session has ended: whoever is left of the group has its messages, or nobody.
    pub(super) fn bequeath(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        for delivery in deliveries {
            if self.stopping || !self.switchboard.hand_on(&self.handle, &delivery, Heirs::Any) {
                self.count_drop(DropReason::SessionEnded);
            }
        }
    }
}
