//! The thinking part of Clawdbot: model files, tokenizers, Burn modules, sampling, and the engine that steps many
//! sequences at once.
//!
//! The crate knows no network, no clock and no async runtime; its threads share the work of one step, or have
//! a deeper stack while somebody waits for them. Whoever owns an [`Engine`] calls [`Engine::step`] for as long as
//! something runs and carries its [`Event`]s away; an engine that nobody steps costs nothing.
//!
//! What comes from outside is of two kinds, and each has its error: files that make up a model ([`ModelError`], always
//! naming the file) and requests ([`RequestError`], with a stable [code](RequestError::code)).

mod architecture;
pub mod assistant;
pub mod backend;
mod deep_stack;
mod engine;
mod error;
mod footprint;
pub mod format;
mod kept;
mod kernels;
mod kv_cache;
mod memory_reader;
mod model;
mod output;
mod pack;
mod packed;
mod precision;
mod quality;
mod request;
mod sampler;
mod stop;
mod summary;
mod template;
mod tokenizer;

pub use engine::{Engine, EngineOptions, EngineStats, WhilePaused};
pub use error::{ModelError, Problem, RequestError};
pub use footprint::Footprint;
pub use kept::{Kept, PackedFile, kept_files};
pub use memory_reader::MemoryReader;
pub use model::{Feed, KvCache, LoadOptions, Model};
pub use output::{
    Alternative, AnswerOptions, FunctionCall, FunctionKind, NamedSchema, ResponseFormat, TokenLogprob, Tool,
    ToolCall, ToolChoice,
};
pub use pack::pack;
pub use packed::ChangeProgress;
pub use precision::{KvPrecision, Precision, UnknownKvPrecision, UnknownPrecision};
pub use quality::{Measured, Quality, QualityTable, measure};
pub use request::{Begun, ChatMessage, Event, FinishReason, GenerateRequest, Prompt, Sampling, SequenceId};
pub use sampler::Sampler;
pub use stop::{Passed, StopFilter};
pub use summary::{ModelSummary, check_architecture, inspect};
pub use template::Date;
pub use tokenizer::{TextStream, Tokenizer};
