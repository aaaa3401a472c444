//! `clawdbot bench`: what this machine makes of a model, and what its memory would allow.

use std::time::{Duration, Instant};

use clap::Args;
use models::{KvCache, LoadOptions, MemoryReader, Model, Precision};

use super::generate::{Chosen, ModelFlags, complain, show_packing};
use super::{Failure, GlobalFlags, say};

/// What the design asks for, in tokens a second.
const WANTED: f64 = 20.0;

/// Read to measure the memory: more than any cache holds.
const MEMORY_BYTES: usize = 512 << 20;
const READS: usize = 5;

#[derive(Debug, Args)]
pub(super) struct BenchFlags {
    #[command(flatten)]
    model: ModelFlags,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens that are decoded behind it
    #[arg(long, default_value_t = 64)]
    tokens: usize,
}

pub(super) fn run(global: &GlobalFlags, flags: BenchFlags) -> Result<(), Failure> {
    let Chosen {
        path,
        threads,
        packed_directory,
        ..
    } = flags.model.chosen(global)?;
    let summary = models::inspect(&path).map_err(Failure::misconfigured)?;
    let memory = bandwidth(threads)?;
    say(format!(
        "{}: {}, {:.2} billion parameters, {}; {threads} threads; memory is read at {:.1} GB/s",
        summary.name,
        summary.architecture,
        summary.parameters as f64 / 1e9,
        summary.format,
        memory / 1e9,
    ))?;
    let packed = [Precision::F16, Precision::Int8, Precision::Int4];
    let asked = flags.model.precision;
    let precisions = asked.as_ref().map_or(&packed[..], std::slice::from_ref);
    say(
        "precision  weights MiB  load s  prefill tokens/s  decode tokens/s  weights read GB/s  of the memory's",
    )?;
    let mut verdicts = Vec::new();
    for precision in precisions {
        let began = Instant::now();
        let options = LoadOptions {
            precision: Some(*precision),
            threads: Some(threads),
            packed_directory: Some(&packed_directory),
        };
        let model = Model::load_with(&path, options, &mut show_packing).map_err(Failure::misconfigured)?;
        complain(&model);
        let loaded = began.elapsed();
        let context = summary.context_length;
        let prompt = flags.prompt_tokens.clamp(1, context.saturating_sub(1).max(1));
        let tokens = flags.tokens.clamp(1, context.saturating_sub(prompt).max(1));
        let [prefill, decode] = paces(&model, prompt, tokens)?;
        let bytes = model.packed_bytes();
        let reached = bytes.map(|bytes| bytes as f64 * decode);
        say(format!(
            "{:<9}  {:>11}  {:>6.1}  {prefill:>16.1}  {decode:>15.1}  {:>17}  {:>15}",
            precision.name(),
            bytes.map_or("-".to_owned(), |bytes| (bytes >> 20).to_string()),
            loaded.as_secs_f64(),
            reached.map_or("-".to_owned(), |reached| format!("{:.1}", reached / 1e9)),
            reached.map_or("-".to_owned(), |reached| format!(
                "{:.0} %",
                reached / memory * 100.0
            )),
        ))?;
        verdicts.push(verdict(*precision, decode, bytes, memory));
    }
    verdicts.into_iter().try_for_each(say)
}

/// Whether it is fast enough, and if not, whether this machine could be.
fn verdict(precision: Precision, decode: f64, bytes: Option<usize>, memory: f64) -> String {
    if decode >= WANTED {
        return format!("{precision}: reaches {WANTED:.0} tokens/s");
    }
    let reason = bytes.map(|bytes| {
        let needed = bytes as f64 * WANTED;
        if needed > memory {
            format!(
                "reading the weights so often needs {:.0} GB/s, and this memory gives {:.0}; take fewer bits or a smaller \
                 model",
                needed / 1e9,
                memory / 1e9
            )
        } else {
            "the memory would allow it; more threads, or a machine with nothing else to do, may".to_owned()
        }
    });
    let reason =
        reason.unwrap_or_else(|| "the reference is exact, not fast; take f16 or fewer bits".to_owned());
    format!("{precision}: does not reach {WANTED:.0} tokens/s: {reason}")
}

/// Tokens a second, of a prompt and one after the other behind it.
fn paces(model: &Model, prompt: usize, tokens: usize) -> Result<[f64; 2], Failure> {
    let vocabulary = model.summary().vocabulary_size as u32;
    let token = |index: usize| (index as u32).wrapping_mul(2_654_435_761) % vocabulary.max(1);
    let mut cache = model.new_cache(prompt + tokens);
    let ids: Vec<u32> = (0..prompt).map(token).collect();
    let feed = |cache: &mut KvCache, ids: &[u32]| -> Result<Duration, Failure> {
        let began = Instant::now();
        model.forward(cache, ids).map_err(Failure::at_run_time)?;
        Ok(began.elapsed())
    };
    // What is used for the first time is slow.
    feed(&mut model.new_cache(1), &[token(0)])?;
    let mut prefill = Duration::ZERO;
    for ids in ids.chunks(64) {
        prefill += feed(&mut cache, ids)?;
    }
    let mut decode = Duration::ZERO;
    for index in 0..tokens {
        decode += feed(&mut cache, &[token(prompt + index)])?;
    }
    let pace = |count: usize, time: Duration| count as f64 / time.as_secs_f64().max(1e-9);
    Ok([pace(prompt, prefill), pace(tokens, decode)])
}

/// Bytes a second, the best of some readings.
fn bandwidth(threads: usize) -> Result<f64, Failure> {
    let mut reader = MemoryReader::new(threads, MEMORY_BYTES).map_err(Failure::at_run_time)?;
    let mut best = Duration::MAX;
    for _ in 0..READS {
        let began = Instant::now();
        std::hint::black_box(reader.read());
        best = best.min(began.elapsed());
    }
    Ok(reader.bytes() as f64 / best.as_secs_f64())
}
