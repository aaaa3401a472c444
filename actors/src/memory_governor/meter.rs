//! Where memory is measured. [`ThisMachine`] is the system's answer; a simulation has another.

use std::io;

use platform::memory::{self, MachineMemory, MemoryPressure};

/// See the module.
pub trait Meter: std::fmt::Debug + Send + Sync + 'static {
    /// Every limit that holds for us: the machine's own memory, and that of each control group around us.
    ///
    /// # Errors
    /// The system's.
    fn limits(&self) -> io::Result<Vec<MachineMemory>>;

    /// How long programs waited for memory, or how the system calls it; none where it does not say.
    fn pressure(&self) -> Option<MemoryPressure>;

    /// Bytes of files that were read again after their pages had been taken, since the machine's start.
    fn refaulted_bytes(&self) -> Option<u64>;

    /// Bytes that a process has for itself; 0 of one that is gone.
    fn private_bytes(&self, process: u32) -> u64;
}

/// The machine on which this runs.
#[derive(Debug, Default)]
pub struct ThisMachine;

impl Meter for ThisMachine {
    fn limits(&self) -> io::Result<Vec<MachineMemory>> {
        memory::limits()
    }

    fn pressure(&self) -> Option<MemoryPressure> {
        memory::pressure()
    }

    fn refaulted_bytes(&self) -> Option<u64> {
        memory::refaulted_bytes()
    }

    fn private_bytes(&self, process: u32) -> u64 {
        memory::process(process).map_or(0, |memory| memory.private_bytes())
    }
}
