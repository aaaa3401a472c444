//! Sessions that were kept take up their places before the first client is let in, and actors what they had not finished.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::*;
use bytestring::ByteString;
use topics::access::AccessRules;
use topics::filter::TopicFilter;
use topics::packet::{RetainHandling, SubscriptionOptions};
use topics::session::{Delivery, Grant, Session, SessionConfig, Stage, Wanted};

use crate::auth_checker::{Admission, AuthChecker};
use crate::device_session::DeviceSession;
use crate::gatekeeper::Proof;
use crate::outside;
use crate::store::{
    Acceptance, Accepted, Change, Place, RestoredDelivery, RestoredSessions, SessionRecord, Store,
};
use crate::switchboard::{Publisher, Routed, SessionEntry, SessionHandle, Switchboard};
use crate::topic_router::{RouteRequest, Subscribe};

/// Where sessions live: an arbiter, and who checks tokens there.
pub type Home = (ArbiterHandle, Addr<AuthChecker>);

/// Makes the sessions that were kept, with their subscriptions and messages, in turn on each of these arbiters.
/// What belongs to none of them is let go.
pub async fn restore(
    kept: RestoredSessions,
    switchboard: &Switchboard,
    config: &Arc<SessionConfig>,
    homes: &[Home],
) {
    let Some(store) = switchboard.store().cloned() else {
        return;
    };
    let now = outside::now();
    let mut messages = Messages::sort(kept.deliveries, &store);
    let mut received: HashMap<ByteString, Vec<u16>> = HashMap::new();
    for (client_id, packet_id) in kept.received {
        received.entry(client_id).or_default().push(packet_id);
    }
    for (record, (arbiter, auth)) in kept.sessions.into_iter().zip(homes.iter().cycle()) {
        let SessionRecord {
            client_id,
            device_id,
            session: kept,
        } = record;
        let handle = SessionHandle::of(client_id.clone(), config);
        subscribe(switchboard, &handle, &kept.subscriptions).await;
        let admission = Admission {
            device_id: device_id.clone(),
            // Its will was judged when it was connected; nothing else of it can be published.
            rules: Arc::new(AccessRules::unrestricted()),
            proof: Proof::Kept,
            until: None,
            gate: None,
        };
        let session = Session::restore(
            config.clone(),
            client_id.clone(),
            now,
            kept,
            received.remove(&client_id).unwrap_or_default(),
            messages.of(&client_id),
        );
        let parts = (handle.clone(), config.clone(), switchboard.clone(), auth.clone());
        let session = DeviceSession::start_in_arbiter(arbiter, move |_| {
            let (handle, config, switchboard, auth) = parts;
            DeviceSession::restored(session, handle, &config, switchboard, admission, auth)
        });
        let entry = SessionEntry {
            device_id,
            session,
            handle,
        };
        switchboard.sessions().insert(client_id, entry);
    }
    for (client_id, packet_ids) in received {
        for packet_id in packet_ids {
            // There is always room for that.
            let _ = store.submit(Change::Released(client_id.clone(), packet_id));
        }
    }
}

/// Gives actors what the last daemon had accepted for them and not finished. What nobody owns stays in the store: its
/// application may be back at another start.
pub async fn resume(accepted: Vec<Accepted>, switchboard: &Switchboard) {
    let Some(store) = switchboard.store().cloned() else {
        return;
    };
    let mut left = 0;
    for mut accepted in accepted {
        accepted.attempt = accepted.attempt.saturating_add(1);
        // Without room it is counted as the attempt that it was.
        let _ = store.submit(Change::Accept(Box::new(accepted.clone())));
        let acceptance = Acceptance::of(store.clone(), accepted.id, accepted.attempt);
        let request = RouteRequest {
            from: publisher(&accepted),
            message: accepted.message,
            receipt: None,
            acceptance: Some(acceptance.clone()),
        };
        let routed = switchboard.router().send(request).await;
        if !matches!(routed, Ok(Routed::To(1..))) {
            acceptance.leave();
            left += 1;
        }
    }
    if left > 0 {
        tracing::warn!(
            left,
            "messages for actors were kept that nobody takes now; they wait for another start"
        );
    }
}

/// Who published a message, as far as it was kept.
fn publisher(accepted: &Accepted) -> Arc<Publisher> {
    let answers = accepted.message.response_topic().filter(|_| accepted.may_answer);
    let answers = answers.and_then(|topic| TopicFilter::parse(topic.clone()).ok());
    Arc::new(Publisher {
        client_id: accepted.client_id.clone(),
        device_id: accepted.device_id.clone(),
        rules: Arc::new(AccessRules::publish_only(answers)),
    })
}

/// Messages by the client that they are for. Those that nobody takes are let go with this.
struct Messages(HashMap<ByteString, Vec<(Delivery, Stage)>>);

impl Messages {
    fn sort(deliveries: Vec<RestoredDelivery>, store: &Arc<dyn Store>) -> Self {
        let mut by_client: HashMap<_, Vec<_>> = HashMap::new();
        for restored in deliveries {
            let mut delivery = restored.kept.delivery;
            let staged = restored.stage != Stage::Waiting;
            delivery.kept = Some(Place::of(store.clone(), restored.kept.id, staged));
            by_client
                .entry(restored.kept.client_id)
                .or_default()
                .push((delivery, restored.stage));
        }
        Self(by_client)
    }

    fn of(&mut self, client_id: &ByteString) -> Vec<(Delivery, Stage)> {
        self.0.remove(client_id).unwrap_or_default()
    }
}

/// The router knows the session again. It had its retained messages.
async fn subscribe(
    switchboard: &Switchboard,
    handle: &Arc<SessionHandle>,
    subscriptions: &[(TopicFilter, Grant)],
) {
    let wanted = subscriptions
        .iter()
        .map(|(filter, grant)| Wanted {
            filter: Ok(filter.clone()),
            options: SubscriptionOptions {
                retain_handling: RetainHandling::DoNotSend,
                ..grant.options
            },
            identifier: grant.identifier,
            existed: true,
        })
        .collect();
    let ask = Subscribe {
        session: handle.clone(),
        wanted,
    };
    if switchboard.router().send(ask).await.is_err() {
        tracing::error!(client_id = %handle.client_id, "a kept session could not subscribe again");
    }
}
