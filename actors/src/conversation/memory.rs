//! Every device's history, in memory and in the store.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::prelude::*;
use bytestring::ByteString;
use dashmap::DashMap;
use models::ChatMessage;

use super::history::{History, Turn};
use crate::outside;
use crate::store::{Change, Record, Table};
use crate::switchboard::Switchboard;

/// How often old turns are looked for.
const SWEEP: Duration = Duration::from_secs(3600);

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Tokens of each device's history; 0 adds nothing to it.
    pub most_tokens: usize,
    /// How long a turn is remembered.
    pub retention: Duration,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    config: MemoryConfig,
    histories: DashMap<ByteString, History>,
    switchboard: Switchboard,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} devices)", self.0.histories.len())
    }
}

impl Memory {
    /// What was kept, and room for more.
    pub fn new(
        config: MemoryConfig,
        kept: impl IntoIterator<Item = Record>,
        switchboard: Switchboard,
    ) -> Self {
        let histories = DashMap::new();
        for record in kept {
            match serde_json::from_slice::<History>(&record.value) {
                Ok(history) => {
                    histories.insert(record.name, history);
                }
                Err(_) => {
                    tracing::error!(device = %record.name, "a conversation that was kept cannot be read")
                }
            }
        }
        let memory = Self(Arc::new(Inner {
            config,
            histories,
            switchboard,
        }));
        memory.forget_old(outside::calendar());
        memory
    }

    /// Whether what is said is remembered. Where it is not, what was said before is still forgotten in its time.
    pub(super) fn remembers(&self) -> bool {
        self.0.config.most_tokens > 0
    }

    /// All that was said with a device, and what it asks now; with the tokens of what was said.
    pub(super) fn recall(&self, device: &str, text: &str) -> (Vec<ChatMessage>, usize) {
        match self.0.histories.get(device) {
            Some(history) => (history.and_now(text), history.tokens()),
            None => (alone(text), 0),
        }
    }

    /// One more turn.
    pub(super) fn note(&self, device: &str, turn: Turn) {
        let device = ByteString::from(device);
        let mut history = self.0.histories.entry(device.clone()).or_default();
        history.add(turn, self.0.config.most_tokens);
        // Handed in while nobody else changes it, so that memory and store see one order.
        self.keep(device, &history);
    }

    /// Nothing was ever said.
    pub(super) fn reset(&self, device: &str) {
        if let Some((device, _)) = self.0.histories.remove(device) {
            self.keep(device, &History::default());
        }
    }

    fn forget_old(&self, now: SystemTime) {
        let oldest_s = unix_s(now).saturating_sub(self.0.config.retention.as_secs());
        self.0.histories.retain(|device, history| {
            if history.forget_before(oldest_s) {
                self.keep(device.clone(), history);
            }
            !history.is_empty()
        });
    }

    fn keep(&self, device: ByteString, history: &History) {
        let Some(store) = self.0.switchboard.store() else {
            return;
        };
        let change = if history.is_empty() {
            Change::Remove(Table::Conversations, device.clone())
        } else {
            match serde_json::to_vec(history) {
                Ok(value) => Change::Put(Record {
                    table: Table::Conversations,
                    name: device.clone(),
                    value: value.into(),
                }),
                Err(error) => return tracing::error!(%device, %error, "a conversation is not kept"),
            }
        };
        if let Err(error) = store.submit(change) {
            tracing::warn!(%device, %error, "a conversation is not kept as it is now");
        }
    }
}

/// What is asked by a device that never said anything.
pub(super) fn alone(text: &str) -> Vec<ChatMessage> {
    History::default().and_now(text)
}

pub(super) fn unix_s(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Lets go of what is remembered for longer than it may be.
pub struct MemoryKeeper(pub Memory);

impl Actor for MemoryKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(SWEEP, |act, _| act.0.forget_old(outside::calendar()));
    }
}
