//! `clawdbot model fit NAME`: whether a model fits the memory, at which precision and with how much context, before it is
//! loaded.

use actors::policy::governor::{FitQuestion, fit};
use clap::Args;
use models::{Footprint, Precision};
use platform::memory;

use super::Desk;
use crate::cli::bar::size;
use crate::cli::{Failure, say};

/// Beside weights and caches; measured between 74 and 85 MiB (benches/README.md).
const OVERHEAD_BYTES: u64 = 100 << 20;

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
    let summary = models::inspect(&path).map_err(Failure::at_run_time)?;
    let footprint = Footprint::of(&path).map_err(Failure::at_run_time)?;
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
        .unwrap_or((summary.context_length as u64).min(4096))
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
    let lower = found
        .precisions
        .iter()
        .find(|at| at.fits && at.precision >= wanted);
    match lower {
        Some(at) if at.precision == wanted => say(format!("it runs at {wanted} (model.precision)")),
        Some(at) => say(format!(
            "it would run at {wanted} and does not fit; set model.precision = \"{}\"",
            at.precision
        )),
        None => Err(Failure::AtRunTime(
            "it fits at no precision; choose a smaller model, a shorter --context, or free some memory"
                .to_owned(),
        )),
    }
}
