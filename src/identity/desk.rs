//! What the owner asks by the status socket: pair, list, show, revoke and rename devices, and replace the key that
//! signs tokens.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actors::switchboard::Switchboard;
use serde_json::{Map, Value, json};
use topics::device::DeviceId;

use super::pairing::{Code, LIFETIME, TRIES};
use super::register::Device;
use super::{Identities, Invitation, NoRandomness, on_disk};
use crate::security::certificates::utc;
use crate::security::{KeyError, KeyRing};

/// The owner's side of [`Identities`].
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) identities: Arc<Identities>,
    pub(crate) switchboard: Switchboard,
    /// Where devices come in; None where they do not.
    pub(crate) invitation: Option<Invitation>,
}

impl Desk {
    /// Answers a command about devices; None where it is none.
    pub(crate) async fn answer(
        &self,
        command: &str,
        arguments: &Map<String, Value>,
    ) -> Option<Result<Value, String>> {
        Some(match command {
            "device-pair" => self.pair(arguments),
            "device-list" => Ok(self.list()),
            "device-show" => self.show(arguments),
            "device-revoke" => self.revoke(arguments).await,
            "device-rename" => self.rename(arguments).await,
            "keys-rotate" => self.rotate(arguments).await,
            _ => return None,
        })
    }

    fn pair(&self, arguments: &Map<String, Value>) -> Result<Value, String> {
        let invitation = self.invitation.as_ref().ok_or(
            "nobody is paired where nobody is asked who it is (auth.mode = \"none\"), or where an external broker decides \
             who comes in (broker.mode = \"external\")",
        )?;
        let device = device(arguments)?;
        let again = arguments.get("again").and_then(Value::as_bool).unwrap_or(false);
        let code = Code::random().ok_or_else(|| NoRandomness.to_string())?;
        let mut state = self.identities.state();
        state
            .register
            .may_pair(&device, again)
            .map_err(|error| error.to_string())?;
        state
            .pairings
            .open(device.clone(), &code, Instant::now())
            .map_err(|error| error.to_string())?;
        drop(state);
        tracing::info!(%device, "a device is waited for");
        Ok(json!({
            "name": device.as_str(),
            "code": code.shown(),
            "expires_in_s": LIFETIME.as_secs(),
            "tries": TRIES,
            "invitation": invitation,
        }))
    }

    /// Those that are known, and those that come by tokens and certificates alone and are connected now.
    fn list(&self) -> Value {
        let state = self.identities.state();
        let mut devices: Vec<Value> = state
            .register
            .all()
            .map(|(id, device)| self.row(id, Some(device)))
            .collect();
        let strangers = self
            .switchboard
            .devices()
            .iter()
            .filter(|entry| state.register.get(entry.key()).is_none())
            .map(|entry| entry.key().clone())
            .collect::<Vec<_>>();
        drop(state);
        devices.extend(strangers.iter().map(|id| self.row(id, None)));
        json!({"devices": devices})
    }

    fn show(&self, arguments: &Map<String, Value>) -> Result<Value, String> {
        let id = device(arguments)?;
        let state = self.identities.state();
        match state.register.get(&id) {
            None if !self.switchboard.devices().contains_key(&id) => {
                Err(super::register::RegisterError::Unknown(id.clone()).to_string())
            }
            known => Ok(self.row(&id, known)),
        }
    }

    async fn revoke(&self, arguments: &Map<String, Value>) -> Result<Value, String> {
        let id = device(arguments)?;
        let identities = &self.identities;
        let durable = {
            let mut state = identities.state();
            state.pairings.close(&id);
            let record = state.register.revoked(&id, SystemTime::now());
            identities
                .keep(&mut state, &id, record)
                .map_err(|error| error.to_string())?
        };
        self.switchboard.recheck(Some(&id));
        tracing::info!(device = %id, "device revoked");
        on_disk(durable).await?;
        self.show(arguments)
    }

    async fn rename(&self, arguments: &Map<String, Value>) -> Result<Value, String> {
        let id = device(arguments)?;
        let label = arguments.get("label").and_then(Value::as_str).unwrap_or_default();
        let durable = {
            let mut state = self.identities.state();
            let record = state
                .register
                .renamed(&id, label)
                .map_err(|error| error.to_string())?;
            self.identities
                .keep(&mut state, &id, record)
                .map_err(|error| error.to_string())?
        };
        on_disk(durable).await?;
        self.show(arguments)
    }

    /// A new key for tokens. Where those before are void, so are the sessions that they let in.
    async fn rotate(&self, arguments: &Map<String, Value>) -> Result<Value, String> {
        let void = arguments
            .get("void_tokens")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let (identities, now) = (self.identities.clone(), SystemTime::now());
        let rotated = move || {
            let ring = KeyRing::rotate(&identities.data_dir, void, now)?;
            identities.ring.store(Arc::new(ring));
            Ok(())
        };
        tokio::task::spawn_blocking(rotated)
            .await
            .map_err(|error| format!("the key was not replaced: {error}"))?
            .map_err(|error: KeyError| error.to_string())?;
        tracing::info!(void_tokens = void, "a new key signs tokens");
        if void {
            self.identities.state().register.void_tokens(now);
            self.switchboard.recheck(None);
        }
        Ok(json!({}))
    }

    fn row(&self, id: &DeviceId, known: Option<&Device>) -> Value {
        let connected = self.switchboard.devices().contains_key(id);
        let unknown = Device::default();
        let device = known.unwrap_or(&unknown);
        let state = device.state();
        json!({
            "name": id.as_str(),
            "label": device.label,
            "state": state,
            "connected": connected,
            "created": known.map(|known| time(known.created_s)),
            "paired": device.paired_s.map(time),
            "revoked": device.revoked_s.map(time),
            "last_seen": device.seen_s.map(time),
        })
    }
}

fn device(arguments: &Map<String, Value>) -> Result<DeviceId, String> {
    let name = arguments.get("name").and_then(Value::as_str).unwrap_or_default();
    DeviceId::parse(name.into())
        .map(|device| device.detached())
        .map_err(|error| error.to_string())
}

fn time(seconds: u64) -> String {
    utc(UNIX_EPOCH + Duration::from_secs(seconds))
}
