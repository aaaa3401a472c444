//! From logits to one token.

use crate::request::Sampling;

/// Chooses the tokens of one sequence; deterministic for a seed.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
    /// The last tokens, oldest first, as many as the repetition window wants.
    recent: Vec<u32>,
    /// Tokens with their values, kept between calls to keep the allocation.
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler for checked options; `fallback_seed` is used where they name none.
    pub fn new(sampling: &Sampling, fallback_seed: u64) -> Self {
        Self {
            random: SplitMix64(sampling.seed.unwrap_or(fallback_seed)),
            sampling: sampling.clone(),
            recent: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Makes a token count for the repetition penalty: the prompt's, then each one chosen.
    pub fn observe(&mut self, token: u32) {
        let window = self.sampling.repetition_window;
        if self.sampling.repetition_penalty == 1.0 || window == 0 {
            return;
        }
        if self.recent.len() >= window {
            self.recent.drain(..=self.recent.len() - window);
        }
        self.recent.push(token);
    }

    /// Goes on behind a token that was chosen before, as if it had been chosen here: it counts for the penalty, and what
    /// was drawn for it is drawn.
    pub fn repeat(&mut self, token: u32) {
        if self.sampling.temperature != 0.0 {
            self.random.next();
        }
        self.observe(token);
    }

    /// The next token's id, or `None` if no logit is a number (broken weights, an overflow). Among equals the lowest
    /// id wins, so that the result depends on nothing but the values.
    pub fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        self.sample_among(logits, |_| true)
    }

    /// The same, but only among the tokens that are allowed; all else is done as if there were no others.
    pub fn sample_among(&mut self, logits: &[f32], is_allowed: impl Fn(u32) -> bool) -> Option<u32> {
        self.candidates.clear();
        self.candidates.extend(
            (0u32..)
                .zip(logits.iter().copied())
                .filter(|(token, logit)| !logit.is_nan() && *logit > f32::NEG_INFINITY && is_allowed(*token)),
        );
        self.penalise();
        let by_value = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let best = *self.candidates.iter().min_by(|a, b| by_value(a, b))?;
        if !best.1.is_finite() {
            return None;
        }
        if self.sampling.temperature == 0.0 {
            return Some(best.0);
        }

        let kept = match self.sampling.top_k {
            0 => self.candidates.len(),
            top_k => top_k.min(self.candidates.len()),
        };
        if kept < self.candidates.len() {
            self.candidates.select_nth_unstable_by(kept - 1, by_value);
            self.candidates.truncate(kept);
        }
        self.candidates.sort_unstable_by(by_value);
        // From here on the values are probabilities, not yet divided by their sum.
        for (_, value) in &mut self.candidates {
            *value = ((*value - best.1) / self.sampling.temperature).exp();
        }
        self.keep_top_p();
        let least = self.sampling.min_p;
        let kept = self
            .candidates
            .partition_point(|(_, probability)| *probability >= least);
        self.candidates.truncate(kept.max(1));
        Some(self.draw(best.0))
    }

    /// Divides or multiplies each recent token's logit once, however often it occurred (Keskar et al. 2019, CTRL).
    fn penalise(&mut self) {
        let penalty = self.sampling.repetition_penalty;
        if self.recent.is_empty() {
            return;
        }
        let mut recent = self.recent.clone();
        recent.sort_unstable();
        for (token, logit) in &mut self.candidates {
            if recent.binary_search(token).is_ok() {
                *logit = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
        }
    }

    fn keep_top_p(&mut self) {
        if self.sampling.top_p >= 1.0 {
            return;
        }
        let total: f32 = self.candidates.iter().map(|(_, probability)| probability).sum();
        let wanted = self.sampling.top_p * total;
        let mut reached = 0.0;
        let enough = self.candidates.iter().position(|(_, probability)| {
            reached += probability;
            reached >= wanted
        });
        if let Some(last) = enough {
            self.candidates.truncate(last + 1);
        }
    }

    fn draw(&mut self, otherwise: u32) -> u32 {
        let total: f64 = self
            .candidates
            .iter()
            .map(|(_, probability)| f64::from(*probability))
            .sum();
        let mut left = self.random.next_unit() * total;
        for &(token, probability) in &self.candidates {
            left -= f64::from(probability);
            if left < 0.0 {
                return token;
            }
        }
        otherwise
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): one addition and three mixes a number, any seed is a good one, and the
/// sequence is the same on every machine.
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in [0, 1), 53 random bits.
    fn next_unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..Sampling::default()
        }
    }

    fn frequencies(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling, 1);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.sample(logits).unwrap() as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn splitmix64_gives_its_published_numbers() {
        let mut random = SplitMix64(1_234_567);
        assert_eq!(
            [random.next(), random.next()],
            [6457827717110365317, 3203168211198807973]
        );
    }

    #[test]
    fn temperature_one_draws_by_the_softmax() {
        let found = frequencies(&sampling(), &[0.0, 1.0, 2.0, f32::NEG_INFINITY]);
        for (found, expected) in found.iter().zip([0.0900, 0.2447, 0.6652, 0.0]) {
            assert!((found - expected).abs() < 0.015, "{found} {expected}");
        }
    }

    #[test]
    fn each_filter_removes_the_unlikely() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        let kept = |sampling: &Sampling| {
            frequencies(sampling, &logits)
                .iter()
                .map(|&frequency| frequency > 0.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            kept(&Sampling {
                top_k: 2,
                ..sampling()
            }),
            [false, false, true, true]
        );
        assert_eq!(
            kept(&Sampling {
                top_p: 0.7,
                ..sampling()
            }),
            [false, false, true, true]
        );
        assert_eq!(
            kept(&Sampling {
                top_p: 0.6,
                ..sampling()
            }),
            [false, false, false, true]
        );
        assert_eq!(
            kept(&Sampling {
                min_p: 0.1,
                ..sampling()
            }),
            [false, true, true, true]
        );
    }

    #[test]
    fn the_penalty_looks_only_at_its_window() {
        let sampling = Sampling {
            repetition_penalty: 2.0,
            repetition_window: 2,
            ..Sampling::greedy()
        };
        let mut sampler = Sampler::new(&sampling, 0);
        let logits = [3.0, 2.9, 2.8, -1.0];
        let chosen: Vec<u32> = (0..4)
            .map(|_| {
                let token = sampler.sample(&logits).unwrap();
                sampler.observe(token);
                token
            })
            .collect();
        assert_eq!(chosen, [0, 1, 2, 0]);
    }

    #[test]
    fn only_what_is_allowed_is_drawn_and_the_rest_shares_its_probability() {
        let logits = [0.0, 5.0, 2.0, 1.0];
        let mut sampler = Sampler::new(&sampling(), 1);
        let mut counts = [0.0_f64; 4];
        for _ in 0..20_000 {
            let token = sampler.sample_among(&logits, |token| token != 1);
            counts[token.unwrap() as usize] += 1.0 / 20_000.0;
        }
        for (found, expected) in counts.iter().zip([0.0900_f64, 0.0, 0.6652, 0.2447]) {
            assert!((found - expected).abs() < 0.015, "{found} {expected}");
        }
        assert_eq!(sampler.sample_among(&logits, |_| false), None);
    }

    #[test]
    fn one_that_repeats_what_was_chosen_goes_on_as_the_one_that_chose() {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling {
                temperature,
                repetition_penalty: 1.3,
                repetition_window: 3,
                seed: Some(3),
                ..Sampling::default()
            };
            let logits: Vec<f32> = (0..40_u16).map(|token| f32::from(token * 7 % 11) / 5.0).collect();
            let mut sampler = Sampler::new(&sampling, 0);
            let mut chosen = Vec::new();
            for length in 0..20 {
                let mut again = Sampler::new(&sampling, 0);
                chosen.iter().for_each(|token| again.repeat(*token));
                let token = sampler.sample(&logits).unwrap();
                assert_eq!(again.sample(&logits), Some(token), "after {length}");
                sampler.observe(token);
                chosen.push(token);
            }
        }
    }

    #[test]
    fn broken_logits_choose_nothing() {
        let mut sampler = Sampler::new(&sampling(), 0);
        assert_eq!(sampler.sample(&[f32::NAN, f32::NEG_INFINITY]), None);
        assert_eq!(sampler.sample(&[f32::INFINITY, 0.0]), None);
        assert_eq!(sampler.sample(&[]), None);
        assert_eq!(sampler.sample(&[f32::NAN, 0.0]), Some(1));
    }

    #[test]
    fn a_tie_goes_to_the_lowest_id() {
        assert_eq!(
            Sampler::new(&Sampling::greedy(), 0).sample(&[1.0, 2.0, 2.0]),
            Some(1)
        );
    }
}
