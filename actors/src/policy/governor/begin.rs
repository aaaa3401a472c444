//! At which precision a model begins, before anything of it is loaded: where memory has no room for what was asked for,
//! the governor would only have to step down afterwards, with everybody waiting.

use models::Precision;

use super::fit::{Fit, FitAt, FitQuestion, fit};
use super::reading::Size;

/// Where a model begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Its precision.
    pub precision: Precision,
    /// Whether it fits there; where it fits nowhere, it begins at the lowest.
    pub fits: bool,
    /// Why it is not the best one that was asked about, or what would help where none fits. None where all is well.
    pub reason: Option<String>,
}

/// The best precision of those asked about that fits, else the one that takes the least. None where memory is not measured
/// or nothing is asked about.
pub fn begin(question: &FitQuestion<'_>) -> Option<Begin> {
    let fit = fit(question);
    let wanted = fit.precisions.first()?;
    let keep = question.keep_free_percent;
    if let Some(found) = fit.precisions.iter().find(|at| at.fits) {
        return Some(Begin {
            precision: found.precision,
            fits: true,
            reason: (found.precision != wanted.precision).then(|| short_of(wanted, &fit, keep)),
        });
    }
    let least = fit.precisions.iter().min_by_key(|at| at.needed_bytes)?;
    let reason = format!(
        "{}, and no precision would do: close other programs, choose a smaller model, or keep less free \
         (memory.keep_free_percent)",
        short_of(least, &fit, keep)
    );
    Some(Begin {
        precision: least.precision,
        fits: false,
        reason: Some(reason),
    })
}

fn short_of(at: &FitAt, fit: &Fit, keep_free_percent: u8) -> String {
    format!(
        "{} takes {} with {} tokens and would leave {} % of the memory free, under {keep_free_percent} %",
        at.precision,
        Size(at.needed_bytes),
        fit.context_tokens,
        at.free_percent,
    )
}

#[cfg(test)]
mod tests {
    use platform::memory::{Limit, MachineMemory};
    use proptest::prelude::*;

    use super::*;

    const WEIGHTS: [(Precision, u64); 3] = [
        (Precision::F16, 6_400_000_000),
        (Precision::Int8, 3_400_000_000),
        (Precision::Int4, 1_800_000_000),
    ];

    fn memory(total_bytes: u64, available_bytes: u64) -> MachineMemory {
        MachineMemory {
            total_bytes,
            available_bytes,
            file_cache_bytes: 0,
            limit: Limit::Machine,
        }
    }

    fn ask(weights: &[(Precision, u64)], limits: &[MachineMemory]) -> Option<Begin> {
        begin(&FitQuestion {
            weights,
            kv_bytes_per_token: 100_000,
            context_tokens: 4_000,
            overhead_bytes: 100_000_000,
            limits,
            keep_free_percent: 20,
        })
    }

    #[test]
    fn what_fits_begins_as_it_was_asked_for() {
        let found = ask(&WEIGHTS[1..], &[memory(8_000_000_000, 6_000_000_000)]).unwrap();
        assert_eq!(
            (found.precision, found.fits, found.reason),
            (Precision::Int8, true, None)
        );
    }

    #[test]
    fn what_does_not_fit_begins_at_the_best_precision_that_does_and_says_why() {
        let found = ask(&WEIGHTS, &[memory(8_000_000_000, 6_000_000_000)]).unwrap();
        assert_eq!((found.precision, found.fits), (Precision::Int8, true));
        assert_eq!(
            found.reason.unwrap(),
            "f16 takes 6.9 GB with 4000 tokens and would leave 0 % of the memory free, under 20 %"
        );
    }

    #[test]
    fn what_fits_nowhere_begins_at_the_lowest_and_says_what_would_help() {
        let found = ask(&WEIGHTS, &[memory(3_000_000_000, 2_000_000_000)]).unwrap();
        assert_eq!((found.precision, found.fits), (Precision::Int4, false));
        let reason = found.reason.unwrap();
        assert!(
            reason.contains("int4 takes 2.3 GB") && reason.contains("smaller model"),
            "{reason}"
        );
        // Also where it was the only one that may be.
        let found = ask(&WEIGHTS[2..], &[memory(3_000_000_000, 2_000_000_000)]).unwrap();
        assert!(!found.fits && found.reason.is_some());
    }

    #[test]
    fn where_memory_is_not_measured_nothing_is_decided() {
        assert_eq!(ask(&WEIGHTS, &[]), None);
        assert_eq!(ask(&[], &[memory(8_000_000_000, 6_000_000_000)]), None);
    }

    proptest! {
        #[test]
        fn nothing_better_than_asked_for_begins_and_nothing_worse_than_needed(
            from in 0..3_usize,
            limits in prop::collection::vec((1_u64..1 << 34, 0_u64..1 << 34), 1..4),
        ) {
            let limits: Vec<_> =
                limits.into_iter().map(|(total, available)| memory(total, available.min(total))).collect();
            let asked = &WEIGHTS[from..];
            let found = ask(asked, &limits).unwrap();
            let alone = |at: &(Precision, u64)| ask(std::slice::from_ref(at), &limits).unwrap().fits;
            let expected = asked.iter().find(|at| alone(at)).or(asked.last()).unwrap();
            prop_assert_eq!(found.precision, expected.0);
            prop_assert_eq!(found.fits, alone(expected));
            prop_assert_eq!(found.reason.is_none(), found.fits && found.precision == asked[0].0);
        }
    }
}
