//! The register of devices, as pure data: who was paired, since when its tokens count, who was revoked. A change is a
//! new record, made here, kept by the caller, and then put in the old one's place.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actors::gatekeeper::{PAIRING, Proof};
use serde::{Deserialize, Serialize};
use topics::device::DeviceId;

use super::secret::Verifier;

/// The longest display name in characters.
const MAX_LABEL_CHARS: usize = 64;
/// How far what is kept of `last_seen` may lag behind: a device that comes every minute is not written every minute.
const SEEN_GRANULARITY_S: u64 = 3600;

/// What is known of a device. Times are seconds since 1970.
#[derive(Clone, Default)]
pub(crate) struct Device {
    /// How the owner calls it; its id is for topics, and stays.
    pub(crate) label: Option<String>,
    /// What is kept of its secret, while it has one.
    pub(crate) verifier: Option<Verifier>,
    /// How many it was given: a session is known by which of them it was let in.
    pub(crate) generation: u64,
    /// Tokens signed before count no more.
    pub(crate) valid_from_s: u64,
    /// Since when it is revoked.
    pub(crate) revoked_s: Option<u64>,
    /// When it was heard of first.
    pub(crate) created_s: u64,
    /// When it was paired last.
    pub(crate) paired_s: Option<u64>,
    /// When it came last.
    pub(crate) seen_s: Option<u64>,
}

/// How a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It has a secret.
    Paired,
    /// It was shut out; only what is signed since then, or a new pairing, lets it in.
    Revoked,
    /// It was named, but has no secret: it comes by tokens or certificates that the owner makes.
    Unpaired,
}

/// Why the register says no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegisterError {
    /// No such record.
    #[error("no device {0} is known here; `clawdbot device list` lists them")]
    Unknown(DeviceId),
    /// One is there already.
    #[error(
        "the device {0} is paired; add --again if another one, or the same one reset, is to take its place: the secret \
         and the tokens it has now are void from then on"
    )]
    Paired(DeviceId),
    /// The user name has a meaning.
    #[error("`{PAIRING}` is the user name by which devices are paired; choose another name")]
    Reserved,
    /// No room.
    #[error("there are {0} devices already (auth.max_devices); raise it, or reuse the name of a revoked one")]
    Full(usize),
    /// A bad display name.
    #[error("a display name has 1 to {MAX_LABEL_CHARS} characters, and no control characters")]
    Label,
}

/// See the module.
pub(crate) struct Register {
    devices: BTreeMap<DeviceId, Device>,
    /// No device's token that was signed before counts any more. Not kept: the key that could have signed it is gone.
    valid_from_s: u64,
    max_devices: usize,
}

impl Register {
    /// With what was kept.
    pub(crate) fn new(devices: impl IntoIterator<Item = (DeviceId, Device)>, max_devices: usize) -> Register {
        Register {
            devices: devices.into_iter().collect(),
            valid_from_s: 0,
            max_devices,
        }
    }

    /// What is known of a device.
    pub(crate) fn get(&self, device: &DeviceId) -> Option<&Device> {
        self.devices.get(device)
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&DeviceId, &Device)> {
        self.devices.iter()
    }

    /// Puts a record in its place, now that it is kept.
    pub(crate) fn put(&mut self, device: DeviceId, record: Device) {
        self.devices.insert(device, record);
    }

    /// Whether a device may be paired: it is not, or is to be again.
    pub(crate) fn may_pair(&self, device: &DeviceId, again: bool) -> Result<(), RegisterError> {
        if device.as_str() == PAIRING {
            return Err(RegisterError::Reserved);
        }
        match self.get(device) {
            None => self.room(),
            Some(known) if known.state() == State::Paired && !again => {
                Err(RegisterError::Paired(device.clone()))
            }
            Some(_) => Ok(()),
        }
    }

    /// The device with a new secret; what it had before is void.
    pub(crate) fn paired(
        &self,
        device: &DeviceId,
        verifier: Verifier,
        now: SystemTime,
    ) -> Result<Device, RegisterError> {
        let known = match self.get(device) {
            Some(known) => known.clone(),
            None => self.room().map(|()| Device::new(now))?,
        };
        let now_s = seconds(now);
        let had_something = known.verifier.is_some() || known.revoked_s.is_some();
        Ok(Device {
            verifier: Some(verifier),
            generation: known.generation + 1,
            valid_from_s: if had_something {
                known.valid_from_s.max(now_s + 1)
            } else {
                known.valid_from_s
            },
            revoked_s: None,
            paired_s: Some(now_s),
            ..known
        })
    }

    /// The device without anything that lets it in. One that was never heard of may have tokens all the same.
    pub(crate) fn revoked(&self, device: &DeviceId, now: SystemTime) -> Device {
        // Beyond the bound, too: who is to be kept out must not depend on how many there are.
        let known = self.get(device).cloned().unwrap_or_else(|| Device::new(now));
        let now_s = seconds(now);
        Device {
            verifier: None,
            // A token tells the second in which it was signed, and no less: those of this one are void with it.
            valid_from_s: known.valid_from_s.max(now_s + 1),
            revoked_s: Some(now_s),
            ..known
        }
    }

    /// The device under another display name.
    pub(crate) fn renamed(&self, device: &DeviceId, label: &str) -> Result<Device, RegisterError> {
        let known = self
            .get(device)
            .ok_or_else(|| RegisterError::Unknown(device.clone()))?;
        let label = label.trim();
        if label.is_empty() || label.chars().count() > MAX_LABEL_CHARS || label.chars().any(char::is_control)
        {
            return Err(RegisterError::Label);
        }
        Ok(Device {
            label: Some(label.to_owned()),
            ..known.clone()
        })
    }

    /// Notes that a device came, and gives its record where that is worth keeping.
    pub(crate) fn seen(&mut self, device: &DeviceId, now: SystemTime) -> Option<Device> {
        let known = self.devices.get_mut(device)?;
        let now_s = seconds(now);
        let kept = known
            .seen_s
            .replace(now_s)
            .map(|seen_s| seen_s / SEEN_GRANULARITY_S);
        (kept != Some(now_s / SEEN_GRANULARITY_S)).then(|| known.clone())
    }

    /// Every token signed before is void.
    pub(crate) fn void_tokens(&mut self, now: SystemTime) {
        self.valid_from_s = seconds(now);
    }

    /// Whether what let a device in still does.
    pub(crate) fn stands(&self, device: &DeviceId, proof: Proof) -> bool {
        if let Proof::Token { issued_at } = proof
            && self.valid_from_s > 0
            && issued_at.is_none_or(|at| seconds(at) < self.valid_from_s)
        {
            return false;
        }
        let Some(known) = self.get(device) else {
            return !matches!(proof, Proof::Secret { .. });
        };
        match proof {
            Proof::Nothing | Proof::Pairing | Proof::Kept => true,
            Proof::Certificate => known.revoked_s.is_none(),
            Proof::Secret { generation } => known.verifier.is_some() && known.generation == generation,
            Proof::Token { issued_at } => {
                known.valid_from_s == 0 || issued_at.is_some_and(|at| seconds(at) >= known.valid_from_s)
            }
        }
    }

    /// When a token that is signed now counts as signed: a revocation voids the rest of its second.
    pub(crate) fn sign_at(&self, device: &DeviceId, now: SystemTime) -> SystemTime {
        let valid_from_s = self.get(device).map_or(0, |known| known.valid_from_s);
        now.max(UNIX_EPOCH + Duration::from_secs(valid_from_s))
    }

    fn room(&self) -> Result<(), RegisterError> {
        if self.devices.len() < self.max_devices {
            Ok(())
        } else {
            Err(RegisterError::Full(self.devices.len()))
        }
    }
}

impl Device {
    fn new(now: SystemTime) -> Device {
        Device {
            created_s: seconds(now),
            ..Device::default()
        }
    }

    /// How it stands.
    pub(crate) fn state(&self) -> State {
        match (&self.verifier, self.revoked_s) {
            (Some(_), _) => State::Paired,
            (None, Some(_)) => State::Revoked,
            (None, None) => State::Unpaired,
        }
    }

    /// As it is kept.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Kept {
            label: self.label.clone(),
            verifier: self.verifier.as_ref().map(Verifier::to_text),
            generation: self.generation,
            valid_from_s: self.valid_from_s,
            revoked_s: self.revoked_s,
            created_s: self.created_s,
            paired_s: self.paired_s,
            seen_s: self.seen_s,
        })
    }

    /// From what was kept; in words that can be logged why it is none.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Device, String> {
        let kept: Kept = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let verifier = match &kept.verifier {
            None => None,
            Some(text) => Some(Verifier::from_text(text).ok_or("what is kept of its secret cannot be read")?),
        };
        Ok(Device {
            label: kept.label,
            verifier,
            generation: kept.generation,
            valid_from_s: kept.valid_from_s,
            revoked_s: kept.revoked_s,
            created_s: kept.created_s,
            paired_s: kept.paired_s,
            seen_s: kept.seen_s,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    label: Option<String>,
    verifier: Option<String>,
    generation: u64,
    valid_from_s: u64,
    revoked_s: Option<u64>,
    created_s: u64,
    paired_s: Option<u64>,
    seen_s: Option<u64>,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
