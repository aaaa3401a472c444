//! What the daemon and its inference process say to each other over their private socket.
//!
//! A frame is its length (u32, little endian) and that many bytes of JSON. Both ends are the same
//! binary, so the version only guards against a binary that was replaced while the daemon ran.

use std::path::PathBuf;
use std::time::Duration;

use models::{
    EngineOptions, EngineStats, Event, GenerateRequest, ModelSummary, Precision, SequenceId, WhilePaused,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Raised with every change of a frame's meaning.
pub const VERSION: u32 = 6;

/// The largest frame: a prompt of the largest size the settings allow, with room for escapes.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// From the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// The first frame: load this model.
    Load {
        /// [`VERSION`].
        version: u32,
        /// The model's file or directory.
        model: PathBuf,
        /// Its bounds, precision and threads.
        engine: EngineOptions,
        /// How often to send a heartbeat.
        heartbeat_interval_ms: u64,
    },
    /// Begin a sequence.
    Start {
        /// Chosen by the daemon, unique for its life.
        id: SequenceId,
        /// Whether all others wait while its prompt is computed.
        #[serde(default)]
        hurry: bool,
        /// What to generate; boxed, as it is far larger than any other frame.
        request: Box<GenerateRequest>,
    },
    /// Have a sequence stand still from its next token on.
    Pause {
        /// Which.
        id: SequenceId,
        /// Whether its cache stays until others need the room.
        cache: WhilePaused,
    },
    /// Have it go on.
    Resume {
        /// Which.
        id: SequenceId,
    },
    /// End a sequence early; answered by its `Done`.
    Cancel {
        /// Which.
        id: SequenceId,
    },
    /// Let go of so many bytes of what ended sequences left in the cache.
    FreeKept {
        /// The least.
        bytes: u64,
    },
    /// Bound keys and values.
    CacheBudget {
        /// All of them together.
        bytes: u64,
    },
    /// Bring the weights to another precision that is packed already, part by part between steps.
    StepTo {
        /// Which.
        precision: Precision,
    },
    /// Exit. So does the end of the stream.
    Stop,
}

/// From the inference process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    /// Weights are packed, which is done once; so much of them is.
    Packing {
        /// 0 to 100.
        percent: u8,
    },
    /// The model is loaded.
    Ready {
        /// [`VERSION`].
        version: u32,
        /// What was loaded.
        summary: ModelSummary,
    },
    /// The model cannot be loaded; the process exits.
    LoadFailed {
        /// What happened and what to try.
        message: String,
    },
    /// A sequence cannot begin.
    Refused {
        /// Which.
        id: SequenceId,
        /// Stable, for programs.
        code: String,
        /// For people.
        message: String,
    },
    /// Something of a running sequence.
    Event {
        /// What.
        event: Event,
        /// With its end: where the time went.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spent: Option<Spent>,
    },
    /// The weights are at another precision from now on, all of them.
    SteppedTo {
        /// Which.
        precision: Precision,
    },
    /// They could not be brought there.
    StepFailed {
        /// The precision that they have.
        precision: Precision,
        /// What happened.
        message: String,
    },
    /// Still alive, between two steps.
    Heartbeat {
        /// How it stands with memory.
        stats: WorkerStats,
    },
}

/// Where a sequence's time went, by the clock of the process that computed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The process.
    pub pid: u32,
    /// From reading its start to its first text, or to its end where none came.
    pub prefill: Duration,
    /// From there to its end.
    pub decode: Option<Duration>,
}

/// How it stands with the process' memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// What its weights have; while they are brought to another precision, the one before.
    pub precision: Precision,
    /// Whether they are.
    pub is_stepping: bool,
    /// Bytes of weights, mapped from files.
    pub mapped_bytes: u64,
    /// Bytes of weights in the process' own memory.
    pub private_weights_bytes: u64,
    /// How many of the mapped ones are in memory, where the system says it.
    pub resident_bytes: Option<u64>,
    /// Its sequences and their keys and values.
    pub engine: EngineStats,
}

/// A frame that cannot be read or written. The stream is of no use after it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME_BYTES`].
    #[error("a frame of {bytes} bytes is longer than {MAX_FRAME_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not what this version says.
    #[error("a frame that is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Appends a frame to `out`.
pub fn write_frame(frame: &impl Serialize, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let body = serde_json::to_vec(frame)?;
    let too_long = FrameError::TooLong { bytes: body.len() };
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_FRAME_BYTES)
        .ok_or(too_long)?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

/// Puts frames together from the bytes that come.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    read: usize,
}

impl FrameReader {
    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.read));
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, None when more bytes are needed.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let rest = self.buffer.get(self.read..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let bytes = u32::from_le_bytes(*length) as usize;
        if bytes > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong { bytes });
        }
        let Some(body) = rest.get(..bytes) else {
            return Ok(None);
        };
        let frame = serde_json::from_slice(body)?;
        self.read += 4 + bytes;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(ids in prop::collection::vec(any::<u64>(), 1..20), cut in 1usize..40) {
            let frames: Vec<_> = ids.into_iter().map(|id| ToWorker::Cancel { id }).collect();
            let mut bytes = Vec::new();
            for frame in &frames {
                write_frame(frame, &mut bytes).unwrap();
            }
            let (mut reader, mut read) = (FrameReader::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                reader.push(piece);
                while let Some(frame) = reader.next_frame::<ToWorker>().unwrap() {
                    read.push(frame);
                }
            }
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = FrameReader::default();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_frame::<FromWorker>() {}
        }
    }
}
