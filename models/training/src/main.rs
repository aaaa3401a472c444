//! `train`: learns the embedded assistant anew, from the patterns in the repository and a seed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use models::assistant::actions::Action;
use models::assistant::asking::{Examined, How, examine};
use models::assistant::score::{Labelled, Scores, read};
use models::{Engine, EngineOptions, Precision};
use serde_json::json;
use training::data::{Language, Patterns, Sampler};
use training::learn::{Plan, Watcher, learn};

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
    #[arg(long, default_value_t = 8_000)]
    steps: usize,
    /// Sentences of a step
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// The highest rate
    #[arg(long, default_value_t = 4e-3)]
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
    /// Test sets on which it is scored at each checkpoint
    #[arg(long, value_name = "FILE", num_args = 0.., default_values = ["tests/assistant/en-dev.jsonl", "tests/assistant/zh-dev.jsonl"])]
    watch: Vec<PathBuf>,
    /// Only print so many sentences of each language, with what they mean
    #[arg(long)]
    sample: Option<usize>,
    /// Only put these test sets to the network, and print what it did not understand
    #[arg(long, value_name = "FILE")]
    score: Vec<PathBuf>,
    /// With --score: a file for every sentence with what was found and how sure the network was, JSON a line
    #[arg(long, value_name = "FILE", requires = "score")]
    judged: Option<PathBuf>,
}

/// Sentences that are asked together.
const AT_ONCE: usize = 16;

/// Confidences below which nothing might be done.
const THRESHOLDS: &[f32] = &[0.0, 0.5, 0.7, 0.8, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99];

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
    let mut watcher = Shown {
        sets: flags.watch.clone(),
    };
    let learnt = learn(&plan, &flags.patterns, &flags.directory, &flags.out, &mut watcher);
    match learnt {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that is told is shown, and the network scored as far as it has come.
struct Shown {
    sets: Vec<PathBuf>,
}

impl Watcher for Shown {
    fn hear(&mut self, line: &str) -> bool {
        println!("{line}");
        true
    }

    fn look(&mut self, network: &Path) -> Option<String> {
        let scored = self.sets.iter().map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            match put(network, path, &mut |_, _| {}) {
                Ok(scores) => format!("{name} {}", told(&scores)),
                Err(error) => error,
            }
        });
        let scored: Vec<String> = scored.collect();
        (!scored.is_empty()).then(|| scored.join("; "))
    }
}

/// Puts a test set to a network, which answers however unsure it is.
fn put(network: &Path, set: &Path, show: &mut dyn FnMut(&Labelled, &Examined)) -> Result<Scores, String> {
    let lines = std::fs::read_to_string(set).map_err(|error| format!("{}: {error}", set.display()))?;
    let set = read(&lines).map_err(|error| format!("{}: {error}", set.display()))?;
    let options = EngineOptions {
        max_sequences: AT_ONCE,
        precision: Some(Precision::Int8),
        ..EngineOptions::default()
    };
    let mut engine = Engine::load(network, options).map_err(|error| error.to_string())?;
    examine(&mut engine, &set, AT_ONCE, How::Frankly, show).map_err(|error| error.to_string())
}

fn told(scores: &Scores) -> String {
    let share = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
    format!(
        "intents {:.1} %, all {:.1} %, out of reach accepted {:.1} %",
        share(scores.intents_right, scores.commands),
        share(scores.all_right, scores.commands),
        share(scores.accepted, scores.out_of_reach),
    )
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
    let mut judged = flags.judged.as_ref().map(|_| String::new());
    let scored = flags.score.iter().try_for_each(|path| {
        // What each threshold of confidence would make of the answers.
        let mut at: Vec<(f32, Scores)> = THRESHOLDS
            .iter()
            .map(|least| (*least, Scores::default()))
            .collect();
        let mut show = |meant: &Labelled, examined: &Examined| {
            let found = examined.answer.as_ref();
            if let Some(judged) = &mut judged {
                let line = json!({"text": meant.text, "meant": meant.actions, "found": found.map(|found| &found.actions),
                    "confidence": examined.confidence});
                judged.push_str(&format!("{line}\n"));
            }
            for (least, scores) in &mut at {
                let actions = found.map(|found| match examined.confidence < *least {
                    true => vec![Action::unsupported()],
                    false => found.actions.clone(),
                });
                scores.count(meant, actions.as_deref());
            }
            if found.is_none_or(|found| found.actions != meant.actions) {
                let json = |actions| serde_json::to_string(actions).unwrap_or_default();
                let found = found.map_or_else(String::new, |found| json(&found.actions));
                println!(
                    "{}\n    meant {}\n    found {found}\n    confidence {:.3}",
                    meant.text,
                    json(&meant.actions),
                    examined.confidence
                );
            }
        };
        let scores = put(&flags.out, path, &mut show)?;
        if let (Some(judged), Some(file)) = (&judged, &flags.judged) {
            std::fs::write(file, judged).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        for (least, scores) in &at {
            println!("at least {least:.2}: {}", told(scores));
        }
        println!(
            "{}: {} commands, {} out of reach; {}; {} unreadable",
            path.display(),
            scores.commands,
            scores.out_of_reach,
            told(&scores),
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
