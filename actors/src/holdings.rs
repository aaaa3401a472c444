//! What the parts of the daemon say that they hold in memory.

use std::sync::Arc;

use crate::policy::governor::DaemonMemory;
use crate::scheduler::SchedulerGauge;
use crate::switchboard::Switchboard;

/// Whom to ask.
#[derive(Clone)]
pub struct Holdings {
    /// For sessions, retained messages and the store.
    pub switchboard: Switchboard,
    /// For requests.
    pub requests: Arc<SchedulerGauge>,
}

impl Holdings {
    /// What they hold now, beside what was measured of the whole process.
    pub(crate) fn within(&self, private_bytes: u64) -> DaemonMemory {
        let store = self.switchboard.store();
        let unwritten_bytes = store.map_or(0, |store| store.waiting_bytes());
        DaemonMemory {
            private_bytes,
            sessions_bytes: self.switchboard.waiting_bytes(),
            retained_bytes: self.switchboard.retained_bytes(),
            queues_bytes: self.requests.request_bytes().saturating_add(unwritten_bytes),
            store_cache_bytes: store.map_or(0, |store| store.cache_bytes()),
        }
    }
}
