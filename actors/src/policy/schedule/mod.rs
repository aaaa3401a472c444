//! Which request runs when. Pure: what happens and the time of it in, decisions out.
//!
//! What it promises, each of which is tested over random arrivals, ends, cancellations, losses and changes:
//!
//! 1. No more run than there are slots. Urgent ones alone, which nothing pauses, may be more for as long as they last when
//!    the slots have just become fewer.
//! 2. An urgent request begins with the next decision unless every slot has an urgent one. It takes a free place, or that
//!    of the least important: background before interactive, the youngest of a class first.
//! 3. No place stays free while something may begin or go on.
//! 4. What lost its worker is begun anew, and what was paused goes on, before anything of the same class begins.
//! 5. Inside a class devices have their turns (see `fair.rs`), and a device's requests begin in the order they came.
//! 6. Nothing starves but by urgent requests without pause in all slots: see [`Ageing`], which neither makes anything
//!    urgent nor pauses anything.
//! 7. Nothing begins that cannot meet its deadline by what was learnt, and what waits expires as soon as that is so. Before
//!    anything was learnt nothing is refused for its deadline.
//! 8. What waits is bounded, in all, by class and by device; who finds it full hears when asking again may help.
//! 9. The conservation law holds (see [`Account`]): each request ends once, in one of the named ways.

mod account;
mod begun;
mod estimate;
mod fair;
mod forecast;
mod per_priority;
mod terms;
#[cfg(test)]
mod tests;
mod waiting;

use std::time::Instant;

use account::At;
pub use account::{Account, Counts, End};
use begun::{AllBegun, Begun, State};
pub use estimate::Estimate;
use fair::FairClock;
pub use per_priority::PerPriority;
pub use terms::{
    Ageing, Bound, Cancelled, Decision, Entry, Late, Lost, Refused, ScheduleConfig, Tokens, Why,
};
use waiting::{Head, Waiting};

use crate::policy::priority::Priority;

/// See the module. `T` is what a waiting request brings along.
#[derive(Debug)]
pub struct Schedule<T> {
    config: ScheduleConfig,
    slots: usize,
    waiting: Waiting<T>,
    begun: AllBegun,
    /// By the class that requests count as when they begin.
    clocks: PerPriority<FairClock>,
    estimate: Estimate,
    account: Account,
    is_draining: bool,
    is_background_paused: bool,
}

/// What goes on next.
enum Next {
    /// By its number in `begun`.
    Again(usize),
    New {
        head: Head,
        counts_as: Priority,
    },
}

impl<T> Schedule<T> {
    /// An empty one without slots: nothing begins before [`set_slots`](Self::set_slots).
    pub fn new(config: ScheduleConfig) -> Self {
        Self {
            config,
            slots: 0,
            waiting: Waiting::new(),
            begun: AllBegun::default(),
            clocks: PerPriority::default(),
            estimate: Estimate::default(),
            account: Account::default(),
            is_draining: false,
            is_background_paused: false,
        }
    }

    /// Takes a request on, which waits until a decision begins it.
    pub fn submit(&mut self, now: Instant, entry: Entry<T>) -> Result<(), Refused<T>> {
        let class = entry.priority;
        let is_busy = |begun: &Begun| begun.priority == class || begun.charged_to == class;
        if self.waiting.of(class).next().is_none() && self.begun.position(is_busy).is_none() {
            self.clocks[class].reset();
        }
        self.account.accepted(class);
        if let Some((why, retry_after)) = self.objection(&entry, now) {
            self.account.ended(class, At::Queued, End::Refused);
            return Err(Refused {
                entry,
                why,
                retry_after,
            });
        }
        self.waiting.push(entry, now);
        Ok(())
    }

    /// What to do now. Asked after anything has happened, and when [`next_expiry`](Self::next_expiry) says so.
    pub fn decide(&mut self, now: Instant) -> Vec<Decision<T>> {
        self.begun.count(now);
        let mut decisions = self.expire(now);
        self.make_room(now, &mut decisions);
        loop {
            let is_full = self.begun.running() >= self.slots;
            // Only what is urgent finds a place where there is none.
            let classes = if is_full {
                &Priority::ALL[..1]
            } else {
                &Priority::ALL[..]
            };
            let Some(next) = self.next(classes, now) else {
                break;
            };
            if is_full {
                let Some(number) = self.begun.least_important() else {
                    break;
                };
                self.pause(number, now, &mut decisions);
            }
            let Some(decision) = self.begin(next, now) else {
                break;
            };
            decisions.push(decision);
        }
        decisions
    }

    /// So many tokens of an answer have come; what is not told is not learnt from.
    pub fn told(&mut self, id: u64, now: Instant, answered: u32) {
        self.begun.count(now);
        self.begun.told(id, answered, now);
    }

    /// A request that had begun has ended, having used so many tokens, if that is known. False if there is no such one.
    pub fn finished(&mut self, id: u64, now: Instant, end: End, used: Option<Tokens>) -> bool {
        self.begun.count(now);
        let Some(mut begun) = self.begun.remove(id) else {
            return false;
        };
        self.begun.stop(&mut begun, now);
        let used = used.unwrap_or_else(|| begun.used());
        if end == End::Completed {
            begun.teach(&mut self.estimate, used);
        }
        self.clocks[begun.charged_to].correct(&begun.device, begun.tokens.cost(), used.cost());
        self.account.ended(begun.priority, begun.at(), end);
        true
    }

    /// A request is not wanted any more.
    pub fn cancel(&mut self, id: u64) -> Cancelled<T> {
        if let Some(entry) = self.waiting.remove(id) {
            self.account.ended(entry.priority, At::Queued, End::Cancelled);
            return Cancelled::Waiting(entry);
        }
        let Some(begun) = self.begun.find(id).and_then(|number| self.begun.get_mut(number)) else {
            return Cancelled::Unknown;
        };
        if begun.state == State::Lost {
            self.account.ended(begun.priority, begun.at(), End::Cancelled);
            self.begun.remove(id);
            return Cancelled::Lost;
        }
        begun.is_cancelled = true;
        Cancelled::Running
    }

    /// The worker is gone with all that it ran. There are no slots until [`set_slots`](Self::set_slots) names those of
    /// the next one; what is not to be begun anew is [`finished`](Self::finished) before that.
    pub fn worker_lost(&mut self, now: Instant) -> Lost {
        self.begun.count(now);
        self.slots = 0;
        let mut lost = Lost::default();
        for number in 0..self.begun.iter().count() {
            let Some(begun) = self.begun.get(number) else {
                break;
            };
            let ids = match begun.state {
                State::Lost => continue,
                _ if begun.is_cancelled => &mut lost.cancelled,
                State::Running => &mut lost.ran,
                State::Paused => &mut lost.paused,
            };
            ids.push(begun.id);
            if !begun.is_cancelled {
                self.account.moved(begun.priority, At::Running, At::Queued);
                self.begun.set(number, State::Lost, now);
            }
        }
        for id in &lost.cancelled {
            self.finished(*id, now, End::Cancelled, None);
        }
        lost
    }

    /// So many may run at once. If they become fewer, the next decision pauses the least important.
    pub fn set_slots(&mut self, slots: usize) {
        self.slots = slots;
    }

    /// Whether background requests pause, and none begins: they are the first to make room when memory is short. What
    /// has grown old is meant as well.
    pub fn pause_background(&mut self, is_paused: bool) {
        self.is_background_paused = is_paused;
    }

    /// Takes nothing new, and gives back what waits, which is refused. What has begun goes on to its end.
    pub fn drain(&mut self) -> Vec<Entry<T>> {
        self.is_draining = true;
        self.end_waiting(End::Refused)
    }

    /// Ends all that waits to begin, from the most to the least important.
    pub fn end_waiting(&mut self, end: End) -> Vec<Entry<T>> {
        let ended = self.waiting.remove_if(|_| true);
        for entry in &ended {
            self.account.ended(entry.priority, At::Queued, end);
        }
        ended
    }

    /// Counts a request that was refused before it came here, so that the account has it.
    pub fn refused_elsewhere(&mut self, priority: Priority) {
        self.account.accepted(priority);
        self.account.ended(priority, At::Queued, End::Refused);
    }

    /// What became of all requests.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// What has been learnt of how long requests take.
    pub fn estimate(&self) -> &Estimate {
        &self.estimate
    }

    /// How many may run at once.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.begun.running()
    }

    /// How many are paused.
    pub fn paused(&self) -> usize {
        self.in_state(State::Paused)
    }

    /// How many wait, for the first time or to be begun anew.
    pub fn queued(&self) -> usize {
        self.waiting.len() + self.in_state(State::Lost)
    }

    /// Whether there is nothing left that has begun: the end of [`drain`](Self::drain).
    pub fn is_drained(&self) -> bool {
        self.begun.iter().next().is_none() && self.waiting.iter().next().is_none()
    }

    /// Whether the account's sums are right, and are those of what is here.
    pub fn check(&self) -> Result<(), String> {
        self.account.check()?;
        for class in Priority::ALL {
            let begun = self.begun.iter().filter(|begun| begun.priority == class);
            let (queued, running): (Vec<_>, Vec<_>) = begun.partition(|begun| begun.at() == At::Queued);
            let here = (self.waiting.of(class).count() + queued.len(), running.len());
            let counts = self.account.of(class);
            if (here.0 as u64, here.1 as u64) != (counts.queued, counts.running) {
                let class = class.as_str();
                return Err(format!(
                    "{class}: (queued, running) is {here:?} here, but {counts:?}"
                ));
            }
        }
        Ok(())
    }

    fn in_state(&self, state: State) -> usize {
        self.begun.iter().filter(|begun| begun.state == state).count()
    }

    fn expire(&mut self, now: Instant) -> Vec<Decision<T>> {
        let (estimate, load) = (&self.estimate, self.load());
        let late = |entry: &Entry<T>| forecast::is_late(estimate, load, entry, now);
        let expired = self.waiting.remove_if(|entry| late(entry).is_some());
        for entry in &expired {
            self.account.ended(entry.priority, At::Queued, End::Expired);
        }
        let with_reason = |entry: Entry<T>| {
            let why = late(&entry).unwrap_or(Late::Passed);
            Decision::Expire(entry, why)
        };
        expired.into_iter().map(with_reason).collect()
    }

    /// Pauses what may not run any more.
    fn make_room(&mut self, now: Instant, decisions: &mut Vec<Decision<T>>) {
        let is_held = |begun: &Begun| {
            begun.state == State::Running && begun.priority == Priority::Background && !begun.is_cancelled
        };
        while self.is_background_paused
            && let Some(number) = self.begun.position(is_held)
        {
            self.pause(number, now, decisions);
        }
        while self.begun.running() > self.slots
            && let Some(number) = self.begun.least_important()
        {
            self.pause(number, now, decisions);
        }
    }

    fn pause(&mut self, number: usize, now: Instant, decisions: &mut Vec<Decision<T>>) {
        let paused = self.begun.set(number, State::Paused, now);
        decisions.extend(paused.map(|id| Decision::Pause { id }));
    }

    /// What goes on next, of the first class that anything counts as.
    fn next(&self, classes: &[Priority], now: Instant) -> Option<Next> {
        let allowed = if self.is_background_paused {
            &Priority::ALL[..2]
        } else {
            &Priority::ALL[..]
        };
        let ageing = self.config.ageing;
        classes.iter().find_map(|&counts_as| {
            let counts = |begun: &&Begun| {
                begun.stands()
                    && allowed.contains(&begun.priority)
                    && begun.counts_as(ageing, now) == counts_as
            };
            if let Some(class) = self.begun.iter().filter(counts).map(|begun| begun.priority).min() {
                return self.standing(class).map(Next::Again);
            }
            let clock = &self.clocks[counts_as];
            let head = self.waiting.head(counts_as, allowed, ageing, clock, now)?;
            let again = self.standing(head.class).map(Next::Again);
            Some(again.unwrap_or(Next::New { head, counts_as }))
        })
    }

    /// What goes before all else of a class, and so takes the place that one of it is due: what lost its worker before what
    /// was paused, in the order in which they began.
    fn standing(&self, class: Priority) -> Option<usize> {
        let standing = self.begun.iter().enumerate();
        let standing = standing.filter(|(_, begun)| begun.stands() && begun.priority == class);
        let first = standing.min_by_key(|(number, begun)| (begun.state, *number));
        first.map(|(number, _)| number)
    }

    fn begin(&mut self, next: Next, now: Instant) -> Option<Decision<T>> {
        match next {
            Next::Again(number) => {
                let begun = self.begun.get(number)?;
                let (priority, at) = (begun.priority, begun.at());
                let id = self.begun.set(number, State::Running, now)?;
                if at == At::Running {
                    return Some(Decision::Resume { id });
                }
                self.account.moved(priority, At::Queued, At::Running);
                Some(Decision::Restart { id })
            }
            Next::New { head, counts_as } => {
                let entry = self.waiting.take(head.class, &head.device, now)?;
                let clock = &mut self.clocks[counts_as];
                if head.is_in_turn {
                    clock.begins(&entry.device, entry.tokens.cost());
                } else {
                    clock.begins_before_its_turn(&entry.device, entry.tokens.cost());
                }
                self.begun.begin(&entry, counts_as, now);
                self.account.moved(entry.priority, At::Queued, At::Running);
                Some(Decision::Start(entry))
            }
        }
    }
}
