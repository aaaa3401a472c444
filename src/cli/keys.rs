//! `clawdbot keys`: keys are exchanged for new ones, by the daemon where one runs.

use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, GlobalFlags, With, block_on, keys_master, say};
use crate::admin::{self, AdminError, AdminRequest};
use crate::security::{DataDir, KeyRing};

#[derive(Debug, Args)]
pub(super) struct KeysFlags {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a new key that signs tokens; those signed before live out their time
    Rotate(With<RotateFlags>),
}

#[derive(Debug, Args)]
struct RotateFlags {
    /// Void every token that was signed before, and end the sessions that they let in: for a key that may be stolen
    #[arg(long)]
    void_tokens: bool,
    /// Instead the master key, which opens the store; the old one opens it no more
    #[arg(long, conflicts_with = "void_tokens")]
    master: bool,
}

pub(super) fn run(global: GlobalFlags, flags: KeysFlags) -> Result<(), Failure> {
    let Action::Rotate(With { global: inner, flags }) = flags.action;
    let global = global.then(inner);
    if flags.master {
        return keys_master::run(&global);
    }
    let settings = global.settings(Vec::new())?;
    let dir = DataDir::prepare(&settings.data_dir).map_err(Failure::misconfigured)?;
    let mut request = AdminRequest::new("keys-rotate");
    request
        .arguments
        .insert("void_tokens".to_owned(), json!(flags.void_tokens));
    match block_on(async { Ok(admin::ask(&dir, &request).await) })? {
        Ok(_) => {}
        Err(AdminError::NotRunning(_)) => {
            KeyRing::rotate(&dir, flags.void_tokens, SystemTime::now()).map_err(Failure::misconfigured)?;
        }
        Err(error) => return Err(Failure::at_run_time(error)),
    }
    say(if flags.void_tokens {
        "a new key signs tokens from now on, and every token signed before is void"
    } else {
        "a new key signs tokens from now on; those signed before live out their time"
    })
}
