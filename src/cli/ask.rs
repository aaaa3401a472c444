//! stub
use super::{Failure, GlobalFlags};
use clap::Args;
#[derive(Debug, Args)]
pub(super) struct AskFlags {}
pub(super) fn run(_global: &GlobalFlags, _flags: AskFlags) -> Result<(), Failure> {
    Ok(())
}
