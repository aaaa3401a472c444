//! Which part of the daemon hangs. Looks are counted, and not time: a process that was frozen as a whole, or a machine that
//! slept, has missed one look and not sixty seconds of signs of life.

/// How it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everyone has given a sign of life since the last look.
    Answers,
    /// One has not.
    Silent {
        /// Which: that with the longest silence, by its place among the signs.
        part: usize,
        /// For how many looks in a row.
        looks: u32,
    },
}

/// See the module. Of each part, how many signs of life it had given at the last look, and for how many looks it has given
/// no other.
#[derive(Clone, Debug)]
pub struct Hanging<const PARTS: usize> {
    seen: [u64; PARTS],
    silent: [u32; PARTS],
}

impl<const PARTS: usize> Default for Hanging<PARTS> {
    fn default() -> Self {
        Self {
            seen: [0; PARTS],
            silent: [0; PARTS],
        }
    }
}

impl<const PARTS: usize> Hanging<PARTS> {
    /// Takes how many signs of life each part has given so far.
    pub fn look(&mut self, signs: [u64; PARTS]) -> Verdict {
        let parts = self.seen.iter_mut().zip(&mut self.silent).zip(signs);
        for ((seen, silent), signs) in parts {
            *silent = if *seen == signs {
                silent.saturating_add(1)
            } else {
                0
            };
            *seen = signs;
        }
        let longest = self.silent.iter().enumerate().max_by_key(|(_, looks)| **looks);
        match longest {
            Some((part, &looks)) if looks > 0 => Verdict::Silent { part, looks },
            _ => Verdict::Answers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_a_sign_between_two_looks_answers() {
        let mut hanging = Hanging::<3>::default();
        for look in 1..100 {
            assert_eq!(hanging.look([look, 2 * look, look + 7]), Verdict::Answers);
        }
    }

    #[test]
    fn the_one_with_the_longest_silence_is_named_with_its_looks() {
        let mut hanging = Hanging::<3>::default();
        assert_eq!(hanging.look([1, 1, 1]), Verdict::Answers);
        assert_eq!(hanging.look([2, 1, 2]), Verdict::Silent { part: 1, looks: 1 });
        assert_eq!(hanging.look([3, 1, 2]), Verdict::Silent { part: 1, looks: 2 });
        assert_eq!(hanging.look([4, 1, 2]), Verdict::Silent { part: 1, looks: 3 });
        assert_eq!(hanging.look([5, 2, 2]), Verdict::Silent { part: 2, looks: 3 });
        assert_eq!(hanging.look([6, 3, 3]), Verdict::Answers);
    }

    #[test]
    fn one_that_has_never_given_a_sign_is_silent_from_the_first_look_on() {
        let mut hanging = Hanging::<2>::default();
        assert_eq!(hanging.look([1, 0]), Verdict::Silent { part: 1, looks: 1 });
    }
}
