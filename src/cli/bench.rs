//! `clawdbot bench`: what this machine makes of a model, and what its memory would allow.

use std::time::{Duration, Instant};

use clap::Args;
use models::{Engine, Feed, KvCache, KvPrecision, LoadOptions, MemoryReader, Model, Precision};

use super::generate::{Chosen, ModelFlags, complain, show_packing};
use super::{Failure, GlobalFlags, say};

/// What the design asks for, in tokens a second.
const WANTED: f64 = 20.0;

/// Read to measure the memory: more than any cache holds.
const MEMORY_BYTES: usize = 512 << 20;
const READS: usize = 5;
/// Tokens that each of several sequences has seen before it is decoded.
const BATCH_PROMPT: usize = 16;

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
    /// Sequences that are decoded together
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// A JSON object for each precision instead of a table
    #[arg(long)]
    json: bool,
}

/// What was found of one precision.
struct Found {
    precision: Precision,
    /// Packed weights, where there are some.
    bytes: Option<usize>,
    load: Duration,
    /// Tokens a second: of a prompt, one after the other, and of a batch in all.
    prefill: f64,
    decode: f64,
    batch: f64,
    /// Bytes that a second of decoding reads.
    reached: Option<f64>,
    /// What the process has in memory, the caches among it, and what those are.
    resident: Option<u64>,
    caches: usize,
}

pub(super) fn run(global: &GlobalFlags, flags: BenchFlags) -> Result<(), Failure> {
    let Chosen {
        path,
        kv_precision,
        threads,
        packed_directory,
        ..
    } = flags.model.chosen(global)?;
    let summary = models::inspect(&path).map_err(Failure::misconfigured)?;
    let memory = bandwidth(threads)?;
    if !flags.json {
        say(format!(
            "{}: {}, {:.2} billion parameters, {}; {threads} threads; memory is read at {:.1} GB/s",
            summary.name,
            summary.architecture,
            summary.parameters as f64 / 1e9,
            summary.format,
            memory / 1e9,
        ))?;
        say(format!(
            "precision  weights MiB  resident MiB  load s  prefill tokens/s  decode tokens/s  {} at once tokens/s  \
             weights read GB/s  of the memory's",
            flags.batch
        ))?;
    }
    let packed = [Precision::F16, Precision::Int8, Precision::Int4];
    let asked = flags.model.precision;
    let precisions = asked.as_ref().map_or(&packed[..], std::slice::from_ref);
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
        let load = began.elapsed();
        let found = measure(&model, kv_precision, &flags, load)?;
        say(if flags.json {
            found.json(memory, model.computed_by(), threads)
        } else {
            found.row(memory)
        })?;
        verdicts.push(verdict(*precision, found.decode, found.bytes, memory));
    }
    if flags.json {
        return Ok(());
    }
    verdicts.into_iter().try_for_each(say)
}

impl Found {
    fn row(&self, memory: f64) -> String {
        let mebibytes = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| (bytes >> 20).to_string());
        format!(
            "{:<9}  {:>11}  {:>12}  {:>6.1}  {:>16.1}  {:>15.1}  {:>18.1}  {:>17}  {:>15}",
            self.precision.name(),
            mebibytes(self.bytes.map(|bytes| bytes as u64)),
            mebibytes(self.resident),
            self.load.as_secs_f64(),
            self.prefill,
            self.decode,
            self.batch,
            self.reached
                .map_or("-".to_owned(), |reached| format!("{:.1}", reached / 1e9)),
            self.reached.map_or("-".to_owned(), |reached| format!(
                "{:.0} %",
                reached / memory * 100.0
            )),
        )
    }

    fn json(&self, memory: f64, computed_by: &str, threads: usize) -> String {
        serde_json::json!({
            "precision": self.precision,
            "computed_by": computed_by,
            "threads": threads,
            "weights_bytes": self.bytes,
            "resident_bytes": self.resident,
            "cache_bytes": self.caches,
            "load_s": self.load.as_secs_f64(),
            "prefill_tokens_per_s": self.prefill,
            "decode_tokens_per_s": self.decode,
            "batch_tokens_per_s": self.batch,
            "weights_read_bytes_per_s": self.reached,
            "memory_bytes_per_s": memory,
        })
        .to_string()
    }
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

fn measure(model: &Model, kv: KvPrecision, flags: &BenchFlags, load: Duration) -> Result<Found, Failure> {
    let context = model.summary().context_length;
    let prompt = flags.prompt_tokens.clamp(1, context.saturating_sub(1).max(1));
    let tokens = flags.tokens.clamp(1, context.saturating_sub(prompt).max(1));
    let vocabulary = model.summary().vocabulary_size as u32;
    let token = |index: usize| (index as u32).wrapping_mul(2_654_435_761) % vocabulary.max(1);
    let feed = |cache: &mut KvCache, ids: &[u32]| -> Result<Duration, Failure> {
        let began = Instant::now();
        model.forward(cache, ids).map_err(Failure::at_run_time)?;
        Ok(began.elapsed())
    };
    // What is used for the first time is slow.
    feed(&mut model.new_cache(1), &[token(0)])?;
    let mut cache = model.new_cache_at(prompt + tokens, kv);
    let ids: Vec<u32> = (0..prompt).map(token).collect();
    let mut prefill = Duration::ZERO;
    for ids in ids.chunks(Engine::PREFILL_TOKENS) {
        prefill += feed(&mut cache, ids)?;
    }
    let mut decode = Duration::ZERO;
    for index in 0..tokens {
        decode += feed(&mut cache, &[token(prompt + index)])?;
    }

    let behind = BATCH_PROMPT.min(context.saturating_sub(tokens).max(1));
    let mut caches = Vec::new();
    for index in 0..flags.batch.clamp(1, 256) {
        let mut cache = model.new_cache_at(behind + tokens, kv);
        let ids: Vec<u32> = (0..behind).map(|n| token(index * 1000 + n)).collect();
        feed(&mut cache, &ids)?;
        caches.push(cache);
    }
    let tokens_each = tokens.min(context.saturating_sub(behind)).max(1);
    let began = Instant::now();
    for step in 0..tokens_each {
        let ids = [token(step)];
        let each = caches.iter_mut().map(|cache| Feed {
            cache,
            tokens: &ids,
            wants_logits: true,
        });
        for outcome in model.step(&mut each.collect::<Vec<_>>()) {
            outcome.map_err(Failure::at_run_time)?;
        }
    }
    let batch = began.elapsed();

    let pace = |count: usize, time: Duration| count as f64 / time.as_secs_f64().max(1e-9);
    let decode = pace(tokens, decode);
    let bytes = model.packed_bytes();
    Ok(Found {
        precision: model.precision(),
        bytes,
        load,
        prefill: pace(prompt, prefill),
        decode,
        batch: pace(tokens_each * caches.len(), batch),
        reached: bytes.map(|bytes| bytes as f64 * decode),
        resident: platform::memory::resident_bytes().ok(),
        caches: cache.bytes() + caches.iter().map(KvCache::bytes).sum::<usize>(),
    })
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
