//! `clawdbot eval`: how well a model understands commands, on sentences with what people wrote that they mean.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use models::assistant::asking::{Examined, How, examine};
use models::assistant::score::{Labelled, Scores, read};
use serde_json::json;

use super::bar::{Bar, Unit};
use super::generate::ModelFlags;
use super::{Failure, GlobalFlags, say};

#[derive(Debug, Args)]
pub(super) struct EvalFlags {
    #[command(flatten)]
    model: ModelFlags,
    /// Test sets: a JSON object a line, {"text": …, "actions": [{"intent": …, "slots": {…}}, …]} [default: those of Clawdbot's
    /// repository, in which this is to be started]
    #[arg(value_name = "FILE")]
    sets: Vec<PathBuf>,
    /// Sentences that are asked at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    at_once: u16,
    /// Confusions that are shown of each set
    #[arg(long, default_value_t = 20)]
    confusions: usize,
    /// Each sentence that was not understood, with what was meant and what was found
    #[arg(long)]
    wrong: bool,
    /// A JSON object for each set instead of tables
    #[arg(long)]
    json: bool,
}

const OWN_SETS: [&str; 2] = ["tests/assistant/en.jsonl", "tests/assistant/zh.jsonl"];

pub(super) fn run(global: &GlobalFlags, flags: EvalFlags) -> Result<(), Failure> {
    let sets = if flags.sets.is_empty() {
        OWN_SETS.map(PathBuf::from).to_vec()
    } else {
        flags.sets.clone()
    };
    let sets: Vec<(PathBuf, Vec<Labelled>)> = sets
        .into_iter()
        .map(|path| Ok((path.clone(), set(&path, flags.sets.is_empty())?)))
        .collect::<Result<_, Failure>>()?;
    let chosen = flags.model.chosen(global)?;
    let began = Instant::now();
    let mut engine = chosen.engine(usize::from(flags.at_once))?;
    let loaded = began.elapsed();
    // Any other model is asked for the same form.
    let how = if engine.summary().assistant {
        How::AsAnybody
    } else {
        How::Forced
    };
    if !flags.json {
        let summary = engine.summary();
        say(format!(
            "{} at {}, loaded in {} ms",
            summary.name,
            summary.precision,
            loaded.as_millis()
        ))?;
    }
    for (path, set) in &sets {
        let mut bar = Bar::new(path.display().to_string(), Unit::Parts);
        let mut asked = 0;
        let mut wrong = Vec::new();
        let began = Instant::now();
        let scores = examine(
            &mut engine,
            set,
            usize::from(flags.at_once),
            how,
            &mut |meant, examined| {
                asked += 1;
                bar.show(asked, set.len() as u64);
                if flags.wrong {
                    wrong.extend(difference(meant, examined));
                }
            },
        )
        .map_err(Failure::at_run_time)?;
        let took = began.elapsed();
        drop(bar);
        tell(path, &scores, took, &wrong, &flags)?;
    }
    Ok(())
}

fn set(path: &Path, is_own: bool) -> Result<Vec<Labelled>, Failure> {
    let lines = fs::read_to_string(path).map_err(|error| {
        let hint = match is_own {
            true => "; start this in Clawdbot's repository, or name test sets",
            false => "",
        };
        Failure::Misconfigured(format!("{}: {error}{hint}", path.display()))
    })?;
    let set = read(&lines).map_err(|error| Failure::Misconfigured(format!("{}: {error}", path.display())))?;
    match set.is_empty() {
        true => Err(Failure::Misconfigured(format!(
            "{} has no sentence",
            path.display()
        ))),
        false => Ok(set),
    }
}

/// In words, where they differ.
fn difference(meant: &Labelled, examined: &Examined) -> Option<String> {
    let found = examined.answer.as_ref().map(|answer| &answer.actions);
    let written = |actions| serde_json::to_string(actions).unwrap_or_default();
    (found != Some(&meant.actions)).then(|| {
        format!(
            "{}\n    meant {}\n    found {}",
            meant.text,
            written(&meant.actions),
            found.map_or_else(|| "nothing that can be read".to_owned(), written)
        )
    })
}

fn tell(
    path: &Path,
    scores: &Scores,
    took: Duration,
    wrong: &[String],
    flags: &EvalFlags,
) -> Result<(), Failure> {
    let sentences = scores.commands + scores.out_of_reach;
    let each_ms = took.as_secs_f64() * 1e3 / sentences.max(1) as f64;
    if flags.json {
        let told = json!({"set": path, "sentences": sentences, "at_once": flags.at_once, "ms_a_sentence": each_ms, "scores": scores});
        return say(told.to_string());
    }
    for one in wrong {
        say(one.clone())?;
    }
    let share = |part: usize, of: usize| {
        format!(
            "{:5.1} %  ({part} of {of})",
            100.0 * part as f64 / of.max(1) as f64
        )
    };
    say(format!("\n{}", path.display()))?;
    say(format!(
        "  intents right              {}",
        share(scores.intents_right, scores.commands)
    ))?;
    say(format!(
        "  and all slots right        {}",
        share(scores.all_right, scores.commands)
    ))?;
    say(format!(
        "  out of reach, yet accepted {}",
        share(scores.accepted, scores.out_of_reach)
    ))?;
    if scores.unreadable > 0 {
        say(format!("  answers that are none      {}", scores.unreadable))?;
    }
    say(format!(
        "  a sentence takes           {each_ms:5.1} ms, {} at once",
        flags.at_once
    ))?;
    let worst = scores.worst(flags.confusions);
    if !worst.is_empty() {
        say("  confused: times, meant -> understood".to_owned())?;
    }
    for (meant, found, times) in worst {
        say(format!("  {times:5}  {meant} -> {found}"))?;
    }
    Ok(())
}
