//! The crate's integration tests: one binary, so that Burn is linked once.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests stop at once too; clippy.toml exempts only the tests"
)]

#[macro_use]
mod support;

mod architectures;
mod assistant;
mod batching;
mod engine;
mod gguf_reader;
mod hostile_directories;
mod hostile_files;
mod hostile_quantised;
mod numerics;
mod packed;
mod quality;
mod quantised;
mod replay;
mod replay_edges;
mod split_gguf;
mod stepping;
mod structured;
mod structured_schema;
mod templates;
mod text_stream;
mod tokenizers;
mod tool_calls;
