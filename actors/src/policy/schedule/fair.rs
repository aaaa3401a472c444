//! Whose turn it is among the devices of one class: start-time fair queueing.
//!
//! Each device has an account of the work done for it, in tokens. A request's start tag is where that account stands, but
//! no less than the virtual time, which is the start tag of the request begun last: who was away comes back on equal
//! terms, with neither credit nor debt from before the others came. The lowest start tag begins. With so many places as
//! there are slots this is SFQ(D) (Jin, Chase and Kaur, SIGMETRICS 2004, after Goyal, Vin and Cheng, SIGCOMM 1996), and
//! counting tokens served, put right when a request has ended with fewer than it asked for, is the Virtual Token Counter
//! (Sheng and others, OSDI 2024).
//!
//! Why not in turns, device by device: one that asks for essays would get many times the machine of one that asks for a
//! word. While two devices both have requests waiting, the work begun for them differs by no more than one request of
//! each, the largest; with requests alike, by one request.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Devices that neither wait nor were overtaken by virtual time. More are forgotten, those that owe least first.
const REMEMBERED: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FairClock {
    virtual_time: u64,
    /// Where each device's account stands, if that is beyond virtual time.
    finish: BTreeMap<Arc<str>, u64>,
}

impl FairClock {
    /// The start tag of a device's next request.
    pub(super) fn start(&self, device: &str) -> u64 {
        let finish = self.finish.get(device).copied().unwrap_or_default();
        finish.max(self.virtual_time)
    }

    /// A request of a device began in its turn: virtual time goes on.
    pub(super) fn begins(&mut self, device: &Arc<str>, cost: u64) {
        self.virtual_time = self.start(device);
        self.begins_before_its_turn(device, cost);
    }

    /// A request began because it had waited long. Virtual time stays, or the others would lose what they are owed.
    pub(super) fn begins_before_its_turn(&mut self, device: &Arc<str>, cost: u64) {
        let finish = self.start(device).saturating_add(cost);
        self.finish.insert(Arc::clone(device), finish);
        if self.finish.len() > REMEMBERED {
            self.forget();
        }
    }

    /// A request cost another amount than it was charged with.
    pub(super) fn correct(&mut self, device: &str, charged: u64, cost: u64) {
        if let Some(finish) = self.finish.get_mut(device) {
            *finish = finish.saturating_sub(charged).saturating_add(cost);
        }
    }

    /// Nothing waits and nothing runs: nobody owes anybody anything.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    fn forget(&mut self) {
        let now = self.virtual_time;
        self.finish.retain(|_, finish| *finish > now);
        while self.finish.len() > REMEMBERED {
            let least = self.finish.iter().min_by_key(|(_, finish)| **finish);
            let Some(device) = least.map(|(device, _)| Arc::clone(device)) else {
                return;
            };
            self.finish.remove(&device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_later_has_neither_credit_nor_debt() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut clock = FairClock::default();
        for _ in 0..100 {
            clock.begins(&a, 10);
        }
        assert_eq!((clock.start("a"), clock.start("b")), (1000, 990));
        clock.begins(&b, 10);
        assert_eq!((clock.start("a"), clock.start("b")), (1000, 1000));
    }

    #[test]
    fn what_was_not_used_is_given_back() {
        let a: Arc<str> = "a".into();
        let mut clock = FairClock::default();
        clock.begins(&a, 4000);
        clock.correct("a", 4000, 20);
        assert_eq!(clock.start("a"), 20);
    }

    #[test]
    fn devices_without_number_do_not_fill_the_memory() {
        let mut clock = FairClock::default();
        for number in 0..10_000 {
            clock.begins(&number.to_string().into(), 1 + number % 7);
        }
        assert!(clock.finish.len() <= REMEMBERED);
    }
}
