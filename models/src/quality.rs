//! How much of its wits a model keeps at fewer bits: how well it foretells a fixed text, and how often its first choice
//! is the one that a better precision makes.
//!
//! The text is ours and never changes but with [`VERSION`]: a few passages of prose, of code and of Chinese. All of them are fed side
//! by side, a token each a step, so that the weights are read once for all of them; what runs beside a sequence changes
//! nothing of it.

use serde::{Deserialize, Serialize};

use crate::error::RequestError;
use crate::model::{Feed, KvCache, Model};
use crate::precision::Precision;

const TEXT: &str = include_str!("quality.txt");
/// Another one whenever the text changes, or how it is fed.
pub(crate) const VERSION: u32 = 1;
/// Between two passages.
const BORDER: &str = "\n%%\n";
/// Of a passage no more is fed, so that a model with few tokens is not asked for much more than one with many.
const MOST_TOKENS: usize = 256;

/// What one model at one precision made of the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// e to the mean of what each token surprised it: as if it had to choose among so many equally likely ones each time.
    pub perplexity: f64,
    /// Its first choice at each place.
    choices: Vec<u32>,
}

/// What is kept of one precision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// How many bits a weight had.
    pub precision: Precision,
    /// See [`Measured::perplexity`].
    pub perplexity: f64,
    /// The share of places where the first choice was the reference's, 0 to 1.
    pub agreement: f64,
}

/// How the precisions of a model compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QualityTable {
    /// What the others are compared with: the best that was measured.
    pub reference: Precision,
    /// Tokens that were foretold.
    pub tokens: usize,
    /// One for each precision that was measured, the best first.
    pub rows: Vec<Quality>,
}

impl Measured {
    /// Tokens that were foretold.
    pub fn tokens(&self) -> usize {
        self.choices.len()
    }

    /// The share of places where both made the same first choice; 0 for models that do not count alike.
    pub fn agreement(&self, with: &Measured) -> f64 {
        if self.choices.len() != with.choices.len() {
            return 0.0;
        }
        let same = self.choices.iter().zip(&with.choices);
        let same = same.filter(|(one, other)| one == other).count();
        same as f64 / self.choices.len().max(1) as f64
    }
}

/// Feeds the fixed text, and tells how many steps are done, and of how many.
///
/// # Errors
/// A [`RequestError`] where the model's tokenizer cannot split the text.
pub fn measure(model: &Model, progress: &mut dyn FnMut(usize, usize)) -> Result<Measured, RequestError> {
    let most = model.summary().context_length.min(MOST_TOKENS);
    let mut passages = Vec::new();
    for passage in TEXT.split(BORDER) {
        let mut tokens = model.tokenizer().encode_prompt(passage.trim_end())?;
        tokens.truncate(most);
        model.check_tokens(&tokens)?;
        passages.push((tokens, model.new_cache(most), Sum::default()));
    }
    let longest = passages
        .iter()
        .map(|(tokens, ..)| tokens.len())
        .max()
        .unwrap_or(0);
    let steps = longest.saturating_sub(1);
    for at in 0..steps {
        let (mut feeds, mut expected): (Vec<Feed<'_>>, Vec<(u32, &mut Sum)>) = (Vec::new(), Vec::new());
        for (tokens, cache, sum) in &mut passages {
            if let Some(&[_, next]) = tokens.get(at..at + 2) {
                feeds.push(fed(cache, &tokens[at..=at]));
                expected.push((next, sum));
            }
        }
        for (logits, (next, sum)) in model.step(&mut feeds).into_iter().zip(expected) {
            sum.add(&logits?.unwrap_or_default(), next);
        }
        progress(at + 1, steps);
    }
    let surprise: f64 = passages.iter().map(|(.., sum)| sum.surprise).sum();
    let choices: Vec<u32> = passages.into_iter().flat_map(|(.., sum)| sum.choices).collect();
    Ok(Measured {
        perplexity: (surprise / choices.len().max(1) as f64).exp(),
        choices,
    })
}

fn fed<'f>(cache: &'f mut KvCache, tokens: &'f [u32]) -> Feed<'f> {
    Feed {
        cache,
        tokens,
        wants_logits: true,
    }
}

/// What came of one passage so far.
#[derive(Default)]
struct Sum {
    surprise: f64,
    choices: Vec<u32>,
}

impl Sum {
    fn add(&mut self, logits: &[f32], next: u32) {
        let first = |best: (u32, f32), (token, &logit): (usize, &f32)| {
            if logit > best.1 {
                (token as u32, logit)
            } else {
                best
            }
        };
        let (choice, highest) = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), first);
        let total: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
        let own = logits
            .get(next as usize)
            .map_or(f64::NEG_INFINITY, |own| f64::from(own - highest));
        self.surprise += total.ln() - own;
        self.choices.push(choice);
    }
}

impl QualityTable {
    /// What was measured, the best precision first; none where nothing was.
    pub fn of(measured: &[(Precision, Measured)]) -> Option<QualityTable> {
        let (reference, best) = measured.iter().min_by_key(|(precision, _)| *precision)?;
        let mut rows: Vec<Quality> = measured
            .iter()
            .map(|(precision, measured)| Quality {
                precision: *precision,
                perplexity: measured.perplexity,
                agreement: measured.agreement(best),
            })
            .collect();
        rows.sort_by_key(|row| row.precision);
        Some(QualityTable {
            reference: *reference,
            tokens: best.tokens(),
            rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_is_that_of_the_tokens_that_came_and_the_first_choice_the_likeliest() {
        let mut sum = Sum::default();
        // Two equally likely ones, then a sure one.
        sum.add(&[5.0, 5.0, f32::NEG_INFINITY], 1);
        sum.add(&[-100.0, 300.0, 0.0], 1);
        assert!((sum.surprise - 2_f64.ln()).abs() < 1e-9, "{}", sum.surprise);
        assert_eq!(sum.choices, [0, 1]);
    }

    #[test]
    fn agreement_is_the_share_of_the_same_choices() {
        let made = |choices: &[u32]| Measured {
            perplexity: 1.0,
            choices: choices.to_vec(),
        };
        assert_eq!(made(&[1, 2, 3, 4]).agreement(&made(&[1, 2, 0, 4])), 0.75);
        assert_eq!(made(&[1, 2]).agreement(&made(&[1])), 0.0);
        let table = QualityTable::of(&[
            (Precision::Int4, made(&[1, 2, 3, 3])),
            (Precision::F16, made(&[1, 2, 3, 4])),
        ]);
        let table = table.expect("two were measured");
        assert_eq!(table.reference, Precision::F16);
        assert_eq!(table.rows[0].precision, Precision::F16);
        assert_eq!([table.rows[0].agreement, table.rows[1].agreement], [1.0, 0.75]);
        assert_eq!(QualityTable::of(&[]), None);
    }

    #[test]
    fn the_text_has_passages_of_a_length_that_counts() {
        let passages: Vec<&str> = TEXT.split(BORDER).collect();
        assert_eq!(passages.len(), 9);
        assert!(passages.iter().all(|passage| passage.len() > 300));
    }
}
