//! `clawdbot generate`: the model's words without a daemon.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use models::{
    Engine, EngineOptions, Event, GenerateRequest, KvPrecision, Model, Precision, Prompt, Sampling,
    TokenLogprob,
};

use super::form::FormFlags;
use super::worker::today;
use super::{Failure, GlobalFlags};
use crate::library::Library;
use crate::security::DataDir;

#[derive(Debug, Args)]
pub(super) struct GenerateFlags {
    /// What the model answers, or goes on with where it has no chat template
    prompt: String,
    #[command(flatten)]
    model: ModelFlags,
    /// The most tokens of the answer
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// 0 takes the most likely token always
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// The same seed gives the same answer
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    form: FormFlags,
    /// Each token's log-probability on the standard error, with this many of the likeliest tokens
    #[arg(long, value_name = "N")]
    logprobs: Option<usize>,
}

/// Which model, and how it is to run.
#[derive(Debug, Args)]
pub(super) struct ModelFlags {
    /// A name of `clawdbot model list`, GGUF file, directory with safetensors, or "embedded" [default: the setting model.path]
    #[arg(long, value_name = "NAME|PATH")]
    model: Option<String>,
    /// Bits of a weight: f32, f16, int8 or int4 [default: the setting model.precision]
    #[arg(long)]
    pub(super) precision: Option<Precision>,
    /// Bits of keys and values: f16 or int8 [default: the setting model.kv_precision]
    #[arg(long, value_name = "PRECISION")]
    kv_precision: Option<KvPrecision>,
    /// Threads that compute [default: the setting model.threads]
    #[arg(long)]
    threads: Option<usize>,
}

/// What the flags and the settings come to.
pub(super) struct Chosen {
    pub(super) path: PathBuf,
    pub(super) precision: Option<Precision>,
    pub(super) kv_precision: KvPrecision,
    pub(super) threads: usize,
    /// Where packed weights are kept.
    pub(super) packed_directory: PathBuf,
}

impl Chosen {
    /// Loads the model, to run so many sequences at once.
    pub(super) fn engine(self, max_sequences: usize) -> Result<Engine, Failure> {
        let options = EngineOptions {
            max_sequences,
            precision: self.precision,
            threads: Some(self.threads),
            packed_directory: Some(self.packed_directory),
            kv: self.kv_precision,
            ..EngineOptions::default()
        };
        let loaded = Engine::load_with(&self.path, options, &mut show_packing);
        let engine = loaded.map_err(Failure::misconfigured)?;
        complain(engine.model());
        Ok(engine)
    }
}

impl ModelFlags {
    pub(super) fn chosen(&self, global: &GlobalFlags) -> Result<Chosen, Failure> {
        let all_settings = global.settings(Vec::new())?;
        let settings = all_settings.model;
        let library = Library::of(&all_settings.data_dir);
        let named = self.model.as_deref().map(|text| library.resolve(text));
        let named = named.transpose().map_err(Failure::misconfigured)?;
        let path = named.or(settings.path).ok_or_else(|| {
            Failure::Misconfigured(
                "there is no model; name one with --model PATH, or set model.path (`clawdbot model pull` brings one)"
                    .to_owned(),
            )
        })?;
        if path == library.embedded() {
            // Perhaps before the daemon's first start.
            DataDir::prepare(&all_settings.data_dir).map_err(Failure::misconfigured)?;
            library.unpack(&path).map_err(Failure::at_run_time)?;
        }
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = self.threads.filter(|threads| *threads > 0);
        Ok(Chosen {
            path,
            precision: self.precision.or(settings.precision),
            kv_precision: self.kv_precision.unwrap_or(settings.kv_precision),
            threads: threads.or(settings.threads).unwrap_or_else(all),
            packed_directory: all_settings.data_dir.join("packed"),
        })
    }
}

/// On the standard error, which is where nobody's pipe goes.
pub(super) fn show_packing(done: usize, of: usize) {
    eprint!("\rpacking the weights: {} %", done * 100 / of.max(1));
    if done == of {
        eprintln!();
    }
}

pub(super) fn complain(model: &Model) {
    if let Some(reason) = model.not_kept() {
        eprintln!("the packed weights could not be kept for the next time: {reason}");
    }
}

pub(super) fn run(global: &GlobalFlags, flags: GenerateFlags) -> Result<(), Failure> {
    let chosen = flags.model.chosen(global)?;
    let answer = flags.form.answer(flags.logprobs)?;
    let began = Instant::now();
    let mut engine = chosen.engine(1)?;
    if let Some(today) = today() {
        engine.set_today(today);
    }
    let loaded = began.elapsed();
    let request = GenerateRequest {
        prompt: Prompt::Text(flags.prompt),
        max_tokens: flags.max_tokens,
        sampling: Sampling {
            temperature: flags.temperature,
            seed: flags.seed,
            ..Sampling::default()
        },
        stop: Vec::new(),
        answer,
        said: Vec::new(),
        said_text: String::new(),
    };
    let mut tokens = Vec::new();
    engine.begin(0, &request).map_err(Failure::misconfigured)?;
    let began = Instant::now();
    let mut first = None;
    let mut out = std::io::stdout().lock();
    while engine.running() > 0 {
        let step = Instant::now();
        let events = engine.step();
        engine.took(step.elapsed());
        for event in events {
            match event {
                Event::Text { text, logprobs, .. } => {
                    tokens.extend(logprobs);
                    first.get_or_insert_with(|| began.elapsed());
                    write!(out, "{text}")
                        .and_then(|()| out.flush())
                        .map_err(Failure::at_run_time)?;
                }
                // There are no tools here.
                Event::ToolCalls { .. } => {}
                Event::Failed { message, .. } => return Err(Failure::AtRunTime(message)),
                Event::Done {
                    prompt_tokens,
                    completion_tokens,
                    ..
                } => {
                    writeln!(out).map_err(Failure::at_run_time)?;
                    tokens.iter().for_each(show_logprob);
                    let first = first.unwrap_or_default();
                    let decoding = began.elapsed().saturating_sub(first).as_secs_f64();
                    eprintln!(
                        "{prompt_tokens} tokens of prompt, the first word after {:.2} s; then {:.1} tokens/s; {} \
                         loaded in {:.1} s",
                        first.as_secs_f64(),
                        completion_tokens.saturating_sub(1) as f64 / decoding.max(1e-9),
                        engine.summary().precision,
                        loaded.as_secs_f64(),
                    );
                }
            }
        }
    }
    Ok(())
}

fn show_logprob(token: &TokenLogprob) {
    eprint!("{:?} {:.4}", token.token, token.logprob);
    for other in &token.top_logprobs {
        eprint!("  {:?} {:.4}", other.token, other.logprob);
    }
    eprintln!();
}
