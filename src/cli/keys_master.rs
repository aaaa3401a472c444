//! `clawdbot keys rotate --master`: another key opens the store, also while the daemon runs.

use std::sync::Arc;

use super::store::Place;
use super::{Failure, GlobalFlags, block_on, say};
use crate::admin::{self, AdminError, AdminRequest};
use crate::security::master_key::RotationError;
use crate::store::DurableStore;

pub(super) fn run(global: &GlobalFlags) -> Result<(), Failure> {
    let place = Place::of(global)?;
    let request = AdminRequest::new("keys-rotate-master");
    match block_on(async { Ok(admin::ask(&place.dir, &request).await) })? {
        Err(AdminError::NotRunning(_)) => rotate_file(&place)?,
        answer => drop(answer?),
    }
    say(
        "the store is opened by a new master key from now on; a copy of the old one opens only old copies of the store",
    )
}

/// As a daemon would do it that starts and stops.
fn rotate_file(place: &Place) -> Result<(), Failure> {
    let _lock = admin::take_lock(&place.dir)?;
    let masters = place.masters()?;
    let (store, restored) = DurableStore::open(&place.store, masters, Arc::default())?;
    place.master_key.settle(restored.opened_by)?;
    place.master_key.rotate(&store).map_err(|error| match error {
        RotationError::Key(error) => Failure::misconfigured(error),
        RotationError::Store(_) => Failure::at_run_time(error),
    })
}
