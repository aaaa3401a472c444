//! What is given up when memory runs short, and what is taken back when there is enough again.
//!
//! Under pressure, one thing a reading, the cheapest first: what ended requests left in the cache; then the budget of keys
//! and values, for which background sequences pause; then the precision, one step. Back in the opposite order, and only into
//! a state that leaves more free than the threshold and a margin even when everything that it promises is used, so that it
//! does not bring about the pressure that it would have to flee from.
//!
//! At any time keys and values are promised no more than there is room for, so that a request is refused, not begun and
//! killed.
//!
//! Nothing here reads a clock or carries anything out: each reading says how things stand, whatever became of the
//! decisions before.

mod begin;
mod fit;
mod ledger;
mod pace;
mod reading;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod witnesses;

use std::time::{Duration, Instant};

use models::Precision;
use serde::{Deserialize, Serialize};

pub use begin::{Begin, begin};
pub use fit::{Fit, FitAt, FitQuestion, fit};
pub use ledger::{DaemonMemory, Ledger, Owner, WorkerMemory};
pub use reading::{ModelReading, Reading, Room};

use pace::Pace;
use reading::Size;
use witnesses::{Testimony, Witnesses};

/// The numbers.
#[derive(Clone, Debug)]
pub struct GovernorSettings {
    /// Below this share of free memory something is given up, in percent.
    pub keep_free_percent: u8,
    /// So much more must be free, in percent of all memory, after something was taken back.
    pub recovery_margin_percent: u8,
    /// Least time between two changes of the precision.
    pub dwell: Duration,
    /// How long memory must have been well before something is taken back, and the time between one such thing and the
    /// next. Also how long the kernel must complain before it is believed against the account.
    pub settle: Duration,
    /// The longest that background sequences are paused while memory stays short; what they may take after that is
    /// bounded by the budget.
    pub longest_pause: Duration,
    /// The precision to come back to.
    pub precision: Precision,
    /// The budget of keys and values to come back to. Where nothing bounds it, all of the machine's memory: how much of that
    /// can be had is found then.
    pub kv_bytes: u64,
    /// The budget is never smaller; what one request needs.
    pub smallest_kv_bytes: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Nothing.
    Rest,
    /// Let go of so much of what ended sequences left in the cache.
    FreeKept {
        /// The least.
        bytes: u64,
    },
    /// Bound keys and values by this.
    SetKvBudget {
        /// All of them.
        bytes: u64,
    },
    /// Pause background sequences, drop what they hold, and begin no others.
    PauseBackground,
    /// Let them go on.
    ResumeBackground,
    /// Go down to this precision.
    StepDown {
        /// One that takes less memory.
        to: Precision,
    },
    /// Go up to this precision.
    StepUp {
        /// Not better than the configured one.
        to: Precision,
    },
}

/// What is to be done, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What.
    #[serde(flatten)]
    pub action: Action,
    /// Why, for people.
    pub reason: String,
}

impl Decision {
    fn new(action: Action, reason: String) -> Self {
        Self { action, reason }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Governor {
    settings: GovernorSettings,
    witnesses: Witnesses,
    pace: Pace,
    /// Since when memory is well, or something was taken back last.
    calm_since: Option<Instant>,
    paused_since: Option<Instant>,
    /// What was already tried since memory was last well with all that was promised.
    tried: Tried,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    kept: bool,
    /// Background sequences were paused for the longest time, and go on although memory is short.
    pausing: bool,
}

impl Governor {
    /// Nothing seen yet.
    pub fn new(settings: GovernorSettings) -> Self {
        let smallest_kv_bytes = settings.smallest_kv_bytes.min(settings.kv_bytes);
        Self {
            witnesses: Witnesses::default(),
            pace: Pace::new(settings.dwell),
            calm_since: None,
            paused_since: None,
            tried: Tried::default(),
            settings: GovernorSettings {
                smallest_kv_bytes,
                ..settings
            },
        }
    }

    /// The numbers.
    pub fn settings(&self) -> &GovernorSettings {
        &self.settings
    }

    /// What to do at a reading.
    pub fn decide(&mut self, now: Instant, reading: &Reading) -> Decision {
        let testimony = self.witnesses.hear(now, reading, self.settings.settle);
        let keep = self.settings.keep_free_percent;
        let Some(room) = reading.room(keep) else {
            return Decision::new(Action::Rest, "memory is not measured".to_owned());
        };
        let Some(model) = &reading.model else {
            self.calm_since = None;
            return Decision::new(Action::Rest, format!("{room}, and no model is loaded"));
        };
        self.pace.see(now, model.precision);
        self.paused_since = model
            .is_background_paused
            .then(|| self.paused_since.unwrap_or(now));

        let is_calm = testimony == Testimony::Quiet && self.spare_at(model.precision, reading).is_some();
        self.calm_since = is_calm.then(|| self.calm_since.unwrap_or(now));
        let short = if room.spare_bytes < 0 {
            Some(format!("{room}, under {keep} %"))
        } else if testimony == Testimony::Short {
            Some(format!(
                "{room}, but tasks wait for memory and files are read again"
            ))
        } else {
            None
        };
        let decision = match (short, self.calm_since) {
            _ if model.is_stepping => Decision::new(Action::Rest, format!("{room}; a step is under way")),
            (Some(why), _) => self.give_up(now, reading, model, &why),
            (None, since) => self
                .uncovered(reading, model, &room)
                .unwrap_or_else(|| match since {
                    Some(since) => self.take_back(now, since, reading, model, &room),
                    None => Decision::new(Action::Rest, format!("{room}, which is enough but not plenty")),
                }),
        };
        self.bounded_pause(now, model, decision)
    }

    /// The next thing to give up.
    fn give_up(&mut self, now: Instant, reading: &Reading, model: &ModelReading, why: &str) -> Decision {
        let missing = self.missing(reading);
        let budget = model.kv_budget_bytes;
        if model.kv_kept_bytes > 0 && !self.tried.kept {
            self.tried.kept = true;
            let bytes = model.kv_kept_bytes.min(missing);
            let what = format!("{why}: {} that ended requests left are let go of", Size(bytes));
            return Decision::new(Action::FreeKept { bytes }, what);
        }
        let smallest = self.settings.smallest_kv_bytes;
        let may_pause = !model.is_background_paused && !self.tried.pausing;
        if budget > smallest {
            // At least a good piece, so that the end is reached after a few readings.
            let bytes = model
                .kv_bytes()
                .saturating_sub(missing)
                .min(budget - self.piece().min(budget));
            let bytes = bytes.max(smallest);
            if bytes >= model.kv_running_bytes || !may_pause {
                return Decision::new(
                    Action::SetKvBudget { bytes },
                    format!("{why}: keys and values get {}", Size(bytes)),
                );
            }
        }
        if may_pause {
            return Decision::new(
                Action::PauseBackground,
                format!("{why}: background requests pause"),
            );
        }
        let Some((to, bytes)) = model.below() else {
            return Decision::new(Action::Rest, format!("{why}, and nothing is left to give up"));
        };
        let wait = self.pace.until_down(now);
        if !wait.is_zero() {
            let what = format!(
                "{why}; the precision changed lately and stays for {} s",
                wait.as_secs()
            );
            return Decision::new(Action::Rest, what);
        }
        self.pace.asked(now);
        let back = model.weights_bytes(model.precision).unwrap_or(bytes) - bytes;
        let what = format!(
            "{why}: from {} to {to}, which gives back {}",
            model.precision,
            Size(back)
        );
        Decision::new(Action::StepDown { to }, what)
    }

    /// Takes back what was promised to keys and values and could not be kept without falling below the threshold, before
    /// somebody relies on it.
    fn uncovered(&self, reading: &Reading, model: &ModelReading, room: &Room<'_>) -> Option<Decision> {
        let spare = reading
            .room_at(model.precision, self.settings.keep_free_percent)?
            .spare();
        if model.promised_bytes() <= spare {
            return None;
        }
        let goal = self.spare_at(model.precision, reading).unwrap_or(0);
        let bytes = model.kv_bytes().saturating_add(goal);
        let bytes = bytes.clamp(self.settings.smallest_kv_bytes, self.settings.kv_bytes);
        let what = format!("{room}: there is room for {} of keys and values", Size(bytes));
        (bytes < model.kv_budget_bytes).then(|| Decision::new(Action::SetKvBudget { bytes }, what))
    }

    /// The next thing to take back, of what was given up last.
    fn take_back(
        &mut self,
        now: Instant,
        calm_since: Instant,
        reading: &Reading,
        model: &ModelReading,
        room: &Room<'_>,
    ) -> Decision {
        let settle = self.settings.settle;
        if now.saturating_duration_since(calm_since) < settle {
            return Decision::new(
                Action::Rest,
                format!("{room}, not yet for {} s", settle.as_secs()),
            );
        }
        let spare = self.spare_at(model.precision, reading).unwrap_or(0);
        if !model.is_background_paused && spare >= model.promised_bytes() {
            self.tried = Tried::default();
        }
        let (mut reserved, mut waits) = (0, String::new());
        if let Some((to, bytes)) = model.above(self.settings.precision) {
            match self
                .spare_at(to, reading)
                .filter(|spare| self.covers(model, *spare))
            {
                Some(left) => {
                    let wait = self.pace.until_up(now);
                    if wait.is_zero() {
                        let what = format!("{room}: from {} to {to}", model.precision);
                        return self.promised(now, model, left, Action::StepUp { to }, what);
                    }
                    reserved = bytes - model.weights_bytes(model.precision).unwrap_or(bytes).min(bytes);
                    waits = format!("; {to} would fit, in {} s", wait.as_secs());
                }
                None => waits = format!("; not enough for {to}"),
            }
        }
        let left = spare.saturating_sub(reserved);
        if model.is_background_paused && self.covers(model, left) {
            let what = format!("{room}: background requests go on{waits}");
            return self.promised(now, model, left, Action::ResumeBackground, what);
        }
        let (budget, full) = (model.kv_budget_bytes, self.settings.kv_bytes);
        let bytes = model.kv_bytes().saturating_add(left).min(full);
        if bytes >= budget.saturating_add(self.piece()) || (bytes == full && bytes > budget) {
            self.calm_since = Some(now);
            let what = format!("{room}: keys and values get {}{waits}", Size(bytes));
            return Decision::new(Action::SetKvBudget { bytes }, what);
        }
        Decision::new(Action::Rest, format!("{room}{waits}"))
    }

    /// Does it, unless more was promised to keys and values than would be left then: first the promise is taken back.
    fn promised(
        &mut self,
        now: Instant,
        model: &ModelReading,
        left: u64,
        action: Action,
        what: String,
    ) -> Decision {
        if model.promised_bytes() > left {
            let bytes = model
                .kv_bytes()
                .saturating_add(left)
                .max(self.settings.smallest_kv_bytes);
            let what = format!("{what}, for which keys and values get {}", Size(bytes));
            return Decision::new(Action::SetKvBudget { bytes }, what);
        }
        self.calm_since = Some(now);
        if matches!(action, Action::StepUp { .. }) {
            self.pace.asked(now);
        }
        Decision::new(action, what)
    }

    /// Whatever else is decided: a budget outside its bounds is put right first, and a pause ends once it has been long
    /// enough, where nothing else is to be done.
    fn bounded_pause(&mut self, now: Instant, model: &ModelReading, decision: Decision) -> Decision {
        let bytes = (model.kv_budget_bytes).clamp(self.settings.smallest_kv_bytes, self.settings.kv_bytes);
        if decision.action == Action::Rest && bytes != model.kv_budget_bytes {
            let what = format!("keys and values get {}, as the settings say", Size(bytes));
            return Decision::new(Action::SetKvBudget { bytes }, what);
        }
        let paused = self
            .paused_since
            .map(|since| now.saturating_duration_since(since));
        let is_over = paused.is_some_and(|paused| paused >= self.settings.longest_pause);
        if decision.action == Action::Rest && is_over && !model.is_stepping {
            self.tried.pausing = true;
            let what = format!(
                "{}; background requests paused long enough and go on",
                decision.reason
            );
            return Decision::new(Action::ResumeBackground, what);
        }
        decision
    }

    /// What may be taken with the weights at this precision, so that threshold and margin stay free. None where they do not
    /// even now.
    fn spare_at(&self, precision: Precision, reading: &Reading) -> Option<u64> {
        let room = reading.room_at(precision, self.goal_percent())?;
        u64::try_from(room.spare_bytes).ok()
    }

    /// Whether so much suffices for the smallest budget.
    fn covers(&self, model: &ModelReading, spare: u64) -> bool {
        spare >= self.settings.smallest_kv_bytes.saturating_sub(model.kv_bytes())
    }

    /// What must be given up so that threshold and margin are free, and at least the margin where the account says that
    /// they are.
    fn missing(&self, reading: &Reading) -> u64 {
        let Some(room) = reading.room(self.goal_percent()) else {
            return 0;
        };
        let margin =
            u128::from(room.memory.total_bytes) * u128::from(self.settings.recovery_margin_percent) / 100;
        room.missing().max(margin.try_into().unwrap_or(u64::MAX))
    }

    fn goal_percent(&self) -> u8 {
        let settings = &self.settings;
        settings
            .keep_free_percent
            .saturating_add(settings.recovery_margin_percent)
    }

    /// What a change of the budget is worth: an eighth of it, and no more than 256 MiB.
    fn piece(&self) -> u64 {
        (self.settings.kv_bytes / 8).clamp(1, 256 << 20)
    }
}
