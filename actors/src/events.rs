//! What happens to the inference, told to whoever subscribes to `clawdbot/bridge/event`: a restart, a step of precision, what
//! the memory governor does, a request that begins, stands still for another or is set aside.

use std::sync::LazyLock;

use models::Precision;
use serde::Serialize;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::QoS;

use crate::outside;
use crate::policy::governor::Action;
use crate::policy::priority::Priority;
use crate::switchboard::Switchboard;

/// Where events are told.
pub const TOPIC: &str = "clawdbot/bridge/event";

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An inference process has loaded its model.
    WorkerReady {
        /// What it loaded.
        model: String,
        /// How many bits a weight has.
        precision: Precision,
    },
    /// An inference process is gone, and another one is started.
    WorkerLost {
        /// Why.
        reason: String,
        /// In how many milliseconds.
        restart_in_ms: u64,
        /// At which precision; none for that which suits the model.
        precision: Option<Precision>,
        /// How often one was started again so far.
        restarts: u64,
    },
    /// A model begins with fewer bits than it was asked to, because memory has no room for them; or it fits nowhere, and
    /// begins at the lowest precision.
    BegunLower {
        /// The precision that was asked for.
        wanted: Precision,
        /// That at which it begins.
        precision: Precision,
        /// Why.
        reason: String,
    },
    /// The weights are at another precision.
    SteppedTo {
        /// Which.
        precision: Precision,
    },
    /// The memory governor gives something up or takes it back.
    Governed {
        /// What.
        #[serde(flatten)]
        action: Action,
        /// Why.
        reason: String,
    },
    /// A request was given a place in the engine.
    RequestBegun {
        /// How much it matters.
        priority: Priority,
        /// Whose it is.
        device: String,
        /// How long it waited.
        waited_ms: u64,
    },
    /// A request stands still for a more important one, or because memory is short.
    RequestPaused {
        /// How much it matters.
        priority: Priority,
        /// Whose it is.
        device: String,
    },
    /// It goes on.
    RequestResumed {
        /// How much it matters.
        priority: Priority,
        /// Whose it is.
        device: String,
    },
    /// A request was set aside, because it ends the process that computes it.
    DeadLettered {
        /// Whose it is.
        device: String,
        /// How the process ended.
        reason: String,
    },
}

/// An event with its time.
#[derive(Serialize)]
struct Told<'e> {
    /// In seconds since 1970.
    at_s: u64,
    #[serde(flatten)]
    event: &'e Event,
}

/// Tells events. The default tells nobody, for tests.
#[derive(Clone, Default)]
pub struct Events(Option<Switchboard>);

impl Events {
    /// Tells them through this switchboard.
    pub fn through(switchboard: Switchboard) -> Self {
        Self(Some(switchboard))
    }

    /// Tells one, at QoS 0: whoever is there hears it.
    pub fn tell(&self, event: &Event) {
        static AT: LazyLock<Option<TopicName>> = LazyLock::new(|| TopicName::parse(TOPIC.into()).ok());
        let (Some(switchboard), Some(topic)) = (&self.0, &*AT) else {
            return;
        };
        let told = Told {
            at_s: outside::unix_s(),
            event,
        };
        match serde_json::to_vec(&told) {
            Ok(payload) => {
                switchboard.publish(Message::new(topic.clone(), payload, QoS::AtMostOnce));
            }
            Err(error) => tracing::error!(%error, "an event that is no JSON"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_flat_json_with_its_name_and_time() {
        let event = Event::Governed {
            action: Action::StepDown { to: Precision::Int4 },
            reason: "short".to_owned(),
        };
        let told = Told {
            at_s: 7,
            event: &event,
        };
        let json = serde_json::to_value(told).unwrap();
        let expected = serde_json::json!({
            "at_s": 7, "event": "governed", "action": "step_down", "to": "int4", "reason": "short",
        });
        assert_eq!(json, expected);
        assert!(TopicName::parse(TOPIC.into()).is_ok());
    }
}
