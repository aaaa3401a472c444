//! What a simulation's parts share: chance, the course of events, and what lies outside the daemon.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use actors::outside;

/// Chance that can be repeated.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        outside::split_mix(&mut self.0) % bound.max(1)
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap_or(0)]
    }

    /// Between these, in milliseconds.
    pub(super) fn pause(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + self.below(most_ms - least_ms + 1))
    }

    /// Of one's own, so that what one part does changes nothing of another's.
    pub(super) fn fork(&mut self) -> Chance {
        Chance(outside::split_mix(&mut self.0))
    }
}

/// The first moment of every simulation.
fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// What lies outside the daemon, shared by all parts.
#[derive(Clone)]
pub(super) struct World(Arc<Mutex<Inner>>);

struct Inner {
    /// Of the daemons that have ended.
    passed: Duration,
    life_began: Option<Instant>,
    life: u32,
    chance: Chance,
    trace: Vec<String>,
    faults: Vec<String>,
    /// Bytes that other programs have taken.
    hog_bytes: u64,
    /// How long the next commit takes.
    disk_stall: Option<Duration>,
    /// Nothing bad happens any more.
    is_calm: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            passed: Duration::ZERO,
            life_began: None,
            life: 0,
            chance: Chance::new(seed),
            trace: Vec::new(),
            faults: Vec::new(),
            hog_bytes: 0,
            disk_stall: None,
            is_calm: false,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A daemon begins, on this thread.
    pub(super) fn begin_life(&self) {
        let mut inner = self.inner();
        inner.life += 1;
        let (seed, at) = (outside::split_mix(&mut inner.chance.0), epoch() + inner.passed);
        outside::simulate(seed, at);
        inner.life_began = Some(outside::now());
    }

    /// It is over.
    pub(super) fn end_life(&self) {
        let mut inner = self.inner();
        let lasted = inner.life_began.take().map_or(Duration::ZERO, outside::since);
        inner.passed += lasted;
    }

    /// Which daemon it is.
    pub(super) fn life(&self) -> u32 {
        self.inner().life
    }

    pub(super) fn chance(&self) -> Chance {
        self.inner().chance.fork()
    }

    /// Something happened.
    pub(super) fn note(&self, what: impl std::fmt::Display) {
        let mut inner = self.inner();
        let at = inner.passed + inner.life_began.map_or(Duration::ZERO, outside::since);
        let line = format!("{}.{:03} {what}", at.as_secs(), at.subsec_millis());
        inner.trace.push(line);
    }

    /// Something happened that must not.
    pub(super) fn fault(&self, what: impl std::fmt::Display) {
        let line = format!("!! {what}");
        self.note(&line);
        self.inner().faults.push(line);
    }

    pub(super) fn hog_bytes(&self) -> u64 {
        self.inner().hog_bytes
    }

    pub(super) fn set_hog_bytes(&self, bytes: u64) {
        self.inner().hog_bytes = bytes;
    }

    pub(super) fn stall_disk(&self, stall: Duration) {
        self.inner().disk_stall = Some(stall);
    }

    pub(super) fn take_disk_stall(&self) -> Option<Duration> {
        self.inner().disk_stall.take()
    }

    pub(super) fn calm(&self) {
        let mut inner = self.inner();
        inner.is_calm = true;
        inner.hog_bytes = 0;
    }

    pub(super) fn is_calm(&self) -> bool {
        self.inner().is_calm
    }

    /// Everything that happened, and what of it must not.
    pub(super) fn outcome(&self) -> (Vec<String>, Vec<String>) {
        let mut inner = self.inner();
        (
            std::mem::take(&mut inner.trace),
            std::mem::take(&mut inner.faults),
        )
    }
}
