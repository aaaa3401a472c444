//! The process that packs weights for the daemon beside its work. It is started by `clawdbot serve`, not by hand; for that
//! there is `clawdbot model quantize`.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use models::Precision;

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct PackFlags {
    /// The model's file or directory
    model: PathBuf,
    /// Bits of a weight
    precision: Precision,
    /// Where packed weights are kept
    directory: PathBuf,
}

pub(super) fn run(flags: PackFlags) -> Result<(), Failure> {
    let _refused = platform::priority::step_far_back();
    let _refused = platform::oom::go_first();
    std::thread::spawn(|| {
        // The daemon says nothing here; the end of it is the end of us.
        let _ended = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let packed = models::pack(&flags.model, flags.precision, 1, &flags.directory, &mut |_, _| {});
    packed.map(drop).map_err(Failure::at_run_time)
}
