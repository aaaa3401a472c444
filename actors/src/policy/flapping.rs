//! Clients that come and go too often are banned for a while, as by EMQX: so many disconnects within
//! a window bring a ban. Bounded; when it is full, the oldest is forgotten, which is the one that would
//! be forgotten next anyway.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The numbers.
#[derive(Clone, Copy, Debug)]
pub struct FlappingConfig {
    /// Disconnects within a window that bring the ban.
    pub max_disconnects: u32,
    /// The window; it begins with the first disconnect counted in it.
    pub window: Duration,
    /// How long a ban lasts.
    pub ban: Duration,
    /// Clients watched at the same time, and as many banned ones.
    pub max_clients: usize,
}

/// See the module. `K` says who a client is.
#[derive(Debug)]
pub struct Flapping<K> {
    config: FlappingConfig,
    /// How often each client disconnected in its window.
    disconnects: Expiring<K, u32>,
    bans: Expiring<K, ()>,
}

impl<K: Clone + Eq + Hash> Flapping<K> {
    /// Nobody seen yet.
    pub fn new(config: FlappingConfig) -> Self {
        Self {
            config,
            disconnects: Expiring::new(config.window, config.max_clients),
            bans: Expiring::new(config.ban, config.max_clients),
        }
    }

    /// A client is gone. True where that was once too often, and it is banned from now on.
    pub fn disconnected(&mut self, now: Instant, client: &K) -> bool {
        if self.ban_left(now, client).is_some() {
            return false;
        }
        self.disconnects.expire(now);
        let count = self.disconnects.get_or_insert(now, client);
        *count += 1;
        if *count < self.config.max_disconnects {
            return false;
        }
        self.disconnects.remove(client);
        self.bans.get_or_insert(now, client);
        true
    }

    /// How long a client is still banned, if it is.
    pub fn ban_left(&mut self, now: Instant, client: &K) -> Option<Duration> {
        self.bans.expire(now);
        let end = self.bans.end(client)?;
        Some(end.saturating_duration_since(now))
    }
}

/// Entries that all live equally long, so that the oldest always goes first.
#[derive(Debug)]
struct Expiring<K, V> {
    life: Duration,
    bound: usize,
    entries: HashMap<K, (Instant, V)>,
    /// Oldest first. What was removed before its time stays here until then, and is told by its end.
    order: VecDeque<(Instant, K)>,
}

impl<K: Clone + Eq + Hash, V: Default> Expiring<K, V> {
    fn new(life: Duration, bound: usize) -> Self {
        Self {
            life,
            bound: bound.max(1),
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(end, _)| *end <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((end, key)) = self.order.pop_front()
            && self
                .entries
                .get(&key)
                .is_some_and(|(of_entry, _)| *of_entry == end)
        {
            self.entries.remove(&key);
        }
    }

    fn get_or_insert(&mut self, now: Instant, key: &K) -> &mut V {
        if !self.entries.contains_key(key) {
            // By the order, which is never the shorter one.
            while self.order.len() >= self.bound {
                self.forget_oldest();
            }
            self.order.push_back((now + self.life, key.clone()));
        }
        let entry = self.entries.entry(key.clone());
        &mut entry.or_insert_with(|| (now + self.life, V::default())).1
    }

    fn end(&self, key: &K) -> Option<Instant> {
        self.entries.get(key).map(|(end, _)| *end)
    }

    fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: FlappingConfig = FlappingConfig {
        max_disconnects: 3,
        window: Duration::from_secs(60),
        ban: Duration::from_secs(300),
        max_clients: 4,
    };

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_last_disconnect_of_too_many_in_a_window_brings_a_ban_that_ends() {
        let (mut flapping, start) = (Flapping::new(CONFIG), Instant::now());
        assert!(!flapping.disconnected(start, &"a"));
        assert!(!flapping.disconnected(after(start, 1), &"a"));
        assert_eq!(flapping.ban_left(after(start, 1), &"a"), None);
        assert!(flapping.disconnected(after(start, 59), &"a"));
        assert_eq!(
            flapping.ban_left(after(start, 59), &"a"),
            Some(Duration::from_secs(300))
        );
        assert_eq!(flapping.ban_left(after(start, 59), &"b"), None);
        assert_eq!(
            flapping.ban_left(after(start, 358), &"a"),
            Some(Duration::from_secs(1))
        );
        assert_eq!(flapping.ban_left(after(start, 359), &"a"), None);
        assert!(!flapping.disconnected(after(start, 359), &"a"), "it begins anew");
    }

    #[test]
    fn disconnects_of_different_windows_are_not_added_up() {
        let (mut flapping, start) = (Flapping::new(CONFIG), Instant::now());
        for round in 0..10 {
            assert!(!flapping.disconnected(after(start, round * 60), &"a"));
            assert!(!flapping.disconnected(after(start, round * 60 + 59), &"a"));
        }
    }

    #[test]
    fn a_crowd_makes_it_forget_the_oldest_and_nothing_else() {
        let (mut flapping, start) = (Flapping::new(CONFIG), Instant::now());
        for client in 0..5 {
            flapping.disconnected(start, &client);
            flapping.disconnected(start, &client);
        }
        assert!(!flapping.disconnected(start, &0), "it was forgotten");
        assert!(flapping.disconnected(start, &4), "it was not");
    }

    proptest! {
        #[test]
        fn it_decides_like_a_record_of_everything_while_it_has_room(
            steps in prop::collection::vec((0u8..4, 0u64..40), 0..120),
        ) {
            let mut flapping = Flapping::new(CONFIG);
            let start = Instant::now();
            let mut now = start;
            // Of each client the window's begin and count, and the end of its ban.
            let mut record: HashMap<u8, (Instant, u32, Instant)> = HashMap::new();
            for (client, pause) in steps {
                now = after(now, pause);
                let (begin, count, banned_until) = record.entry(client).or_insert((now, 0, start));
                let mut banned_now = false;
                if now >= *banned_until {
                    if now >= *begin + CONFIG.window {
                        (*begin, *count) = (now, 0);
                    }
                    if *count == 0 {
                        *begin = now;
                    }
                    *count += 1;
                    if *count == CONFIG.max_disconnects {
                        (*count, *banned_until) = (0, now + CONFIG.ban);
                        banned_now = true;
                    }
                }
                let banned_until = *banned_until;
                prop_assert_eq!(flapping.disconnected(now, &client), banned_now);
                prop_assert_eq!(flapping.ban_left(now, &client).is_some(), now < banned_until);
            }
        }

        #[test]
        fn it_never_holds_more_than_its_bound(
            steps in prop::collection::vec((any::<u8>(), 0u64..30), 0..300),
        ) {
            let mut flapping = Flapping::new(CONFIG);
            let mut now = Instant::now();
            for (client, pause) in steps {
                now = after(now, pause);
                flapping.disconnected(now, &client);
                let lengths = [
                    flapping.disconnects.entries.len(), flapping.disconnects.order.len(),
                    flapping.bans.entries.len(), flapping.bans.order.len(),
                ];
                prop_assert!(lengths.iter().all(|length| *length <= CONFIG.max_clients), "{:?}", lengths);
            }
        }
    }
}
