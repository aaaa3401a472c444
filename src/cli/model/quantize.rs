//! `clawdbot model quantize NAME`: the weights are packed now, where the daemon finds them at its start.

use clap::Args;
use models::{Kept, Precision};

use super::Desk;
use crate::cli::bar::{Bar, Unit, size};
use crate::cli::{Failure, say};

#[derive(Debug, Args)]
pub(super) struct QuantizeFlags {
    /// A name of `clawdbot model list`, or a path
    #[arg(value_name = "NAME")]
    model: String,
    /// Bits of a weight: f16, int8 or int4 [default: the setting model.precision, or what suits the model]
    #[arg(long)]
    precision: Option<Precision>,
}

pub(super) fn run(desk: &Desk, flags: &QuantizeFlags) -> Result<(), Failure> {
    let path = desk.path_of(&flags.model)?;
    let summary = models::inspect(&path).map_err(Failure::at_run_time)?;
    let precision = flags
        .precision
        .or(desk.settings.model.precision)
        .unwrap_or(summary.precision);
    if precision == Precision::F32 && flags.precision.is_none() {
        return say(format!(
            "{} runs at f32 on its own files, and there is nothing to pack; --precision f16, int8 or int4 packs it for fewer bits",
            flags.model
        ));
    }
    if precision == Precision::F32 {
        return Err(Failure::Misconfigured(
            "f32 runs on the model's own files, and there is nothing to pack; choose --precision f16, int8 or int4".to_owned(),
        ));
    }
    desk.prepare()?;
    let mut bar = Bar::new(format!("packing {precision}"), Unit::Parts);
    let packed = models::pack(&path, precision, desk.threads(), &desk.packed, &mut |done, of| {
        bar.show(done as u64, of as u64);
    });
    let was_made = packed.map_err(Failure::at_run_time)?;
    drop(bar);
    let kept = Kept::of(&path, &desk.packed).map_err(Failure::at_run_time)?;
    let file = kept.packed().into_iter().find(|file| file.precision == precision);
    let (bytes, place) = file.map_or((0, String::new()), |file| {
        (file.bytes, file.path.display().to_string())
    });
    let done = if was_made {
        "is packed"
    } else {
        "was packed already"
    };
    say(format!(
        "{} {done}: {precision}, {}, {place}",
        flags.model,
        size(bytes)
    ))?;
    say(format!(
        "`clawdbot model show {} --measure` says how good it is at each precision",
        flags.model
    ))
}
