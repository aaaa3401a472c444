//! Everything around a schedule, played: a clock, devices that ask, a worker that works. It keeps its own books of each
//! request, and has each decision judged by them before it follows it (see [`judge`](super::judge)).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::*;

pub(super) const TOKEN: Duration = Duration::from_millis(10);

pub(super) fn config() -> ScheduleConfig {
    ScheduleConfig {
        max_queued: 40,
        max_queued_of_class: PerPriority {
            urgent: 20,
            interactive: 30,
            background: 30,
        },
        max_queued_of_device: 8,
        ageing: Ageing {
            background_after: Duration::from_secs(2),
            oldest_first_after: Duration::from_secs(5),
        },
        retry_before_learnt: Duration::from_secs(1),
    }
}

/// Nothing is bounded and nothing grows old.
pub(super) fn boundless() -> ScheduleConfig {
    let most = 1_000_000;
    let never = Duration::from_secs(1_000_000);
    ScheduleConfig {
        max_queued: most,
        max_queued_of_class: PerPriority {
            urgent: most,
            interactive: most,
            background: most,
        },
        max_queued_of_device: most,
        ageing: Ageing {
            background_after: never,
            oldest_first_after: never,
        },
        retry_before_learnt: Duration::from_secs(1),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Is {
    Waiting,
    Running,
    Paused,
    Lost,
    Ended(End),
}

/// What the world knows of a request.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) priority: Priority,
    pub(super) device: String,
    pub(super) tokens: Tokens,
    pub(super) is: Is,
    pub(super) came: Instant,
    pub(super) began: Option<Instant>,
    /// In the order of beginning.
    pub(super) began_as: u64,
    pub(super) paused: Option<Instant>,
    prefill: Duration,
    work: Duration,
    done: Duration,
    pub(super) deadline: Option<Instant>,
    pub(super) is_cancelled: bool,
}

impl Known {
    fn left(&self) -> Duration {
        if self.is_cancelled {
            TOKEN
        } else {
            self.work - self.done
        }
    }

    fn answered(&self) -> u32 {
        match self.done.checked_sub(self.prefill) {
            None => 0,
            Some(decoding) => 1 + (decoding.as_millis() / TOKEN.as_millis()) as u32,
        }
    }
}

/// A request to come.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) priority: Priority,
    pub(super) device: String,
    /// A millisecond each.
    pub(super) prompt: u32,
    /// A [`TOKEN`] each.
    pub(super) answer: u32,
    pub(super) deadline: Option<Duration>,
}

pub(super) fn ask(priority: Priority, device: &str, answer: u32) -> Ask {
    Ask {
        priority,
        device: device.to_owned(),
        prompt: 1,
        answer,
        deadline: None,
    }
}

pub(super) struct World {
    pub(super) schedule: Schedule<u64>,
    pub(super) config: ScheduleConfig,
    pub(super) now: Instant,
    pub(super) requests: BTreeMap<u64, Known>,
    pub(super) slots: usize,
    is_held: bool,
    begun: u64,
    next_id: u64,
    /// Of those that have left `requests`.
    pub(super) past: PerPriority<BTreeMap<&'static str, u64>>,
    /// All that was decided.
    pub(super) trace: Vec<String>,
}

impl World {
    pub(super) fn new(config: ScheduleConfig, slots: usize) -> Self {
        let mut world = Self {
            schedule: Schedule::new(config),
            config,
            now: Instant::now(),
            requests: BTreeMap::new(),
            slots: 0,
            is_held: false,
            begun: 0,
            next_id: 0,
            past: PerPriority::default(),
            trace: Vec::new(),
        };
        world.set_slots(slots);
        world
    }

    /// Its name, or why not and when again.
    pub(super) fn submit(&mut self, ask: &Ask) -> Result<u64, (Why, Option<Duration>)> {
        let id = self.next_id;
        self.next_id += 1;
        let tokens = Tokens {
            prompt: ask.prompt,
            answer: ask.answer,
        };
        let deadline = ask.deadline.map(|deadline| self.now + deadline);
        let entry = Entry {
            id,
            priority: ask.priority,
            device: ask.device.as_str().into(),
            deadline,
            tokens,
            payload: id * 31,
        };
        let refused = self.schedule.submit(self.now, entry.clone()).err();
        let prefill = Duration::from_millis(ask.prompt.into());
        self.requests.insert(
            id,
            Known {
                priority: ask.priority,
                device: ask.device.clone(),
                tokens,
                is: match refused {
                    Some(_) => Is::Ended(End::Refused),
                    None => Is::Waiting,
                },
                came: self.now,
                began: None,
                began_as: 0,
                paused: None,
                prefill,
                work: prefill + TOKEN * ask.answer.saturating_sub(1),
                done: Duration::ZERO,
                deadline,
                is_cancelled: false,
            },
        );
        self.decide();
        match refused {
            None => Ok(id),
            Some(refused) => {
                assert_eq!(refused.entry, entry);
                Err((refused.why, refused.retry_after))
            }
        }
    }

    pub(super) fn set_slots(&mut self, slots: usize) {
        self.slots = slots;
        self.schedule.set_slots(slots);
        self.decide();
    }

    pub(super) fn hold_background(&mut self, is_held: bool) {
        self.is_held = is_held;
        self.schedule.pause_background(is_held);
        self.decide();
    }

    pub(super) fn cancel(&mut self, id: u64) {
        let known = self.requests.get_mut(&id);
        match (self.schedule.cancel(id), known) {
            (Cancelled::Unknown, known) => {
                assert!(known.is_none_or(|known| matches!(known.is, Is::Ended(_))));
            }
            (Cancelled::Waiting(entry), Some(known)) => {
                assert_eq!((entry.id, entry.payload, known.is), (id, id * 31, Is::Waiting));
                known.is = Is::Ended(End::Cancelled);
            }
            (Cancelled::Lost, Some(known)) => {
                assert_eq!(known.is, Is::Lost);
                known.is = Is::Ended(End::Cancelled);
            }
            (Cancelled::Running, Some(known)) => {
                assert!(matches!(known.is, Is::Running | Is::Paused));
                known.is_cancelled = true;
            }
            (cancelled, None) => panic!("{cancelled:?} of a request that never was"),
        }
        self.decide();
    }

    /// Ends one that has begun.
    pub(super) fn end(&mut self, id: u64, end: End) {
        let known = self.requests.get_mut(&id).unwrap();
        let used = Tokens {
            answer: known.answered().min(known.tokens.answer),
            ..known.tokens
        };
        let used = (end == End::Completed).then_some(used);
        let had_begun = matches!(known.is, Is::Running | Is::Paused | Is::Lost);
        assert_eq!(self.schedule.finished(id, self.now, end, used), had_begun);
        if had_begun {
            known.is = Is::Ended(end);
        }
        self.decide();
    }

    pub(super) fn lose_worker(&mut self) -> Lost {
        let lost = self.schedule.worker_lost(self.now);
        let mut before = 0;
        for (ids, was) in [(&lost.ran, Is::Running), (&lost.paused, Is::Paused)] {
            for id in ids {
                let known = self.requests.get_mut(id).unwrap();
                assert!(known.is == was && !known.is_cancelled);
                assert!(was != Is::Running || known.began_as > before);
                before = known.began_as;
                known.is = Is::Lost;
            }
        }
        for id in &lost.cancelled {
            let known = self.requests.get_mut(id).unwrap();
            assert!(known.is_cancelled);
            known.is = Is::Ended(End::Cancelled);
        }
        assert_eq!(
            self.count(|known| matches!(known.is, Is::Running | Is::Paused)),
            0
        );
        self.slots = 0;
        self.decide();
        lost
    }

    pub(super) fn drain(&mut self) {
        for entry in self.schedule.drain() {
            let known = self.requests.get_mut(&entry.id).unwrap();
            assert_eq!(known.is, Is::Waiting);
            known.is = Is::Ended(End::Refused);
        }
        self.decide();
    }

    /// Time passes, and what runs ends when its work is done.
    pub(super) fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while self.now < until {
            let ends = self.running().map(|(_, known)| known.left());
            let first_tokens = self
                .running()
                .map(|(_, known)| known.prefill.saturating_sub(known.done));
            let first_tokens = first_tokens.filter(|left| !left.is_zero());
            let expires = self.schedule.next_expiry(self.now);
            let next = ends.chain(first_tokens).chain(expires).min().unwrap_or(by);
            let step = next.max(Duration::from_millis(1)).min(until - self.now);
            self.now += step;
            let mut ended = Vec::new();
            for (id, known) in &mut self.requests {
                let is_over = match known.is {
                    Is::Running => {
                        let left = known.left();
                        known.done += step.min(known.work - known.done);
                        self.schedule
                            .told(*id, self.now, known.answered().min(known.tokens.answer));
                        step >= left
                    }
                    Is::Paused => known.is_cancelled,
                    _ => false,
                };
                if is_over {
                    let end = if known.is_cancelled {
                        End::Cancelled
                    } else {
                        End::Completed
                    };
                    ended.push((*id, end));
                }
            }
            for (id, end) in ended {
                self.end(id, end);
            }
            self.decide();
        }
    }

    /// Until nothing is left, which must come about.
    pub(super) fn run_out(&mut self) {
        for _ in 0..10_000 {
            if self.count(|known| !matches!(known.is, Is::Ended(_))) == 0 {
                return;
            }
            self.advance(Duration::from_secs(1));
        }
        panic!("something never ends");
    }

    /// Takes what has ended off the books, which otherwise each check goes through from the beginning.
    pub(super) fn put_away(&mut self) -> Vec<Known> {
        let is_past = |_: &u64, known: &mut Known| matches!(known.is, Is::Ended(_));
        let past: Vec<_> = self
            .requests
            .extract_if(.., is_past)
            .map(|(_, known)| known)
            .collect();
        for known in &past {
            if let Is::Ended(end) = known.is {
                *self.past[known.priority].entry(end.as_str()).or_default() += 1;
            }
        }
        past
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (u64, &Known)> {
        let running = self.requests.iter().filter(|(_, known)| known.is == Is::Running);
        running.map(|(id, known)| (*id, known))
    }

    pub(super) fn count(&self, wanted: impl Fn(&Known) -> bool) -> usize {
        self.requests.values().filter(|known| wanted(known)).count()
    }

    pub(super) fn is_held(&self, known: &Known) -> bool {
        self.is_held && known.priority == Priority::Background
    }

    fn decide(&mut self) {
        let running_before = self.running().count();
        let (mut pauses, mut urgent) = (0, 0);
        for decision in self.schedule.decide(self.now) {
            self.trace.push(format!("{decision:?}"));
            let id = match &decision {
                Decision::Start(entry) => {
                    self.may_start(entry);
                    entry.id
                }
                Decision::Restart { id } => {
                    self.may_restart(*id);
                    *id
                }
                Decision::Pause { id } => {
                    pauses += usize::from(!self.is_held(&self.requests[id]));
                    self.may_pause(*id);
                    *id
                }
                Decision::Resume { id } => {
                    let known = &self.requests[id];
                    assert!(known.is == Is::Paused && !known.is_cancelled && !self.is_held(known));
                    *id
                }
                Decision::Expire(entry, late) => {
                    self.may_expire(entry, *late);
                    entry.id
                }
            };
            let begun = self.begun;
            let known = self.requests.get_mut(&id).unwrap();
            known.paused = None;
            match decision {
                Decision::Start(_) => {
                    known.is = Is::Running;
                    known.began = Some(self.now);
                    known.began_as = begun + 1;
                    self.begun += 1;
                }
                Decision::Restart { .. } | Decision::Resume { .. } => known.is = Is::Running,
                Decision::Pause { .. } => {
                    known.is = Is::Paused;
                    known.paused = Some(self.now);
                }
                Decision::Expire(..) => known.is = Is::Ended(End::Expired),
            }
            urgent += usize::from(known.is == Is::Running && known.priority == Priority::Urgent);
            assert!(self.running().count() <= self.slots.max(running_before));
        }
        assert!(
            pauses <= running_before.saturating_sub(self.slots) + urgent,
            "paused for nobody"
        );
        self.check();
    }
}
