//! What a schedule is told and what it says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PerPriority;
use crate::policy::priority::Priority;

/// From the settings.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleConfig {
    /// Requests that wait, in all. One more is refused.
    pub max_queued: usize,
    /// Requests of one class that wait. Less than `max_queued` for the background leaves room for what matters more.
    pub max_queued_of_class: PerPriority<usize>,
    /// Requests of one device and class that wait; its background requests leave room for its urgent one.
    pub max_queued_of_device: usize,
    /// How what waits long comes forward.
    pub ageing: Ageing,
    /// When asking again may help while nothing has been learnt of how long requests take.
    pub retry_before_learnt: Duration,
}

/// Waits after which a request goes before others. They are those of a device's line, from when it came or the one
/// before it began, so that each line is brought forward by one request a wait and not by all at once.
#[derive(Clone, Copy, Debug)]
pub struct Ageing {
    /// From then on a background request counts as interactive: it has its device's turn among those.
    pub background_after: Duration,
    /// From then on a request goes before all others of the class it counts as, the longest wait first. Turns alone
    /// keep nobody waiting for ever, unless new devices come without end, each of which is owed a first turn.
    pub oldest_first_after: Duration,
}

impl Ageing {
    /// The class that a request counts as after such a wait. Nothing becomes urgent.
    pub(super) fn counts_as(self, class: Priority, waited: Duration) -> Priority {
        if class == Priority::Background && waited >= self.background_after {
            Priority::Interactive
        } else {
            class
        }
    }
}

/// Tokens of a prompt and of its answer: as asked for, or as used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompt, the template's among them.
    pub prompt: u32,
    /// Of the answer; as asked for, the most that it may have.
    pub answer: u32,
}

/// A prompt's tokens go through the machine many at a time, and an answer's one by one.
const ANSWER_WEIGHT: u64 = 4;

impl Tokens {
    /// What a device is charged for them. Nothing is free, or a device could have everything.
    pub(super) fn cost(self) -> u64 {
        (u64::from(self.prompt) + ANSWER_WEIGHT * u64::from(self.answer)).max(1)
    }
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// Its name, which no other has.
    pub id: u64,
    /// How much it matters.
    pub priority: Priority,
    /// Whose it is.
    pub device: Arc<str>,
    /// When its answer must be complete.
    pub deadline: Option<Instant>,
    /// What it asks for.
    pub tokens: Tokens,
    /// What the schedule does not look at.
    pub payload: T,
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<T> {
    /// Begin it.
    Start(Entry<T>),
    /// Begin it anew: it ran when a worker was lost.
    Restart {
        /// Which.
        id: u64,
    },
    /// Have it wait at its next token.
    Pause {
        /// Which.
        id: u64,
    },
    /// Have it go on where it was paused.
    Resume {
        /// Which.
        id: u64,
    },
    /// It ended as [`End::Expired`](super::End::Expired): say so to whoever asked.
    Expire(Entry<T>, Late),
}

/// Why a request that waited has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// Its deadline is over.
    Passed,
    /// It would not be met if the request began now.
    CannotBeMet {
        /// How long it takes, by what was learnt.
        takes: Duration,
    },
}

/// A request that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused<T> {
    /// The request.
    pub entry: Entry<T>,
    /// Why.
    pub why: Why,
    /// When asking again may help, if it may.
    pub retry_after: Option<Duration>,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// So many wait already.
    Full {
        /// Which bound it met.
        bound: Bound,
        /// How many that allows.
        most: usize,
    },
    /// Its deadline cannot be met.
    TooLate {
        /// When its answer would be complete, by what was learnt.
        ends_in: Duration,
        /// When it should be.
        left: Duration,
    },
    /// Nothing new is taken: the daemon stops.
    Draining,
    /// There is one of this name already.
    NameTaken,
}

/// Bounds on what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// [`ScheduleConfig::max_queued`].
    All,
    /// [`ScheduleConfig::max_queued_of_class`].
    Class,
    /// [`ScheduleConfig::max_queued_of_device`].
    Device,
}

/// What became of a request that is not wanted any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled<T> {
    /// It waited, and has ended.
    Waiting(Entry<T>),
    /// It had lost its worker and was to be begun anew; it has ended.
    Lost,
    /// It runs, or is paused. It ends when [`Schedule::finished`](super::Schedule::finished) says so.
    Running,
    /// There is no such request, or no more.
    Unknown,
}

/// What had begun when a worker was lost, in the order in which it did. What is neither cancelled nor
/// [`finished`](super::Schedule::finished) is begun anew when there are slots again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// They ran: one of them may be to blame.
    pub ran: Vec<u64>,
    /// They were paused.
    pub paused: Vec<u64>,
    /// Somebody had asked for their end; they have ended as [`End::Cancelled`](super::End::Cancelled).
    pub cancelled: Vec<u64>,
}
