//! Stop texts: where the answer ends without saying so.

/// Passes text on, except what is, or may still become, a stop text.
///
/// The answer ends where the first stop text is *complete*; of several that complete at the same character, the
/// longest counts. So the result does not depend on how the text was cut into pieces.
#[derive(Clone, Debug)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What came through the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Text to pass on; may be empty.
    pub text: String,
    /// A stop text was found; nothing more may be pushed.
    pub stopped: bool,
}

impl StopFilter {
    /// Watches for these texts; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        if let Some(start) = self.first_stop() {
            self.held.truncate(start);
            return Passed {
                text: std::mem::take(&mut self.held),
                stopped: true,
            };
        }
        let keep = self.held.len() - self.possible_start();
        let held = self.held.split_off(keep);
        Passed {
            text: std::mem::replace(&mut self.held, held),
            stopped: false,
        }
    }

    /// The end has come: what was held back is ordinary text after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the stop text begins that completes first.
    fn first_stop(&self) -> Option<usize> {
        self.stops
            .iter()
            .filter_map(|stop| {
                self.held
                    .find(stop.as_str())
                    .map(|start| (start + stop.len(), start))
            })
            .min()
            .map(|(_, start)| start)
    }

    /// Bytes at the end of the held text that are a proper beginning of some stop text.
    fn possible_start(&self) -> usize {
        let longest = |stop: &String| {
            (1..stop.len())
                .rev()
                .find(|&length| stop.is_char_boundary(length) && self.held.ends_with(&stop[..length]))
                .unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}
