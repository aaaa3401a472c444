//! The actor that watches the machine's memory. For now it measures, publishes and warns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use actix::prelude::*;
use platform::memory::{self, MachineMemory};

/// Nothing is sent to it yet but the start.
const MAILBOX: usize = 16;

/// The newest measurement, for metrics and status. Zero before the first one.
#[derive(Debug, Default)]
pub struct MemoryGauge {
    total_bytes: AtomicU64,
    available_bytes: AtomicU64,
}

impl MemoryGauge {
    /// What the machine has.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Relaxed)
    }

    /// What could be had without swapping.
    pub fn available_bytes(&self) -> u64 {
        self.available_bytes.load(Relaxed)
    }
}

/// See the module.
pub struct MemoryGovernor {
    interval: Duration,
    warn_below_free_percent: u8,
    gauge: Arc<MemoryGauge>,
    warned: bool,
    failed: bool,
}

impl MemoryGovernor {
    /// An actor not started yet.
    pub fn new(interval: Duration, warn_below_free_percent: u8, gauge: Arc<MemoryGauge>) -> Self {
        Self {
            interval,
            warn_below_free_percent,
            gauge,
            warned: false,
            failed: false,
        }
    }

    fn measure(&mut self) {
        match memory::machine() {
            Ok(memory) => self.publish(memory),
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(%error, "the machine's memory cannot be measured; nothing warns when it runs short");
            }
            Err(_) => {}
        }
    }

    fn publish(&mut self, memory: MachineMemory) {
        self.gauge.total_bytes.store(memory.total_bytes, Relaxed);
        self.gauge.available_bytes.store(memory.available_bytes, Relaxed);
        let free_percent = memory.free_percent();
        let low = u64::from(self.warn_below_free_percent);
        if !self.warned && free_percent < low {
            self.warned = true;
            tracing::warn!(
                free_percent,
                available_bytes = memory.available_bytes,
                "memory runs short: close other programs or choose a smaller model"
            );
        } else if self.warned && free_percent >= low + 5 {
            // Five points above, so that a reading on the edge does not fill the log.
            self.warned = false;
            tracing::info!(free_percent, "memory has recovered");
        }
    }
}

impl Actor for MemoryGovernor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.measure();
        ctx.run_interval(self.interval, |act, _| act.measure());
    }
}
