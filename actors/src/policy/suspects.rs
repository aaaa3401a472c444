//! Which request kills the worker, when several ran as it died.
//!
//! Nobody can tell from one death: all that ran are begun anew, together. While there is one that was there twice, requests
//! run one at a time. One that dies then, with nobody beside it, is set aside. So the innocent have their answers, later,
//! and the guilty one costs three processes, however many ran beside it. One that runs alone from the first is set aside
//! after two.

use std::collections::BTreeMap;

/// How often the worker died while a request ran, by the request's sequence.
#[derive(Debug, Default)]
pub struct Suspects {
    deaths: BTreeMap<u64, u32>,
}

/// Once may be chance.
const TOO_OFTEN: u32 = 2;

impl Suspects {
    /// The worker died while these ran. Gives the one that is set aside; the others may be begun anew.
    pub fn died(&mut self, ran: &[u64]) -> Option<u64> {
        for id in ran {
            *self.deaths.entry(*id).or_default() += 1;
        }
        let [only] = ran else { return None };
        let is_guilty = self.deaths.get(only).is_some_and(|deaths| *deaths >= TOO_OFTEN);
        is_guilty.then(|| {
            self.deaths.remove(only);
            *only
        })
    }

    /// How many may run at once where otherwise so many might.
    pub fn places(&self, otherwise: usize) -> usize {
        let is_suspect = |deaths: &u32| *deaths >= TOO_OFTEN;
        if self.deaths.values().any(is_suspect) {
            otherwise.min(1)
        } else {
            otherwise
        }
    }

    /// It has ended, whichever way.
    pub fn ended(&mut self, id: u64) {
        self.deaths.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A request: how many steps its answer takes, and the step at which it kills the worker, if it does.
    #[derive(Clone, Copy, Debug)]
    struct Request {
        steps: u32,
        kills_at: Option<u32>,
    }

    fn request() -> impl Strategy<Value = Request> {
        (1..30_u32).prop_map(|steps| Request {
            steps,
            kills_at: None,
        })
    }

    /// What became of each, and how many workers died.
    struct Outcome {
        answered: Vec<usize>,
        set_aside: Vec<usize>,
        deaths: u32,
    }

    /// A worker with `slots` places, begun anew whenever it dies; answers go on from where they were.
    fn run(requests: &[Request], slots: usize) -> Outcome {
        let mut suspects = Suspects::default();
        let mut waiting: VecDeque<usize> = (0..requests.len()).collect();
        let mut said = vec![0; requests.len()];
        let mut running: Vec<usize> = Vec::new();
        let mut outcome = Outcome {
            answered: Vec::new(),
            set_aside: Vec::new(),
            deaths: 0,
        };
        for _ in 0..100_000 {
            while running.len() < suspects.places(slots)
                && let Some(next) = waiting.pop_front()
            {
                running.push(next);
            }
            if running.is_empty() {
                break;
            }
            if running.iter().any(|&at| requests[at].kills_at == Some(said[at])) {
                outcome.deaths += 1;
                let ran: Vec<u64> = running.iter().map(|&at| at as u64).collect();
                let aside = suspects.died(&ran);
                for at in running.drain(..).rev() {
                    if aside == Some(at as u64) {
                        outcome.set_aside.push(at);
                    } else {
                        waiting.push_front(at);
                    }
                }
                continue;
            }
            running.retain(|&at| {
                said[at] += 1;
                let ends = said[at] >= requests[at].steps;
                if ends {
                    suspects.ended(at as u64);
                    outcome.answered.push(at);
                }
                !ends
            });
        }
        outcome
    }

    #[test]
    fn one_that_always_ran_alone_is_set_aside_after_two_deaths() {
        let outcome = run(
            &[Request {
                steps: 9,
                kills_at: Some(4),
            }],
            4,
        );
        assert_eq!((outcome.set_aside, outcome.deaths), (vec![0], 2));
    }

    #[test]
    fn a_death_that_comes_once_changes_nothing_and_one_that_comes_twice_has_them_run_by_themselves() {
        let mut suspects = Suspects::default();
        assert_eq!(suspects.died(&[1, 2]), None);
        assert_eq!(suspects.places(8), 8);
        assert_eq!(suspects.died(&[1, 2]), None);
        assert_eq!(suspects.places(8), 1);
        suspects.ended(1);
        assert_eq!(suspects.places(8), 1);
        assert_eq!(suspects.died(&[2]), Some(2));
        assert_eq!(suspects.places(8), 8);
    }

    proptest! {
        #[test]
        fn the_innocent_are_answered_and_the_guilty_costs_three_workers(
            mut requests in prop::collection::vec(request(), 1..20),
            guilty in any::<prop::sample::Index>(), at in 0..29_u32, slots in 1..17_usize,
        ) {
            let guilty = guilty.index(requests.len());
            let kills_at = at % requests[guilty].steps;
            requests[guilty].kills_at = Some(kills_at);
            let outcome = run(&requests, slots);
            prop_assert_eq!(&outcome.set_aside, &[guilty]);
            prop_assert_eq!(outcome.answered.len(), requests.len() - 1);
            prop_assert!(outcome.deaths <= 3, "{} deaths", outcome.deaths);
        }
    }
}
