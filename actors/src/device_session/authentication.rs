//! A client renews its admission without connecting again [MQTT5 4.12.1].

use actix::prelude::*;
use bytes::Bytes;
use bytestring::ByteString;
use topics::access::Judgements;
use topics::confidential::Request;
use topics::device::DeviceId;
use topics::packet::{Connect, ProtocolVersion, ReasonCode};
use topics::session::{Secret, Welcome};

use super::{DeviceSession, publisher};
use crate::auth_checker::{Admission, Authenticate, Refusal};

impl DeviceSession {
    /// Asks the checker about a new token, and holds the client's next packets until it has answered.
    pub(super) fn authenticate(&mut self, Secret(token): Secret, ctx: &mut Context<Self>) {
        self.ask_to_renew(token, ctx, |act, verdict, ctx| {
            act.step(ctx, |session, effects| session.authenticated(verdict, effects));
        });
    }

    /// As [`authenticate`](Self::authenticate), by a publish, which 3.1.1 has words for. A token that is not
    /// believed is told in the acknowledgement of 5.0; the session goes on until its own token ends.
    pub(super) fn renew_by_publish(&mut self, token: Bytes, packet_id: u16, ctx: &mut Context<Self>) {
        self.ask_to_renew(token, ctx, move |act, verdict, ctx| {
            let stats = act.switchboard.stats();
            match verdict {
                Ok(()) => &stats.messages_routed,
                Err(_) => &stats.messages_rejected,
            }
            .add(1);
            act.routed(packet_id, verdict.err().unwrap_or(ReasonCode::Success), ctx);
        });
    }

    fn ask_to_renew(
        &mut self,
        token: Bytes,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, Result<(), ReasonCode>, &mut Context<Self>) + 'static,
    ) {
        let ask = Authenticate {
            client_id: self.session.client_id().clone(),
            username: self.username.clone(),
            password: Some(token),
            only_token: true,
            // Whose connection it is was settled when it came; a renewal may not change that.
            certified: None,
        };
        let checker = self.auth.clone();
        self.ask(&checker, ask, ctx, |act, answer, ctx| {
            let verdict = act.renew(answer);
            let renewed = verdict.is_ok();
            then(act, verdict, ctx);
            if renewed {
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
                self.session.admit_until(admission.until);
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
    let response_information = if admission.is_pairing() {
        asks.then(|| ByteString::from_static(Request::Pair.response_topic()))
    } else {
        device.map(|device| format!("clawdbot/{device}/reply").into())
    };
    Welcome {
        response_information,
        assigned_client_identifier: assigned,
    }
}
