//! A client renews its admission without connecting again [MQTT5 4.12.1].

use actix::prelude::*;
use bytestring::ByteString;
use topics::access::Judgements;
use topics::device::DeviceId;
use topics::packet::{Connect, ProtocolVersion, ReasonCode};
use topics::session::{Secret, Welcome};

use super::{DeviceSession, publisher};
use crate::auth_checker::{Admission, Authenticate, Refusal};

impl DeviceSession {
    /// Asks the checker about a new token, and holds the client's next packets until it has answered.
    pub(super) fn authenticate(&mut self, Secret(token): Secret, ctx: &mut Context<Self>) {
        let ask = Authenticate {
            client_id: self.session.client_id().clone(),
            username: self.username.clone(),
            password: Some(token),
            // Whose connection it is was settled when it came; a renewal may not change that.
            certified: None,
        };
        let checker = self.auth.clone();
        self.ask(&checker, ask, ctx, |act, answer, ctx| {
            let verdict = act.renew(answer);
            act.step(ctx, |session, effects| session.authenticated(verdict, effects));
            if verdict.is_ok() {
                act.withdraw_subscriptions(ctx);
            }
        });
    }

    /// What was allowed so far and is not any more ends here.
    fn renew(&mut self, answer: Option<Result<Admission, Refusal>>) -> Result<(), ReasonCode> {
        let client_id = self.session.client_id();
        match answer {
            Some(Ok(admission)) if admission.device_id == self.admission.device_id => {
                tracing::debug!(%client_id, "admission renewed");
                self.publisher = publisher(client_id, &admission);
                self.admission = admission;
                self.judgements = Judgements::default();
                Ok(())
            }
            Some(Ok(_)) => {
                self.switchboard.stats().authentication_failures.add(1);
                tracing::info!(%client_id, "the new token is another device's");
                Err(ReasonCode::NotAuthorized)
            }
            // Whatever a CONNACK would say, a DISCONNECT has this one word for it.
            Some(Err(refusal)) => {
                tracing::info!(%client_id, why = refusal.why, "admission not renewed");
                Err(ReasonCode::NotAuthorized)
            }
            None => Err(ReasonCode::ServerBusy),
        }
    }
}

/// What CONNACK says beside what the session knows.
///
/// Response topics begin with what the device may use by default. Where nobody asks who a client is, its
/// own identifier stands for the device, if it can be one.
pub(super) fn welcome(connect: &Connect, admission: &Admission, assigned: Option<ByteString>) -> Welcome {
    let asks = connect.protocol == ProtocolVersion::V5
        && connect.properties.request_response_information == Some(true);
    let device = || {
        let own_name = assigned.as_ref().unwrap_or(&connect.client_id);
        let device = admission.device_id.clone();
        device.or_else(|| DeviceId::parse(own_name.clone()).ok())
    };
    let device = asks.then(device).flatten();
    Welcome {
        response_information: device.map(|device| format!("clawdbot/{device}/reply").into()),
        assigned_client_identifier: assigned,
    }
}
