//! What the embedded assistant has understood, told to whoever acts on it: an event on `clawdbot/{device_id}/intent`.

use std::time::Duration;

use models::assistant::actions::{Action, Answer};
use models::assistant::intents::UNSUPPORTED;
use serde::Serialize;
use topics::message::Message;
use topics::name::TopicName;
use topics::packet::QoS;

use crate::outside;

/// How long an event waits for a session that is away.
const LASTS: Duration = Duration::from_secs(60);

/// An answer of the assistant, as it comes in.
#[derive(Debug, Default)]
pub(super) struct Commanded(String);

#[derive(Serialize)]
struct Understood<'a> {
    at_s: u64,
    /// The request's.
    id: &'a str,
    device_id: &'a str,
    /// As in the items of the answer: more than 1 where it may have been told before.
    attempt: u32,
    actions: &'a [Action],
    say: &'a str,
}

impl Commanded {
    pub(super) fn push(&mut self, text: &str) {
        self.0.push_str(text);
    }

    /// What it comes to, where there is something to be done.
    pub(super) fn to_do(&self) -> Option<Answer> {
        to_do(&self.0)
    }
}

/// What an answer asks for, where that is something that can be done.
pub(crate) fn to_do(text: &str) -> Option<Answer> {
    // What a request has forced into another form is its own affair.
    let answer: Answer = serde_json::from_str(text).ok()?;
    let is_to_do = |action: &Action| action.intent != UNSUPPORTED && action.problem().is_none();
    (!answer.actions.is_empty() && answer.actions.iter().all(is_to_do)).then_some(answer)
}

/// The event of this answer. At QoS 1, for sessions that outlive their connection; but nobody who comes back much later is to
/// open a door then.
pub(super) fn event(answer: &Answer, device: &str, id: &str, attempt: u32) -> Option<Message> {
    let topic = TopicName::parse(format!("clawdbot/{device}/intent").into()).ok()?;
    let payload = serde_json::to_vec(&Understood {
        at_s: outside::unix_s(),
        id,
        device_id: device,
        attempt,
        actions: &answer.actions,
        say: &answer.say,
    });
    let mut message = Message::new(topic, payload.ok()?, QoS::AtLeastOnce);
    message.expires_at = Some(outside::now() + LASTS);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told_of(answer: &str) -> Option<String> {
        let mut commanded = Commanded::default();
        commanded.push(&answer[..answer.len() / 2]);
        commanded.push(&answer[answer.len() / 2..]);
        let message = event(&commanded.to_do()?, "phone", "r1", 2)?;
        assert_eq!(message.topic.as_str(), "clawdbot/phone/intent");
        String::from_utf8(message.payload.to_vec()).ok()
    }

    #[test]
    fn actions_become_an_event_and_what_is_out_of_reach_or_no_action_does_not() {
        let told = told_of(
            r#"{"actions":[{"intent":"HassTurnOn","slots":{"area":"kitchen","domain":"light"}}],"say":"On."}"#,
        );
        let told = told.unwrap();
        assert!(
            told.ends_with(
                r#""id":"r1","device_id":"phone","attempt":2,"actions":[{"intent":"HassTurnOn","slots":{"area":"kitchen","domain":"light"}}],"say":"On."}"#
            ),
            "{told}"
        );
        for other in [
            r#"{"actions":[{"intent":"unsupported","slots":{}}],"say":"No."}"#,
            r#"{"actions":[],"say":"No."}"#,
            r#"{"actions":[{"intent":"HassDance","slots":{}}],"say":"No."}"#,
            r#"{"actions":[{"intent":"HassTurnOn","slots":{"volume_level":3}}],"say":"No."}"#,
            "Once upon a time",
        ] {
            assert_eq!(told_of(other), None, "{other}");
        }
    }
}
