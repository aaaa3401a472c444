//! Names that settings had in former versions. Whoever upgrades has them in a file still.
//!
//! One that was renamed is taken over, and one that is gone is passed over: an upgrade that nobody watches shall not
//! end in a daemon that refuses to start over a name. A notice says what to write instead, in the log at each start
//! and in `clawdbot check`. A setting by which something was shut, and which nothing takes the place of, does not
//! belong here: as an unknown one it is refused, and nobody takes a door for closed that is open.

use super::locate::{Layer, written};

/// What became of a setting.
pub(super) enum Fate {
    /// Another name, and the same values with the same meaning.
    #[allow(dead_code, reason = "nothing was only renamed so far; the tests rename")]
    Renamed(&'static str),
    /// It has no meaning any more: why, and what does its work now.
    Removed(&'static str),
}

/// Every name that a setting once had, with its section.
pub(super) const FORMER: &[(&str, Fate)] = &[(
    "memory.warn_below_free_percent",
    Fate::Removed("memory is governed by now, and memory.keep_free_percent says how much of it stays free"),
)];

/// Puts today's names in the place of former ones, and says what it did.
pub(super) fn take_over(layers: &mut [Layer], former: &[(&str, Fate)]) -> Vec<String> {
    let mut notices = Vec::new();
    for layer in layers {
        let given: Vec<String> = layer.entries.iter().map(|entry| entry.key.clone()).collect();
        layer.entries.retain_mut(|entry| {
            let Some((name, fate)) = former.iter().find(|(name, _)| *name == entry.key) else {
                return true;
            };
            let origin = entry.origin.clone();
            let old = written(name, &origin);
            match fate {
                Fate::Renamed(new) if given.iter().any(|key| key == new) => {
                    let new = written(new, &origin);
                    notices.push(format!(
                        "{origin}: {old} is called {new} by now, which is set as well and counts; take {old} out"
                    ));
                    false
                }
                Fate::Renamed(new) => {
                    notices.push(format!(
                        "{origin}: {old} is called {} by now; what it says was taken over, write it so",
                        written(new, &origin)
                    ));
                    (*new).clone_into(&mut entry.key);
                    true
                }
                Fate::Removed(why) => {
                    notices.push(format!(
                        "{origin}: {old} does nothing any more: {why}; take it out"
                    ));
                    false
                }
            }
        });
    }
    notices
}
