//! Shared subscriptions among sessions: of each group one member gets a message, and what a leaving
//! member had of it goes to another [MQTT5 4.8.2].

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use topics::filter::TopicFilter;
use topics::message::Message;
use topics::packet::QoS;
use topics::session::Delivery;
use topics::shared::{Group, Readiness};

use crate::outbox::{Pushed, Room};
use crate::store::Ticket;
use crate::switchboard::{Aftermath, SessionHandle, Subscriber, Switchboard};

/// A member chosen may be gone or full a moment later, and another is asked; but not without end.
const MAX_CHOICES: usize = 4;

/// Which members may take what another leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heirs {
    /// Those that are connected: the message is as safe where it waits now.
    Online,
    /// Also those that are away and keep it: otherwise it is lost.
    Any,
}

impl Switchboard {
    /// Hands a message to one member of each of these groups; says how many took it.
    pub(crate) fn hand_to_groups(
        &self,
        groups: &[(Arc<TopicFilter>, Group<u64, Subscriber>)],
        message: &Arc<Message>,
        after: &mut Aftermath,
    ) -> usize {
        let mut taken = 0;
        for (share, group) in groups {
            match self.give(share, group, message, Heirs::Any, None) {
                Ok((session, pushed, ticket)) => {
                    if pushed == Pushed::Crowded {
                        after.crowded.push(session.clone());
                    }
                    after.await_ticket(ticket);
                    taken += 1;
                }
                Err(Unwanted::Full) => self.stats().dropped_outbox_full.add(1),
                Err(Unwanted::NobodyThere) => self.stats().dropped_offline.add(1),
            }
        }
        taken
    }

    /// Gives what `leaving` had by a shared subscription to another member; false where no one takes it.
    pub(crate) fn hand_on(&self, leaving: &SessionHandle, delivery: &Delivery, heirs: Heirs) -> bool {
        let Some(share) = &delivery.share else {
            return false;
        };
        let routes = self.routes();
        let Some(group) = routes.shared.group(share) else {
            return false;
        };
        self.give(share, group, &delivery.message, heirs, Some(leaving))
            .is_ok()
    }

    fn give<'a>(
        &self,
        share: &Arc<TopicFilter>,
        group: &'a Group<u64, Subscriber>,
        message: &Arc<Message>,
        heirs: Heirs,
        leaving: Option<&SessionHandle>,
    ) -> Result<Given<'a>, Unwanted> {
        let mut unwanted = Unwanted::NobodyThere;
        for _ in 0..MAX_CHOICES {
            let chosen = group.choose(|key, member| {
                let may = leaving.is_none_or(|leaving| leaving.key != *key);
                may.then(|| readiness(member, message, heirs)).flatten()
            });
            let Some((_, member)) = chosen else { break };
            let delivery = Delivery {
                message: message.clone(),
                qos: message.qos.min(member.options.qos),
                retain: message.retain && member.options.retain_as_published,
                subscription_identifiers: member.identifier.into_iter().collect(),
                share: Some(share.clone()),
                kept: None,
            };
            match self.push(&member.session, delivery) {
                (Pushed::Dropped, _) => unwanted = Unwanted::Full,
                // It ended between the choice and now, and is not chosen again.
                (Pushed::Closed, _) => {}
                (pushed, ticket) => return Ok((&member.session, pushed, ticket)),
            }
        }
        Err(unwanted)
    }
}

/// Who has it, how it was taken, and what must be on disk.
type Given<'a> = (&'a Arc<SessionHandle>, Pushed, Option<Ticket>);

/// Why no member has a message.
enum Unwanted {
    Full,
    NobodyThere,
}

fn readiness(member: &Subscriber, message: &Message, heirs: Heirs) -> Option<Readiness> {
    let session = &member.session;
    if session.ended.load(Relaxed) {
        return None;
    }
    let room = session.outbox.room(message.queued_bytes());
    match (session.online.load(Relaxed), room) {
        (true, Room::Enough) => Some(Readiness::Ready),
        (true, Room::Little) => Some(Readiness::Crowded),
        (true, Room::None) => (heirs == Heirs::Any).then_some(Readiness::Full),
        // QoS 0 is not kept for a client that is away.
        (false, _) if heirs == Heirs::Online || message.qos.min(member.options.qos) == QoS::AtMostOnce => {
            None
        }
        (false, Room::None) => Some(Readiness::Full),
        (false, _) => Some(Readiness::Keeping),
    }
}
