//! `clawdbot model fit NAME`: whether a model fits the memory, at which precision and with how much context, before it is
//! loaded.

use std::sync::Arc;

use actors::memory_governor::ThisMachine;
use actors::policy::governor::{FitQuestion, fit};
use actors::start_room::{MODEST_CONTEXT_TOKENS, OVERHEAD_BYTES, StartRoom};
use clap::Args;
use models::{Footprint, Precision};
use platform::memory;

use super::Desk;
use crate::cli::bar::size;
use crate::cli::{Failure, say};

#[derive(Debug, Args)]
pub(super) struct FitFlags {
    /// A name of `clawdbot model list`, or a path
    #[arg(value_name = "NAME")]
    model: String,
    /// Tokens of prompt and answer together [default: the model's context, up to 4096]
    #[arg(long, value_name = "TOKENS")]
    context: Option<u64>,
    /// Requests that are answered at once
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    at_once: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(desk: &Desk, flags: &FitFlags) -> Result<(), Failure> {
    let path = desk.path_of(&flags.model)?;
    let footprint = Arc::new(Footprint::of(&path).map_err(Failure::at_run_time)?);
    let summary = footprint.summary();
    let limits = memory::limits()
        .map_err(|error| Failure::AtRunTime(format!("the machine's memory cannot be measured: {error}")))?;
    let weights = Precision::ALL.map(|precision| (precision, footprint.weights_bytes(precision)));
    // The reference is for small models; a large one would be chosen by nobody.
    let weights: Vec<_> = weights
        .into_iter()
        .filter(|(precision, _)| *precision != Precision::F32 || summary.precision == Precision::F32)
        .collect();
    let context = flags
        .context
        .unwrap_or((summary.context_length as u64).min(MODEST_CONTEXT_TOKENS))
        .max(1);
    let tokens = usize::try_from(context).unwrap_or(usize::MAX);
    let of_one = footprint.cache_bytes(tokens, desk.settings.model.kv_precision);
    let found = fit(&FitQuestion {
        weights: &weights,
        kv_bytes_per_token: of_one.div_ceil(context),
        context_tokens: context.saturating_mul(flags.at_once.max(1)),
        overhead_bytes: OVERHEAD_BYTES,
        limits: &limits,
        keep_free_percent: desk.settings.memory.keep_free_percent,
    });
    if flags.json {
        return say(serde_json::to_string_pretty(&found).map_err(Failure::at_run_time)?);
    }
    let tightest = limits.iter().min_by_key(|memory| memory.available_bytes);
    if let Some(memory) = tightest {
        say(format!(
            "{} of {} could be had now, of which {} % are kept free (memory.keep_free_percent)",
            size(memory.available_bytes),
            size(memory.total_bytes),
            desk.settings.memory.keep_free_percent
        ))?;
    }
    say(found.to_string())?;
    let wanted = desk.settings.model.precision.unwrap_or(summary.precision);
    let room = StartRoom {
        kv: desk.settings.model.kv_precision,
        cache_bytes: desk.settings.model.cache_bytes.map(|bytes| bytes as u64),
        keep_free_percent: desk.settings.memory.keep_free_percent,
        footprint,
        meter: Arc::new(ThisMachine),
    };
    let ladder: Vec<_> = room.ladder(Some(wanted)).collect();
    let begins = room.begin_within(&ladder, &limits);
    let begins = begins.map_or(wanted, |begin| begin.precision);
    let mut fitting = found.precisions.iter().filter(|at| at.fits);
    match fitting.find(|at| at.precision >= wanted).map(|at| at.precision) {
        Some(fits) => say(outlook(wanted, fits, begins)),
        None => Err(Failure::AtRunTime(
            "it fits at no precision; choose a smaller model, a shorter --context, or free some memory"
                .to_owned(),
        )),
    }
}

/// What the daemon would do, which wants room for a modest context, and what that means for the one that was asked about.
fn outlook(wanted: Precision, fits: Precision, begins: Precision) -> String {
    if begins == wanted && fits == wanted {
        return format!("it runs at {wanted} (model.precision)");
    }
    let does = if begins == wanted {
        format!("the daemon would begin at {wanted} (model.precision)")
    } else {
        format!(
            "at {wanted} (model.precision) it would not fit: the daemon would begin at {begins} by itself, and go up when \
             there is room"
        )
    };
    if begins < fits {
        format!("{does}; for so many tokens set model.precision = \"{fits}\"")
    } else {
        does
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_does_by_itself_needs_no_setting() {
        use Precision::{F16, Int4, Int8};
        assert_eq!(outlook(Int8, Int8, Int8), "it runs at int8 (model.precision)");
        let lower = outlook(F16, Int8, Int8);
        assert!(
            lower.contains("would begin at int8 by itself") && !lower.contains("set model.precision"),
            "{lower}"
        );
        // A longer context than the daemon wants room for.
        let longer = outlook(Int8, Int4, Int8);
        assert!(longer.ends_with("set model.precision = \"int4\""), "{longer}");
        // A shorter one.
        let shorter = outlook(Int8, Int8, Int4);
        assert!(shorter.contains("would begin at int4 by itself"), "{shorter}");
    }
}
