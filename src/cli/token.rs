//! `clawdbot token DEVICE`: a token on stdout and nothing else, so that it can stand in `$(…)`.

use std::time::SystemTime;

use clap::Args;
use topics::device::DeviceId;

use super::{Failure, GlobalFlags, say};
use crate::security::{DataDir, keys};

#[derive(Debug, Args)]
pub(super) struct TokenFlags {
    /// The device that the token is for: one topic level, without + # / $, and not `bridge`
    device: String,
}

pub(super) fn run(global: &GlobalFlags, flags: TokenFlags) -> Result<(), Failure> {
    check_device_id(&flags.device)?;
    let settings = global.settings(Vec::new())?;
    // Tokens may be wanted before the first start, for example by the script that sets up both sides.
    let dir = DataDir::prepare(&settings.data_dir).map_err(Failure::misconfigured)?;
    let key = keys::load_or_create(&dir).map_err(Failure::misconfigured)?;
    let token = key
        .issue(&flags.device, SystemTime::now(), settings.auth.token_lifetime)
        .map_err(Failure::at_run_time)?;
    say(token)
}

/// Refuses a name that could not stand in a topic, before a token is signed that nobody could use.
pub(super) fn check_device_id(device: &str) -> Result<(), Failure> {
    device
        .parse::<DeviceId>()
        .map(|_| ())
        .map_err(Failure::misconfigured)
}
