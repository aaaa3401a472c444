//! Whether a model fits, before it is loaded.

use std::fmt;

use models::Precision;
use platform::memory::MachineMemory;
use serde::Serialize;

use super::reading::{Size, room};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct FitQuestion<'q> {
    /// Bytes of the weights at each precision, packed or as they would be.
    pub weights: &'q [(Precision, u64)],
    /// Bytes of keys and values for a token.
    pub kv_bytes_per_token: u64,
    /// The tokens that are wanted in the cache at the same time: a request's context, times the requests at once.
    pub context_tokens: u64,
    /// What the process needs beside both.
    pub overhead_bytes: u64,
    /// Memory inside every limit that holds, without the model.
    pub limits: &'q [MachineMemory],
    /// What is to stay free of each, in percent.
    pub keep_free_percent: u8,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fit {
    /// The tokens that were wanted.
    pub context_tokens: u64,
    /// For each precision that was asked for, the best first.
    pub precisions: Vec<FitAt>,
    /// The best that has room for the wanted context.
    pub best: Option<Precision>,
}

/// How a model fits at one precision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FitAt {
    /// The precision.
    pub precision: Precision,
    /// Bytes of the weights.
    pub weights_bytes: u64,
    /// Bytes of everything, with the wanted context.
    pub needed_bytes: u64,
    /// Whether that leaves free what is to stay free.
    pub fits: bool,
    /// The longest context that does, up to the wanted one; 0 where not even the weights do.
    pub longest_context_tokens: u64,
    /// What would be free with the wanted context, in percent of the tightest limit.
    pub free_percent: u64,
}

/// Predicts at which precision and with how much context a model fits. What one finds is what the governor would leave in
/// peace.
pub fn fit(question: &FitQuestion<'_>) -> Fit {
    let mut asked: Vec<_> = question.weights.to_vec();
    asked.sort_by_key(|(precision, _)| *precision);
    let precisions: Vec<_> = asked
        .into_iter()
        .filter_map(|(precision, weights_bytes)| at(question, precision, weights_bytes))
        .collect();
    Fit {
        context_tokens: question.context_tokens,
        best: precisions.iter().find(|at| at.fits).map(|at| at.precision),
        precisions,
    }
}

fn at(question: &FitQuestion<'_>, precision: Precision, weights_bytes: u64) -> Option<FitAt> {
    let per_token = question.kv_bytes_per_token;
    let kv_bytes = per_token.saturating_mul(question.context_tokens);
    let fixed_bytes = weights_bytes.saturating_add(question.overhead_bytes);
    let needed_bytes = fixed_bytes.saturating_add(kv_bytes);
    let room = |bytes: u64| {
        let free = move |memory: &MachineMemory| i128::from(memory.available_bytes) - i128::from(bytes);
        room(question.limits, question.keep_free_percent, free)
    };
    let longest = match u64::try_from(room(fixed_bytes)?.spare_bytes) {
        Ok(spare) => spare.checked_div(per_token).unwrap_or(u64::MAX),
        Err(_) => 0,
    };
    let with_context = room(needed_bytes)?;
    Some(FitAt {
        precision,
        weights_bytes,
        needed_bytes,
        fits: with_context.spare_bytes >= 0,
        longest_context_tokens: longest.min(question.context_tokens),
        free_percent: with_context.free_percent(),
    })
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, at) in self.precisions.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            let (precision, needed) = (at.precision, Size(at.needed_bytes));
            let wanted = self.context_tokens;
            match (at.fits, at.longest_context_tokens) {
                (true, _) => write!(
                    f,
                    "{precision} fits with {wanted} tokens: it takes {needed} and leaves {} % free",
                    at.free_percent
                )?,
                (false, 0) => write!(f, "{precision} does not fit: it takes {needed}")?,
                (false, longest) => write!(
                    f,
                    "{precision} fits with {longest} tokens and not with {wanted}, for which it takes {needed}"
                )?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use platform::memory::Limit;
    use proptest::prelude::*;

    use super::*;

    const WEIGHTS: [(Precision, u64); 3] = [
        (Precision::Int4, 1_800_000_000),
        (Precision::Int8, 3_400_000_000),
        (Precision::F16, 6_400_000_000),
    ];

    fn memory(total_bytes: u64, available_bytes: u64) -> MachineMemory {
        MachineMemory {
            total_bytes,
            available_bytes,
            file_cache_bytes: 0,
            limit: Limit::Machine,
        }
    }

    fn ask(limits: &[MachineMemory], context_tokens: u64) -> Fit {
        fit(&FitQuestion {
            weights: &WEIGHTS,
            kv_bytes_per_token: 100_000,
            context_tokens,
            overhead_bytes: 200_000_000,
            limits,
            keep_free_percent: 20,
        })
    }

    #[test]
    fn the_best_precision_with_room_for_the_context_is_found() {
        // 20 % of 8 GB stay free, so that 4.4 GB may be taken.
        let fit = ask(&[memory(8_000_000_000, 6_000_000_000)], 4_000);
        assert_eq!(fit.best, Some(Precision::Int8));
        let found = |fit: &Fit| -> Vec<_> {
            let at = fit.precisions.iter();
            at.map(|at| (at.precision, at.fits, at.longest_context_tokens, at.free_percent))
                .collect()
        };
        assert_eq!(
            found(&fit),
            [
                (Precision::F16, false, 0, 0),
                (Precision::Int8, true, 4_000, 25),
                (Precision::Int4, true, 4_000, 45),
            ]
        );
        let longer = ask(&[memory(8_000_000_000, 6_000_000_000)], 12_000);
        assert_eq!(longer.best, Some(Precision::Int4));
        assert_eq!(found(&longer)[1], (Precision::Int8, false, 8_000, 15));
        assert_eq!(
            longer.to_string(),
            "f16 does not fit: it takes 7.8 GB\n\
             int8 fits with 8000 tokens and not with 12000, for which it takes 4.8 GB\n\
             int4 fits with 12000 tokens: it takes 3.2 GB and leaves 35 % free"
        );
    }

    #[test]
    fn a_group_s_limit_counts_as_much_as_the_machine_s() {
        let machine = memory(64_000_000_000, 50_000_000_000);
        assert_eq!(
            ask(std::slice::from_ref(&machine), 4_000).best,
            Some(Precision::F16)
        );
        let group = memory(3_500_000_000, 3_400_000_000);
        let fit = ask(&[machine, group], 4_000);
        assert_eq!(fit.best, Some(Precision::Int4));
        assert_eq!(ask(&[], 4_000).best, None);
    }

    proptest! {
        #[test]
        fn what_fits_leaves_free_what_is_to_stay_free_and_one_token_more_than_the_longest_does_not(
            limits in prop::collection::vec((1_u64..1 << 36, 0_u64..1 << 36), 1..4),
            weights in 0_u64..1 << 34, per_token in 1_u64..1 << 20, context_tokens in 0_u64..1 << 17,
            overhead_bytes in 0_u64..1 << 30, keep_free_percent in 0_u8..60,
        ) {
            let limits: Vec<_> =
                limits.into_iter().map(|(total, available)| memory(total, available.min(total))).collect();
            let weights = [(Precision::Int8, weights)];
            let question = FitQuestion {
                weights: &weights, kv_bytes_per_token: per_token, context_tokens, overhead_bytes, limits: &limits,
                keep_free_percent,
            };
            let leaves = |tokens: u64| limits.iter().all(|memory| {
                let taken = u128::from(weights[0].1 + overhead_bytes + tokens * per_token);
                let kept = u128::from(memory.total_bytes) * u128::from(keep_free_percent) / 100;
                taken + kept <= u128::from(memory.available_bytes)
            });
            let fit = fit(&question);
            let at = &fit.precisions[0];
            prop_assert_eq!(at.fits, leaves(context_tokens));
            prop_assert_eq!(fit.best.is_some(), at.fits);
            let longest = at.longest_context_tokens;
            prop_assert!(longest <= context_tokens);
            prop_assert!(longest == 0 || leaves(longest));
            prop_assert!(longest == context_tokens || !leaves(longest + 1));
        }
    }
}
