//! What the governor is told at each reading, and what that leaves.

use models::Precision;
use platform::memory::{Limit, MachineMemory, MemoryPressure};

/// What was measured.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Memory inside every limit that holds, as `platform::memory::limits` gives it.
    pub limits: Vec<MachineMemory>,
    /// How hard it is to get memory, where the kernel tells it.
    pub pressure: Option<MemoryPressure>,
    /// Bytes of files that had to be read again, since some start, where the kernel counts them.
    pub refaulted_bytes: Option<u64>,
    /// The model that is loaded, if one is.
    pub model: Option<ModelReading>,
}

/// How a loaded model stands.
#[derive(Clone, Debug)]
pub struct ModelReading {
    /// What its weights have now.
    pub precision: Precision,
    /// Bytes of the weights at each precision that is packed, the present one among them. Nothing is stepped to what is not
    /// here.
    pub packed: Vec<(Precision, u64)>,
    /// Bytes of weights that are mapped from a file now; 0 where they are in the process' own memory.
    pub mapped_bytes: u64,
    /// How many of the mapped ones are in memory, where that was measured.
    pub resident_bytes: Option<u64>,
    /// Keys and values of running sequences.
    pub kv_running_bytes: u64,
    /// Keys and values that ended ones left, for those that begin alike.
    pub kv_kept_bytes: u64,
    /// The most that both may have.
    pub kv_budget_bytes: u64,
    /// Whether background sequences are paused.
    pub is_background_paused: bool,
    /// Whether a step to another precision is under way.
    pub is_stepping: bool,
}

/// What is left inside the limit that leaves the least of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room<'r> {
    /// The memory inside that limit.
    pub memory: &'r MachineMemory,
    /// Bytes of it that are free.
    pub free_bytes: u64,
    /// How many of them are more than what is to be kept free; negative where some are missing.
    pub spare_bytes: i64,
}

impl ModelReading {
    /// Keys and values of all sequences.
    pub fn kv_bytes(&self) -> u64 {
        self.kv_running_bytes.saturating_add(self.kv_kept_bytes)
    }

    /// What sequences may still take of the budget.
    pub(super) fn promised_bytes(&self) -> u64 {
        self.kv_budget_bytes.saturating_sub(self.kv_bytes())
    }

    pub(super) fn weights_bytes(&self, precision: Precision) -> Option<u64> {
        let mut packed = self.packed.iter();
        packed.find_map(|(of, bytes)| (*of == precision).then_some(*bytes))
    }

    /// The next precision below that takes less memory.
    pub(super) fn below(&self) -> Option<(Precision, u64)> {
        let now = self.weights_bytes(self.precision)?;
        let mut lower: Vec<_> = self.packed.clone();
        lower.retain(|(precision, bytes)| *precision > self.precision && *bytes < now);
        lower.into_iter().min_by_key(|(precision, _)| *precision)
    }

    /// The next precision above, but none better than this.
    pub(super) fn above(&self, best: Precision) -> Option<(Precision, u64)> {
        self.weights_bytes(self.precision)?;
        let mut higher: Vec<_> = self.packed.clone();
        higher.retain(|(precision, _)| *precision < self.precision && *precision >= best);
        higher.into_iter().max_by_key(|(precision, _)| *precision)
    }
}

impl Reading {
    /// What is left now, when so much of each limit is to be kept free.
    ///
    /// The kernel counts mapped weights as available, since it could drop them. The engine needs them for every token, so
    /// what is resident of them is taken off again; of a limit that did not pay for those pages (another group read the
    /// file first) no more than it has.
    pub fn room(&self, keep_percent: u8) -> Option<Room<'_>> {
        let resident = |model: &ModelReading| model.resident_bytes.unwrap_or(model.mapped_bytes);
        let resident = self.model.as_ref().map_or(0, resident);
        room(&self.limits, keep_percent, |memory| {
            i128::from(memory.available_bytes) - i128::from(resident.min(memory.file_cache_bytes))
        })
    }

    /// What would be left with the weights at this precision, when all of them have been read, whoever paid for them
    /// before. It is never more than [`Self::room`] has for the present precision: what is built up must hold longer than
    /// what is torn down.
    pub(super) fn room_at(&self, precision: Precision, keep_percent: u8) -> Option<Room<'_>> {
        let model = self.model.as_ref()?;
        let own = if precision == model.precision {
            i128::from(model.mapped_bytes)
        } else {
            let now = model.weights_bytes(model.precision)?;
            // What is not mapped is in the process' own memory, and goes with the step.
            i128::from(model.weights_bytes(precision)?) - i128::from(now.saturating_sub(model.mapped_bytes))
        };
        room(&self.limits, keep_percent, |memory| {
            i128::from(memory.available_bytes) - own
        })
    }
}

/// The limit with the least over what is to be kept free of it. Whatever is taken is taken from all of them, so it stays
/// the one.
pub(super) fn room(
    limits: &[MachineMemory],
    keep_percent: u8,
    free: impl Fn(&MachineMemory) -> i128,
) -> Option<Room<'_>> {
    let spare = |memory: &MachineMemory| {
        free(memory) - i128::from(memory.total_bytes) * i128::from(keep_percent) / 100
    };
    let memory = limits.iter().min_by_key(|memory| spare(memory))?;
    let narrow = |bytes: i128| i64::try_from(bytes).unwrap_or(if bytes < 0 { i64::MIN } else { i64::MAX });
    Some(Room {
        memory,
        free_bytes: free(memory).max(0).try_into().unwrap_or(u64::MAX),
        spare_bytes: narrow(spare(memory)),
    })
}

impl Room<'_> {
    /// Bytes that may be taken.
    pub fn spare(&self) -> u64 {
        u64::try_from(self.spare_bytes).unwrap_or(0)
    }

    /// Bytes that are missing.
    pub fn missing(&self) -> u64 {
        u64::try_from(self.spare_bytes.saturating_neg()).unwrap_or(0)
    }

    /// The free share, 0 to 100.
    pub fn free_percent(&self) -> u64 {
        let percent = u128::from(self.free_bytes) * 100;
        let percent = percent.checked_div(u128::from(self.memory.total_bytes));
        percent.map_or(0, |percent| percent.try_into().unwrap_or(u64::MAX))
    }
}

impl std::fmt::Display for Room<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (free, total) = (Size(self.free_bytes), Size(self.memory.total_bytes));
        write!(f, "{} % free ({free} of {total}", self.free_percent())?;
        match &self.memory.limit {
            Limit::Machine => f.write_str(")"),
            Limit::Group(path) => write!(f, " in {})", path.display()),
        }
    }
}

/// Bytes, for people.
pub(super) struct Size(pub(super) u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0..1_000_000 => write!(f, "{} kB", self.0 / 1_000),
            1_000_000..1_000_000_000 => write!(f, "{} MB", self.0 / 1_000_000),
            _ => write!(f, "{:.1} GB", self.0 as f64 / 1e9),
        }
    }
}
