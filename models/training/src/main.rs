//! `train`: learns the embedded assistant anew, from the patterns in the repository and a seed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use training::data::{Language, Patterns, Sampler};
use training::learn::{Plan, learn};

/// Learn the embedded assistant from the patterns in models/embedded/patterns, on all cores; Ctrl-C ends it, and it goes on from
/// its last checkpoint
#[derive(Debug, Parser)]
struct Flags {
    /// Directory with the patterns of each language
    #[arg(long, default_value = "models/embedded/patterns")]
    patterns: PathBuf,
    /// The network, as soon as there is one
    #[arg(long, default_value = "models/embedded/assistant.gguf")]
    out: PathBuf,
    /// Where checkpoints are kept
    #[arg(long, default_value = "target/training")]
    directory: PathBuf,
    /// All chance comes from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps in all
    #[arg(long, default_value_t = 12_000)]
    steps: usize,
    /// Sentences of a step
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// The highest rate
    #[arg(long, default_value_t = 2e-3)]
    rate: f64,
    /// Tokens of the vocabulary
    #[arg(long, default_value_t = 4096)]
    vocabulary: usize,
    /// Numbers of a token's state
    #[arg(long, default_value_t = 256)]
    hidden: usize,
    /// Layers
    #[arg(long, default_value_t = 6)]
    layers: usize,
    /// Heads of attention
    #[arg(long, default_value_t = 8)]
    heads: usize,
    /// Numbers between the two halves of a layer's second part
    #[arg(long, default_value_t = 768)]
    feed_forward: usize,
    /// Only print so many sentences of each language, with what they mean
    #[arg(long)]
    sample: Option<usize>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(count) = flags.sample {
        return sample(&flags, count);
    }
    let plan = Plan {
        seed: flags.seed,
        steps: flags.steps,
        batch: flags.batch,
        rate: flags.rate,
        vocabulary: flags.vocabulary,
        hidden: flags.hidden,
        layers: flags.layers,
        heads: flags.heads,
        feed_forward: flags.feed_forward,
    };
    let learnt = learn(
        &plan,
        &flags.patterns,
        &flags.directory,
        &flags.out,
        &mut |line| println!("{line}"),
    );
    match learnt {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train: {error}");
            ExitCode::FAILURE
        }
    }
}

fn sample(flags: &Flags, count: usize) -> ExitCode {
    for language in Language::ALL {
        let patterns = match Patterns::read(&flags.patterns.join(language.code())) {
            Ok(patterns) => patterns,
            Err(error) => {
                eprintln!("train: {error}");
                return ExitCode::FAILURE;
            }
        };
        let mut sampler = Sampler::new(&patterns, language, flags.seed);
        for example in (0..count).filter_map(|_| sampler.next_example()) {
            let actions = serde_json::to_string(&example.actions).unwrap_or_default();
            println!("{}\n    {actions}\n    {}", example.text, example.say);
        }
    }
    ExitCode::SUCCESS
}
