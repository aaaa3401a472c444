//! What is asked of memory before a model is started: with the model's sizes, the limits that hold now, and what is to
//! stay free.

use std::sync::Arc;

use models::{Footprint, KvPrecision, ModelSummary, Precision};
use platform::memory::MachineMemory;

use crate::memory_governor::Meter;
use crate::policy::governor::{Begin, FitQuestion, begin};

/// What an inference process takes beside weights and caches; measured between 74 and 85 MiB (benches/README.md).
pub const OVERHEAD_BYTES: u64 = 100 << 20;

/// Tokens for which there shall be room at least, where the model's context is not shorter: a conversation, not a book.
pub const MODEST_CONTEXT_TOKENS: u64 = 4096;

/// What a model takes, before it is loaded. A [`Footprint`] knows it from the model's file.
pub trait ModelSizes: std::fmt::Debug + Send + Sync {
    /// What is known of it.
    fn summary(&self) -> &ModelSummary;
    /// Bytes of its weights.
    fn weights_bytes(&self, precision: Precision) -> u64;
    /// Bytes of the keys and values of so many tokens.
    fn cache_bytes(&self, tokens: usize, kv: KvPrecision) -> u64;
}

impl ModelSizes for Footprint {
    fn summary(&self) -> &ModelSummary {
        Footprint::summary(self)
    }

    fn weights_bytes(&self, precision: Precision) -> u64 {
        Footprint::weights_bytes(self, precision)
    }

    fn cache_bytes(&self, tokens: usize, kv: KvPrecision) -> u64 {
        Footprint::cache_bytes(self, tokens, kv)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct StartRoom {
    /// The model's sizes.
    pub footprint: Arc<dyn ModelSizes>,
    /// Measures memory.
    pub meter: Arc<dyn Meter>,
    /// How keys and values are kept.
    pub kv: KvPrecision,
    /// The most that they may take.
    pub cache_bytes: Option<u64>,
    /// What is to stay free, in percent. With 0 nothing is ever given up for it.
    pub keep_free_percent: u8,
}

impl StartRoom {
    /// What is known of the model.
    pub fn summary(&self) -> &ModelSummary {
        self.footprint.summary()
    }

    /// The precision that was configured, or that which suits the model, and all that are lower; of the embedded assistant, whose
    /// few megabytes at lower ones would save nothing, none is.
    pub fn ladder(&self, configured: Option<Precision>) -> impl Iterator<Item = Precision> + use<> {
        let best = configured.unwrap_or(self.summary().precision);
        let has_lower = !self.summary().assistant;
        Precision::ALL
            .into_iter()
            .filter(move |precision| *precision == best || has_lower && *precision > best)
    }

    /// At which of these precisions the model begins now. None where all are as good: the model is so small that its
    /// weights are no matter, memory cannot be measured, or none is to be kept free.
    pub fn begin(&self, precisions: &[Precision]) -> Option<Begin> {
        let limits = self.meter.limits().inspect_err(|error| {
            tracing::warn!(%error, "the machine's memory cannot be measured; the model begins as if there were enough");
        });
        self.begin_within(precisions, &limits.ok()?)
    }

    /// The same, inside these limits.
    pub fn begin_within(&self, precisions: &[Precision], limits: &[MachineMemory]) -> Option<Begin> {
        let is_small = self.summary().precision == Precision::F32 || self.summary().assistant;
        if is_small || self.keep_free_percent == 0 {
            return None;
        }
        let weights: Vec<_> = precisions
            .iter()
            .map(|precision| (*precision, self.footprint.weights_bytes(*precision)))
            .collect();
        let context_tokens = MODEST_CONTEXT_TOKENS
            .min(self.summary().context_length as u64)
            .max(1);
        let kv_bytes = self
            .footprint
            .cache_bytes(usize::try_from(context_tokens).unwrap_or(usize::MAX), self.kv);
        let kv_bytes = kv_bytes.min(self.cache_bytes.unwrap_or(u64::MAX));
        begin(&FitQuestion {
            weights: &weights,
            kv_bytes_per_token: kv_bytes.div_ceil(context_tokens),
            context_tokens,
            overhead_bytes: OVERHEAD_BYTES,
            limits,
            keep_free_percent: self.keep_free_percent,
        })
    }

    /// Whether there is room for this precision now.
    pub fn has_room(&self, precision: Precision) -> bool {
        self.begin(&[precision]).is_none_or(|begin| begin.fits)
    }
}
