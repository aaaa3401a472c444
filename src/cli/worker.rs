//! The process in which the model runs. (Stub until the lead's worker is in place.)

use clap::Args;

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct WorkerFlags {}

pub(super) fn run(_flags: WorkerFlags) -> Result<(), Failure> {
    Err(Failure::AtRunTime(
        "the inference worker is not built yet".to_owned(),
    ))
}
