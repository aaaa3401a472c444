//! The thinking part of Clawdbot: model files, tokenizers, Burn modules, sampling, and the engine that steps many
//! sequences at once.
//!
//! The crate knows no network, no clock, no thread and no async runtime. Whoever owns an [`Engine`] calls
//! [`Engine::step`] for as long as something runs and carries its [`Event`]s away; an engine that nobody steps costs
//! nothing.
//!
//! What comes from outside is of two kinds, and each has its error: files that make up a model ([`ModelError`], always
//! naming the file) and requests ([`RequestError`], with a stable [code](RequestError::code)).

mod engine;
mod error;
mod request;

pub use engine::{Engine, EngineOptions, ModelSummary, inspect};
pub use error::{ModelError, Problem, RequestError};
pub use request::{Begun, ChatMessage, Event, FinishReason, GenerateRequest, Prompt, Sampling, SequenceId};
