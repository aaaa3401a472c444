//! Memory as a sum with owners.

use serde::{Deserialize, Serialize};

/// Who has memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The model's weights: resident pages of the packed file, or the worker's own memory where they are not mapped.
    Weights,
    /// Keys and values of running sequences.
    KvRunning,
    /// Keys and values that ended ones left.
    KvKept,
    /// Messages that wait for clients, in outboxes and queues of sessions, as the bounds of those count them: topic, payload
    /// and 160 bytes. A payload that several sessions wait for counts for each. What was sent and is not acknowledged, and
    /// what the sessions are beside it, is in the rest.
    Sessions,
    /// Retained messages, counted the same way.
    Retained,
    /// Prompts of requests that were accepted and have not ended, and changes that wait to be written by the store.
    Queues,
    /// Pages that the embedded store has of its file, as its library counts them; what a PostgreSQL server has is not ours.
    StoreCache,
    /// All else of the daemon.
    OtherOfDaemon,
    /// All else of the worker.
    OtherOfWorker,
    /// The embedded assistant's process, where it understands commands beside another model.
    Assistant,
}

impl Owner {
    /// All of them, the order in which they are told.
    pub const ALL: [Self; 10] = [
        Self::Weights,
        Self::KvRunning,
        Self::KvKept,
        Self::Sessions,
        Self::Retained,
        Self::Queues,
        Self::StoreCache,
        Self::OtherOfDaemon,
        Self::OtherOfWorker,
        Self::Assistant,
    ];

    /// As in status and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::KvRunning => "kv_running",
            Self::KvKept => "kv_kept",
            Self::Sessions => "sessions",
            Self::Retained => "retained",
            Self::Queues => "queues",
            Self::StoreCache => "store_cache",
            Self::OtherOfDaemon => "other_of_daemon",
            Self::OtherOfWorker => "other_of_worker",
            Self::Assistant => "assistant",
        }
    }
}

/// What the daemon's process has, and what its parts say that they have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaemonMemory {
    /// Measured: its own pages, in memory and swapped out.
    pub private_bytes: u64,
    /// See [`Owner::Sessions`].
    pub sessions_bytes: u64,
    /// See [`Owner::Retained`].
    pub retained_bytes: u64,
    /// See [`Owner::Queues`].
    pub queues_bytes: u64,
    /// See [`Owner::StoreCache`].
    pub store_cache_bytes: u64,
}

/// What the worker's process has, and what its parts say that they have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerMemory {
    /// Measured: its own pages, in memory and swapped out.
    pub private_bytes: u64,
    /// Measured: resident pages of the packed file.
    pub mapped_weights_bytes: u64,
    /// Weights in its own pages, where they are not mapped.
    pub private_weights_bytes: u64,
    /// Keys and values of running sequences.
    pub kv_running_bytes: u64,
    /// Keys and values that ended ones left.
    pub kv_kept_bytes: u64,
}

/// The sum. Its parts are what was measured from outside, split by what the parts say of themselves: who says more than
/// its process has gets what is left there. So the parts add up to what was measured, whatever is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", from = "Written")]
pub struct Ledger {
    parts: [u64; Owner::ALL.len()],
}

impl Ledger {
    /// Split so. A worker that does not run has nothing.
    pub fn new(daemon: DaemonMemory, worker: WorkerMemory, assistant_bytes: u64) -> Self {
        let mut ledger = Self::default();
        ledger.add(Owner::Assistant, assistant_bytes);
        let mut left = daemon.private_bytes;
        ledger.give(Owner::Sessions, daemon.sessions_bytes, &mut left);
        ledger.give(Owner::Retained, daemon.retained_bytes, &mut left);
        ledger.give(Owner::Queues, daemon.queues_bytes, &mut left);
        ledger.give(Owner::StoreCache, daemon.store_cache_bytes, &mut left);
        ledger.add(Owner::OtherOfDaemon, left);

        ledger.add(Owner::Weights, worker.mapped_weights_bytes);
        let mut left = worker.private_bytes;
        ledger.give(Owner::Weights, worker.private_weights_bytes, &mut left);
        ledger.give(Owner::KvRunning, worker.kv_running_bytes, &mut left);
        ledger.give(Owner::KvKept, worker.kv_kept_bytes, &mut left);
        ledger.add(Owner::OtherOfWorker, left);
        ledger
    }

    /// What an owner has.
    pub fn bytes(&self, owner: Owner) -> u64 {
        self.parts[owner as usize]
    }

    /// Each owner and what it has.
    pub fn parts(&self) -> impl Iterator<Item = (Owner, u64)> {
        let bytes = self.parts;
        Owner::ALL.into_iter().zip(bytes)
    }

    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.parts
            .iter()
            .fold(0, |total, bytes| total.saturating_add(*bytes))
    }

    fn give(&mut self, owner: Owner, bytes: u64, left: &mut u64) {
        let given = bytes.min(*left);
        *left -= given;
        self.add(owner, given);
    }

    fn add(&mut self, owner: Owner, bytes: u64) {
        let part = &mut self.parts[owner as usize];
        *part = part.saturating_add(bytes);
    }
}

/// As it is written: with the total, which is not read again but summed up.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(skip_deserializing)]
    total_bytes: u64,
    weights_bytes: u64,
    kv_running_bytes: u64,
    kv_kept_bytes: u64,
    sessions_bytes: u64,
    #[serde(default)]
    retained_bytes: u64,
    queues_bytes: u64,
    store_cache_bytes: u64,
    other_of_daemon_bytes: u64,
    other_of_worker_bytes: u64,
    #[serde(default)]
    assistant_bytes: u64,
}

impl From<Ledger> for Written {
    fn from(ledger: Ledger) -> Self {
        Self {
            total_bytes: ledger.total_bytes(),
            weights_bytes: ledger.bytes(Owner::Weights),
            kv_running_bytes: ledger.bytes(Owner::KvRunning),
            kv_kept_bytes: ledger.bytes(Owner::KvKept),
            sessions_bytes: ledger.bytes(Owner::Sessions),
            retained_bytes: ledger.bytes(Owner::Retained),
            queues_bytes: ledger.bytes(Owner::Queues),
            store_cache_bytes: ledger.bytes(Owner::StoreCache),
            other_of_daemon_bytes: ledger.bytes(Owner::OtherOfDaemon),
            other_of_worker_bytes: ledger.bytes(Owner::OtherOfWorker),
            assistant_bytes: ledger.bytes(Owner::Assistant),
        }
    }
}

impl From<Written> for Ledger {
    fn from(written: Written) -> Self {
        let mut ledger = Self::default();
        for (owner, bytes) in [
            (Owner::Weights, written.weights_bytes),
            (Owner::KvRunning, written.kv_running_bytes),
            (Owner::KvKept, written.kv_kept_bytes),
            (Owner::Sessions, written.sessions_bytes),
            (Owner::Retained, written.retained_bytes),
            (Owner::Queues, written.queues_bytes),
            (Owner::StoreCache, written.store_cache_bytes),
            (Owner::OtherOfDaemon, written.other_of_daemon_bytes),
            (Owner::OtherOfWorker, written.other_of_worker_bytes),
            (Owner::Assistant, written.assistant_bytes),
        ] {
            ledger.add(owner, bytes);
        }
        ledger
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(owner: Owner, ledger: &Ledger) -> u64 {
        let mut parts = ledger.parts();
        parts
            .find_map(|(of, bytes)| (of == owner).then_some(bytes))
            .unwrap()
    }

    #[test]
    fn what_nobody_claims_is_other_and_what_is_claimed_twice_is_given_once() {
        let daemon = DaemonMemory {
            private_bytes: 100,
            sessions_bytes: 20,
            retained_bytes: 3,
            queues_bytes: 30,
            store_cache_bytes: 10,
        };
        let worker = WorkerMemory {
            private_bytes: 500,
            mapped_weights_bytes: 4_000,
            private_weights_bytes: 0,
            kv_running_bytes: 450,
            kv_kept_bytes: 90,
        };
        let ledger = Ledger::new(daemon, worker, 25);
        let bytes = Owner::ALL.map(|owner| ledger.bytes(owner));
        assert_eq!(bytes, [4_000, 450, 50, 20, 3, 30, 10, 37, 0, 25]);
        assert_eq!(ledger.total_bytes(), 4_625);
    }

    #[test]
    fn it_is_written_with_its_total_and_owners_by_name() {
        let daemon = DaemonMemory {
            private_bytes: 7,
            ..DaemonMemory::default()
        };
        let json = serde_json::to_value(Ledger::new(daemon, WorkerMemory::default(), 0)).unwrap();
        assert_eq!(json["total_bytes"], 7);
        for owner in Owner::ALL {
            let expected = if owner == Owner::OtherOfDaemon { 7 } else { 0 };
            assert_eq!(json[format!("{}_bytes", owner.as_str())], expected);
            assert_eq!(serde_json::to_value(owner).unwrap(), owner.as_str());
        }
    }

    proptest! {
        #[test]
        fn the_parts_add_up_to_what_was_measured_whatever_is_claimed(bytes: [u32; 11]) {
            let [daemon, sessions, retained, queues, store_cache, worker, mapped, private, running, kept, assistant] = bytes.map(u64::from);
            let ledger = Ledger::new(
                DaemonMemory {
                    private_bytes: daemon,
                    sessions_bytes: sessions,
                    retained_bytes: retained,
                    queues_bytes: queues,
                    store_cache_bytes: store_cache,
                },
                WorkerMemory {
                    private_bytes: worker,
                    mapped_weights_bytes: mapped,
                    private_weights_bytes: private,
                    kv_running_bytes: running,
                    kv_kept_bytes: kept,
                },
                assistant,
            );
            prop_assert_eq!(ledger.total_bytes(), daemon + worker + mapped + assistant);
            prop_assert_eq!(ledger.parts().map(|(_, bytes)| bytes).sum::<u64>(), ledger.total_bytes());
            for (owner, claimed) in [
                (Owner::Sessions, sessions), (Owner::Retained, retained), (Owner::Queues, queues), (Owner::StoreCache, store_cache),
                (Owner::KvRunning, running), (Owner::KvKept, kept), (Owner::Weights, mapped + private),
            ] {
                prop_assert!(of(owner, &ledger) <= claimed);
            }
            let json = serde_json::to_string(&ledger).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ledger>(&json).unwrap(), ledger);
        }
    }
}
