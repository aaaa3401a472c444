//! `clawdbot token DEVICE`: a token on stdout and nothing else, so that it can stand in `$(…)`.

use std::time::SystemTime;

use clap::Args;

use super::{Failure, GlobalFlags};
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
    println!("{token}");
    Ok(())
}

/// Refuses a name that could not stand in a topic, before a token is signed that nobody could use.
pub(super) fn check_device_id(device: &str) -> Result<(), Failure> {
    let reserved = device == "bridge";
    let forbidden = device
        .chars()
        .any(|character| matches!(character, '+' | '#' | '/' | '$') || character.is_control());
    if device.is_empty() || reserved || forbidden {
        return Err(Failure::Misconfigured(format!(
            "{device:?} cannot name a device, because it stands in topics: choose a name without + # / $ and control \
             characters, other than `bridge`"
        )));
    }
    Ok(())
}
