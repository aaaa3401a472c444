//! AUTH: a client renews what it was let in by, without connecting again [MQTT5 4.12.1].

use crate::packet::{Auth, Packet, ReasonCode};

use super::Session;
use super::effect::{Effect, Secret};

impl Session {
    /// Whoever judges the data knows the method; here it only has to be the one of CONNECT.
    pub(super) fn authenticate(&mut self, auth: Auth, effects: &mut Vec<Effect>) {
        let method = self
            .link
            .as_ref()
            .and_then(|link| link.authentication_method.as_ref());
        // Not asked for in CONNECT [MQTT-4.12.0-6], or an answer to nothing.
        if method.is_none() || auth.reason != ReasonCode::ReAuthenticate {
            return self.fail(ReasonCode::ProtocolError, effects);
        }
        // [MQTT-4.12.1-1]
        if auth.authentication_method.as_ref() != method {
            return self.fail(ReasonCode::BadAuthenticationMethod, effects);
        }
        let Some(data) = auth.authentication_data else {
            return self.fail(ReasonCode::NotAuthorized, effects);
        };
        effects.push(Effect::Authenticate { data: Secret(data) });
    }

    /// Answers an [`Effect::Authenticate`]: the client goes on, or is told why not and parted with
    /// [MQTT-4.12.1-2].
    pub fn authenticated(&mut self, verdict: Result<(), ReasonCode>, effects: &mut Vec<Effect>) {
        if let Err(reason) = verdict {
            return self.fail(reason, effects);
        }
        let method = self
            .link
            .as_ref()
            .and_then(|link| link.authentication_method.clone());
        let success = Auth {
            reason: ReasonCode::Success,
            authentication_method: method,
            authentication_data: None,
            reason_string: None,
            user_properties: Vec::new(),
        };
        self.send(Packet::Auth(Box::new(success)), effects);
    }
}
