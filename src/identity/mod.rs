//! Who the devices are: the register of them, the codes by which they are paired, what their secrets and tokens are
//! worth. [`Identities`] is the gatekeeper of every session arbiter, and answers the owner's commands.
//!
//! Nothing here prints a code, a secret or a token: what holds one has no Debug.

mod answer;
mod bindings;
mod desk;
mod gatekeeper;
mod invitation;
mod keeper;
mod pairing;
mod register;
mod secret;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use actors::stats::Stats;
use actors::store::{Record, Table};
use actors::switchboard::Switchboard;
use arc_swap::ArcSwap;
use topics::device::DeviceId;

use crate::security::{DataDir, KeyRing, random};
use bindings::{Bindings, Mark, Notes};
pub(crate) use desk::Desk;
pub(crate) use invitation::Invitation;
use keeper::{Durable, NotKept};
pub(crate) use keeper::{Forgetful, InStore, Keeper};
use pairing::Pairings;
use register::{Device, Register};

/// How long an answer waits for the disk.
const DISK_TIME: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Identities {
    ring: ArcSwap<KeyRing>,
    /// Where its keys are.
    data_dir: DataDir,
    token_lifetime: Duration,
    state: Mutex<State>,
    keeper: Arc<dyn Keeper>,
    /// Where the sessions are.
    switchboard: Switchboard,
    stats: Arc<Stats>,
}

/// What changes.
struct State {
    register: Register,
    pairings: Pairings,
    bindings: Bindings,
}

/// What the owner set.
pub(crate) struct IdentityConfig {
    /// Where the keys are.
    pub(crate) data_dir: DataDir,
    /// How long tokens last that devices are given.
    pub(crate) token_lifetime: Duration,
    /// Devices that are known at once.
    pub(crate) max_devices: usize,
}

/// The system has no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random numbers; try again when it has finished starting")]
pub(crate) struct NoRandomness;

impl Identities {
    /// With the devices and the tokens' clients that were kept; a record that cannot be read is an error for the log.
    pub(crate) fn new(
        ring: KeyRing,
        config: IdentityConfig,
        kept: impl IntoIterator<Item = Record>,
        keeper: Arc<dyn Keeper>,
        switchboard: Switchboard,
    ) -> Result<Arc<Identities>, NoRandomness> {
        let (tokens, devices): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|record| record.table == Table::Tokens);
        let devices: Vec<_> = devices
            .into_iter()
            .filter_map(|record| read(&record.name, &record.value))
            .collect();
        let tokens = tokens
            .into_iter()
            .filter_map(|record| Some((keeper::token_of(&record.name)?, record.value.to_vec())));
        let (bindings, ended) = Bindings::new(tokens, SystemTime::now());
        let notes = Notes { bound: None, ended };
        keeper.note_tokens(Mark::default(), notes);
        Ok(Arc::new(Identities {
            ring: ArcSwap::from_pointee(ring),
            data_dir: config.data_dir,
            token_lifetime: config.token_lifetime,
            state: Mutex::new(State {
                register: Register::new(devices, config.max_devices),
                pairings: Pairings::new(&random::bytes::<32>().ok_or(NoRandomness)?),
                bindings,
            }),
            keeper,
            stats: switchboard.stats().clone(),
            switchboard,
        }))
    }

    /// After sessions were restored: one of a device that was revoked just before the daemon ended is none.
    pub(crate) fn shut_out_the_revoked(&self) {
        let revoked: Vec<DeviceId> = {
            let state = self.state();
            let revoked = state
                .register
                .all()
                .filter(|(_, device)| device.revoked_s.is_some());
            revoked.map(|(id, _)| id.clone()).collect()
        };
        for device in &revoked {
            self.switchboard.recheck(Some(device));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; each change in it is whole in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands in a device's new record, and puts it in its place if it is taken. To be called with the state held, so
    /// that records are kept in the order in which they are made.
    fn keep(&self, state: &mut State, device: &DeviceId, record: Device) -> Result<Durable, NotKept> {
        let bytes = record.to_bytes().map_err(|_| NotKept)?;
        let durable = self.keeper.put(device.as_str(), bytes)?;
        state.register.put(device.detached(), record);
        Ok(durable)
    }

    /// Notes that a device came.
    fn seen(&self, state: &mut State, device: &DeviceId, now: SystemTime) {
        let Some(record) = state.register.seen(device, now) else {
            return;
        };
        // Nobody waits for it, and where the store is full it is kept the next time.
        if let Ok(bytes) = record.to_bytes() {
            let _ = self.keeper.put(device.as_str(), bytes);
        }
    }
}

/// Waits for the disk, but not for ever.
async fn on_disk(durable: Durable) -> Result<(), String> {
    tokio::time::timeout(DISK_TIME, durable).await.map_err(|_| {
        "the disk of the data directory does not take what is to be kept; see whether it is full or broken, and then \
         do this again"
            .to_owned()
    })
}

fn read(name: &str, bytes: &[u8]) -> Option<(DeviceId, Device)> {
    let read = name
        .parse()
        .map_err(|error| format!("{error}"))
        .and_then(|id: DeviceId| Ok((id, Device::from_bytes(bytes)?)));
    read.inspect_err(|error| {
        tracing::error!(device = name, %error, "a device's record cannot be read, and so lets nobody in; pair it again");
    })
    .ok()
}
