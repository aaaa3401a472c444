//! Rotary positions: the angles by which pairs of a head's values are turned, with every scaling in use.
//!
//! Pure and in double precision, so that whatever computes a network takes the same numbers from here.
//!
//! Sources: Su et al. 2021 (RoPE); Peng et al. 2023 (YaRN); Ding et al. 2024 (LongRoPE); transformers'
//! `modeling_rope_utils.py`, from which the formulas of the scalings are taken.

use std::f64::consts::PI;

use crate::error::Problem;

/// How positions are written into queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeSpec {
    /// The base of the geometric series of frequencies.
    pub(crate) theta: f64,
    /// Values of each head that are turned, the leading ones; the rest passes as it is.
    pub(crate) rotated: usize,
    pub(crate) scaling: RopeScaling,
}

/// How frequencies are changed for contexts longer than those of the first training.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    None,
    /// All frequencies divided by one factor.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, those between mixed.
    Llama3 {
        factor: f64,
        low_frequency_factor: f64,
        high_frequency_factor: f64,
        original_context: f64,
    },
    Yarn {
        factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_context: f64,
        /// Whether the ends of the ramp are rounded to whole pairs.
        truncate: bool,
        magnitude: f64,
    },
    /// Phi-3: one divisor for each pair, of two lists by the length of the context.
    Long {
        short: Vec<f64>,
        long: Vec<f64>,
        original_context: usize,
        magnitude: f64,
    },
    /// One divisor for each pair: Llama 3.1 as GGUF files have it (`rope_freqs.weight`).
    Divisors(Vec<f64>),
}

/// What a [`RopeSpec`] comes to for one sequence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeTable {
    /// Radians for each position, for each of the `rotated / 2` pairs: value `i` turns with value
    /// `i + rotated / 2`.
    pub(crate) inverse_frequencies: Vec<f64>,
    /// Cosines and sines are multiplied by this.
    pub(crate) magnitude: f64,
}

impl RopeSpec {
    /// The angles for a sequence of at most so many tokens.
    ///
    /// LongRoPE has two sets of frequencies. transformers changes from one to the other when a sequence outgrows the
    /// original context, which leaves keys of the first kind in the cache; here, as in llama.cpp and vLLM, the most
    /// tokens that a sequence may come to decide it from its beginning.
    pub(crate) fn table(&self, context_limit: usize) -> RopeTable {
        let pairs = self.rotated / 2;
        let plain = |pair: usize| self.theta.powf(-2.0 * pair as f64 / self.rotated as f64);
        let each = |scaled: &dyn Fn(usize, f64) -> f64| {
            (0..pairs)
                .map(|pair| scaled(pair, plain(pair)))
                .collect::<Vec<_>>()
        };
        let divided = |divisors: &[f64]| {
            let divisors = divisors.iter().enumerate();
            divisors.map(|(pair, divisor)| plain(pair) / divisor).collect()
        };
        let (inverse_frequencies, magnitude) = match &self.scaling {
            RopeScaling::None => (each(&|_, frequency| frequency), 1.0),
            RopeScaling::Linear { factor } => (each(&|_, frequency| frequency / factor), 1.0),
            &RopeScaling::Llama3 {
                factor,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_context,
            } => {
                let scaled = |_, frequency: f64| {
                    let turns = original_context * frequency / (2.0 * PI);
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    frequency * (kept + (1.0 - kept) / factor)
                };
                (each(&scaled), 1.0)
            }
            &RopeScaling::Yarn {
                factor, magnitude, ..
            } => {
                let [low, high] = self.yarn_ramp();
                let scaled = |pair: usize, frequency: f64| {
                    let divided = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    frequency * (1.0 - divided + divided / factor)
                };
                (each(&scaled), magnitude)
            }
            RopeScaling::Long {
                short,
                long,
                magnitude,
                ..
            } => {
                let divisors = if self.is_long(context_limit) { long } else { short };
                (divided(divisors), *magnitude)
            }
            RopeScaling::Divisors(divisors) => (divided(divisors), 1.0),
        };
        RopeTable {
            inverse_frequencies,
            magnitude,
        }
    }

    /// Whether a sequence of at most so many tokens takes the long frequencies of LongRoPE.
    pub(crate) fn is_long(&self, context_limit: usize) -> bool {
        matches!(&self.scaling, RopeScaling::Long { original_context, .. } if context_limit > *original_context)
    }

    /// The pairs between which YaRN goes over from keeping frequencies to dividing them: those that turn `beta_fast`
    /// and `beta_slow` times in the original context.
    fn yarn_ramp(&self) -> [f64; 2] {
        let &RopeScaling::Yarn {
            beta_fast,
            beta_slow,
            original_context,
            truncate,
            ..
        } = &self.scaling
        else {
            return [0.0, 1.0];
        };
        let width = self.rotated as f64;
        let pair =
            |turns: f64| width * (original_context / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (low, high) = (pair(beta_fast), pair(beta_slow));
        let (low, high) = if truncate {
            (low.floor(), high.ceil())
        } else {
            (low, high)
        };
        let (low, high) = (low.max(0.0), high.min(width - 1.0));
        [low, if low == high { high + 0.001 } else { high }]
    }

    /// Refuses numbers that give no angles.
    pub(super) fn check(&self, head_size: usize) -> Result<(), Problem> {
        if self.rotated == 0 || !self.rotated.is_multiple_of(2) || self.rotated > head_size {
            return Err(Problem::Configuration(format!(
                "{} values of heads of {head_size} values cannot be rotated",
                self.rotated
            )));
        }
        let mut numbers = vec![("RoPE base", self.theta)];
        let mut lists = Vec::new();
        match &self.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => numbers.push(("RoPE scaling factor", *factor)),
            RopeScaling::Llama3 {
                factor,
                low_frequency_factor,
                high_frequency_factor,
                original_context,
            } => numbers.extend([
                ("RoPE scaling factor", *factor),
                ("low_freq_factor", *low_frequency_factor),
                (
                    "distance from low_freq_factor to high_freq_factor",
                    high_frequency_factor - low_frequency_factor,
                ),
                ("original context", *original_context),
            ]),
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_context,
                magnitude,
                ..
            } => numbers.extend([
                ("RoPE scaling factor", *factor),
                ("beta_fast", *beta_fast),
                ("beta_slow", *beta_slow),
                ("original context", *original_context),
                ("RoPE attention factor", *magnitude),
            ]),
            RopeScaling::Long {
                short,
                long,
                magnitude,
                ..
            } => {
                numbers.push(("RoPE attention factor", *magnitude));
                lists.extend([("short", short), ("long", long)]);
            }
            RopeScaling::Divisors(divisors) => lists.push(("rope_freqs", divisors)),
        }
        for (what, factors) in lists {
            if factors.len() != self.rotated / 2 {
                return Err(Problem::Configuration(format!(
                    "it has {} {what} RoPE factors for {} pairs",
                    factors.len(),
                    self.rotated / 2
                )));
            }
            numbers.extend(factors.iter().map(|factor| ("RoPE factor", *factor)));
        }
        super::spec::check_positive(&numbers)
    }
}

/// YaRN's own choice of the magnitude where a model does not say it.
pub(super) fn yarn_magnitude(factor: f64, scale: f64) -> f64 {
    if factor > 1.0 {
        0.1 * scale * factor.ln() + 1.0
    } else {
        1.0
    }
}

/// LongRoPE's own choice of the magnitude where a model does not say it.
pub(super) fn long_magnitude(context: f64, original_context: f64) -> f64 {
    let factor = context / original_context;
    if factor > 1.0 {
        (1.0 + factor.ln() / original_context.ln()).sqrt()
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(scaling: RopeScaling, context_limit: usize) -> RopeTable {
        let spec = RopeSpec {
            theta: 10_000.0,
            rotated: 8,
            scaling,
        };
        spec.check(8).unwrap();
        spec.table(context_limit)
    }

    fn close(found: &RopeTable, expected: &[f64]) {
        assert_eq!(found.inverse_frequencies.len(), expected.len());
        for (a, b) in found.inverse_frequencies.iter().zip(expected) {
            assert!((a - b).abs() <= 1e-6 * b, "{found:?} is not {expected:?}");
        }
    }

    // The expected numbers are what transformers 4.57 computes for these settings.

    #[test]
    fn frequencies_fall_geometrically() {
        close(&table(RopeScaling::None, 1), &[1.0, 0.1, 0.01, 0.001]);
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 100.0,
        };
        close(&table(scaling, 1), &[1.0, 0.029_753_525, 0.001_25, 0.000_125]);
    }

    #[test]
    fn yarn_ramps_over_whole_pairs() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context: 1024.0,
            truncate: true,
            magnitude: yarn_magnitude(4.0, 1.0),
        };
        let found = table(scaling, 1);
        close(&found, &[1.0, 0.075, 0.005, 0.000_25]);
        assert!((found.magnitude - 1.138_629_436).abs() < 1e-9);
    }

    #[test]
    fn long_factors_count_only_beyond_the_original_context() {
        let scaling = RopeScaling::Long {
            short: vec![1.0; 4],
            long: vec![2.0; 4],
            original_context: 32,
            magnitude: long_magnitude(128.0, 32.0),
        };
        close(&table(scaling.clone(), 32), &[1.0, 0.1, 0.01, 0.001]);
        let found = table(scaling, 33);
        close(&found, &[0.5, 0.05, 0.005, 0.0005]);
        assert!((found.magnitude - 1.4f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn impossible_settings_are_refused() {
        let refused = |theta: f64, rotated: usize, scaling| {
            let spec = RopeSpec {
                theta,
                rotated,
                scaling,
            };
            spec.check(8).unwrap_err().to_string()
        };
        assert!(refused(0.0, 8, RopeScaling::None).contains("RoPE base"));
        assert!(refused(f64::NAN, 8, RopeScaling::None).contains("RoPE base"));
        assert!(refused(1e4, 7, RopeScaling::None).contains("rotated"));
        assert!(refused(1e4, 10, RopeScaling::None).contains("rotated"));
        assert!(refused(1e4, 8, RopeScaling::Linear { factor: 0.0 }).contains("factor"));
        let short = RopeScaling::Divisors(vec![1.0; 3]);
        assert!(refused(1e4, 8, short).contains("3 rope_freqs RoPE factors for 4 pairs"));
        let zero = RopeScaling::Divisors(vec![1.0, 1.0, 0.0, 1.0]);
        assert!(refused(1e4, 8, zero).contains("RoPE factor is 0"));
    }
}
