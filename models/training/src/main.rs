//! `train`: learns the embedded assistant anew, from the patterns in the repository and a seed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use models::assistant::actions::Answer;
use models::assistant::asking::examine;
use models::assistant::score::{Labelled, read};
use models::{Engine, EngineOptions};
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
    /// Steps between two checkpoints
    #[arg(long, default_value_t = 500)]
    keep_every: usize,
    /// Only print so many sentences of each language, with what they mean
    #[arg(long)]
    sample: Option<usize>,
    /// Only put these test sets to the network, and print what it did not understand
    #[arg(long, value_name = "FILE")]
    score: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(count) = flags.sample {
        return sample(&flags, count);
    }
    if !flags.score.is_empty() {
        return score(&flags);
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
        keep_every: flags.keep_every,
    };
    let learnt = learn(
        &plan,
        &flags.patterns,
        &flags.directory,
        &flags.out,
        &mut |line| {
            println!("{line}");
            true
        },
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

fn score(flags: &Flags) -> ExitCode {
    let scored = flags.score.iter().try_for_each(|path| {
        let lines = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let set = read(&lines)?;
        let options = EngineOptions {
            max_sequences: 16,
            ..EngineOptions::default()
        };
        let mut engine = Engine::load(&flags.out, options).map_err(|error| error.to_string())?;
        let mut show = |meant: &Labelled, found: Option<&Answer>| {
            if found.is_none_or(|found| found.actions != meant.actions) {
                let json = |actions| serde_json::to_string(actions).unwrap_or_default();
                let found = found.map_or_else(String::new, |found| json(&found.actions));
                println!(
                    "{}\n    meant {}\n    found {found}",
                    meant.text,
                    json(&meant.actions)
                );
            }
        };
        let scores = examine(&mut engine, &set, 16, &mut show).map_err(|error| error.to_string())?;
        let share = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
        println!(
            "{}: intents {:.1} %, all {:.1} % of {}; {:.1} % of {} out of reach accepted; {} unreadable",
            path.display(),
            share(scores.intents_right, scores.commands),
            share(scores.all_right, scores.commands),
            scores.commands,
            share(scores.accepted, scores.out_of_reach),
            scores.out_of_reach,
            scores.unreadable
        );
        Ok::<_, String>(())
    });
    match scored {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train: {error}");
            ExitCode::FAILURE
        }
    }
}
