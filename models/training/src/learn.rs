//! Learning: batches, steps, checkpoints, and how it goes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::data::{Chance, Example, Language, PatternError, Patterns, Sampler};
use crate::export;
use crate::network::{Batch, Network, Sizes};
use crate::optimizers::{Optimizers, Slopes};
use crate::vocabulary::{Vocabulary, VocabularyError};

/// What is learnt, and how.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Plan {
    /// All chance comes from it.
    pub seed: u64,
    /// Steps in all.
    pub steps: usize,
    /// Sentences of a step.
    pub batch: usize,
    /// The highest rate; it rises to it over the first steps and falls to nothing over the last.
    pub rate: f64,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// The network's other sizes.
    pub hidden: usize,
    /// See [`Sizes`].
    pub layers: usize,
    /// See [`Sizes`].
    pub heads: usize,
    /// See [`Sizes`].
    pub feed_forward: usize,
    /// Steps between two checkpoints.
    pub keep_every: usize,
}

impl Plan {
    /// What of it cannot be, if something cannot.
    fn problem(&self) -> Option<&'static str> {
        let widths = [self.hidden, self.feed_forward];
        if self.batch == 0 || self.layers == 0 || self.heads == 0 {
            Some("batch, layers and heads are 1 at least")
        } else if widths
            .iter()
            .any(|width| *width == 0 || !width.is_multiple_of(32))
        {
            Some("hidden and feed-forward are multiples of 32: the file has blocks of 32 weights")
        } else if !self.hidden.is_multiple_of(2 * self.heads) {
            Some("hidden is a multiple of twice the heads: positions turn pairs of a head's numbers")
        } else if !self.rate.is_finite() || self.rate <= 0.0 {
            Some("rate is above 0")
        } else {
            None
        }
    }

    /// Whether after so many steps it is no other than this one: until the rate falls, all that have the same rise are.
    fn becomes(&self, other: &Self, step: usize) -> bool {
        let same = Self {
            steps: other.steps,
            ..self.clone()
        };
        same == *other && warm_up(self) == warm_up(other) && step <= falls_from(self).min(falls_from(other))
    }
}

/// Why nothing was learnt.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The patterns.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The vocabulary.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// A file.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A checkpoint.
    #[error("{path}: {problem}; remove it to begin anew", path = path.display())]
    Checkpoint {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A plan that cannot be.
    #[error("the plan cannot be carried out: {0}")]
    Plan(&'static str),
    /// The patterns have no sentence.
    #[error("the patterns of {0:?} have no sentence")]
    NoSentence(Language),
}

/// Sentences from which the vocabulary is learnt, of each language.
const FOR_THE_VOCABULARY: usize = 60_000;
/// Sentences of each language that are never learnt from, to see how it goes.
const HELD_OUT: usize = 400;
/// Steps over which the rate rises.
const WARM_UP: usize = 200;
/// Of the steps in all: the last ones, over which it falls.
const FALL_PERCENT: usize = 40;
/// Batches whose sentences are sorted by length together, so that little is filled up.
const BATCHES_TOGETHER: usize = 16;
/// Longer ones are left out: they are few, and cost the most.
const MAX_TOKENS: usize = 120;
/// Parts of a batch that are learnt from at once. No count of cores, so that every machine learns the same.
const PARTS: usize = 2;
/// Steps between two lines of progress.
const TOLD_EVERY: usize = 50;

/// Both languages' sentences.
struct Source<'p> {
    samplers: Vec<Sampler<'p>>,
    chance: Chance,
}

impl<'p> Source<'p> {
    fn new(patterns: &'p [(Language, Patterns)], seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let samplers = patterns
            .iter()
            .map(|(language, patterns)| Sampler::new(patterns, *language, chance.next_seed()))
            .collect();
        Self { samplers, chance }
    }

    fn next_example(&mut self) -> Option<Example> {
        let at = self.chance.below(self.samplers.len());
        self.samplers.get_mut(at)?.next_example()
    }
}

/// Where a run is kept.
struct Kept<'d>(&'d Path);

impl Kept<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// Appears as a whole or not at all.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), LearnError> {
        let (path, draft) = (self.path(name), self.path(&format!("{name}.part")));
        let written = fs::write(&draft, bytes).and_then(|()| fs::rename(&draft, &path));
        written.map_err(|source| LearnError::File { path, source })
    }
}

/// Who looks on. A closure that hears the lines is one.
pub trait Watcher {
    /// Hears how it goes, and says whether to go on.
    fn hear(&mut self, line: &str) -> bool;

    /// Looks at the network as far as it has come, at each checkpoint; what is said of it is heard.
    fn look(&mut self, _network: &Path) -> Option<String> {
        None
    }
}

impl<F: FnMut(&str) -> bool> Watcher for F {
    fn hear(&mut self, line: &str) -> bool {
        self(line)
    }
}

/// Learns according to plan and writes the network to `out`. In `directory` it keeps how far it has come, and goes on from there.
///
/// # Errors
/// The first thing that went wrong.
pub fn learn(
    plan: &Plan,
    patterns: &Path,
    directory: &Path,
    out: &Path,
    watcher: &mut dyn Watcher,
) -> Result<(), LearnError> {
    if let Some(problem) = plan.problem() {
        return Err(LearnError::Plan(problem));
    }
    let kept = Kept(directory);
    fs::create_dir_all(directory).map_err(|source| LearnError::File {
        path: directory.to_owned(),
        source,
    })?;
    let patterns = Language::ALL
        .into_iter()
        .map(|language| Ok((language, Patterns::read(&patterns.join(language.code()))?)))
        .collect::<Result<Vec<_>, LearnError>>()?;
    let written_plan = serde_json::to_string_pretty(plan).unwrap_or_default();
    if let Some(before) = kept.read("plan.json").filter(|before| *before != written_plan) {
        let step = kept.read("step.txt").and_then(|step| step.trim().parse().ok());
        let begun: Option<Plan> = serde_json::from_str(&before).ok();
        if !begun.is_some_and(|begun| begun.becomes(plan, step.unwrap_or(0))) {
            let problem = format!(
                "it was begun by another plan (only other steps will do, and those only before the rate falls): {before}"
            );
            return Err(LearnError::Checkpoint {
                path: directory.to_owned(),
                problem,
            });
        }
    }
    kept.write("plan.json", written_plan.as_bytes())?;
    let vocabulary = match kept.read("vocabulary.json") {
        Some(json) => Vocabulary::from_json(&json)?,
        None => {
            let _asked_again_soon = watcher.hear("learning the vocabulary");
            let mut source = Source::new(&patterns, plan.seed ^ 0x70CA);
            let examples: Vec<Example> = (0..2 * FOR_THE_VOCABULARY)
                .filter_map(|_| source.next_example())
                .collect();
            let vocabulary = Vocabulary::learn(&examples, plan.vocabulary)?;
            kept.write("vocabulary.json", vocabulary.to_json()?.as_bytes())?;
            vocabulary
        }
    };
    let sizes = Sizes {
        vocabulary: vocabulary.len().next_multiple_of(32),
        hidden: plan.hidden,
        layers: plan.layers,
        heads: plan.heads,
        feed_forward: plan.feed_forward,
    };
    let _asked_again_soon = watcher.hear(&format!(
        "{} tokens, {:.2} million weights",
        vocabulary.len(),
        sizes.parameters() as f64 / 1e6
    ));
    let mut run = Run::new(plan, sizes, kept)?;
    let held_out = held_out(&patterns, &vocabulary)?;
    let mut source = Source::new(&patterns, plan.seed);
    let mut waiting: Vec<Batch> = Vec::new();
    // What was learnt from before is drawn again, so that the same sentences follow.
    let mut drawn = 0;
    while drawn < run.step {
        waiting = batches(&mut source, &vocabulary, plan)?;
        drawn += waiting.len();
    }
    waiting.drain(..waiting.len().saturating_sub(drawn - run.step));
    waiting.reverse();
    let mut goes_on = true;
    while goes_on && run.step < plan.steps {
        if waiting.is_empty() {
            waiting = batches(&mut source, &vocabulary, plan)?;
            waiting.reverse();
        }
        let Some(batch) = waiting.pop() else { continue };
        run.learn_from(plan, &batch);
        if run.step.is_multiple_of(TOLD_EVERY) || run.step == plan.steps {
            goes_on = watcher.hear(&run.progress(plan));
        }
        if run.step.is_multiple_of(plan.keep_every.max(1)) || run.step == plan.steps {
            let loss = run.loss_of(&held_out);
            goes_on &= watcher.hear(&format!(
                "step {}: loss {loss:.4} on sentences that are not learnt from",
                run.step
            ));
            run.keep()?;
            write_network(&run, &vocabulary, out)?;
            if let Some(seen) = watcher.look(out) {
                goes_on &= watcher.hear(&format!("step {}: {seen}", run.step));
            }
        }
    }
    write_network(&run, &vocabulary, out)
}

fn write_network(run: &Run<'_>, vocabulary: &Vocabulary, out: &Path) -> Result<(), LearnError> {
    let failed = |source| LearnError::File {
        path: out.to_owned(),
        source,
    };
    let draft = out.with_extension("part");
    let file = File::create(&draft).map_err(failed)?;
    let mut writer = BufWriter::new(file);
    let written = vocabulary.written()?;
    export::write(&mut writer, &run.network, run.sizes, &written).map_err(failed)?;
    writer.flush().map_err(failed)?;
    fs::rename(&draft, out).map_err(failed)
}

/// Sentences as tokens.
fn encoded(
    source: &mut Source<'_>,
    vocabulary: &Vocabulary,
    count: usize,
) -> Result<Vec<(Vec<u32>, usize)>, LearnError> {
    let mut sentences = Vec::with_capacity(count);
    let mut tried = 0;
    while sentences.len() < count {
        tried += 1;
        if tried > 10 * count {
            return Err(LearnError::NoSentence(Language::English));
        }
        let Some(example) = source.next_example() else {
            continue;
        };
        let (tokens, before) = vocabulary.tokens(&example)?;
        if tokens.len() <= MAX_TOKENS {
            sentences.push((tokens, before));
        }
    }
    Ok(sentences)
}

fn batches(source: &mut Source<'_>, vocabulary: &Vocabulary, plan: &Plan) -> Result<Vec<Batch>, LearnError> {
    let mut sentences = encoded(source, vocabulary, plan.batch * BATCHES_TOGETHER)?;
    sentences.sort_by_key(|(tokens, _)| tokens.len());
    let mut batches: Vec<Batch> = sentences
        .chunks(plan.batch)
        .map(|sentences| batch_of(sentences, vocabulary.end()))
        .collect();
    // Not from the shortest to the longest.
    for at in (1..batches.len()).rev() {
        batches.swap(at, source.chance.below(at + 1));
    }
    Ok(batches)
}

fn batch_of(sentences: &[(Vec<u32>, usize)], filler: u32) -> Batch {
    let length = sentences
        .iter()
        .map(|(tokens, _)| tokens.len() - 1)
        .max()
        .unwrap_or(0);
    let (mut rows, mut places, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (tokens, before)) in sentences.iter().enumerate() {
        let mut row = tokens.get(..tokens.len() - 1).unwrap_or_default().to_vec();
        row.resize(length, filler);
        // The token before the answer foretells its first.
        for (place, next) in tokens.iter().enumerate().skip(*before) {
            places.push(number * length + place - 1);
            targets.push(*next);
        }
        rows.push(row);
    }
    Batch {
        tokens: rows,
        places,
        targets,
    }
}

fn held_out(patterns: &[(Language, Patterns)], vocabulary: &Vocabulary) -> Result<Vec<Batch>, LearnError> {
    let mut source = Source::new(patterns, 0x0DD5);
    let sentences = encoded(&mut source, vocabulary, 2 * HELD_OUT)?;
    Ok(sentences
        .chunks(100)
        .map(|some| batch_of(some, vocabulary.end()))
        .collect())
}

const UNREADABLE: &str = "it cannot be read";

struct Run<'d> {
    kept: Kept<'d>,
    device: Device,
    sizes: Sizes,
    network: Network,
    optimizers: Optimizers,
    step: usize,
    /// Of the steps since progress was told last.
    losses: Vec<f32>,
    sentences: usize,
    told_at: Instant,
    began_at: (Instant, usize),
}

impl<'d> Run<'d> {
    fn new(plan: &Plan, sizes: Sizes, kept: Kept<'d>) -> Result<Self, LearnError> {
        let device = Device::flex().autodiff();
        let mut network = Network::new(sizes, plan.seed, &device);
        let mut optimizers = Optimizers::new(sizes.layers);
        let mut step = 0;
        if let Some(number) = kept.read("step.txt") {
            let problem = |what: &str| LearnError::Checkpoint {
                path: kept.path(what),
                problem: UNREADABLE.to_owned(),
            };
            step = number.trim().parse().map_err(|_| problem("step.txt"))?;
            let weights = format!("network-{step}.bpk");
            network = network
                .try_load_file(kept.path(&weights))
                .map_err(|_| problem(&weights))?;
            optimizers = optimizers
                .load(kept.0, step)
                .map_err(|path| LearnError::Checkpoint {
                    path,
                    problem: UNREADABLE.to_owned(),
                })?;
        }
        Ok(Self {
            kept,
            device,
            sizes,
            network,
            optimizers,
            step,
            losses: Vec::new(),
            sentences: 0,
            told_at: Instant::now(),
            began_at: (Instant::now(), step),
        })
    }

    fn learn_from(&mut self, plan: &Plan, batch: &Batch) {
        let parts = batch.parts(PARTS);
        let targets = batch.targets.len().max(1) as f32;
        // Each part by a thread of its own, and added up in their order: the same bits whatever the machine has to do beside.
        let learnt: Vec<(f32, Slopes)> = thread::scope(|scope| {
            let threads: Vec<_> = parts
                .iter()
                .map(|part| {
                    // A fork has a graph of its own: a shared one is behind a lock.
                    let network = self.network.clone().fork(&self.device);
                    let (device, sizes) = (&self.device, self.sizes);
                    scope.spawn(move || {
                        let share = part.targets.len() as f32 / targets;
                        let loss = network.loss(sizes, part, device) * share;
                        let slopes = Slopes::of(&network, loss.backward());
                        (loss.into_scalar(), slopes)
                    })
                })
                .collect();
            let ended = threads.into_iter().map(|thread| {
                // Nothing but a fault of ours ends a thread: it ends this one, too.
                thread.join().unwrap_or_else(|fault| resume_unwind(fault))
            });
            ended.collect()
        });
        let (losses, slopes): (Vec<f32>, Vec<Slopes>) = learnt.into_iter().unzip();
        self.losses.push(losses.iter().sum());
        self.network = self
            .optimizers
            .step(rate(plan, self.step), self.network.clone(), slopes);
        self.step += 1;
        self.sentences += batch.tokens.len();
    }

    fn loss_of(&self, batches: &[Batch]) -> f32 {
        let network = self.network.valid();
        let device = Device::flex();
        let sum: f32 = batches
            .iter()
            .map(|batch| network.loss(self.sizes, batch, &device).into_scalar::<f32>())
            .sum();
        sum / batches.len().max(1) as f32
    }

    fn progress(&mut self, plan: &Plan) -> String {
        let loss = self.losses.iter().sum::<f32>() / self.losses.len().max(1) as f32;
        let per_s = self.sentences as f64 / self.told_at.elapsed().as_secs_f64();
        let (began, from) = self.began_at;
        let left_s = began.elapsed().as_secs_f64() / (self.step - from).max(1) as f64
            * (plan.steps - self.step) as f64;
        self.losses.clear();
        self.sentences = 0;
        self.told_at = Instant::now();
        format!(
            "step {} of {}: loss {loss:.4}, {per_s:.0} sentences/s, rate {:.2e}, {:.0} minutes left",
            self.step,
            plan.steps,
            rate(plan, self.step),
            left_s / 60.0
        )
    }

    /// What was kept before goes when the new is there.
    fn keep(&self) -> Result<(), LearnError> {
        let failed = |path: PathBuf| {
            move |error: burn::store::RecordError| LearnError::Checkpoint {
                path,
                problem: error.to_string(),
            }
        };
        let before = self.kept.read("step.txt");
        let weights = self.kept.path(&format!("network-{}.bpk", self.step));
        self.network
            .clone()
            .save_file(&weights)
            .map_err(failed(weights.clone()))?;
        self.optimizers
            .save(self.kept.0, self.step)
            .map_err(|(path, error)| failed(path)(error))?;
        self.kept.write("step.txt", self.step.to_string().as_bytes())?;
        let before = before.and_then(|before| before.trim().parse().ok());
        if let Some(before) = before.filter(|before| *before != self.step) {
            let weights = self.kept.path(&format!("network-{before}.bpk"));
            let momenta = Optimizers::paths(self.kept.0, before, self.sizes.layers);
            for path in momenta.chain([weights]) {
                // What cannot be removed only takes room.
                let _left = fs::remove_file(path);
            }
        }
        Ok(())
    }
}

/// Of a step: a rise, long the highest, and at last down to nothing (Hägele et al. 2024: no worse than a cosine, and how many steps
/// there are in all need not be known before the fall).
fn rate(plan: &Plan, step: usize) -> f64 {
    let warm_up = warm_up(plan);
    if step < warm_up {
        return plan.rate * (step + 1) as f64 / warm_up as f64;
    }
    let falls_from = falls_from(plan);
    let fallen = step.saturating_sub(falls_from) as f64 / (plan.steps - falls_from).max(1) as f64;
    plan.rate * (1.0 - fallen.min(1.0))
}

fn warm_up(plan: &Plan) -> usize {
    WARM_UP.min(plan.steps / 10).max(1)
}

/// The step at which the rate begins to fall.
fn falls_from(plan: &Plan) -> usize {
    plan.steps * (100 - FALL_PERCENT) / 100
}
