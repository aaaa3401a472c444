//! What the session arbiters ask: who may come in, and the two questions whose answers are secrets.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use actors::gatekeeper::{Answering, Gatekeeper, Identity, Proof, Question};
use ring::digest;
use serde_json::{Value, json};
use topics::device::DeviceId;

use super::bindings::Mark;
use super::keeper::Durable;
use super::pairing::Code;
use super::secret::{DeviceSecret, Verifier};
use super::{Identities, NoRandomness, answer, on_disk};

const REVOKED: &str = "the device was revoked; pair it again with `clawdbot device pair NAME`";

impl Gatekeeper for Identities {
    fn by_token(&self, token: &[u8], client_id: &str, now: SystemTime) -> Result<Identity, String> {
        let claims = self
            .ring
            .load()
            .verify(token, now)
            .map_err(|error| error.to_string())?;
        let device = DeviceId::parse(claims.device_id.into())
            .map_err(|error| format!("the token's subject is no device id: {error}"))?;
        let mut state = self.state();
        let proof = Proof::Token {
            issued_at: claims.issued_at,
        };
        if !state.register.stands(&device, proof) {
            return Err(
                "the token was signed before its device was revoked or paired again; get a new one".into(),
            );
        }
        let token = token_mark(token);
        let notes = state
            .bindings
            .bind(token, mark(client_id.as_bytes()), &device, claims.expires_at, now)
            .map_err(|error| error.to_string())?;
        self.keeper.note_tokens(token, notes);
        self.seen(&mut state, &device, now);
        drop(state);
        Ok(Identity {
            device,
            acl: claims.acl,
            expires_at: claims.expires_at,
            issued_at: claims.issued_at,
        })
    }

    fn by_secret(&self, device: &DeviceId, secret: &[u8], now: SystemTime) -> Result<u64, String> {
        let mut state = self.state();
        let known = state.register.get(device).filter(|known| {
            let verifier = known.verifier.as_ref();
            verifier.is_some_and(|verifier| verifier.admits(device, secret))
        });
        let Some(generation) = known.map(|known| known.generation) else {
            // Whether there is such a device is not told.
            return Err(
                "this is no token, and not the secret of the device that the user name says; pair it again with \
                 `clawdbot device pair NAME`"
                    .to_owned(),
            );
        };
        self.seen(&mut state, device, now);
        Ok(generation)
    }

    fn by_certificate(&self, device: &DeviceId, now: SystemTime) -> Result<(), String> {
        let mut state = self.state();
        if !state.register.stands(device, Proof::Certificate) {
            return Err(REVOKED.to_owned());
        }
        self.seen(&mut state, device, now);
        Ok(())
    }

    fn stands(&self, device: &DeviceId, proof: Proof) -> bool {
        self.state().register.stands(device, proof)
    }

    fn pairing_until(&self, now: SystemTime) -> Option<SystemTime> {
        let steady = Instant::now();
        let until = self.state().pairings.until(steady)?;
        Some(now + until.saturating_duration_since(steady))
    }

    fn answer(&self, question: Question, now: SystemTime) -> Answering {
        let payload = match &question {
            Question::Pair(payload) => payload,
            Question::Token { request, .. } => request,
        };
        let asked = match answer::parse(payload) {
            Ok(asked) => asked,
            Err(error) => {
                let answer = answer::bytes(Err(error.to_owned()), None);
                return Box::pin(std::future::ready(answer));
            }
        };
        let transaction = asked.transaction;
        match question {
            Question::Pair(_) => {
                let outcome = self.pair(asked.code.as_deref(), now);
                Box::pin(async move {
                    let outcome = match outcome {
                        Ok((data, durable)) => on_disk(durable).await.map(|()| data),
                        Err(error) => Err(error),
                    };
                    answer::bytes(outcome, transaction)
                })
            }
            Question::Token { device, proof, .. } => {
                let answer = answer::bytes(self.token_for(&device, proof, now), transaction);
                Box::pin(std::future::ready(answer))
            }
        }
    }
}

impl Identities {
    /// A code for a secret. The code is used up when the device's new record was taken.
    pub(super) fn pair(&self, code: Option<&str>, now: SystemTime) -> Result<(Value, Durable), String> {
        let code = code.and_then(Code::parse).ok_or(
            "there is no code of eight letters and digits, as in ABCD-2345, or in {\"code\": \"ABCD-2345\"}",
        )?;
        let mut state = self.state();
        let device = state.pairings.guess(&code, Instant::now()).map_err(|error| {
            self.stats.pairing_guesses.add(1);
            tracing::warn!(%error, "a device tried to be paired with a wrong code");
            error.to_string()
        })?;
        let secret = DeviceSecret::random().ok_or_else(|| NoRandomness.to_string())?;
        let verifier = Verifier::of(&device, &secret).ok_or_else(|| NoRandomness.to_string())?;
        let record = state
            .register
            .paired(&device, verifier, now)
            .map_err(|error| error.to_string())?;
        let durable = self
            .keep(&mut state, &device, record)
            .map_err(|error| error.to_string())?;
        state.pairings.close(&device);
        drop(state);
        // Whoever had the name before has it no more.
        self.switchboard.recheck(Some(&device));
        self.stats.pairings.add(1);
        tracing::info!(%device, "device paired");
        let data = json!({"device": device.as_str(), "secret": secret.reveal()});
        Ok((data, durable))
    }

    /// A token for a device that has shown its secret.
    pub(super) fn token_for(
        &self,
        device: &DeviceId,
        proof: Proof,
        now: SystemTime,
    ) -> Result<Value, String> {
        let state = self.state();
        if !state.register.stands(device, proof) {
            return Err(REVOKED.to_owned());
        }
        let signed_at = state.register.sign_at(device, now);
        drop(state);
        let token = self
            .ring
            .load()
            .issue(device.as_str(), signed_at, self.token_lifetime)
            .map_err(|error| error.to_string())?;
        self.stats.tokens_issued.add(1);
        let expires_at = signed_at.duration_since(UNIX_EPOCH).unwrap_or_default() + self.token_lifetime;
        Ok(json!({
            "device": device.as_str(),
            "token": token,
            "expires_in_s": self.token_lifetime.as_secs(),
            "expires_at": expires_at.as_secs(),
        }))
    }
}

/// Of what is signed in a token: its signature might be written in more than one way.
fn token_mark(token: &[u8]) -> Mark {
    let signed = token
        .iter()
        .rposition(|byte| *byte == b'.')
        .and_then(|dot| token.get(..dot));
    mark(signed.unwrap_or(token))
}

fn mark(bytes: &[u8]) -> Mark {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}
