//! A rate a minute, averaged over the last minutes as Mosquitto does it: each new rate counts the more
//! the longer it was measured, and old ones fade.

use std::time::Duration;

/// See the module.
pub(super) struct Load {
    before: u64,
    averages: [f64; 3],
}

/// What is averaged over, by the name it is published under.
const OVER: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

impl Load {
    pub(super) fn new(count: u64) -> Self {
        Self {
            before: count,
            averages: [0.0; 3],
        }
    }

    /// Takes in how far the count has come in this time, and gives the averages.
    pub(super) fn count(&mut self, count: u64, elapsed: Duration) -> [(&'static str, f64); 3] {
        let more = count.saturating_sub(std::mem::replace(&mut self.before, count));
        let elapsed_s = elapsed.as_secs_f64().max(0.001);
        let rate = more as f64 * 60.0 / elapsed_s;
        let mut given = OVER;
        for ((average, (_, over_s)), (_, out)) in self.averages.iter_mut().zip(OVER).zip(&mut given) {
            *average = rate + (-elapsed_s / over_s).exp() * (*average - rate);
            *out = *average;
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    #[test]
    fn a_steady_rate_is_approached_by_the_shortest_average_first() {
        let mut load = Load::new(100);
        let mut count = 100;
        let mut averages = [0.0; 3];
        for _ in 0..6 {
            count += 20;
            averages = load.count(count, TEN).map(|(_, average)| average);
        }
        // After one of its own times an average has come to 1 - 1/e of the rate, 120 a minute.
        assert!(
            (averages[0] - 120.0 * (1.0 - (-1.0_f64).exp())).abs() < 1e-9,
            "{averages:?}"
        );
        assert!(averages[0] > averages[1] && averages[1] > averages[2] && averages[2] > 0.0);
        for _ in 0..1000 {
            count += 20;
            averages = load.count(count, TEN).map(|(_, average)| average);
        }
        assert!(
            averages.iter().all(|average| (average - 120.0).abs() < 0.01),
            "{averages:?}"
        );
    }

    #[test]
    fn silence_fades_to_nothing() {
        let mut load = Load::new(0);
        load.count(1000, TEN);
        let mut last = f64::MAX;
        for _ in 0..100 {
            let (_, average) = load.count(1000, TEN)[0];
            assert!(average < last);
            last = average;
        }
        assert!(last < 0.01, "{last}");
    }
}
